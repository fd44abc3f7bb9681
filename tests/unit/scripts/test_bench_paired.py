"""Differences are paired by seed and utterance, and belong to all folds and seeds together."""

from itertools import product

import pytest

from asr.decoding.wer import count_errors
from scripts.bench.paired import row, total


def test_differences_are_paired_and_pooled_over_folds_and_seeds() -> None:
    truth = ["one two", "three", "four five six"]
    runs = list(product(("a", "b"), (1, 2)))
    baseline = {(f, s): {f"{f}/{i}": count_errors(t, t) for i, t in enumerate(truth)} for f, s in runs}
    worse = {**baseline, ("b", 2): {**baseline["b", 2], "b/1": count_errors("three", "tree")}}
    figures = row("worse", ["backend=dpsgd"], worse, baseline)
    assert figures["wer_by_seed"] == {"1": 0.0, "2": pytest.approx(1 / 12)}
    assert figures["wer_by_fold"] == {"a": 0.0, "b": pytest.approx(1 / 12)}
    assert figures["difference"] == figures["wer"] == pytest.approx(1 / 24)
    low, high = figures["difference_interval"]
    assert low <= 1 / 24 <= high
    assert row("same", [], baseline, baseline)["difference_interval"] == (0.0, 0.0)


def test_an_error_that_every_seed_makes_is_one_observation() -> None:
    """More seeds that fail on the same utterance say no more about other utterances."""
    right = {f"/{i}": count_errors("one", "one") for i in range(20)}
    wrong = {**right, "/7": count_errors("one", "two")}
    intervals = [
        row("wrong", [], dict.fromkeys(runs, wrong), dict.fromkeys(runs, right))["difference_interval"]
        for runs in ([("", 1)], [("", 1), ("", 2), ("", 3)])
    ]
    assert intervals[0] == intervals[1]


def test_other_utterances_cannot_be_compared() -> None:
    first = {("", 1): {"/a": count_errors("one", "one")}}
    with pytest.raises(ValueError, match="same utterances"):
        row("other", [], {("", 1): {"/b": count_errors("one", "one")}}, first)
    assert total(first["", 1]).reference_words == 1
