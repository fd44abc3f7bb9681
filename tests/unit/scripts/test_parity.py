"""The table of variants: differences are paired by seed and utterance, and belong to all seeds together."""

import pytest

from asr.decoding.wer import count_errors
from scripts.bench.parity import row, total


def test_differences_are_paired_and_pooled_over_seeds() -> None:
    truth = ["one two", "three", "four five six"]
    baseline = {s: {f"{s}/{i}": count_errors(t, t) for i, t in enumerate(truth)} for s in (1, 2)}
    worse = {**baseline, 2: {**baseline[2], "2/1": count_errors("three", "tree")}}
    figures = row("worse", ["backend=dpsgd"], worse, baseline)
    assert figures["wer_by_seed"] == {"1": 0.0, "2": pytest.approx(1 / 6)}
    assert figures["difference"] == figures["wer"] == pytest.approx(1 / 12)
    low, high = figures["difference_interval"]
    assert low <= 1 / 12 <= high
    assert row("same", [], baseline, baseline)["difference_interval"] == (0.0, 0.0)


def test_other_utterances_cannot_be_compared() -> None:
    first = {1: {"1/a": count_errors("one", "one")}}
    with pytest.raises(ValueError, match="same utterances"):
        row("other", [], {1: {"1/b": count_errors("one", "one")}}, first)
    assert total(first[1]).reference_words == 1
