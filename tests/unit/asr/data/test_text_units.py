"""Text as units of a plan: what is read from which file, what is left out, and the batches without sound."""

from pathlib import Path

import pytest
import torch

from asr.data.audio import BadUtterance
from asr.data.batch import Unit
from asr.data.corpus import CorpusError
from asr.data.manifest import Utterance
from asr.data.pipeline import unit_loader
from asr.data.text_units import TextDataset, read_text, screen_texts
from asr.data.tokenizer import CharacterTokenizer

TOKENIZER = CharacterTokenizer(alphabet=" abc", case="lower")


def utterances(*texts: str) -> list[Utterance]:
    return [Utterance(f"t{index}", Path("a.txt"), 0.0, text) for index, text in enumerate(texts)]


def test_lines_are_named_by_their_number_and_empty_lines_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\ufeffab\n\n  \nc a\n", encoding="utf-8")
    read = read_text(path, "texts")
    assert [(each.id, each.text, each.duration) for each in read] == [(f"{path}:1", "ab", 0), (f"{path}:4", "c a", 0)]


def test_a_manifest_gives_its_texts_whether_or_not_its_sound_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "u", "audio_filepath": "gone.wav", "duration": 1, "text": "ab"}\n')
    assert [(each.id, each.text) for each in read_text(path, "texts")] == [("u", "ab")]


def test_a_file_that_cannot_be_read_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"texts=.*none.txt: cannot be read"):
        read_text(tmp_path / "none.txt", "texts")


def test_texts_are_screened_by_the_tokenizer_and_measured_with_their_ends() -> None:
    given = utterances("ab", "x", "", "a b c")
    screened = screen_texts(given, tokenizer=TOKENIZER, on_bad="skip")
    assert [each.text for each in screened.usable] == ["ab", "", "a b c"]
    assert (screened.frames, screened.target_lengths) == ([3, 1, 6], [2, 0, 5])
    assert [each.utterance_id for each in screened.refused] == ["t1"]
    with pytest.raises(BadUtterance, match=r"a.txt: the tokenizer has no 'x'.*1 of 4 utterances are unusable"):
        screen_texts(given, tokenizer=TOKENIZER, on_bad="stop")


@pytest.mark.usefixtures("forked_loaders")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_unit_is_its_texts_with_features_of_no_width(num_workers: int) -> None:
    dataset = TextDataset(utterances=utterances("ab", "", "cab"), tokenizer=TOKENIZER, seed=1)
    units = [Unit(0, 0, 0, (2, 0)), Unit(0, 0, 1, (1,))]
    batch, silent = unit_loader(dataset, units, num_workers=num_workers, prefetch=2)
    assert batch.utterance_ids == ["t2", "t0"]
    assert batch.targets.tolist() == [[4, 2, 3], [2, 3, 0]]
    assert torch.equal(batch.predictor_inputs, batch.targets)
    assert (batch.target_lengths.tolist(), batch.feature_lengths.tolist()) == ([3, 2], [4, 3])
    assert batch.features.shape == (2, 4, 0)
    assert (batch.weight, batch.audio_seconds) == (2.0, 0.0)
    assert silent.targets.shape == (1, 0)
    assert batch.part(1, 2).targets.tolist() == [[2, 3]]
