"""The interface of a model: ``model(batch) -> LossOutput`` for the training loop, and attributes for the batch plan.

A ``Recogniser`` is one that writes text: its encoder's states are what a search starts from, and it is judged by word
errors. Other models (an acoustic model, a language model) count in other things: see ``asr/training/measures.py``.

B utterances   T feature frames   F feature dimension   S encoder states   D state dimension
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from asr.data.batch import Batch
from asr.models.encoder import Encoder


@dataclass(slots=True)
class LossOutput:
    """The loss of one unit."""

    total: Tensor  # scalar: SUM over the utterances
    weight: float  # the divisor of the sum: the batch's own weight
    terms: dict[str, Tensor] = field(default_factory=dict)  # for the log: detached sums over the utterances, unweighted
    encoder_states: Tensor | None = None  # (B, S, D), with gradient; None for an emptied unit


class SpeechModel(nn.Module, ABC):
    """Base of all models that can be trained."""

    has_lattice: ClassVar[bool]
    """Whether the loss is one over states x tokens, whose cells the batch plan budgets."""

    reads_frame_targets: ClassVar[bool] = False
    """Whether ``forward`` needs ``Batch.frame_targets``."""

    subsampling: int
    """Feature frames per state."""

    unroll_frames: int | None = None
    """Frames of a segment, where the loss is one of segments that do not see each other; None: of whole utterances."""

    @abstractmethod
    def forward(self, batch: Batch) -> LossOutput:
        """The summed loss of ``batch``. Every trainable parameter takes part, also in a unit emptied of utterances."""

    def nothing(self) -> Tensor:
        """A loss of 0 with a zero gradient for every trainable parameter, since other learners wait for gradients."""
        parts = [parameter.sum() for parameter in self.parameters() if parameter.requires_grad]
        return 0.0 * torch.stack(parts).sum()


class Recogniser(SpeechModel):
    """Base of all models that write text: an encoder, and a part that turns its states into tokens."""

    encoder: Encoder

    @property
    def subsampling(self) -> int:  # type: ignore[override]
        """The encoder's subsampling factor."""
        return self.encoder.subsampling

    def encode(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states (B, S, D) and their lengths (B,): what a search starts from."""
        states_BSD, lengths_B = self.encoder(features_BTF, lengths_B)
        return states_BSD, lengths_B
