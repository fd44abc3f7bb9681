"""Folds divide a training set into disjoint parts of one size that only its names determine; what cannot be divided is refused."""

from collections import Counter
from pathlib import Path
from random import Random
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.folds import UNDIVIDED, Fold
from asr.data.manifest import Utterance
from distributed.errors import UsageError

By = Literal["speaker", "utterance"]


def utterance(name: str, speaker: str = "") -> Utterance:
    return Utterance(name, Path(f"{name}.wav"), 1.0, "yes", speaker)


def spoken(speakers: list[int]) -> list[Utterance]:
    return [utterance(f"utterance-{place}", f"speaker-{speaker}") for place, speaker in enumerate(speakers)]


@given(
    speakers=st.lists(st.integers(0, 12), min_size=1, max_size=60),
    of=st.integers(2, 6),
    by=st.sampled_from(["speaker", "utterance"]),
    chance=st.randoms(use_true_random=False),
)
def test_folds_are_disjoint_whole_even_and_the_same_in_any_order(
    speakers: list[int], of: int, by: By, chance: Random
) -> None:
    utterances = spoken(speakers)
    dealt = {each.speaker if by == "speaker" else each.id for each in utterances}
    if len(dealt) < of:
        with pytest.raises(UsageError, match=rf"^fold\.of={of}: "):
            Fold(leave_out=1, of=of, by=by).part("train", utterances)
        return
    parts = [Fold(leave_out=number, of=of, by=by).part("left_out", utterances) for number in range(1, of + 1)]
    assert Counter(each.id for part in parts for each in part) == Counter(each.id for each in utterances)
    sizes = [len({each.speaker if by == "speaker" else each.id for each in part}) for part in parts]
    assert sum(sizes) == len(dealt), "no speaker is in two folds"
    assert max(sizes) - min(sizes) <= 1
    shuffled = list(utterances)
    chance.shuffle(shuffled)
    for number, part in enumerate(parts, start=1):
        fold = Fold(leave_out=number, of=of, by=by)
        assert set(fold.part("left_out", shuffled)) == set(part)
        assert fold.part("train", utterances) == [each for each in utterances if each not in part], "in their order"


def test_names_are_dealt_out_in_turn() -> None:
    fold = Fold(leave_out=2, of=2, by="speaker")
    utterances = [utterance(f"u{place}", speaker) for place, speaker in enumerate("cabdb")]
    assert list(map(fold.assign(utterances), utterances)) == [1, 1, 2, 2, 2]
    by_id = Fold(leave_out=2, of=2, by="utterance")
    assert list(map(by_id.assign(utterances), utterances)) == [1, 2, 1, 2, 1]


def test_other_splits_and_runs_without_folds_are_whole() -> None:
    utterances = [utterance("a"), utterance("b")]
    assert Fold(leave_out=1, of=2, by="utterance").part("dev", utterances) == utterances
    assert UNDIVIDED.part("train", utterances) == utterances
    assert Fold(leave_out=None, of=5, by="speaker").part("train", utterances) == utterances


@pytest.mark.parametrize(
    ("leave_out", "of", "message"),
    [
        (6, 5, r"^fold\.leave_out=6: with fold\.of=5 it must be a number from 1 to 5, or null[^\n]*$"),
        (0, 5, r"^fold\.leave_out=0: with fold\.of=5 it must be a number from 1 to 5"),
        (1, 1, r"^fold\.of=1: without the only fold there is nothing to train on; set fold\.of=2 or more$"),
    ],
)
def test_folds_that_do_not_exist_are_refused(leave_out: int, of: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Fold(leave_out=leave_out, of=of, by="speaker")


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^fold\.of=5: train has 3 speakers .*set fold\.of=3 or less, or fold\.by="):
        Fold(leave_out=1, of=5, by="speaker").part("train", spoken([0, 1, 2, 2, 2, 2]))
    with pytest.raises(UsageError, match=r"^fold\.of=5: train has 2 utterances .*set fold\.of=2 or less$"):
        Fold(leave_out=1, of=5, by="utterance").part("train", spoken([0, 1]))
    unnamed = [*spoken([0, 1]), utterance("x"), utterance("y")]
    expected = r"^fold\.by=speaker: 2 of 4 utterances of train have no speaker, x first; set fold\.by=utterance$"
    with pytest.raises(UsageError, match=expected):
        Fold(leave_out=1, of=2, by="speaker").part("train", unnamed)
