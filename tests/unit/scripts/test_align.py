"""From a trained run to an acoustic model: align, train on the targets, evaluate by frame errors, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from omegaconf import DictConfig

from asr.data.audio import BadUtterance
from asr.data.batch import RawBatch, Stage
from asr.data.frame_targets import read_alignment
from asr.data.pipeline import HookError
from asr.data.tokenizer import load_tokenizer
from asr.runs.checkpoint import list_checkpoints
from asr.runs.metrics import read_rows
from asr.training.hook import Hook
from asr.training.trainer import Trainer
from distributed.errors import UsageError
from scripts.align import main as align
from scripts.composition.trained import load_trained
from scripts.evaluate import main as evaluate

Config = Callable[..., DictConfig]
Make = Callable[..., Trainer]
STEPS = ("backend=single", "hooks=[]", "features.num_mels=20")
CTC = ("model=ctc_ibm_lstm", "model.encoder.layers=1", "model.encoder.hidden=16", "model.encoder.stack=4")
DBLSTM = ("model=dblstm_4", "model.encoder.layers=1", "model.encoder.hidden=16", "model.bottleneck=16")


class Shortening(Hook):
    """Drops the last frame, as length perturbation might."""

    stage: ClassVar[Stage | None] = "mel"

    def on_batch(self, raw: RawBatch) -> None:
        raw.signals[:] = [signal[:-1] for signal in raw.signals]


@pytest.fixture
def train(small_config: Config, finished_run: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """``train(name, *overrides, hooks=None)``: the folder of a finished run."""

    def run(name: str, *overrides: str, hooks: dict[str, Hook] | None = None) -> Path:
        return finished_run(small_config(*STEPS, *overrides), tmp_path / name, hooks)

    return run


@pytest.fixture
def aligned(train: Callable[..., Path]) -> Path:
    """A CTC run of a few steps with its alignment of train and dev."""
    run = train("ctc", *CTC, "trainer.max_steps=3")
    align([f"run={run}"])
    return run


def test_an_acoustic_model_learns_the_frames_of_another_run(aligned: Path, train: Callable[..., Path]) -> None:
    targets = f"frame_targets={aligned / 'alignment'}"
    run = train("am", *DBLSTM, targets, "trainer.max_steps=30", "trainer.evaluate_every=10", "optimizer.lr=0.02")
    rows = read_rows(run / "metrics" / "0.jsonl")
    errors = [row["eval/dev/frame_error"] for row in rows if "eval/dev/frame_error" in row]
    losses = [row["eval/dev/loss"] for row in rows if "eval/dev/loss" in row]
    assert not any(key.endswith("/wer") for row in rows for key in row)
    assert losses[-1] < 0.9 * losses[0]
    checkpoints, _ = list_checkpoints(run / "checkpoints")
    assert min(c.figure for c in checkpoints if c.figure is not None) == min(errors)
    with pytest.raises(UsageError, match=r"its model writes no text.*metrics\.jsonl holds its figures"):
        _ = load_trained(run, "best", threads=1).recogniser
    with pytest.raises(UsageError, match="its model writes no text"):
        evaluate([f"run={run}"])  # not: that the test set has no alignment


def test_a_run_without_a_fold_finds_the_targets_of_what_it_hears_and_of_what_it_does_not(
    aligned: Path, train: Callable[..., Path]
) -> None:
    """Both lie in the file of the whole of train."""
    fold = ("fold.leave_out=1", "fold.of=3", "evaluation.sets=[left_out]", "trainer.evaluate_every=2")
    run = train("fold", *DBLSTM, f"frame_targets={aligned / 'alignment'}", *fold, "trainer.max_steps=2")
    rows = read_rows(run / "metrics" / "0.jsonl")
    assert [row["step"] for row in rows if "eval/left_out/frame_error" in row] == [2]


def test_the_files_hold_every_utterance_and_its_states(
    aligned: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    align([f"run={aligned}", "dev", "unit_utterances=1", f"out={aligned / 'other'}"])
    assert "6 of 6 utterances" in capsys.readouterr().out
    tokenizer = load_tokenizer(aligned / "tokenizer")
    one, other = (
        read_alignment(aligned / folder / "dev.safetensors", frame_seconds=0.01, tokenizer=tokenizer)
        for folder in ("alignment", "other")
    )
    assert one.repeat == 4
    for line in (tiny_corpus / "dev.jsonl").read_text().splitlines():
        utterance = json.loads(line)
        frames = 1 + (round(utterance["duration"] * 8000) - 200) // 80
        path = one.of(utterance["id"], frames)
        written = [token for token in torch.unique_consecutive(path).tolist() if token]
        assert tokenizer.decode(written).replace(" ", "") == utterance["text"].replace(" ", "")
        assert torch.equal(path, other.of(utterance["id"], frames)), "whatever the batch"


def test_what_does_not_fit_is_refused(aligned: Path, train: Callable[..., Path]) -> None:
    targets = f"frame_targets={aligned / 'alignment'}"
    with pytest.raises(UsageError, match=r"this model needs a target for every frame.*scripts/align\.py"):
        train("none", *DBLSTM)
    with pytest.raises(ValueError, match="tokens of another tokenizer"):
        train("tokens", *DBLSTM, targets, "tokenizer.alphabet=' ehgnopsty'")
    with pytest.raises(ValueError, match="cannot be divided among frames of 30 ms"):
        train("rate", *DBLSTM, targets, "features.stack=3")
    with pytest.raises(HookError, match="choose hooks that keep the number of frames"):
        train("hook", *DBLSTM, targets, "trainer.max_steps=1", hooks={"shortening": Shortening()})
    with pytest.raises(BadUtterance, match="align the corpus as it is now"):
        train("window", *DBLSTM, targets, "trainer.max_steps=1", "features.frame_length_ms=100")
    with pytest.raises(ValueError, match="method=transducer needs a transducer"):
        align([f"run={aligned}", "dev", "method=transducer"])
