"""N-best lists: what is written is what is read, in little memory, and lists that do not fit are refused in one line."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.data.manifest import Utterance
from asr.data.nbest import HEADER, NBest, NBestError, corpus_of, packed, read_nbest, shard_file, truth_of
from asr.data.tokenizer import CharacterTokenizer

LETTERS = CharacterTokenizer(alphabet=" abc", case="lower")
LISTS = {"u1": [[1, 2], [2], []], "u2": [], "u3": [[4, 4, 4]], "u4": [[1], [2]], "u5": [[3]]}


@given(
    st.dictionaries(st.text(max_size=3), st.lists(st.lists(st.integers(1, 300), max_size=6), max_size=5), max_size=6)
)
def test_packed_lists_hold_what_was_packed(lists: dict[str, list[list[int]]]) -> None:
    packed_lists = packed(
        (NBest(name, len(name), found, [0.0] * len(found)) for name, found in lists.items()), dtype=np.int16
    )
    for name, found in lists.items():
        assert name in packed_lists
        assert packed_lists.truth(name) == len(name)
        assert packed_lists.lengths(name, best=20) == [len(each) for each in found]
        assert packed_lists.lengths(name, best=2) == [len(each) for each in found[:2]]
        assert [packed_lists.hypothesis(name, rank) for rank in range(len(found))] == found
    assert packed_lists.tokens_N.dtype == torch.int16


def test_what_is_written_is_read(write_lists: Callable[..., Path]) -> None:
    folder = write_lists(LISTS, LETTERS)
    header, lists = read_nbest(folder, LETTERS)
    assert (header.run, header.hypotheses, header.shards) == ("exp/a", 20, 3)
    assert {
        name: [lists.hypothesis(name, rank) for rank in range(len(found))] for name, found in LISTS.items()
    } == LISTS
    assert "u6" not in lists
    copied = pickle.loads(pickle.dumps(lists))
    assert copied.hypothesis("u3", 0) == [4, 4, 4]


@pytest.mark.parametrize("changes", [{"text": "stop"}, {"duration": 1.251}, {"text": "", "duration": 1.0}])
def test_different_utterances_of_the_same_id_are_distinguished(changes: dict[str, Any]) -> None:
    one = Utterance("train-000001", Path("a.wav"), 1.25, "go")
    other, moved = replace(one, **changes), replace(one, audio_filepath=Path("b.wav"))
    assert truth_of(one) == truth_of(moved) != truth_of(other)
    assert corpus_of([one]) == corpus_of([moved]) != corpus_of([other])


def test_large_vocabularies_have_room(write_lists: Callable[..., Path]) -> None:
    alphabet = "".join(chr(0x4E00 + index) for index in range(20_000)) + "".join(chr(0xAC00 + i) for i in range(11_172))
    many = CharacterTokenizer(alphabet=alphabet + "".join(chr(0x3400 + i) for i in range(6_000)), case="keep")
    folder = write_lists({"u": [[1, 37_000]]}, many)
    assert read_nbest(folder, many)[1].hypothesis("u", 0) == [1, 37_000]


def test_other_tokens_are_refused(write_lists: Callable[..., Path]) -> None:
    other = CharacterTokenizer(alphabet="abc ", case="lower")
    with refused(r"tokens of another tokenizer \(of run exp/a\); train with the tokenizer of the run that was decoded"):
        read_nbest(write_lists(LISTS, other), LETTERS)


def test_what_is_not_complete_or_damaged_is_refused(write_lists: Callable[..., Path], tmp_path: Path) -> None:
    with refused(r"none/header\.json: no n-best lists that can be read .*; write the lists anew"):
        read_nbest(tmp_path / "none", LETTERS)
    folder = write_lists(LISTS, LETTERS)
    shard_file(folder, 1).write_text('{"id": "u3", "truth": 0, "hypotheses": [[1]]}\n')
    with refused(r"00001\.jsonl:1: damaged"):
        read_nbest(folder, LETTERS)
    shard_file(folder, 1).unlink()
    with refused(r"1 of 3 shards are missing, 00001\.jsonl first; repeat the command"):
        read_nbest(folder, LETTERS)
    (folder / HEADER).write_text('{"format": 0}')
    with refused("of another format than 3; remove the folder, then write the lists anew"):
        read_nbest(folder, LETTERS)


def refused(pattern: str) -> "pytest.RaisesExc[NBestError]":
    return pytest.raises(NBestError, match=f"^[^\n]*{pattern}[^\n]*$")
