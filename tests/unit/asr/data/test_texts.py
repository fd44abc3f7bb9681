"""Sentences from the user's texts: as they stand, or recombined at words that they share."""

import itertools
from pathlib import Path

import pytest
import torch

from asr.data.corpus import CorpusError
from asr.data.texts import Sentences, read_sentences

TEXTS = ["The cat SAW the dog", "a dog saw us", "we saw the cat", "hello"]


def draws(recombine: float, number: int = 400) -> list[str]:
    generator = torch.Generator().manual_seed(1)
    sentences = Sentences(TEXTS, recombine)
    return [sentences.draw(generator) for _ in range(number)]


def test_without_recombination_sentences_are_drawn_whole_in_lower_case() -> None:
    assert set(draws(0.0)) == {text.lower() for text in TEXTS}


def test_recombined_sentences_have_only_pairs_of_words_that_the_texts_have() -> None:
    def pairs(sentence: str) -> set[tuple[str, str]]:
        return set(itertools.pairwise(["<s>", *sentence.split(), "</s>"]))

    known = set().union(*(pairs(text.lower()) for text in TEXTS))
    drawn = draws(1.0)
    assert set().union(*(pairs(sentence) for sentence in drawn)) == known
    assert any(sentence not in {text.lower() for text in TEXTS} for sentence in drawn)
    assert max(len(sentence.split()) for sentence in drawn) <= 5


def test_a_walk_that_hardly_ever_ends_is_cut_to_the_longest_sentence() -> None:
    sentences = Sentences(["a " * 3000 + "b"], 1.0)
    assert len(sentences.draw(torch.Generator().manual_seed(1)).split()) <= 3001


def test_a_generator_gives_its_sentences() -> None:
    assert draws(0.7) == draws(0.7)


def test_a_text_file_and_a_manifest_of_the_same_texts_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffone two\r\n\n three \n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(
        '{"audio_filepath": "a.wav", "duration": 1, "text": "one two"}\n'
        '{"audio_filepath": "b.wav", "duration": 1, "text": "three"}\n'
    )
    assert read_sentences(tmp_path / "a.txt") == read_sentences(tmp_path / "a.jsonl") == ["one two", "three"]


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff\xfe\xfa"])
def test_texts_that_cannot_be_spoken_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorpusError, match=r"data\.texts="):
        read_sentences(path)
