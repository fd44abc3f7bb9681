"""Time that training waits for its data: Conformer S on 16 kHz FLAC, through the parts that scripts/train.py uses.

    python scripts/bench/dataloader.py --json docs/results/dataloader.json [--quick]

Speech of the synthetic corpus is written as FLAC to a temporary folder, with noises and impulse responses beside it.
Each way of loading is measured with the loader alone, for an epoch, and in training, without its first steps.
``data_wait_fraction`` is the time that steps waited for units over the time of the steps; figures without a suffix are
those of one loading process that keeps nothing (``workers_1``).
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import numpy as np
import soundfile

from asr.data.corpus import Corpus
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.pipeline import UnitDataset, unit_loader
from asr.parts import build
from asr.runs.metrics import read_rows
from asr.runs.run_folder import RunFolder
from asr.training.precision import choose_matmul, flush_denormals
from asr.training.trainer import Trainer
from distributed.learners import launch
from distributed.learners.environment import place
from distributed.learners.world import World
from scripts.bench.report import save_figures
from scripts.composition.build import build_hooks
from scripts.composition.compose import compose
from scripts.composition.startup import run_main
from scripts.composition.trainer import assemble

SAMPLE_RATE = 16000
UNIT_UTTERANCES = 8  # one unit per step
HEADLINE = "workers_1"
COLD = "loader.cache_gb=0"
AUGMENTED = (
    "hooks=[speed_perturbation,reverberation,additive_noise,spec_augment]",
    "hooks.reverberation.manifest={folder}/rooms.jsonl",
    "hooks.additive_noise.manifest={folder}/noises.jsonl",
    "hooks.reverberation.probability=1",  # the dearest case
    "hooks.additive_noise.probability=1",
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "workers_0": ("loader.num_workers=0", COLD),
    "workers_1": ("loader.num_workers=1", COLD),
    "cached": ("loader.num_workers=0", "loader.cache_gb=1"),
    "augmented_workers_0": ("loader.num_workers=0", COLD, *AUGMENTED),
    "augmented_workers_1": ("loader.num_workers=1", COLD, *AUGMENTED),
}


@dataclass(frozen=True, slots=True)
class Size:
    """The extent of the measurement."""

    utterances: int  # utterances per epoch
    warm_up: int  # steps that are not counted: processes start, kernels are compiled
    steps: int  # counted steps


FULL, QUICK = Size(utterances=128, warm_up=2, steps=12), Size(utterances=40, warm_up=1, steps=3)


def main(arguments: list[str]) -> None:
    """Print a table in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same measurement, smaller")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    options = parser.parse_args(arguments)
    flush_denormals()
    world = launch.start(place(), join_seconds=60, timeout_seconds=60, patience_seconds=None, device="cpu", threads=1)
    choose_matmul("auto")
    size = QUICK if options.quick else FULL
    with TemporaryDirectory() as folder:
        make_corpus(Path(folder), size.utterances)
        rows = [measure(name, Path(folder), size, world) for name in VARIANTS]
    launch.stop(world)
    print(table(rows))
    if options.json is not None:
        save_figures(options.json, figures(rows), rows)


def make_corpus(folder: Path, utterances: int) -> None:
    """train.jsonl of FLAC files, noises.jsonl and rooms.jsonl, below ``folder``."""
    sizes = [f"data.train_utterances={utterances}", "data.dev_utterances=1", "data.test_utterances=1"]
    config = compose("train", [f"data.root={folder / 'synthetic'}", "data.vocabulary=full", *sizes])
    corpus: Corpus = build(config.data)
    flac = []
    for utterance in read_manifest(corpus.prepare()["train"]):
        samples, _ = soundfile.read(utterance.audio_filepath, dtype="int16")
        flac.append(write_flac(folder / f"{utterance.id}.flac", samples, utterance.text))
    write_manifest(folder / "train.jsonl", flac)
    rng = np.random.default_rng(0)
    noises = [0.1 * rng.standard_normal(SAMPLE_RATE * seconds) for seconds in (5, 20, 60)]
    time_S = np.arange(SAMPLE_RATE)
    rooms = [0.2 * rng.standard_normal(SAMPLE_RATE) * np.exp(-time_S / decay) for decay in (1500, 3000, 5000)]
    for name, recordings in (("noises", noises), ("rooms", rooms)):
        written = [write_flac(folder / f"{name}-{n}.flac", each, "") for n, each in enumerate(recordings)]
        write_manifest(folder / f"{name}.jsonl", written)


