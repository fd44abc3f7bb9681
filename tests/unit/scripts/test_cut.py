"""From a run and a manifest to a manifest of pieces, which the loader reads as the very samples of the recording."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from asr.data.audio import read_audio
from asr.data.cutting import Cutter
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.tokenizer import Tokenizer, load_tokenizer
from asr.training.evaluation import EvaluationSet
from distributed.errors import UsageError
from scripts import cut
from scripts.composition import cutting
from scripts.composition.evaluation import named_set
from scripts.composition.trained import Trained, load_trained

RATE = 8000
STATE_SECONDS = 0.04
WORDS = ("one", "two", "ten", "one", "two")
STARTS = (0.0, 1.0, 2.0, 3.0, 4.0)  # each word lasts 0.6 s, and silence follows


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A long recording as OGG Vorbis, and a short one."""
    rng, root = np.random.default_rng(0), tmp_path / "corpus"
    root.mkdir()
    samples = 0.0005 * rng.standard_normal(5 * RATE)
    for start in STARTS:
        samples[round(start * RATE) : round((start + 0.6) * RATE)] += 0.2 * rng.standard_normal(round(0.6 * RATE))
    soundfile.write(root / "long.ogg", samples, RATE, format="OGG", subtype="VORBIS")
    soundfile.write(root / "short.wav", samples[:RATE], RATE)
    write_manifest(
        root / "train.jsonl",
        [
            Utterance("long", root / "long.ogg", 5.0, " ".join(WORDS), "a"),
            Utterance("short", root / "short.wav", 1.0, "one", "b"),
        ],
    )
    return root / "train.jsonl"


def spoken_path(tokenizer: Tokenizer) -> Tensor:
    """Where the words of the long recording really are: the letters of each, one a state, from its start on."""
    path = torch.zeros(125, dtype=torch.int64)
    for number, (word, start) in enumerate(zip(WORDS, STARTS, strict=True)):
        tokens = tokenizer.encode(word)
        begin = round(start / STATE_SECONDS) + 1
        path[begin : begin + len(tokens)] = torch.tensor(tokens)
        if number:
            path[begin - 2] = tokenizer.encode("a b")[1]  # the space
    return path


@pytest.fixture
def run(random_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of 40 ms states whose alignment is that of a perfect model; only what is asked for is aligned."""
    folder = random_run("run", "model=lstm_tiny", "model.encoder.layers=1", "model.encoder.hidden=8")
    path = spoken_path(load_tokenizer(folder / "tokenizer"))

    def alignable(trained: Trained, evaluated: EvaluationSet, method: str) -> dict[str, Tensor]:
        usable = evaluated.screened.usable
        asked = [usable[index].id for unit in evaluated.units for index in unit.utterances]
        assert asked == ["long"], "what is short needs no alignment"
        return {"long": path}

    monkeypatch.setattr(cutting, "alignable", alignable)
    return folder


def test_pieces_hold_the_words_and_the_samples_between_pauses(
    run: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut.main(
        [f"run={run}", str(manifest), f"out={tmp_path / 'cut'}", "cutter.max_seconds=2.2", "cutter.min_seconds=0.5"]
    )
    assert "4 pieces (0.00 h) of 2 utterances, 1 of them cut; 0 pieces left out" in capsys.readouterr().out
    *pieces, short = read_manifest(tmp_path / "cut" / "train.jsonl")
    assert short == read_manifest(manifest)[1]
    assert " ".join(each.text for each in pieces).split() == list(WORDS)
    assert all(each.duration <= 2.2 for each in pieces)
    whole = read_audio(read_manifest(manifest)[0], RATE, resample=False)
    assert torch.equal(torch.cat([read_audio(each, RATE, resample=False) for each in pieces]), whole)


def test_what_cannot_be_cut_is_left_out_and_named(
    run: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    cut.main(
        [f"run={run}", str(manifest), f"out={tmp_path / 'cut'}", "cutter.max_seconds=2", "cutter.pause_seconds=0.5"]
    )
    assert "1 pieces (0.00 h) of 2 utterances, 0 of them cut; 1 pieces left out" in capsys.readouterr().out
    assert "left out: long has no pause in 5.0 s" in caplog.text
    assert [each.id for each in read_manifest(tmp_path / "cut" / "train.jsonl")] == ["short"]


def test_no_manifest_is_replaced_and_none_is_written_empty(run: Path, manifest: Path, tmp_path: Path) -> None:
    before = manifest.read_bytes()
    with pytest.raises(UsageError, match=r"train\.jsonl is the manifest to be cut and would be replaced"):
        cut.main(["run=nowhere", str(manifest), f"out={manifest.parent}"])  # before the run is read
    assert manifest.read_bytes() == before
    write_manifest(tmp_path / "one.jsonl", read_manifest(manifest)[:1])
    limits = ("cutter.max_seconds=0.5", "cutter.min_seconds=0.4", "cutter.pause_seconds=0.5")
    with pytest.raises(UsageError, match=r"none of its 1 pieces lasts at most 0\.5 s"):
        cut.main([f"run={run}", str(tmp_path / "one.jsonl"), f"out={tmp_path / 'cut'}", *limits])
    assert not (tmp_path / "cut").exists()


@pytest.mark.parametrize("odd", ["words", "unaligned"])
def test_an_utterance_that_cannot_be_cut_does_not_end_the_others(
    run: Path,
    manifest: Path,
    tmp_path: Path,
    odd: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if odd == "words":  # as where the tokenizer's normalisation makes two words of one
        monkeypatch.setattr(cutting, "word_spans", lambda *_: [(0, 1)] * 6)
    else:
        monkeypatch.setattr(cutting, "alignable", lambda *_: {})
    cut.main([f"run={run}", str(manifest), f"out={tmp_path / 'cut'}", "cutter.max_seconds=2.2"])
    reason = {
        "words": "long cannot be cut: the tokenizer makes 6 words of the 5 of its text",
        "unaligned": "long is too long and could not be aligned",
    }
    assert f"left out: {reason[odd]}" in caplog.text
    assert "no pause" not in caplog.text
    assert [each.id for each in read_manifest(tmp_path / "cut" / "train.jsonl")] == ["short"]


def test_the_aligner_of_a_run_gives_each_word_to_one_piece(random_run: Callable[..., Path], manifest: Path) -> None:
    """Weights are random, so where it cuts is chance; that every word and second lies in one piece is not."""
    folder = random_run("run", "model=lstm_tiny", "model.encoder.layers=1", "model.encoder.hidden=8")
    trained = load_trained(folder, "best", threads=1)
    cutter = Cutter(max_seconds=4.5, min_seconds=0.1, pause_seconds=0.1)
    found = cutting.cut_set(trained, named_set(trained, str(manifest), 2), cutter, "auto")
    assert all("no pause" in reason for _, reason in found.lost), "it is aligned, and has as many spans as words"
    pieces = sorted([*found.kept, *(each for each, _ in found.lost)], key=lambda each: each.id)
    assert pieces.pop().id == "short"
    assert " ".join(each.text for each in pieces).split() == list(WORDS)
    assert sum(each.duration for each in pieces) == pytest.approx(5.0)
