"""Markers that nobody said: taken out as whole words, in any case, counted, and none but those that were named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.corpus import Corpus
from asr.data.manifest import read_manifest
from asr.data.readers.base import read_refused, read_removed
from asr.data.readers.markers import checked_markers, split_markers

Write = Callable[..., Path]
WORDS = st.sampled_from(["yes", "no", "[noise]", "[NOISE]", "<noise>", "[noise]s", "%hesitation"])


@pytest.mark.parametrize(
    ("text", "kept", "removed"),
    [
        ("hi [laughter] there", "hi there", ["[laughter]"]),
        ("[Laughter] HI <NOISE> <noise>", "HI", ["[laughter]", "<noise>", "<noise>"]),
        ("[laughter-yes] noise", "[laughter-yes] noise", []),
        ("[laughter]", "", ["[laughter]"]),
        ("", "", []),
    ],
)
def test_whole_words_are_taken_out_in_any_case(text: str, kept: str, removed: list[str]) -> None:
    assert split_markers(text, checked_markers(["[laughter]", "<Noise>"])) == (kept, removed)


@given(st.lists(WORDS), st.sets(WORDS))
def test_words_and_markers_add_up(words: list[str], remove: set[str]) -> None:
    kept, removed = split_markers(" ".join(words), checked_markers(remove))
    assert sorted([*kept.lower().split(), *removed]) == sorted(word.lower() for word in words)
    assert not {word.lower() for word in remove} & set(kept.lower().split())


@pytest.mark.parametrize("marker", ["", " ", "uh huh"])
def test_a_marker_is_one_word(marker: str) -> None:
    with pytest.raises(ValueError, match=r"data.remove has '.*'; every entry is one word of a text"):
        checked_markers(["[noise]", marker])


@pytest.fixture
def call(write_audio: Write, write_bytes: Write) -> None:
    """A Switchboard-style directory: words with markers, markers alone, words alone."""
    write_audio("wav/sw1.wav", sample_rate=8000, channels=2)
    write_bytes("data/train_nodup/wav.scp", b"sw1-A wav/sw1.wav\nsw1-B wav/sw1.wav\n")
    write_bytes("data/train_nodup/text", b"u1 HI [LAUGHTER] [noise] UM [noise]\nu2 [vocalized-noise]\nu3 UH-HUH\n")
    write_bytes("data/train_nodup/segments", b"u1 sw1-A 0 0.2\nu2 sw1-B 0 0.2\nu3 sw1-B 0.2 0.4\n")


def test_switchboard_without_its_markers(call: None, corpus: Callable[..., Corpus]) -> None:
    manifest = corpus("switchboard", "dev=[]", "test=[]").prepare()["train"]
    assert [each.text for each in read_manifest(manifest)] == ["hi um", "uh-huh"]
    removed = read_removed(manifest.parent, "train")
    assert list(removed.items()) == [("[noise]", 2), ("[laughter]", 1), ("[vocalized-noise]", 1)]
    (left_out,) = read_refused(manifest.parent, "train")
    assert left_out.by_choice
    assert str(left_out).endswith("holds nothing but [vocalized-noise], which data.remove takes away (utterance u2)")


def test_nothing_is_taken_out_unless_it_is_named(call: None, corpus: Callable[..., Corpus]) -> None:
    manifest = corpus("switchboard", "dev=[]", "test=[]", "remove=[]").prepare()["train"]
    assert [each.text for each in read_manifest(manifest)][:2] == [
        "hi [laughter] [noise] um [noise]",
        "[vocalized-noise]",
    ]
    assert json.loads((manifest.parent / "removed.json").read_text()) == {"train": {}}


def test_a_split_of_markers_alone_is_refused(call: None, write_bytes: Write, refusal: Callable[..., str]) -> None:
    write_bytes("data/train_nodup/text", b"u1 [noise]\nu2 [noise]\nu3 [noise]\n")
    assert "[all 3 utterances of train are unusable]" in refusal("switchboard", "dev=[]", "test=[]")
