"""Two systems on the same utterances: the difference of their word error rates, paired (Bisani and Ney 2004).

Both make most of their errors in the same, difficult utterances. Drawing the same utterances for both leaves that
common part out of the difference, whose interval is therefore narrower than the two rates' own intervals suggest:
these may overlap although one system is clearly better.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from asr.decoding.bootstrap import INTERVAL, resampled_sums
from asr.decoding.wer import ErrorCounts, rate


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of a system with another one; a difference below zero means that it makes fewer errors."""

    wer: float
    other_wer: float
    difference: float  # wer - other_wer
    interval: tuple[float, float]  # 95 %, of the difference
    probability_of_improvement: float  # draws in which it makes fewer word errors; a tie counts half
    better: int  # utterances with fewer word errors than the other's
    worse: int
    equal: int
    only_this_right: int  # utterances without an error here, but with some in the other (McNemar's counts)
    only_other_right: int


def compare(
    counts: Mapping[str, ErrorCounts], other: Mapping[str, ErrorCounts], *, replications: int, seed: int
) -> Comparison:
    """Compare two systems by their errors per utterance, which must be of the same utterances and references.

    Without any reference word the difference and the ends of the interval are NaN.
    """
    if counts.keys() != other.keys() or any(n.reference_words != other[k].reference_words for k, n in counts.items()):
        raise ValueError("a paired comparison needs the same utterances with the same references on both sides")
    pairs = [(ours, other[name]) for name, ours in counts.items()]
    excess = [ours.errors - theirs.errors for ours, theirs in pairs]
    words = [ours.reference_words for ours, _ in pairs]
    interval, improvement = _resampled(excess, words, replications=replications, seed=seed)
    return Comparison(
        wer=rate(sum(ours.errors for ours, _ in pairs), sum(words)),
        other_wer=rate(sum(theirs.errors for _, theirs in pairs), sum(words)),
        difference=sum(excess) / sum(words) if any(words) else math.nan,
        interval=interval,
        probability_of_improvement=improvement,
        better=sum(each < 0 for each in excess),
        worse=sum(each > 0 for each in excess),
        equal=sum(each == 0 for each in excess),
        only_this_right=sum(not ours.errors and theirs.errors > 0 for ours, theirs in pairs),
        only_other_right=sum(ours.errors > 0 and not theirs.errors for ours, theirs in pairs),
    )


def _resampled(
    excess: Sequence[int], words: Sequence[int], *, replications: int, seed: int
) -> tuple[tuple[float, float], float]:
    """Interval of the difference and probability of improvement, from draws that hold reference words."""
    if not any(words):
        return (math.nan, math.nan), math.nan
    table_2U = np.array([excess, words], dtype=np.int64)
    excess_R, words_R = resampled_sums(table_2U, replications=replications, seed=seed).T
    excess_R, words_R = excess_R[words_R > 0], words_R[words_R > 0]
    if not len(words_R):
        return (math.nan, math.nan), math.nan
    low, high = np.percentile(excess_R / words_R, INTERVAL)
    return (float(low), float(high)), float(((excess_R < 0) + 0.5 * (excess_R == 0)).mean())
