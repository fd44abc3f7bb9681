"""The grammar: enough words, an alphabet that a tokenizer can rely on, numbers as they are said."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.data.grammar import RULES, Vocabulary, expand, sentence, spell_number, spell_ordinal, spell_time, spell_year
from asr.data.words import SMALL


def sentences(vocabulary: Vocabulary, count: int, seed: int = 0) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    return [sentence(generator, vocabulary) for _ in range(count)]


def test_full_grammar_says_over_700_words() -> None:
    words = {word for text in sentences("full", 8000) for word in text.split()}
    assert len(words) >= 700


def test_small_vocabulary_is_40_words_all_used_2_to_6_at_a_time() -> None:
    texts = sentences("small", 1000)
    assert len(set(SMALL)) == len(SMALL) == 40
    assert {word for text in texts for word in text.split()} == set(SMALL)
    assert {len(text.split()) for text in texts} == {2, 3, 4, 5, 6}


@pytest.mark.parametrize("vocabulary", ["small", "full"])
def test_sentences_hold_letters_single_spaces_and_apostrophes_only(vocabulary: Vocabulary) -> None:
    for text in sentences(vocabulary, 2000):
        assert re.fullmatch(r"[a-z']+( [a-z']+)*", text), text


@pytest.mark.parametrize("vocabulary", ["small", "full"])
def test_a_seed_gives_its_sentences(vocabulary: Vocabulary) -> None:
    assert sentences(vocabulary, 20, seed=3) == sentences(vocabulary, 20, seed=3)
    assert sentences(vocabulary, 20, seed=3) != sentences(vocabulary, 20, seed=4)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_expands_completely(rule: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        assert "{" not in expand(rule, generator)


def test_every_rule_is_reached_from_the_sentence() -> None:
    reached, waiting = set(), ["sentence"]
    while waiting:
        rule = waiting.pop()
        if rule not in reached:
            reached.add(rule)
            alternatives = RULES[rule]
            waiting += [] if callable(alternatives) else re.findall(r"\{(\w+)\}", " ".join(alternatives))
    assert reached == set(RULES)


def test_unknown_vocabulary_is_refused_with_its_key() -> None:
    with pytest.raises(ValueError, match=r"data\.vocabulary must be small or full, got 'large'"):
        sentence(torch.Generator(), "large")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety nine"),
        (100, "one hundred"),
        (342, "three hundred and forty two"),
        (1000, "one thousand"),
        (1005, "one thousand and five"),
        (21_100, "twenty one thousand one hundred"),
        (999_999, "nine hundred and ninety nine thousand nine hundred and ninety nine"),
    ],
)
def test_numbers(number: int, words: str) -> None:
    assert spell_number(number) == words


@given(st.integers(0, 999_999), st.integers(0, 999_999))
def test_different_numbers_have_different_words(first: int, second: int) -> None:
    assert (spell_number(first) == spell_number(second)) == (first == second)


def test_ordinals() -> None:
    said = ", ".join(spell_ordinal(number) for number in (1, 2, 3, 5, 8, 9, 11, 12, 20, 21, 30, 31))
    assert said == (
        "first, second, third, fifth, eighth, ninth, eleventh, twelfth, twentieth, twenty first, thirtieth, thirty first"
    )


def test_years_and_times() -> None:
    assert [spell_year(year) for year in (1900, 1984, 1905, 2000, 2007, 2024)] == [
        "nineteen hundred",
        "nineteen eighty four",
        "nineteen oh five",
        "two thousand",
        "two thousand and seven",
        "twenty twenty four",
    ]
    assert [spell_time(*time) for time in ((3, 0), (3, 15), (12, 45), (7, 5), (10, 42), (6, 30))] == [
        "three o'clock",
        "quarter past three",
        "quarter to one",
        "seven oh five",
        "ten forty two",
        "half past six",
    ]


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (spell_number, (-1,)),
        (spell_number, (1_000_000,)),
        (spell_ordinal, (0,)),
        (spell_year, (99,)),
        (spell_time, (0, 5)),
    ],
)
def test_numbers_without_words_are_refused(function, arguments) -> None:
    with pytest.raises(ValueError, match="must"):
        function(*arguments)