def write_flac(path: Path, samples: np.ndarray, text: str) -> Utterance:
    """A 16-bit FLAC file of samples of shape (samples,), described."""
    soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
    return Utterance(path.stem, path, len(samples) / SAMPLE_RATE, text)


def measure(variant: str, folder: Path, size: Size, world: World) -> dict[str, Any]:
    """Measure one way of loading."""
    trainer = make_trainer(variant, folder, size, world)
    dataset = trainer.parts.dataset
    assert isinstance(dataset, UnitDataset)
    seconds = sum(utterance.duration for utterance in dataset.utterances)
    if dataset.cache.limit_gb > 0:
        list(load(trainer))  # only a later epoch is measured
    loaded = load_alone(trainer)
    trainer.fit(None)
    trainer.parts.recorder.close()
    rows = [row for row in read_rows(RunFolder(folder / variant).metrics_of(0)) if "time/step" in row][size.warm_up :]
    step_seconds, wait_seconds = sum(row["time/step"] for row in rows), sum(row["time/data_wait"] for row in rows)
    return {
        "variant": variant,
        "settings": list(VARIANTS[variant]),
        "utterances_per_second": loaded,
        "audio_seconds_per_utterance": seconds / len(dataset.utterances),
        "steps": len(rows),
        "step_seconds": step_seconds / len(rows),
        "data_wait_seconds": wait_seconds / len(rows),
        "data_wait_fraction": wait_seconds / step_seconds,
    }


def make_trainer(variant: str, folder: Path, size: Size, world: World) -> Trainer:
    """Build a trainer as scripts/train.py does."""
    overrides = [
        "data=manifests", f"data.root={folder}", "data.train=train.jsonl", "evaluation.sets=[]", "model=conformer_s",
        "batch.units=1", f"batch.unit_utterances={UNIT_UTTERANCES}", f"trainer.max_steps={size.warm_up + size.steps}",
        "trainer.log_every=1", "trainer.checkpoint_every=1000000", "logger=[]",
        *(override.format(folder=folder) for override in VARIANTS[variant]),
    ]  # fmt: skip
    config = compose("train", overrides)
    run = folder / variant
    run.mkdir()
    return assemble(config, run, world, build_hooks(config))


def load(trainer: Trainer) -> Iterator[int]:
    """The number of utterances of each unit of the first epoch, as it comes from the loader."""
    parts = trainer.parts
    units = (unit for batch in parts.plan.epoch(0) for unit in batch)
    options = parts.loader
    for batch in unit_loader(parts.dataset, units, num_workers=options.num_workers, prefetch=options.prefetch):
        yield len(batch.utterance_ids)


def load_alone(trainer: Trainer) -> float:
    """Utterances per second when nothing else is done; the first unit, for which processes start, is not counted."""
    units = load(trainer)
    next(units)
    started = time.perf_counter()
    loaded = sum(units)
    return loaded / (time.perf_counter() - started)


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The results of all variants; those of the headline variant have keys without a suffix."""
    found: dict[str, float] = {}
    for row in rows:
        for key in ("utterances_per_second", "data_wait_fraction"):
            found |= {f"{key}/{row['variant']}": row[key]} | ({key: row[key]} if row["variant"] == HEADLINE else {})
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| variant | loader alone (utterances/s) | step (s) | waiting (s) | data_wait / step |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['variant']} | {row['utterances_per_second']:.0f} | {row['step_seconds']:.3f} | "
            f"{row['data_wait_seconds']:.4f} | {row['data_wait_fraction']:.2%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
