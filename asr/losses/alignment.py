"""Timing from the transducer lattice: the probability that each cell is visited, and the single best alignment.

Both come from the recursions of lattice.py; the best alignment takes maxima where the loss takes sums
(the Viterbi path). Meant for looking at a few utterances; no gradients.

B utterances   T frames   U labels   S = U + 1
"""

from typing import NamedTuple

import torch
from torch import Tensor

from asr.losses.inputs import LossInputs
from asr.losses.lattice import (
    Arcs,
    arc_posteriors,
    arcs_from_packed,
    backward_variables,
    cell_views,
    forward_variables,
    unpack,
)
from asr.losses.rnnt import ExactLoss, problem_of, score_cells

PLAIN = ExactLoss(tile_cells=None, min_occupancy=0.0, fastemit=0.0, delay_penalty=0.0, kernels="auto")


class Emission(NamedTuple):
    """Label ``label`` (counted from 0) of an utterance is emitted at encoder frame ``frame``."""

    frame: int
    label: int


@torch.no_grad()
def lattice_arcs(inputs: LossInputs) -> Arcs:
    """Log probabilities of the arcs of each utterance's lattice."""
    problem = problem_of(inputs, PLAIN)
    scores = score_cells(inputs.tensors, problem)
    return arcs_from_packed(scores.blank_N, scores.label_N, problem.shape)


def lattice_occupancy(arcs: Arcs) -> Tensor:
    """Posterior probability that the alignment visits each cell, (B, T, S) float32; 0 behind an utterance's end.

    The probabilities of every anti-diagonal sum to one: each alignment crosses it exactly once.
    """
    blank_N, label_N = arc_posteriors(arcs, forward_variables(arcs), torch.float32)
    shape = arcs.shape
    occupancy_BTS = blank_N.new_zeros(len(shape.frames), max(shape.frames), max(shape.states))
    for utterance_TS, cells_TS in zip(occupancy_BTS, unpack(blank_N + label_N, shape), strict=True):
        utterance_TS[: cells_TS.shape[0], : cells_TS.shape[1]] = cells_TS
    return occupancy_BTS


def best_paths(arcs: Arcs) -> list[list[Emission]]:
    """The most probable alignment of each utterance, as the frame at which each label is emitted.

    Of two equally probable alignments, the one that emits the label at the earlier frame is taken.
    """
    best_DBS = backward_variables(arcs, torch.maximum)
    by_label_DBS = torch.full_like(best_DBS, -torch.inf)
    by_label_DBS[:-1, :, :-1] = arcs.label_DBS[:-1, :, :-1] + best_DBS[1:, :, 1:]
    emits_DBS = by_label_DBS >= best_DBS
    return [_emissions(emits_TS.tolist()) for emits_TS in cell_views(emits_DBS, arcs.shape)]


def _emissions(emits_TS: list[list[bool]]) -> list[Emission]:
    """Walk from (0, 0) to the end, taking the label arc wherever it is the better one."""
    path = []
    t = u = 0
    last_frame, last_state = len(emits_TS) - 1, len(emits_TS[0]) - 1
    while u < last_state:
        if emits_TS[t][u] or t == last_frame:
            path.append(Emission(t, u))
            u += 1
        else:
            t += 1
    return path
