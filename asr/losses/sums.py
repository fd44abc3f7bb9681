"""The likelihood of a transducer lattice and the posteriors of its arcs, by whichever form of the recursion suits it.

A step per diagonal (lattice.py) is the least arithmetic; a step per label (rows.py) the fewest operators, which is what
counts on GPUs and for small lattices.

N valid cells, packed   B utterances
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from asr.losses.lattice import (
    ARC_DTYPE,
    Arcs,
    Shape,
    arc_posteriors,
    arcs_from_packed,
    forward_variables,
    log_likelihood,
)
from asr.losses.rows import RowSums, row_sums

FEW_CELLS = 16384  # of the padded batch: up to here an operator on a CPU costs more than its arithmetic


@dataclass(frozen=True, slots=True)
class DiagonalSums:
    """Sums from a step per diagonal; ``RowSums`` has the same members."""

    arcs: Arcs
    alpha_DBS: Tensor
    log_likelihood_B: Tensor  # log Pr(y|x) of each utterance

    def posteriors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Probability that an alignment takes the blank and the label arc of each cell; packed, (N,) each."""
        return arc_posteriors(self.arcs, self.alpha_DBS, dtype)


def lattice_sums(
    blank_N: Tensor, label_N: Tensor, shape: Shape, *, delay_penalty: float, with_posteriors: bool
) -> RowSums | DiagonalSums:
    """Sums over the alignments of packed log probabilities; label values at u = U are ignored.

    ``delay_penalty``: see ``reward_early_labels``. ``with_posteriors``: whether posteriors will be asked for.
    """
    blank_N, label_N = blank_N.to(ARC_DTYPE), reward_early_labels(label_N.to(ARC_DTYPE), shape, delay_penalty)
    padded_cells = len(shape.frames) * max(shape.frames) * max(shape.states)
    if blank_N.is_cuda or padded_cells <= FEW_CELLS:
        found = row_sums(blank_N, label_N, shape, with_posteriors)
        if found is not None:
            return found
    arcs = arcs_from_packed(blank_N, label_N, shape)
    alpha_DBS = forward_variables(arcs)
    return DiagonalSums(arcs, alpha_DBS, log_likelihood(alpha_DBS, shape))


def reward_early_labels(label_N: Tensor, shape: Shape, delay_penalty: float) -> Tensor:
    """The label arcs with delay_penalty x ((T - 1) / 2 - t) added: every frame by which a label is later costs as much.

    Source: Kang et al. (2023), "Delay-penalized transducer for low-latency streaming ASR", arXiv 2211.00490.
    """
    if not delay_penalty:
        return label_N
    early = [
        ((frames - 1) / 2 - torch.arange(frames, dtype=label_N.dtype)).repeat_interleave(states)
        for frames, states in zip(shape.frames, shape.states, strict=True)
    ]
    return label_N + delay_penalty * torch.cat(early).to(label_N.device)
