"""Joining the words of overlapping windows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.joining import join
from asr.decoding.timed_words import Word


def words(*texts: str, shift: float = 0.0) -> list[Word]:
    """Words of half a second each; a text may name its start: ``yes@3``."""
    found = []
    for place, text in enumerate(texts):
        name, _, start = text.partition("@")
        found.append(Word(name, float(start or place) + shift, float(start or place) + shift + 0.5, 0.9))
    return found


def texts(found: list[Word]) -> str:
    return " ".join(word.text for word in found)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a@0 b@4 c@5", "b@4 c@5 d@9", "a b c d"),
        ("a@0 b@4 x@5.6", "y@4.2 b@4.1 c@5", "a b c"),  # what either heard wrongly at its own end is left out
        ("a@0 b@4.9", "b@5.1 d@9", "a b d"),  # on both sides of the middle, once
        ("a@0 b@4.2 q@5.4", "p@4.2 c@5.4", "a b c"),  # nothing in common: at the middle
        ("a@0 a@4 a@4.6 a@5.2", "a@4 a@4.6 a@5.2 a@9", "a a a a a"),
        ("a@0", "", "a"),
        ("", "d@9", "d"),
    ],
)
def test_each_word_is_there_once(before: str, after: str, expected: str) -> None:
    assert texts(join(words(*before.split()), words(*after.split()), 4.0, 6.0)) == expected


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30), st.integers(0, 30), st.integers(2, 8))
def test_windows_that_agree_are_joined_without_loss(said: list[str], start: int, overlap: int) -> None:
    everything = words(*said)
    end = start + overlap
    before = [word for word in everything if word.end <= end]
    after = [word for word in everything if word.start >= start]
    assert join(before, after, start, end) == everything
