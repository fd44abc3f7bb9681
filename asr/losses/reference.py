"""The transducer loss as the paper writes it, cell by cell in double precision: slow, and independent of rnnt.py.

Graves (2012), "Sequence transduction with recurrent neural networks", arXiv 1211.3711. Frames t = 1..T and labels
u = 0..U as there; null(t, u) is the log probability of blank, emit(t, u) that of the label u + 1.

T frames   U labels   V classes with blank
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def joiner_logits(
    encoder_TJ: Tensor,
    predictor_SJ: Tensor,
    weight_VJ: Tensor,
    bias_V: Tensor,
    combine: str = "add",
    squash: Callable[[Tensor], Tensor] = torch.tanh,
) -> Tensor:
    """Logits (..., T, S, V), materialised: W s(e + p) + bias, or W s(e * p) + bias, for one utterance or a batch."""
    encoder_T1J, predictor_1SJ = encoder_TJ.unsqueeze(-2), predictor_SJ.unsqueeze(-3)
    merged_TSJ = encoder_T1J + predictor_1SJ if combine == "add" else encoder_T1J * predictor_1SJ
    return functional.linear(squash(merged_TSJ), weight_VJ, bias_V)


def reference_loss(logits_TSV: Tensor, targets_U: Tensor, blank: int) -> Tensor:
    """-log Pr(y|x) of one utterance (scalar, float64): eq. 16 and 17. Differentiable through the recursion itself."""
    return reference_sum(logits_TSV.double().log_softmax(-1), targets_U, blank)


def reference_sum(log_probs_TSV: Tensor, targets_U: Tensor, blank: int) -> Tensor:
    """-log of the sum over alignments, as in ``reference_loss``, for scores that need not be normalised."""
    frames, states, _ = log_probs_TSV.shape
    alpha: dict[tuple[int, int], Tensor] = {}
    for t in range(1, frames + 1):
        for u in range(states):
            arrivals = [log_probs_TSV.new_zeros(())] if (t, u) == (1, 0) else []
            if t > 1:
                arrivals.append(alpha[t - 1, u] + log_probs_TSV[t - 2, u, blank])
            if u > 0:
                arrivals.append(alpha[t, u - 1] + log_probs_TSV[t - 1, u - 1, targets_U[u - 1]])
            alpha[t, u] = torch.stack(arrivals).logsumexp(0)
    return -(alpha[frames, states - 1] + log_probs_TSV[frames - 1, states - 1, blank])


def reference_occupancy(logits_TSV: Tensor, targets_U: Tensor, blank: int) -> Tensor:
    """Posterior probability of visiting each cell, (T, S) float64: alpha(t, u) beta(t, u) / Pr(y|x), eq. 16-18."""
    frames, states, _ = logits_TSV.shape
    probs_TSV = logits_TSV.double().softmax(-1)
    null_TS = probs_TSV[..., blank]
    emit_TS = torch.stack([probs_TSV[:, u, label] for u, label in enumerate(targets_U.tolist())] or [null_TS[:, 0]], 1)
    alpha_TS, beta_TS = torch.zeros_like(null_TS), torch.zeros_like(null_TS)
    for t in range(frames):
        for u in range(states):
            from_blank = alpha_TS[t - 1, u] * null_TS[t - 1, u] if t > 0 else 0.0
            from_label = alpha_TS[t, u - 1] * emit_TS[t, u - 1] if u > 0 else 0.0
            alpha_TS[t, u] = 1.0 if t == u == 0 else from_blank + from_label
    for t in reversed(range(frames)):
        for u in reversed(range(states)):
            by_blank = beta_TS[t + 1, u] * null_TS[t, u] if t + 1 < frames else 0.0
            by_label = beta_TS[t, u + 1] * emit_TS[t, u] if u + 1 < states else 0.0
            beta_TS[t, u] = null_TS[t, u] if (t, u) == (frames - 1, states - 1) else by_blank + by_label
    return alpha_TS * beta_TS / beta_TS[0, 0]
