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
    same = row("same", [], baseline, baseline)
    assert same["difference_interval"] == same["difference_interval_over_seeds"] == (0.0, 0.0)


def test_an_error_that_every_seed_makes_is_one_observation() -> None:
    """More seeds that fail on the same utterance say no more about other utterances."""
    right = {f"/{i}": count_errors("one", "one") for i in range(20)}
    wrong = {**right, "/7": count_errors("one", "two")}
    intervals = [
        row("wrong", [], dict.fromkeys(runs, wrong), dict.fromkeys(runs, right))["difference_interval"]
        for runs in ([("", 1)], [("", 1), ("", 2), ("", 3)])
    ]
    assert intervals[0] == intervals[1]


def test_an_interval_over_seeds_knows_how_much_runs_differ() -> None:
    """One of three seeds fails on every utterance: no resample of utterances sees that another seed might not."""
    right = {f"/{i}": count_errors("one", "one") for i in range(20)}
    wrong = {f"/{i}": count_errors("one", "two") for i in range(20)}
    baseline = {("", seed): right for seed in (1, 2, 3)}
    unlucky = row("unlucky", [], {**baseline, ("", 2): wrong}, baseline)
    assert unlucky["difference_interval"] == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    low, high = unlucky["difference_interval_over_seeds"]
    assert low == 0.0
    assert high == pytest.approx(1.0), "4 % of the draws have the unlucky seed alone"
    alone = row("alone", [], {("", 2): wrong}, {("", 2): right})
    assert alone["difference_interval_over_seeds"] == (1.0, 1.0)


def test_other_utterances_cannot_be_compared() -> None:
    first = {("", 1): {"/a": count_errors("one", "one")}}
    with pytest.raises(ValueError, match="same utterances"):
        row("other", [], {("", 1): {"/b": count_errors("one", "one")}}, first)
    assert total(first["", 1]).reference_words == 1
