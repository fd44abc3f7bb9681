"""The data that pass from the loader to the model: units of a plan, unpadded utterances, and the padded batch.

B utterances   T feature frames   F feature dimension   U target tokens
"""

from dataclasses import dataclass, field, fields, replace
from typing import Literal

import torch
from torch import Tensor

from asr.data.audio import BadUtterance
from distributed.keyed import keyed_seed

Stage = Literal["waveform", "mel", "normalised", "targets"]  # where a batch hook runs on the way
IGNORED = -100  # the class of a frame that has none, padding among them: what torch's cross entropy leaves out
STAGES: tuple[Stage, ...] = ("waveform", "mel", "normalised", "targets")


@dataclass(frozen=True, slots=True)
class Unit:
    """The smallest piece of a batch plan: utterances of similar length that one learner processes together."""

    epoch: int
    batch: int  # index of the global batch within the epoch
    index: int  # index of the unit within the global batch
    utterances: tuple[int, ...]  # indices into the manifest

    @property
    def name(self) -> str:
        """Identifies the unit within a run; keys every random choice made for it as a whole."""
        return f"{self.epoch}-{self.batch}-{self.index}"


@dataclass(slots=True)
class RawBatch:
    """One unit before padding, as batch hooks see it.

    ``signals`` holds waveforms of shape (samples,) in the stage ``waveform``, features of shape (T, F) in the stages
    ``mel`` and ``normalised``, and the model's input, with deltas and stacked, in the stage ``targets``. Hooks replace
    entries of ``signals``, ``targets`` and ``predictor_inputs`` in place. A hook that changes the number of frames
    changes ``frame_targets`` too, which are at the rate of the model's input.
    """

    seed: int
    epoch: int
    utterance_ids: list[str]
    signals: list[Tensor]
    targets: list[list[int]]
    predictor_inputs: list[list[int]]
    hook: str = ""  # the name, in the configuration, of the hook that is running; set by the pipeline
    refused: list[BadUtterance] = field(default_factory=list)  # unusable utterances, found while loading the unit
    metrics: dict[str, float] = field(default_factory=dict)  # metrics of hooks; averaged over units when logged
    frame_targets: list[Tensor] = field(default_factory=list)  # (T, ...) per utterance; none where no source is given
    vocabulary_size: int = 0  # the tokenizer's, blank included; set by the pipeline

    def generator(self, position: int) -> torch.Generator:
        """The running hook's random generator for one utterance, keyed by (seed, epoch, utterance, hook's name)."""
        seed = keyed_seed(self.seed, self.epoch, self.utterance_ids[position], self.hook)
        return torch.Generator().manual_seed(seed)


@dataclass(slots=True)
class Batch:
    """One padded unit. ``weight`` is fixed at loading: the number of usable utterances."""

    utterance_ids: list[str]
    features: Tensor  # (B, T, F) float32, zero-padded
    feature_lengths: Tensor  # (B,) int64
    targets: Tensor  # (B, U) int64, padded with 0 (blank)
    target_lengths: Tensor  # (B,) int64
    predictor_inputs: Tensor  # (B, U) int64: what the prediction network reads; normally the targets
    weight: float
    unit: str = ""
    audio_seconds: float = 0.0
    refused: list[BadUtterance] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    frame_targets: Tensor | None = None  # (B, T) int64 classes, padded with IGNORED, or (B, T, ...) padded with 0

    def part(self, start: int, stop: int) -> "Batch":
        """Utterances ``start`` to ``stop``, padded to their longest; refusals and metrics stay with the whole unit."""
        rows = slice(start, stop)
        frames, tokens = int(self.feature_lengths[rows].max()), int(self.target_lengths[rows].max())
        lengths = {"targets": tokens, "predictor_inputs": tokens}  # second axes; all others are frames
        tensors = {each.name: getattr(self, each.name) for each in fields(self)}
        cut = {
            name: tensor[rows] if tensor.ndim == 1 else tensor[rows, : lengths.get(name, frames)].contiguous()
            for name, tensor in tensors.items()
            if isinstance(tensor, Tensor)
        }
        return replace(
            self,
            **cut,
            utterance_ids=self.utterance_ids[rows],
            weight=float(stop - start),
            unit=f"{self.unit}[{start}:{stop}]",
            audio_seconds=self.audio_seconds * float(self.feature_lengths[rows].sum() / self.feature_lengths.sum()),
            refused=[],
            metrics={},
        )

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "Batch":
        """The same batch on ``device`` with its features in ``dtype``; lengths are moved too."""
        return replace(
            self,
            features=self.features.to(device, dtype, non_blocking=True),
            feature_lengths=self.feature_lengths.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            target_lengths=self.target_lengths.to(device, non_blocking=True),
            predictor_inputs=self.predictor_inputs.to(device, non_blocking=True),
            frame_targets=None if self.frame_targets is None else self.frame_targets.to(device, non_blocking=True),
        )
