"""The inputs of every transducer loss: the joiner's two projections, its output layer, and the batch's transcripts.

B utterances   T frames   U labels   S = U + 1   J joint dimension   V classes with blank
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from asr.losses.lattice import Shape
from asr.losses.squashing import TANH, Squashing

Combine = Literal["add", "multiply"]
Tensors = tuple[Tensor, Tensor, Tensor, Tensor]  # encoder_BTJ, predictor_BSJ, weight_VJ, bias_V


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """Joiner logits are z[b,t,u] = W s(e[b,t] + p[b,u]) + bias, or with e * p; no loss needs them all at once.

    Values beyond an utterance's lengths are not read.
    """

    encoder_BTJ: Tensor  # e: encoder states in the joint space
    predictor_BSJ: Tensor  # p: outputs of the prediction network in the joint space, the first one before any label
    weight_VJ: Tensor
    bias_V: Tensor
    targets_BU: Tensor
    encoder_lengths_B: Tensor
    target_lengths_B: Tensor
    combine: Combine
    blank: int
    squashing: Squashing = TANH  # s

    @property
    def tensors(self) -> Tensors:
        """The tensors that receive gradients."""
        return self.encoder_BTJ, self.predictor_BSJ, self.weight_VJ, self.bias_V

    @property
    def product_dtype(self) -> torch.dtype:
        """The dtype of the joiner's matrix products: autocast's where it is on, else the encoder states'."""
        device = self.encoder_BTJ.device.type
        if torch.is_autocast_enabled(device) and self.encoder_BTJ.dtype != torch.float64:
            return torch.get_autocast_dtype(device)
        return self.encoder_BTJ.dtype

    def shape(self) -> Shape:
        """The lengths, on the host; raises ValueError where lengths or labels do not fit the tensors."""
        frames, labels = self.encoder_lengths_B.tolist(), self.target_lengths_B.tolist()
        batches = {len(self.encoder_BTJ), len(self.predictor_BSJ), len(self.targets_BU), len(frames), len(labels)}
        if len(batches) > 1 or not frames:
            raise ValueError(
                f"all inputs of the transducer loss must share one batch of at least 1, got {sorted(batches)}"
            )
        longest = self.encoder_BTJ.shape[1]
        if not 1 <= min(frames) <= max(frames) <= longest:
            raise ValueError(f"encoder lengths must lie in 1..{longest} (frames given), got {frames}")
        most = min(self.targets_BU.shape[1], self.predictor_BSJ.shape[1] - 1)
        if not 0 <= min(labels) <= max(labels) <= most:
            raise ValueError(f"target lengths must lie in 0..{most} (labels given, predictor states - 1), got {labels}")
        self._check_labels()
        return Shape(tuple(frames), tuple(length + 1 for length in labels))

    def _check_labels(self) -> None:
        """Raise ValueError where a label is blank or no class: the loss would be that of another transcript."""
        targets_BU, classes = self.targets_BU, self.weight_VJ.shape[0]
        positions_U = torch.arange(targets_BU.shape[1], device=targets_BU.device)
        used_BU = positions_U < self.target_lengths_B.to(targets_BU.device)[:, None]
        bad_BU = used_BU & ((targets_BU < 0) | (targets_BU >= classes) | (targets_BU == self.blank))
        if bad_BU.any():
            raise ValueError(
                f"labels must lie in 0..{classes - 1} and differ from blank ({self.blank}), got "
                f"{targets_BU[bad_BU][0].item()}; the tokenizer and the model must have the same vocabulary"
            )


class TransducerLoss(Protocol):
    """The interface of a loss; where it is a module, its parameters belong to the model."""

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Loss of each utterance, (B,), in at least float32."""


class LossSettings(Protocol):
    """The interface of a loss's settings in the configuration, before the model's sizes are known."""

    def sized(self, *, joint: int, classes: int) -> TransducerLoss:
        """Return the loss for a model with ``joint`` joint dimensions and ``classes`` classes, blank included."""
