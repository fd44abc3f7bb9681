"""How good a leader's choice of entries is, and whether learners resemble each other: diagnostics of sparse gradients.

    index_overlap  |I and top-k(mean p)| / k                     1 - d/k of arXiv 2104.11125, Lemma 1
    contraction    ||mean p - (mean p)_I||^2 / ||mean p||^2      gamma: what of the mean is left unsent
    mean_cosine    mean of the cosine of two memories, over pairs of learners whose memory is not zero
    union          |I_1 or ... or I_L| / k                       what local top-k would have to send

I: positions (k,) that are sent, of a vector (N,), one of each for every segment of the gradient.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def index_overlap(chosen: Sequence[Tensor], means: Sequence[Tensor]) -> float:
    """Fraction of the chosen positions that are also among the k largest magnitudes of the same vector."""
    found = [
        int(torch.isin(positions, mean.abs().topk(len(positions)).indices).sum())
        for positions, mean in zip(chosen, means, strict=True)
    ]
    return sum(found) / sum(len(positions) for positions in chosen)


def contraction(chosen: Sequence[Tensor], means: Sequence[Tensor]) -> float:
    """gamma: fraction of the squared norm of all vectors outside the chosen positions; NaN if the norm is zero."""
    total = sum(_energy(mean) for mean in means)
    sent = sum(_energy(mean[positions]) for positions, mean in zip(chosen, means, strict=True))
    return 1.0 - sent / total if total else math.nan


def mean_cosine(sum_of_units: Sequence[Tensor], vectors: int) -> float:
    """Mean cosine over pairs of vectors, from their sum after each was scaled to length 1; NaN for fewer than two.

    ``vectors``: how many of them are not zero; a zero vector has no direction, and is in no pair.
    """
    if vectors < 2:
        return math.nan
    return (sum(_energy(part) for part in sum_of_units) - vectors) / (vectors * (vectors - 1))


def units(vectors: Sequence[Tensor]) -> list[Tensor]:
    """Parts of one vector, scaled so that it has length 1; a zero vector stays zero."""
    length = math.sqrt(sum(_energy(part) for part in vectors))
    return [part / length if length else part.clone() for part in vectors]


def union(choices: Sequence[Tensor], chosen: Sequence[Tensor]) -> float:
    """Positions chosen by any learner, as a multiple of those in ``chosen``; ``choices`` (N,): by how many learners."""
    return sum(int(each.count_nonzero()) for each in choices) / sum(len(positions) for positions in chosen)


def _energy(vector: Tensor) -> float:
    return torch.linalg.vector_norm(vector, dtype=torch.float64).item() ** 2
