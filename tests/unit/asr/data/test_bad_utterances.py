"""Utterances that cannot be used: reported at once, or skipped, counted and named."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr.data.audio import BadUtterance
from asr.data.batch import Batch, Unit
from asr.data.manifest import Utterance
from asr.data.pipeline import BatchHook, UnitDataset

Make = Callable[..., Utterance]
Build = Callable[..., UnitDataset]
Recorder = Callable[..., BatchHook]
Same = Callable[[Sequence[Batch], Sequence[Batch]], bool]


def bad_utterances(make: Make, folder: Path) -> dict[str, Utterance]:
    """What only reading finds, or what happened to the files after the screening; by a piece of the reason."""
    (folder / "empty.wav").touch()
    cut = make("cut", 2.0, suffix=".flac")
    cut.audio_filepath.write_bytes(cut.audio_filepath.read_bytes()[:8000])
    return {
        "no such file": Utterance("missing", folder / "missing.wav", 1.0, ""),
        "is empty": Utterance("empty", folder / "empty.wav", 1.0, ""),
        "zero length": make("zero", samples=np.zeros(0), duration=0.5),
        "is nan": make("nan", samples=np.full(8000, np.nan), duration=0.5, subtype="FLOAT"),
        "8000 Hz": make("slow", sample_rate=8000),
        "2 channels": make("stereo", channels=2),
        "lasts": make("liar", duration=3.0),
        "breaks off": cut,
        "too short for one frame": make("blip", seconds=0.02),
        "'é'": make("symbols", text="café"),
    }


def test_stop_raises_on_every_kind_of_bad_utterance(dataset: Build, make_utterance: Make, tmp_path: Path) -> None:
    for reason, utterance in bad_utterances(make_utterance, tmp_path).items():
        with pytest.raises(BadUtterance, match=reason) as caught:
            dataset(utterances=[utterance])[Unit(0, 0, 0, (0,))]
        assert caught.value.file == utterance.audio_filepath


def test_skip_counts_and_names_them(
    dataset: Build, same_batches: Same, corpus: list[Utterance], make_utterance: Make, tmp_path: Path
) -> None:
    bad = bad_utterances(make_utterance, tmp_path)
    skipping = dataset(utterances=[*bad.values(), *corpus], on_bad="skip")
    batch = skipping[Unit(0, 0, 0, tuple(range(len(bad) + 2)))]
    assert (len(batch.refused), batch.weight, batch.utterance_ids) == (len(bad), 2.0, ["u0", "u1"])
    assert batch.audio_seconds == pytest.approx(0.7)
    assert same_batches([replace(batch, refused=[])], [dataset()[Unit(0, 0, 0, (0, 1))]])
    named = "\n".join(map(str, batch.refused))
    for utterance in bad.values():
        assert str(utterance.audio_filepath) in named


def test_an_emptied_unit_is_a_valid_batch(dataset: Build, recorder: Recorder, tmp_path: Path) -> None:
    missing = [Utterance("missing", tmp_path / "missing.wav", 1.0, "x")]
    hooks = [("recorder", recorder("mel", []))]
    batch = dataset(utterances=missing, on_bad="skip", hooks=hooks)[Unit(0, 0, 0, (0,))]
    assert (batch.weight, len(batch.refused), batch.audio_seconds) == (0.0, 1, 0.0)
    assert batch.features.shape == (0, 0, 20)
    assert batch.targets.shape == (0, 0)
    assert batch.feature_lengths.shape == batch.target_lengths.shape == (0,)
