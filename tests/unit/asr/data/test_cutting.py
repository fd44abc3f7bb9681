"""Cutting at pauses: where level and alignment agree, as few pieces as there can be, all words and samples in one of them."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from asr.data.cutting import Cut, Cutter, WordsDifferError, agreed, pauses
from asr.data.manifest import Utterance
from distributed.errors import UsageError

RATE = 8000


def speech(*seconds: float) -> Tensor:
    """Noise and near silence in turn, noise first."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        (0.001 if index % 2 else 0.3) * torch.randn(round(length * RATE), generator=generator)
        for index, length in enumerate(seconds)
    ]
    return torch.cat(parts)


def utterance(samples: Tensor, words: str, offset: float | None = None) -> Utterance:
    return Utterance("u", Path("u.wav"), len(samples) / RATE, words, "someone", offset)


def cutter(longest: float, shortest: float = 0.5, pause: float = 0.15) -> Cutter:
    return Cutter(max_seconds=longest, min_seconds=shortest, pause_seconds=pause)


def test_pauses_are_quiet_stretches_that_last() -> None:
    found = pauses(speech(1.0, 0.3, 1.0, 0.1, 1.0, 0.5), RATE, shortest=0.15)
    assert [end - start for start, end in found] == pytest.approx([0.3, 0.5], abs=0.021)
    assert found[0][0] == pytest.approx(1.0, abs=0.011)


def test_a_late_pause_is_where_it_is_at_a_rate_without_whole_frames() -> None:
    rate = 22050
    samples = 0.3 * torch.randn(70 * rate, generator=torch.Generator().manual_seed(0))
    samples[60 * rate : 61 * rate] *= 0.001
    ((start, end),) = pauses(samples, rate, 0.5)
    assert (start, end) == pytest.approx((60.0, 61.0), abs=0.021)  # counted as 10 ms each, frames are 0.14 s late


def test_pieces_longer_at_least_than_at_most_are_refused() -> None:
    with pytest.raises(UsageError, match=r"cutter\.min_seconds: 3 is more than cutter\.max_seconds, 2;"):
        cutter(2.0, shortest=3.0)


def test_level_alone_does_not_matter() -> None:
    samples = speech(1.0, 0.3, 1.0)
    assert pauses(samples, RATE, 0.15) == pauses(0.01 * samples, RATE, 0.15)
    assert pauses(torch.zeros(RATE), RATE, 0.15) == []  # nothing is quieter than the rest
    assert pauses(torch.zeros(10), RATE, 0.15) == []


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ([(0.2, 0.8), (1.4, 1.9)], 1),
        ([(0.2, 1.1), (1.2, 1.9)], 1),  # tokens may fall into the pause itself
        ([(0.2, 0.3), (0.5, 0.9), (1.4, 1.9)], 2),
        ([(0.2, 0.8), (0.9, 1.9)], None),  # a word lies on both sides
        ([(0.2, 1.5), (1.6, 1.9)], None),
        ([(1.4, 1.6), (1.7, 1.9)], None),  # no word before
        ([(0.1, 0.3), (0.4, 0.9)], None),  # no word after
        ([], None),
    ],
)
def test_a_cut_needs_an_alignment_with_all_words_on_one_side(
    spans: list[tuple[float, float]], words: int | None
) -> None:
    found = agreed((1.0, 1.3), spans)
    assert (None if found is None else found.words) == words
    assert found is None or found.seconds == pytest.approx(1.15, abs=0.006)


def test_pieces_are_few_and_their_pauses_long() -> None:
    samples = speech(2.0, 0.2, 2.0, 0.4, 2.0, 0.2, 2.0)
    spans = [(0.5, 1.5), (2.5, 3.5), (4.9, 5.9), (7.1, 8.1)]
    first, second = cutter(6.0).pieces(utterance(samples, "a b c d", offset=10.0), samples, RATE, spans)
    assert (first.text, second.text) == ("a b", "c d")
    assert (first.id, second.id) == ("u-00", "u-01")
    assert first.offset == 10.0
    assert second.offset == pytest.approx(14.4, abs=0.011)
    assert first.duration + second.duration == pytest.approx(len(samples) / RATE)
    assert (first.speaker, first.audio_filepath) == ("someone", Path("u.wav"))


def test_what_has_no_pause_stays_long_and_the_rest_is_cut() -> None:
    samples = speech(2.0, 0.3, 7.0, 0.3, 2.0, 0.3, 2.0)
    spans = [(0.5, 1.5), (3.0, 8.0), (9.8, 11.0), (12.3, 13.5)]
    found = cutter(5.0).pieces(utterance(samples, "a b c d"), samples, RATE, spans)
    assert [each.text for each in found] == ["a", "b", "c d"]
    assert [each.duration > 5.0 for each in found] == [False, True, False]


def test_short_utterances_and_pieces_are_left_alone() -> None:
    samples = speech(1.0, 0.3, 1.0)
    whole = utterance(samples, "a b")
    assert cutter(3.0).pieces(whole, samples, RATE, [(0.2, 0.8), (1.5, 2.0)]) == [whole]
    assert cutter(2.0, shortest=1.2).pieces(whole, samples, RATE, [(0.2, 0.8), (1.5, 2.0)]) == [whole]
    with pytest.raises(WordsDifferError, match="makes 1 words of the 2 of its text"):
        cutter(2.0).pieces(whole, samples, RATE, [(0.2, 0.8)])


@given(st.lists(st.tuples(st.floats(0.3, 3.0), st.floats(0.05, 0.6)), min_size=1, max_size=8), st.floats(1.0, 6.0))
@example(  # sums of seconds that differ in their last digit
    [(1.25, 0.5), (1.0147343414834524, 0.5), (2.0, 0.5), (2.6937826676462864, 0.5), (1.0, 0.5), (2.0, 0.5)], 1.0
)
def test_the_pieces_are_the_best_of_all(parts: list[tuple[float, float]], longest: float) -> None:
    """Against every choice of cuts; and words and seconds add up."""
    ends, now = [Cut(0.0, 0.0, 0)], 0.0
    for word, (talk, pause) in enumerate(parts, start=1):
        now += talk
        ends.append(Cut(now, pause, word))
    own = cutter(longest, shortest=0.4)

    def cost(path: list[int]) -> tuple[float, int, float]:
        total = (0.0, 0, 0.0)
        for start, end in itertools.pairwise(path):
            total = own._longer(total, ends[start], ends[end])
        return total

    last = len(ends) - 1
    chosen = own._fewest(ends)
    assert (chosen[0], chosen[-1]) == (0, last)
    inner = range(1, last)
    every = [
        [0, *(at for at in inner if mask >> at & 1), last] for mask in range(0, 2 << last, 2) if not mask >> last & 1
    ]
    assert cost(chosen) == pytest.approx(min(map(cost, every)))
