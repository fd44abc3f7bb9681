"""Targets of frames on disk and in batches: what is written is read, repeated, padded, and refused where it misfits."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from asr.data.batch import IGNORED, RawBatch
from asr.data.frame_targets import read_alignment, write_alignment
from asr.data.pipeline import collate
from asr.data.tokenizer import CharacterTokenizer

TOKENIZER = CharacterTokenizer(alphabet="abc", case="lower")
CLASSES = {"one": torch.tensor([0, 1, 0]), "two": torch.tensor([2]), "none": torch.zeros(0, dtype=torch.int64)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "alignment" / "train.safetensors"
    write_alignment(path, CLASSES, frame_seconds=4 * 0.01, tokenizer=TOKENIZER)
    return path


def read(path: Path, frame_seconds: float = 0.01, tokenizer: CharacterTokenizer = TOKENIZER):
    return read_alignment(path, frame_seconds=frame_seconds, tokenizer=tokenizer)


def test_classes_are_repeated_for_the_models_frames(file: Path) -> None:
    found = read(file)
    assert found.repeat == 4
    assert found.of("one", 10).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]
    assert found.of("one", 10).dtype == torch.int64
    assert found.of("two", 4).tolist() == [2, 2, 2, 2]
    assert read(file, 0.04).of("one", 3).tolist() == [0, 1, 0]
    assert read(file, 0.02).of("one", 5).tolist() == [0, 0, 1, 1, 0]
    assert [path.name for path in file.parent.iterdir()] == ["train.safetensors"]


@pytest.mark.parametrize(("utterance", "frames"), [("one", 8), ("one", 13), ("two", 5), ("none", 1)])
def test_another_length_is_refused(file: Path, utterance: str, frames: int) -> None:
    with pytest.raises(ValueError, match=f"has {frames} frames, and .* targets for 4 frames each"):
        read(file).of(utterance, frames)


def test_a_missing_utterance_is_refused(file: Path) -> None:
    with pytest.raises(ValueError, match=r"has no targets in .*train\.safetensors; align the corpus anew"):
        read(file).of("three", 4)


@pytest.mark.parametrize("frame_seconds", [0.03, 0.08, 0.0125])
def test_a_frame_rate_that_does_not_divide_is_refused(file: Path, frame_seconds: float) -> None:
    with pytest.raises(ValueError, match=r"one target for 40 ms cannot be divided.*features\.stack"):
        read(file, frame_seconds)


def test_other_tokens_are_refused(file: Path) -> None:
    with pytest.raises(ValueError, match="tokens of another tokenizer; use the tokenizer of the run that was aligned"):
        read(file, tokenizer=CharacterTokenizer(alphabet="abcd", case="lower"))


def test_files_that_are_none_of_ours_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dev.safetensors"
    with pytest.raises(ValueError, match=r"no such file; write it: python scripts/align\.py run=exp/\.\.\. dev"):
        read(path)
    path.write_bytes(b"something else entirely")
    with pytest.raises(ValueError, match="cannot be read"):
        read(path)


@pytest.mark.parametrize(
    ("targets", "shape", "padding"),
    [
        ([torch.tensor([1, 2]), torch.tensor([0])], (2, 2), IGNORED),
        ([torch.ones(2, 3), torch.ones(1, 3)], (2, 2, 3), 0),  # such as a teacher's probabilities
    ],
)
def test_batches_pad_classes_as_ignored_and_other_targets_with_zero(
    targets: list[Tensor], shape: tuple[int, ...], padding: int
) -> None:
    signals = [torch.zeros(2, 5), torch.zeros(1, 5)]
    raw = RawBatch(0, 0, ["a", "b"], signals, [[1], [1]], [[1], [1]], frame_targets=targets)
    batch = collate(raw, 5, "0-0-0", 1.0)
    assert batch.frame_targets is not None
    assert batch.frame_targets.shape == shape
    assert (batch.frame_targets[1, 1:] == padding).all()
    moved = batch.to(torch.device("cpu"), torch.float64).frame_targets
    assert moved is not None
    assert torch.equal(moved, batch.frame_targets)


def test_a_part_of_a_batch_keeps_its_targets() -> None:
    signals, targets = [torch.zeros(3, 5), torch.zeros(1, 5), torch.zeros(2, 5)], [torch.arange(n) for n in (3, 1, 2)]
    batch = collate(RawBatch(0, 0, ["a", "b", "c"], signals, [[1]] * 3, [[1]] * 3, frame_targets=targets), 5, "u", 1.0)
    part = batch.part(1, 3).frame_targets
    assert part is not None
    assert part.tolist() == [[0, IGNORED], [0, 1]]


def test_batches_without_targets_have_none() -> None:
    assert collate(RawBatch(0, 0, [], [], [], []), 5, "0-0-0", 0.0).frame_targets is None
