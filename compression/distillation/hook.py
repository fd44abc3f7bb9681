"""Distillation from a trained model while the student trains: layer by layer, and of posteriors where asked for.

Jiang et al. 2023 (arXiv 2305.19549): the loss of a pruned student gets the mean over layers of the squared distance
between its states and the teacher's through learned maps. The teacher is a model of its own, in evaluation mode and without
gradients: it hears the features that the student hears, augmented as they are, and reads the same history of tokens. It is in
no checkpoint; the maps are an auxiliary module, which trains and resumes with the student and is in no model folder.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from asr.data.batch import Batch
from asr.hooks.pinned import Pinned
from asr.models.speech_model import LossOutput, SpeechModel
from asr.runs.checkpoint import model_folder_of
from asr.runs.fingerprint import weights_fingerprint
from asr.runs.misfit import built_on_meta
from asr.runs.model_folder import LoadedModel, read_description
from asr.training.hook import Hook, ParameterGroup, Run
from asr.training.loss_terms import LossTerms
from compression.distillation.posteriors import lattice_divergence, state_divergence
from compression.distillation.states import LayerMaps, spread
from compression.distillation.views import (
    View,
    Wanted,
    distillable,
    refuse_missing,
    refuse_other_rate,
    transcripts_of,
)
from distributed.errors import UsageError
from distributed.ranges import Natural, NonNegative, Positive

log = logging.getLogger(__name__)

KEY = "hooks.layerwise_distillation"


class LayerwiseDistillation(Hook):
    """Adds distances from a teacher to the loss of every unit.

    Args:
        teacher: a model folder, or a run, whose best model is the teacher.
        weight: of the mean over pairs of layers of the distance between states; 0: none.
        layers: pairs (student's layer, teacher's), counted from 0; None: every layer of the student, spread over the teacher's.
        ctc_weight: of the divergence from the teacher's CTC posteriors; 0: none.
        transducer_weight: of the divergence from the teacher's posteriors in the cells of the lattice; 0: none.
        temperature: of both posteriors.
    """

    def __init__(
        self,
        *,
        teacher: Path,
        weight: NonNegative,
        layers: list[tuple[Natural, Natural]] | None,
        ctc_weight: NonNegative,
        transducer_weight: NonNegative,
        temperature: Positive,
    ) -> None:
        if not weight + ctc_weight + transducer_weight:
            raise UsageError(f"{KEY}: weight, ctc_weight and transducer_weight are 0; set one, or leave the hook out")
        if layers == []:
            raise UsageError(f"{KEY}.layers=[]: pairs no layers; null pairs all, and {KEY}.weight=0 distils none")
        self.teacher = Path(teacher)
        self.weight = weight
        self.layers = layers
        self.ctc_weight = ctc_weight
        self.transducer_weight = transducer_weight
        self.temperature = temperature
        self.maps: LayerMaps | None = None
        self.pairs: list[tuple[int, int]] = []
        self.views: tuple[View, View] | None = None  # of student and teacher, from the start of training on
        self.pinned = Pinned(f"{KEY}.teacher")

    @property
    def where(self) -> str:
        """What errors call the teacher."""
        return f"{KEY}.teacher={self.teacher}"

    def on_auxiliary(self, model: SpeechModel) -> nn.Module | None:
        """The maps, sized by the teacher's description; its weights are read when training starts.

        Raises:
            UsageError: there is no such teacher, or its states, layers or posteriors have no partners in the student.
        """
        description, _ = read_description(model_folder_of(self.teacher, f"{KEY}.teacher"), f"{KEY}.teacher")
        student, teacher = distillable(model, KEY), distillable(built_on_meta(description.build), self.where)
        refuse_other_rate(student.encoder, teacher.encoder, self.where)
        if self.weight:
            every = spread(len(student.encoder.layers), len(teacher.encoder.layers))
            self.pairs = every if self.layers is None else [(own, theirs) for own, theirs in self.layers]
        refuse_missing(student, self._wanted(0), "this model", KEY)
        refuse_missing(teacher, self._wanted(1), "the teacher", KEY)
        if not self.pairs:
            return None
        own, theirs = student.encoder.layer_dimensions, teacher.encoder.layer_dimensions
        self.maps = LayerMaps([(own[layer], theirs[partner]) for layer, partner in self.pairs])
        return self.maps

    def on_parameter_groups(self, model: SpeechModel) -> list[ParameterGroup]:
        """The maps, which do not decay: decay would draw the student's states to 0."""
        return [] if self.maps is None else [ParameterGroup.of(model, self.maps)]

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        """Load the teacher.

        Raises:
            UsageError: it is damaged, or was made for other features or, where posteriors are compared, other tokens.
            HookError: it differs from the other learners' or from the one that the run began with.
        """
        loaded = run.load_model(self.teacher, key=f"{KEY}.teacher")
        self._check_suits(loaded, run)
        self.pinned.pin(weights_fingerprint(loaded.model), self.teacher, run.world)
        dtype = next(run.model.parameters()).dtype
        teacher = distillable(loaded.model.to(run.world.device, dtype).eval(), self.where)
        self.views = View(distillable(run.model, KEY), self._wanted(0)), View(teacher, self._wanted(1))
        log.info("%s: %s", KEY, loaded.origin["model"])

    def on_loss(self, batch: Batch, output: LossOutput, terms: LossTerms) -> None:
        if output.encoder_states is None:  # of a unit that has lost all its utterances
            return
        assert self.views is not None, "on_fit_start has made them"
        student, teacher = self.views
        own, theirs = student.take(batch), teacher.observe(batch)
        lengths_B = student.model.encoder.state_lengths(batch.feature_lengths)
        if self.maps is not None:
            terms.add("layer_distillation", self.weight * self.maps(own.layers, theirs.layers, lengths_B))
        if own.ctc_BSV is not None and theirs.ctc_BSV is not None:
            distance = state_divergence(theirs.ctc_BSV, own.ctc_BSV, lengths_B, self.temperature)
            terms.add("ctc_distillation", self.ctc_weight * distance)
        if own.lattice is not None and theirs.lattice is not None:
            transcripts = transcripts_of(batch, lengths_B)
            distance = lattice_divergence(theirs.lattice, own.lattice, transcripts, self.temperature)
            terms.add("transducer_distillation", self.transducer_weight * distance)

    def close(self) -> None:
        for view in self.views or ():
            view.remove()

    def state_dict(self) -> dict[str, Any]:
        return self.pinned.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.pinned.take_back(state)

    def _wanted(self, side: int) -> Wanted:
        """What is compared: side 0 of the student, side 1 of the teacher."""
        return Wanted([pair[side] for pair in self.pairs], self.ctc_weight > 0, self.transducer_weight > 0)

    def _check_suits(self, loaded: LoadedModel, run: Run) -> None:
        hears, heard = run.description.features or {}, loaded.description.features or {}
        differing = [key for key in sorted({*hears, *heard}) if hears.get(key) != heard.get(key)]
        if differing:
            raise UsageError(
                f"{self.where}: that model hears other features than this run: {', '.join(differing)} differ; train with its "
                "features, or take another teacher"
            )
        if (self.ctc_weight or self.transducer_weight) and loaded.tokenizer.fingerprint != run.tokenizer.fingerprint:
            raise UsageError(
                f"{self.where}: that model writes other tokens than this run, whose posteriors have no partners there; "
                f"take its tokenizer settings, or set {KEY}.ctc_weight=0 {KEY}.transducer_weight=0"
            )
