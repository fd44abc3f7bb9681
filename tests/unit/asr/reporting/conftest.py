"""Run folders as training leaves them, from a seed."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asr.reporting.lattice import LatticePicture

WORDS = [
    "seven",
    "of",
    "the",
    "quiet",
    "boats",
    "came",
    "home",
    "late",
    "with",
    "a",
    "lantern",
    "and",
    "two",
    "letters",
    "from",
    "march",
]
CONFIG = """\
name: {name}
seed: 1
backend:
  _target_: distributed.schemes.{backend}
  topology: ring
model:
  encoder:
    _target_: asr.models.conformer.Conformer
    dimension: {dimension}
optimizer:
  lr: 0.002   # highest
"""


def metric_row(learner: int, step: int, learners: int, noise: np.random.Generator, speed: float) -> dict[str, float]:
    loss = 90 * math.exp(-step / (60 / speed)) + 0.4 + 0.1 * abs(noise.normal())
    step_seconds = 0.31 + 0.02 * abs(noise.normal()) + 0.03 * learner
    return {
        "learner": learner, "step": step, "global_step": step, "samples": step * 32, "epoch": step // 100,
        "wall_seconds": step * step_seconds, "train/loss": loss, "train/lr": 2e-3 * min(step / 80, (80 / step) ** 0.5),
        "train/grad_norm": 30 / step**0.4 * (1 + 0.3 * abs(noise.normal())), "train/clipped": float(step < 40),
        "train/bad_steps": 0.0, "time/step": step_seconds, "time/data_wait": 0.02, "time/compute": 0.22 + 0.03 * learner,
        "time/comm_exposed": 0.05, "throughput/audio_seconds_per_second": 160 / learners * speed + 3 * noise.normal(),
        "data/padding_fraction": 0.05 + 0.01 * noise.normal(), "data/skipped": 0.0, "comm/bytes_sent": 8.8e7,
        "consensus/relative_distance": 0.02 / step**0.5, "pruning/sparsity": step / 1000,
    }  # fmt: skip


def write_metrics(folder: Path, learners: int, steps: int, speed: float) -> None:
    (folder / "metrics").mkdir(parents=True)
    for learner in range(learners):
        noise = np.random.default_rng(learner)
        rows = [metric_row(learner, step, learners, noise, speed) for step in range(10, steps + 1, 10)]
        for step in range(200, steps + 1, 200) if learner == 0 else ():
            wer = min(1.0, 6 * math.exp(-step / (250 / speed)) + 0.02)
            place = {key: rows[0][key] for key in ("learner", "epoch")} | {"step": step, "global_step": step}
            rows.append(
                place
                | {"samples": step * 32, "wall_seconds": step * 0.3, "eval/dev/wer": wer, "eval/dev/loss": 20 * wer}
            )
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metrics" / f"{learner}.jsonl").write_text(lines, encoding="utf-8")


def write_result(folder: Path, set_name: str, decode: str, utterances: int) -> None:
    noise = np.random.default_rng(len(decode))
    said, errors = [], 0
    for index in range(utterances):
        words = [WORDS[int(noise.integers(len(WORDS)))] for _ in range(4 + index % 9)]
        heard = [WORDS[int(noise.integers(len(WORDS)))] if noise.random() < 0.06 else word for word in words]
        heard = [word for word in heard if noise.random() > 0.02]
        errors += abs(len(words) - len(heard))
        said.append(f"{set_name}-{index:04d}:\tref={words}\n{set_name}-{index:04d}:\thyp={heard}\n")
    place = folder / "eval" / set_name
    place.mkdir(parents=True, exist_ok=True)
    (place / f"recogs-{decode}.txt").write_text("".join(said), encoding="utf-8")
    figures = {
        "wer": 0.0312, "cer": 0.0121, "insertions": 11, "deletions": errors, "substitutions": 92, "reference_words": 5230,
        "utterances": utterances, "wer_interval": [0.0261, 0.0368], "precision": "bf16", "device": "cuda",
    }  # fmt: skip
    (place / f"wer-{decode}.json").write_text(json.dumps(figures), encoding="utf-8")


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder and returns it."""
    return lambda name="demo", **settings: write_run(tmp_path / name, **settings)


def write_run(
    folder: Path,
    learners: int = 2,
    steps: int = 600,
    speed: float = 1.0,
    utterances: int = 20,
    backend: str = "dpsgd.DecentralisedSgd",
) -> Path:
    write_metrics(folder, learners, steps, speed)
    for set_name, decode in (("test", "greedy"), ("test", "beam8"), ("dev", "greedy")) if utterances else ():
        write_result(folder, set_name, decode, utterances)
    config = CONFIG.format(name=folder.name, backend=backend, dimension=144 if speed == 1 else 256)
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    summary = {
        "learners": learners, "backend": backend.rpartition(".")[2], "samples": steps * 32, "wall_seconds": 905.2,
        "best": {"checkpoint": "step-00000400", "wer": 0.021},
        "environment": {"python": "3.11.2", "versions": {"torch": "2.11.0"}, "gpus": [], "commit": "55ace55d0c0ffee55555+"},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


@pytest.fixture
def make_lattice() -> Callable[..., LatticePicture]:
    """A lattice of a text whose labels are emitted at a steady pace, softly."""
    return lattice_of


def lattice_of(text: str = "seven quiet boats", frames: int = 60, utterance_id: str = "test-0001") -> LatticePicture:
    labels = len(text)
    path = [4 + (frames - 8) * (u + 1) // (labels + 2) for u in range(labels)]
    t, u = np.mgrid[0:frames, 0 : labels + 1]
    centre = np.interp(np.arange(frames), [0, *path, frames], [0, *range(1, labels + 1), labels])
    occupancy_TS = np.exp(-0.7 * (u - centre[t]) ** 2)
    return LatticePicture(
        utterance_id=utterance_id, occupancy_TS=occupancy_TS, path=path, tokens=list(text.replace(" ", "▁")),
        reference=text, hypothesis=text.replace("quiet", "quite"), frame_seconds=0.04,
    )  # fmt: skip
