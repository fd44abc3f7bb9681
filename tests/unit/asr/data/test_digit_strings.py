"""What digit strings say: laws of the uniform source, and the entropy, the forms and the frequencies of the everyday language."""

import math
from collections import Counter
from collections.abc import Mapping

import pytest
import torch
from torch import Generator

from asr.data.digit_strings import Digits, EverydayDigits, UniformDigits, digit_source
from distributed.errors import UsageError

ALL = range(10)


def generator() -> Generator:
    return Generator().manual_seed(1)


def entropy(probabilities: Mapping[Digits, float]) -> float:
    """Bits of a string."""
    return -sum(p * math.log2(p) for p in probabilities.values())


def test_uniform_strings_have_every_length_and_digit_alike() -> None:
    source, draws = UniformDigits((2, 4)), generator()
    drawn = [source.draw(draws, [3, 5, 7]) for _ in range(3000)]
    assert {len(each) for each in drawn} == {2, 3, 4}
    counts = Counter(digit for each in drawn for digit in each)
    assert set(counts) == {3, 5, 7}
    assert max(counts.values()) < 1.1 * min(counts.values())


def test_the_everyday_language_has_about_one_bit_a_digit() -> None:
    probabilities = EverydayDigits((3, 7)).probabilities
    assert sum(probabilities.values()) == pytest.approx(1)
    digits = sum(p * len(entry) for entry, p in probabilities.items())
    assert entropy(probabilities) / digits == pytest.approx(1.22, abs=0.01)


def test_everyday_strings_are_telephone_numbers_dates_and_prices() -> None:
    probabilities = EverydayDigits((3, 7)).probabilities
    share = Counter[int]()
    for entry, p in probabilities.items():
        share[len(entry)] += p
        if len(entry) == 6:
            day, month, year = (10 * entry[i] + entry[i + 1] for i in (0, 2, 4))
            assert 1 <= day <= 28
            assert 1 <= month <= 12
            assert 50 <= year <= 99
        if len(entry) < 6:
            assert entry[0] > 0
    assert share[7] == pytest.approx(0.6)
    assert share[6] == pytest.approx(0.3)
    assert share[3] + share[4] == pytest.approx(0.1)
    assert len({entry[:3] for entry in probabilities if len(entry) == 7}) <= 8


def test_everyday_strings_come_as_often_as_their_probability_says() -> None:
    source, draws = EverydayDigits((3, 7)), generator()
    counts = Counter(source.draw(draws, ALL) for _ in range(5000))
    for entry, p in sorted(source.probabilities.items(), key=lambda each: -each[1])[:5]:
        assert abs(counts[entry] - 5000 * p) < 4 * math.sqrt(5000 * p)


def test_of_what_is_said_less_speech_has_heard_less_than_many_texts() -> None:
    """docs/data.md: a fifth is in none of 1,000 strings, a fifteenth in none of 4,000."""
    source, draws = EverydayDigits((3, 7)), generator()
    drawn = [source.draw(draws, ALL) for _ in range(4000)]
    unheard = [sum(p for entry, p in source.probabilities.items() if entry not in set(drawn[:n])) for n in (1000, 4000)]
    assert unheard == pytest.approx([1 / 5, 1 / 15], rel=0.1)


def test_other_lengths_leave_the_language_s_strings_of_those_lengths() -> None:
    short = EverydayDigits((2, 4)).probabilities
    assert {len(entry) for entry in short} == {3, 4}
    assert sum(short.values()) == pytest.approx(1)
    with pytest.raises(
        UsageError, match=r"data\.language=everyday has strings of 3, 4, 6 and 7 digits, of which .* none"
    ):
        digit_source("everyday", (5, 5))


def test_the_language_is_the_same_for_every_generator() -> None:
    assert EverydayDigits((3, 7)).probabilities == EverydayDigits((3, 7)).probabilities
    drawn = [EverydayDigits((3, 7)).draw(torch.Generator().manual_seed(5), ALL) for _ in range(2)]
    assert drawn[0] == drawn[1]
