"""A run folder may come from anywhere: whatever its files hold, it is used, or refused in one line, within two seconds."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from asr.reporting.run import read_run
from asr.runs.checkpoint import list_checkpoints
from asr.runs.checkpoint_manifest import write_manifest
from asr.runs.files import sha256
from asr.runs.metrics import MetricsWriter
from asr.runs.model_folder import load_model
from scripts.composition.against import read_earlier
from scripts.composition.run_configuration import load_run_config, read_config
from scripts.composition.run_start import check_folder
from scripts.composition.trained import load_trained
from tests.unit.hostile.cases import check_every_case

RECOGS = "a-1:\tref=['go', 'stop']\na-1:\thyp=[\"don't\"]\n"


@pytest.fixture
def run(random_run: Callable[..., Path]) -> Path:
    """A run's folder with everything that is read of one."""
    folder = random_run("run")
    writer = MetricsWriter(folder, 0)
    writer.write({"step": 1, "global_step": 1, "samples": 8, "epoch": 0.1, "wall_seconds": 1.0, "train/loss": 0.5})
    writer.close()
    (folder / "own.yaml").write_text((folder / "config.yaml").read_text())
    (folder / "summary.json").write_text(json.dumps({"learners": 1, "final": {"eval/dev/wer": 0.5}}))
    (folder / "timeline").mkdir()
    (folder / "timeline" / "0.json").write_text(
        json.dumps({"learner": 0, "spans": [["step", 1.0, 2.0], ["data", 1.0, 1.5]]})
    )
    (folder / "eval" / "dev").mkdir(parents=True)
    (folder / "eval" / "dev" / "wer-greedy.json").write_text(json.dumps({"wer": 0.5, "wer_interval": [0.4, 0.6]}))
    (folder / "eval" / "dev" / "recogs-greedy.txt").write_text(RECOGS)
    return folder


def checkpoint_of(run: Path) -> Path:
    (folder,) = (run / "checkpoints").glob("step-*")
    return folder


def sign(folder: Path) -> None:
    """As somebody does who damages a checkpoint with intent: every digest is right."""
    description = folder / "model.yaml"
    weights = folder / "model.safetensors"
    if weights.is_file() and description.is_file() and not description.is_symlink():
        content = yaml.safe_load(description.read_text())
        description.write_text(yaml.safe_dump(content | {"weights_sha256": sha256(weights)}))
    record = json.loads((folder / "manifest.json").read_text())
    record["files"] = {name: sha256(folder / name) if (folder / name).is_file() else "0" for name in record["files"]}
    write_manifest(folder, {key: value for key, value in record.items() if key not in ("format", "sha256")})


def use(run: Path) -> object:
    return load_trained(run, "best", threads=1)


def use_signed(run: Path) -> object:
    sign(checkpoint_of(run))
    (checkpoint,), _ = list_checkpoints(run / "checkpoints")
    checkpoint.learner_state(0, torch.device("cpu"))
    return load_model(checkpoint_of(run)), use(run)


def compare(run: Path) -> object:
    return read_run(run), read_earlier(run, ["dev"], "greedy", {"wer": 0.5}, "repeat")


def go_on(run: Path) -> object:
    return check_folder(run, read_config(run / "own.yaml")), load_run_config(run)


TARGETS: tuple[tuple[str, Callable[[Path], object], int], ...] = (  # what is damaged, how it is read, changes beside
    ("config.yaml", use, 10),
    ("config.yaml", go_on, 5),
    ("config.yaml", read_run, 5),
    ("summary.json", read_run, 20),
    ("metrics/0.jsonl", read_run, 10),
    ("timeline/0.json", read_run, 10),
    ("eval/dev/wer-greedy.json", compare, 20),
    ("eval/dev/recogs-greedy.txt", compare, 20),
    ("{checkpoint}/manifest.json", use, 20),
    ("{checkpoint}/model.yaml", use, 0),
    ("{checkpoint}/tokenizer/tokenizer.json", use_signed, 10),
    ("tokenizer/tokenizer.json", use, 5),
    ("{checkpoint}/model.safetensors", use_signed, 10),
    ("{checkpoint}/learner-0.pt", use_signed, 5),
)


def test_a_run_folder_is_used_or_refused(run: Path) -> None:
    checkpoint = checkpoint_of(run).relative_to(run)
    tried = 0
    for name, read, changed in TARGETS:
        tried += check_every_case(run, name.format(checkpoint=checkpoint), read, changed)
        sign(run / checkpoint)
    assert tried > 500
