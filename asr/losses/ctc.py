"""The loss of connectionist temporal classification (Graves et al. 2006): states are tokens or blank, repeats collapse.

B utterances   S encoder states   U tokens   V vocabulary size, blank included
"""

import torch
from torch import Tensor
from torch.nn import functional

from asr.data.tokenizer import BLANK


def ctc_loss(logits_BSV: Tensor, lengths_B: Tensor, targets_BU: Tensor, target_lengths_B: Tensor) -> Tensor:
    """CTC loss summed over the batch; utterances marked by ``ctc_impossible`` add nothing and have no gradient."""
    with torch.autocast(logits_BSV.device.type, enabled=False):
        log_probs_SBV = ctc_log_probs(logits_BSV).transpose(0, 1)
        return functional.ctc_loss(
            log_probs_SBV, targets_BU, lengths_B, target_lengths_B, BLANK, reduction="sum", zero_infinity=True
        )


def ctc_log_probs(logits_V: Tensor) -> Tensor:
    """Log probabilities (..., V) of scores (..., V), in at least fp32."""
    return logits_V.log_softmax(-1, dtype=torch.promote_types(logits_V.dtype, torch.float32))


def ctc_impossible(lengths_B: Tensor, targets_BU: Tensor, target_lengths_B: Tensor) -> Tensor:
    """(B,) bool: True for utterances with fewer states than CTC needs: one per token, and one between equal tokens."""
    positions_U = torch.arange(targets_BU.shape[1], device=targets_BU.device)[1:]
    repeats_BU = (targets_BU[:, 1:] == targets_BU[:, :-1]) & (positions_U < target_lengths_B[:, None])
    return target_lengths_B + repeats_BU.sum(1) > lengths_B
