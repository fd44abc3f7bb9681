"""Confidence intervals of word error rates by drawing test sets anew (Bisani and Ney 2004, "Bootstrap estimates for
confidence intervals in ASR performance evaluation", ICASSP).

A draw takes as many utterances as the set has, with replacement. Utterances are treated as independent; errors
within an utterance are not. Rates are errors over words of the whole draw, not means of the utterances' rates.

R replications   U utterances   K quantities that are summed over a draw
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

REPLICATIONS = 2000  # resampled test sets behind an interval
INTERVAL = (2.5, 97.5)  # percentiles: 95 % of the resampled values lie between


def resampled_sums(table_KU: npt.NDArray[np.int64], *, replications: int, seed: int) -> npt.NDArray[np.int64]:
    """(R, K): sums over the utterances of each draw. All quantities are summed over the same utterances."""
    rng = np.random.default_rng(seed)
    utterances = table_KU.shape[1]
    return np.array([table_KU[:, rng.integers(utterances, size=utterances)].sum(1) for _ in range(replications)])


def bootstrap_interval(
    errors: Sequence[int], reference_words: Sequence[int], *, replications: int, seed: int
) -> tuple[float, float]:
    """95 % interval of the word error rate.

    ``errors`` and ``reference_words`` are per utterance. Draws without any reference word are left out; if nothing
    remains the interval is (0, inf): nothing is known. Without a single error every draw would give 0; the upper end is
    then taken from the exact binomial interval (Clopper and Pearson 1934), as if words were independent.
    """
    if not any(reference_words):
        return 0.0, math.inf
    if not any(errors):
        return 0.0, 1.0 - (INTERVAL[0] / 100) ** (1 / sum(reference_words))
    table_2U = np.array([errors, reference_words], dtype=np.int64)
    errors_R, words_R = resampled_sums(table_2U, replications=replications, seed=seed).T
    drawn_R = words_R > 0
    if not drawn_R.any():
        return 0.0, math.inf
    low, high = np.percentile(errors_R[drawn_R] / words_R[drawn_R], INTERVAL)
    return float(low), float(high)
