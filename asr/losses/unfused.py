"""The transducer loss as other toolkits compute it, for comparison: all logits of the batch, then torchaudio's loss.

B utterances   T frames   U labels   S = U + 1   V classes with blank
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from asr.losses.inputs import LossInputs
from asr.losses.reference import joiner_logits
from asr.torchaudio_parts import torchaudio_part
from distributed.errors import UsageError

MOST_LOGITS = 2**31  # torchaudio counts them with 32 bits


class UnsupportedInputsError(UsageError):
    """Torchaudio's loss does not support the inputs; the message names the setting that causes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchaudioLoss:
    """Torchaudio's exact loss behind the joiner's formula; matrix products follow autocast, the loss is fp32."""

    def sized(self, *, joint: int, classes: int) -> "TorchaudioLoss":
        """Returns itself; this loss has no parameters to size."""
        return self

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Loss of each utterance, (B,) float32; UnsupportedInputsError for float64, or more logits than torchaudio can count."""
        if inputs.product_dtype == torch.float64:
            raise UnsupportedInputsError(
                "model/loss=torchaudio has no double precision: set trainer.precision=fp32 or bf16"
            )
        shape, (classes, _) = inputs.shape(), inputs.weight_VJ.shape
        frames, states = max(shape.frames), max(shape.states)
        logits = len(shape.frames) * frames * states * classes
        if logits >= MOST_LOGITS:
            raise UnsupportedInputsError(
                f"model/loss=torchaudio counts logits with 32 bits and a unit has {logits}: lower batch.max_cells"
            )
        encoder_BTJ, predictor_BSJ = inputs.encoder_BTJ[:, :frames], inputs.predictor_BSJ[:, :states]
        logits_BTSV = joiner_logits(
            encoder_BTJ, predictor_BSJ, inputs.weight_VJ, inputs.bias_V, inputs.combine, inputs.squashing
        )
        loss_B: Tensor = torchaudio_part("functional").rnnt_loss(
            logits_BTSV.float(),
            inputs.targets_BU[:, : states - 1].int(),
            inputs.encoder_lengths_B.int(),
            inputs.target_lengths_B.int(),
            blank=inputs.blank,
            reduction="none",
        )
        return loss_B
