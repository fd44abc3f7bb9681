"""Numbers as people read them."""

import math

import pytest

from asr.reporting import text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.31, "0.31 s"), (59.4, "59.4 s"), (75, "1 min 15 s"), (59.99 * 60, "59 min 59 s"), (3600, "1 h 00 min"),
     (7384, "2 h 03 min"), (90000, "1 d 1 h"), (math.nan, "–")],
)  # fmt: skip
def test_durations(seconds: float, said: str) -> None:
    assert text.duration(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0"), (0.0005, "0.0005"), (950, "950"), (1200, "1.2k"), (3e6, "3M"), (2.5e9, "2.5G")]
)
def test_axis_numbers(value: float, said: str) -> None:
    assert text.compact(value) == said
    assert text.compact_bytes(value) == f"{said.rstrip('kMG')}\u202f{said[len(said.rstrip('kMG')) :]}B"


def test_rates_and_counts() -> None:
    assert text.percent(0.03124) == "3.12\u202f%"
    assert text.percent(math.inf) == "–"
    assert text.interval((0.026, 0.0368)) == "2.60 – 3.68\u202f%"
    assert text.interval(None) == "–"
    assert text.count(1234567) == "1\u202f234\u202f567"
    assert text.count(math.nan) == text.figure(math.nan) == "–"
    assert text.figure(0.123456) == "0.1235"
