"""Word error rates of variants over folds and seeds, and their differences from the first one, paired by utterance.

Two intervals are given. For the interval over utterances, a resample draws utterances, each with all its seeds: it
predicts how these very models do on other speech. For the interval over seeds, a resample draws seeds first: it
predicts how the method does, and claims of a gain should rest on it. With n seeds it is too narrow by the factor
sqrt((n - 1) / n).

S seeds   U utterances of all folds
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from asr.decoding.bootstrap import INTERVAL, REPLICATIONS, resampled_sums
from asr.decoding.comparison import Comparison, compare
from asr.decoding.wer import ErrorCounts

Errors = dict[tuple[str, int], dict[str, ErrorCounts]]  # error counts of a variant, by fold and seed, then by utterance


def total(errors: Mapping[str, ErrorCounts]) -> ErrorCounts:
    """Error counts of all utterances together."""
    return sum(errors.values(), ErrorCounts())


def row(name: str, settings: Sequence[str], errors: Errors, baseline: Errors) -> dict[str, Any]:
    """The table row of a variant: its error rate, and the paired difference from the first over all folds and seeds.

    Where there are several folds, the same of each of them alone too, under ``folds``.
    """
    found = {"variant": name, "settings": list(settings)} | compared_errors(errors, baseline)
    folds = list(dict.fromkeys(fold for fold, _ in errors))
    by_fold = {
        fold: compared_errors(*({key: each[key] for key in each if key[0] == fold} for each in (errors, baseline)))
        for fold in folds
        if fold
    }
    found["wer_by_fold"] = {fold: each["wer"] for fold, each in by_fold.items()}
    return found | ({"folds": by_fold} if len(by_fold) > 1 else {})


def compared_errors(errors: Errors, baseline: Errors) -> dict[str, Any]:
    """Error rate and paired difference over all folds and seeds of ``errors``."""
    own, first = merged(errors.values()), merged(baseline.values())
    comparison: Comparison = compare(own, first, replications=REPLICATIONS, seed=0)
    folds = list(dict.fromkeys(fold for fold, _ in errors))
    seeds = list(dict.fromkeys(seed for _, seed in errors))
    of_seeds = [[merged(each[fold, seed] for fold in folds) for seed in seeds] for each in (errors, baseline)]
    return {
        "wer_by_seed": {str(seed): total(each).wer for seed, each in zip(seeds, of_seeds[0], strict=True)},
        "wer": comparison.wer,
        "difference": comparison.difference,
        "difference_interval": comparison.interval,
        "difference_interval_over_seeds": interval_over_seeds(*of_seeds),
        "reference_words": total(own).reference_words,
    }


def interval_over_seeds(
    errors: Sequence[Mapping[str, ErrorCounts]], baseline: Sequence[Mapping[str, ErrorCounts]]
) -> tuple[float, float]:
    """95 % interval of the difference of word error rates: seeds are drawn, and then utterances, with replacement."""
    utterances = list(errors[0])
    excess_SU = np.array(
        [
            [own[each].errors - first[each].errors for each in utterances]
            for own, first in zip(errors, baseline, strict=True)
        ]
    )
    words_U = np.array([errors[0][each].reference_words for each in utterances])
    rng = np.random.default_rng(0)
    differences = []
    for number in range(REPLICATIONS):
        drawn_U = excess_SU[rng.integers(len(excess_SU), size=len(excess_SU))].sum(0)
        excess, words = resampled_sums(np.stack([drawn_U, words_U]), replications=1, seed=number)[0]
        differences.append(excess / (len(excess_SU) * words))
    low, high = np.percentile(differences, INTERVAL)
    return float(low), float(high)


def merged(parts: Iterable[Mapping[str, ErrorCounts]]) -> dict[str, ErrorCounts]:
    """The errors of several runs together, summed by utterance."""
    sums: dict[str, ErrorCounts] = {}
    for part in parts:
        for key, counts in part.items():
            sums[key] = sums.get(key, ErrorCounts()) + counts
    return sums


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table in Markdown."""
    print("| variant | WER by seed | WER | difference, absolute | 95 % interval over utterances | over seeds too |")
    print("|---|---|---|---|---|---|")
    named = [(each["variant"], each) for each in rows]
    named += [(f"{each['variant']}, {fold}", own) for each in rows for fold, own in each.get("folds", {}).items()]
    for name, each in named:
        by_seed = ", ".join(f"{wer:.2%}" for wer in each["wer_by_seed"].values())
        intervals = (each[key] for key in ("difference_interval", "difference_interval_over_seeds"))
        told = " | ".join(f"{100 * low:+.2f} to {100 * high:+.2f}" for low, high in intervals)
        print(f"| {name} | {by_seed} | {each['wer']:.2%} | {100 * each['difference']:+.2f} | {told} |")
