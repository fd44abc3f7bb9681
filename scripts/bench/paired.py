"""Word error rates of variants over folds and seeds, and their differences from the first one, paired by utterance.

What one resample draws is an utterance with all its seeds: the same words are hard for every seed. Intervals are therefore
over utterances; how much training runs differ shows in the rates by seed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from asr.decoding.bootstrap import REPLICATIONS
from asr.decoding.comparison import Comparison, compare
from asr.decoding.wer import ErrorCounts

Errors = dict[tuple[str, int], dict[str, ErrorCounts]]  # of a variant: by fold and seed, then by utterance


def total(errors: Mapping[str, ErrorCounts]) -> ErrorCounts:
    """All utterances together."""
    return sum(errors.values(), ErrorCounts())


def row(name: str, settings: Sequence[str], errors: Errors, baseline: Errors) -> dict[str, Any]:
    """A variant's figures, and its paired difference from the first one over all folds and seeds."""
    own, first = (merged(each.values()) for each in (errors, baseline))
    comparison: Comparison = compare(own, first, replications=REPLICATIONS, seed=0)
    folds, seeds = (list(dict.fromkeys(each)) for each in zip(*errors, strict=True))
    return {
        "variant": name,
        "settings": list(settings),
        "wer_by_seed": {str(seed): total(merged(errors[fold, seed] for fold in folds)).wer for seed in seeds},
        "wer_by_fold": {fold: total(merged(errors[fold, seed] for seed in seeds)).wer for fold in folds if fold},
        "wer": comparison.wer,
        "difference": comparison.difference,
        "difference_interval": comparison.interval,
        "reference_words": total(own).reference_words,
    }


def merged(parts: Iterable[Mapping[str, ErrorCounts]]) -> dict[str, ErrorCounts]:
    """The errors of several runs together, summed by utterance."""
    sums: dict[str, ErrorCounts] = {}
    for part in parts:
        for key, counts in part.items():
            sums[key] = sums.get(key, ErrorCounts()) + counts
    return sums


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """In Markdown."""
    print("| variant | WER by seed | WER | difference, absolute | 95 % interval |\n|---|---|---|---|---|")
    for each in rows:
        by_seed = ", ".join(f"{wer:.2%}" for wer in each["wer_by_seed"].values())
        low, high = each["difference_interval"]
        print(
            f"| {each['variant']} | {by_seed} | {each['wer']:.2%} | {100 * each['difference']:+.2f} | "
            f"{100 * low:+.2f} to {100 * high:+.2f} |"
        )
