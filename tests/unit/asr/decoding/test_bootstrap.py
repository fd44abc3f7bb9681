"""Intervals of word error rates against what is known in closed form."""

import math

import pytest

from asr.decoding.bootstrap import bootstrap_interval


def test_interval_of_equal_utterances_is_a_point() -> None:
    assert bootstrap_interval([1] * 5, [4] * 5, replications=50, seed=0) == (0.25, 0.25)
    low, high = bootstrap_interval([0] * 5, [100] * 5, replications=50, seed=0)
    assert low == 0.0
    assert (1 - high) ** 500 == pytest.approx(0.025), "no error among 500 words does not mean that there are none"


def test_interval_covers_as_often_as_it_says() -> None:
    """Against the normal approximation of a mean of 400 coin flips with one word each."""
    errors = [1] * 100 + [0] * 300
    low, high = bootstrap_interval(errors, [1] * 400, replications=4000, seed=0)
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert (low, high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.006)


def test_interval_is_repeatable() -> None:
    arguments = ([0, 3, 1, 0, 2], [4, 5, 3, 2, 6])
    first = bootstrap_interval(*arguments, replications=100, seed=1)
    assert first == bootstrap_interval(*arguments, replications=100, seed=1)
    assert first != bootstrap_interval(*arguments, replications=100, seed=2)


def test_nothing_is_known_without_reference_words() -> None:
    for errors in ([2, 1], [0, 0], []):
        assert bootstrap_interval(errors, [0] * len(errors), replications=50, seed=0) == (0.0, math.inf)
