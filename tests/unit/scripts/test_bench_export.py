"""The measurement of exports: rounds are interleaved, a text that differs is counted, the first method is the measure."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.bench.export import measure, rows_of


def test_methods_take_turns_and_are_compared_with_the_first() -> None:
    calls: list[tuple[str, int]] = []

    def method(name: str, texts: list[str], seconds: list[float]):
        left = iter([9.0, *seconds])

        def recognise(files: Sequence[Path]) -> tuple[list[str], float]:
            calls.append((name, len(files)))
            return texts, next(left)

        return recognise

    methods = {
        "a": method("a", ["yes no", "stop"], [4.0, 2.0, 3.0]),
        "b": method("b", ["yes  no", "go"], [1.0, 8.0, 1.5]),
    }
    found = measure(methods, [Path("1.wav"), Path("2.wav"), Path("3.wav")], rounds=3)
    assert calls == [("a", 2), ("b", 2), *[("a", 3), ("b", 3)] * 3], "a short round warms up"
    first, second = rows_of(found, ["yes no", "stop"], audio_seconds=10.0)
    assert (first["real_time_factor"], second["real_time_factor"]) == pytest.approx((0.3, 0.15)), "medians"
    assert (first["texts_that_differ"], second["texts_that_differ"]) == (0, 1)
    assert (first["wer"], second["wer"]) == pytest.approx((0, 1 / 3))
