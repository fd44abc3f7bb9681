"""Laws of the paired comparison, and agreement with slower ways to the same figures."""

import itertools
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decoding.bootstrap import bootstrap_interval
from asr.decoding.comparison import Comparison, compare
from asr.decoding.wer import ErrorCounts

Errors = Sequence[int]


def counts(errors: Errors, words: Errors) -> dict[str, ErrorCounts]:
    return {
        f"u{index}": ErrorCounts(substitutions=count, reference_words=length, utterances=1)
        for index, (count, length) in enumerate(zip(errors, words, strict=True))
    }


def compared(ours: Errors, theirs: Errors, words: Errors, replications: int = 400, seed: int = 0) -> Comparison:
    return compare(counts(ours, words), counts(theirs, words), replications=replications, seed=seed)


utterances = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=12)


@settings(max_examples=25)
@given(utterances)
def test_against_itself_nothing_differs(triples: list[tuple[int, int, int]]) -> None:
    ours, _, words = zip(*triples, strict=True)
    found = compared(ours, ours, words, replications=50)
    assert found.difference == 0.0
    assert found.interval == (0.0, 0.0)
    assert found.probability_of_improvement == 0.5
    assert (found.better, found.worse, found.equal) == (0, 0, len(words))


@settings(max_examples=25)
@given(utterances)
def test_exchange_turns_the_signs(triples: list[tuple[int, int, int]]) -> None:
    ours, theirs, words = zip(*triples, strict=True)
    one, other = compared(ours, theirs, words, 100), compared(theirs, ours, words, 100)
    assert one.difference == -other.difference
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]), abs=1e-12)
    assert one.probability_of_improvement == pytest.approx(1 - other.probability_of_improvement)
    assert (one.wer, one.better, one.worse, one.equal) == (other.other_wer, other.worse, other.better, other.equal)
    assert (one.only_this_right, one.only_other_right) == (other.only_other_right, other.only_this_right)


def test_agrees_with_all_possible_draws() -> None:
    """Of five utterances there are 5^5 draws: their share of improvements is what sampling estimates."""
    ours, theirs, words = [0, 1, 0, 2, 1], [1, 0, 1, 2, 2], [3, 2, 4, 5, 1]
    share = 0.0
    for draw in itertools.product(range(5), repeat=5):
        excess = sum(ours[i] - theirs[i] for i in draw)
        share += ((excess < 0) + 0.5 * (excess == 0)) / 5**5
    found = compared(ours, theirs, words, replications=8000)
    assert found.probability_of_improvement == pytest.approx(share, abs=4 * math.sqrt(0.25 / 8000))


def test_agrees_with_a_direct_bootstrap() -> None:
    """Draw by draw, each system's word error rate apart, with another generator."""
    rng = random.Random(1)
    words = [rng.randint(1, 12) for _ in range(60)]
    ours = [rng.randint(0, length // 2) for length in words]
    theirs = [
        min(length, each + rng.choice([-1, 0, 0, 1, 1]) * (each > 0)) for each, length in zip(ours, words, strict=True)
    ]
    differences = []
    for _ in range(6000):
        draw = [rng.randrange(60) for _ in words]
        drawn_words = sum(words[i] for i in draw)
        differences.append(sum(ours[i] for i in draw) / drawn_words - sum(theirs[i] for i in draw) / drawn_words)
    differences.sort()
    found = compared(ours, theirs, words, replications=6000)
    width = differences[5849] - differences[149]
    assert found.interval == pytest.approx((differences[149], differences[5849]), abs=0.05 * width)
    improved = sum((each < -1e-12) + 0.5 * (abs(each) <= 1e-12) for each in differences) / 6000
    assert found.probability_of_improvement == pytest.approx(improved, abs=0.03)


def test_pairing_sees_what_two_intervals_do_not() -> None:
    """Utterances differ in difficulty much more than the systems do: the rates' intervals overlap, the difference is sure."""
    words = [10] * 80
    theirs = [2 + 6 * (index % 2) for index in range(80)]
    ours = [each - (index % 4 < 2) for index, each in enumerate(theirs)]
    ours_low, ours_high = bootstrap_interval(ours, words, replications=1000, seed=0)
    theirs_low, theirs_high = bootstrap_interval(theirs, words, replications=1000, seed=0)
    assert ours_low < theirs_low < ours_high < theirs_high
    found = compared(ours, theirs, words)
    assert found.interval[1] < 0
    assert found.probability_of_improvement == 1.0
    assert (found.better, found.worse, found.equal) == (40, 0, 40)


def test_matched_pairs_are_counted() -> None:
    found = compared([0, 0, 1, 3, 2], [0, 2, 0, 1, 2], [4] * 5)
    assert (found.better, found.worse, found.equal) == (1, 2, 2)
    assert (found.only_this_right, found.only_other_right) == (1, 1)
    assert (found.wer, found.other_wer) == (0.3, 0.25)


def test_without_reference_words_the_difference_is_nan() -> None:
    found = compared([1, 0], [0, 0], [0, 0])
    assert math.isnan(found.difference)
    assert all(math.isnan(end) for end in found.interval)
    assert found.worse == 1


@pytest.mark.parametrize("other", [counts([1], [4]), counts([1, 0], [4, 5])])
def test_other_utterances_or_references_are_refused(other: dict[str, ErrorCounts]) -> None:
    with pytest.raises(ValueError, match="same utterances with the same references"):
        compare(counts([1, 0], [4, 4]), other, replications=10, seed=0)
