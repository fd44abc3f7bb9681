"""Joining the words of overlapping windows."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
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


@given(
    st.lists(
        st.tuples(st.sampled_from(["no", "yes"]), st.floats(0.2, 0.4), st.floats(0, 0.1)), min_size=8, max_size=60
    ),
    st.floats(0.5, 3),
    st.floats(1.5, 3),
    st.lists(st.floats(-0.08, 0.08), min_size=60, max_size=60),
)
def test_repeated_words_are_neither_lost_nor_doubled(
    said: list[tuple[str, float, float]], start: float, overlap: float, shifts: list[float]
) -> None:
    """Words of ordinary length, few texts, and times that differ between the windows by less than half a word."""
    everything, time = [], 0.0
    for text, seconds, pause in said:
        everything.append(Word(text, time + pause, time + pause + seconds, 0.9))
        time += pause + seconds
    end = min(start + overlap, time)
    heard = [
        replace(word, start=word.start + by, end=word.end + by) for word, by in zip(everything, shifts, strict=False)
    ]
    before = [word for word in everything if word.end <= end]
    after = [other for word, other in zip(everything, heard, strict=True) if word.start >= start]
    assume(end - start >= 1.5)
    assert texts(join(before, after, start, end)) == texts(everything)


def test_three_times_no() -> None:
    before = [Word("no", 4.2 + 0.35 * index, 4.5 + 0.35 * index, 0.9) for index in range(3)]
    assert texts(join(before, [*before, Word("d", 9, 9.3, 0.9)], 4.0, 6.0)) == "no no no d"
