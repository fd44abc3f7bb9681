"""What distillation compares of two models: states of encoder layers, logits of a CTC head, inputs of a joiner.

A view taps the modules of a model that give them out. A student's come from the forward of its own loss, so that dropout and
quantisation are those of that loss; a teacher computes what is asked for and no more.

B utterances   M segments   S encoder states   D state dimension   V classes
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asr.data.batch import Batch
from asr.models.acoustic import AcousticModel
from asr.models.ctc import CtcModel
from asr.models.encoder import Encoder
from asr.models.speech_model import Recogniser, SpeechModel
from asr.models.taps import Taps, layer_names
from asr.models.transducer import Transducer
from compression.distillation.posteriors import Lattice, Transcripts
from distributed.errors import UsageError

CTC_HEAD = "ctc_head"
ENCODER_PROJECTION, PREDICTOR_PROJECTION = "joiner.project_encoder", "joiner.project_predictor"

Distillable = Recogniser | AcousticModel


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is compared of a model."""

    layers: Sequence[int]  # of the encoder, counted from 0
    ctc: bool
    transducer: bool


class View:
    """Taps on a model: what its latest forward gave out of what is wanted."""

    def __init__(self, model: Distillable, wanted: Wanted) -> None:
        self.model = model
        self.wanted = wanted
        names = layer_names(model, model.encoder.layers)
        self.layers = [names[layer] for layer in wanted.layers]
        heads = [CTC_HEAD] if wanted.ctc else []
        joiner = [ENCODER_PROJECTION, PREDICTOR_PROJECTION] if wanted.transducer else []
        self.taps = Taps(model, dict.fromkeys([*self.layers, *heads, *joiner]))

    def take(self, batch: Batch) -> "Seen":
        """What the latest forward, of ``batch``, gave out."""
        outputs = self.taps.take()
        utterances, states = len(batch.utterance_ids), -(-batch.features.shape[1] // self.model.encoder.subsampling)
        return Seen(
            [of_utterances(outputs[name], utterances)[:, :states] for name in self.layers],
            outputs.get(CTC_HEAD),
            self._lattice(outputs) if self.wanted.transducer else None,
        )

    @torch.no_grad()
    def observe(self, batch: Batch) -> "Seen":
        """What the model, a teacher, gives out for ``batch``: no loss, no gradient."""
        try:
            self._compute(batch)
        except (
            BaseException
        ):  # also for want of memory: no forward of the teacher follows, which would drop its outputs
            self.taps.take()
            raise
        return self.take(batch)

    def _compute(self, batch: Batch) -> None:
        """Run what of the teacher gives out what is wanted."""
        if isinstance(self.model, AcousticModel):
            self.model.states(batch.features, batch.feature_lengths)
            return
        states_BSD, _ = self.model.encode(batch.features, batch.feature_lengths)
        if self.wanted.ctc:
            assert isinstance(self.model, Transducer | CtcModel)
            assert self.model.ctc_head is not None
            self.model.ctc_head(states_BSD)
        if self.wanted.transducer:
            assert isinstance(self.model, Transducer)
            self.model.joiner.project_encoder(states_BSD)
            self.model.joiner.project_predictor(self.model.predictor(batch.predictor_inputs))

    def remove(self) -> None:
        """Remove the taps."""
        self.taps.remove()

    def _lattice(self, outputs: dict[str, Any]) -> Lattice:
        assert isinstance(self.model, Transducer)
        return Lattice(self.model.joiner, outputs[ENCODER_PROJECTION], outputs[PREDICTOR_PROJECTION])


@dataclass(frozen=True, slots=True)
class Seen:
    """Outputs of one forward."""

    layers: list[Tensor]  # (B, S, D) each; values beyond an utterance's end have no meaning
    ctc_BSV: Tensor | None  # logits
    lattice: Lattice | None


def of_utterances(states_MSD: Tensor, utterances: int) -> Tensor:
    """States (B, S', D) of utterances that were cut into as many segments each (asr/models/acoustic.py), or not at all."""
    return states_MSD.unflatten(0, (utterances, -1)).flatten(1, 2)


def transcripts_of(batch: Batch, lengths_B: Tensor) -> Transcripts:
    """The transcripts of a batch, whose utterances have so many states."""
    return Transcripts(batch.targets, lengths_B.tolist(), batch.target_lengths.tolist())


def distillable(model: SpeechModel, where: str) -> Distillable:
    """The model; UsageError, which calls it ``where``, if it has no encoder."""
    if isinstance(model, Recogniser | AcousticModel):
        return model
    raise UsageError(f"{where}: a {type(model).__name__} has no encoder, whose layers could be compared; leave it out")


def refuse_other_rate(student: Encoder, teacher: Encoder, where: str) -> None:
    """Raise UsageError unless both have a state for as many feature frames."""
    if student.subsampling != teacher.subsampling:
        raise UsageError(
            f"{where}: it has a state for every {teacher.subsampling} frames and this model one for every "
            f"{student.subsampling}, so that no state has a partner; take a teacher of the same rate"
        )


def refuse_missing(model: Distillable, wanted: Wanted, whose: str, key: str) -> None:
    """Raise UsageError unless the model, ``whose`` it is, has what is wanted; ``key`` is the hook's in the configuration."""
    layers = len(model.encoder.layers)
    beyond = [layer for layer in wanted.layers if layer >= layers]
    if beyond:
        raise UsageError(f"{key}.layers: {whose} has layers 0 to {layers - 1}, not {beyond[0]}; name others")
    if wanted.ctc and getattr(model, CTC_HEAD, None) is None:
        raise UsageError(
            f"{key}.ctc_weight: {whose} has no CTC head, which a transducer has where model.ctc_weight is above 0; set it, "
            f"or {key}.ctc_weight=0"
        )
    if wanted.transducer and not isinstance(model, Transducer):
        raise UsageError(f"{key}.transducer_weight: {whose} is no transducer; set {key}.transducer_weight=0")
