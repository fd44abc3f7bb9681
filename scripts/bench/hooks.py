"""Time per step that each hook costs, loading included: python scripts/bench/hooks.py --json hooks.json

One trainer for each hook and one without any, over the same units of the same plan, take their steps in turn, so that
other load falls on all of them alike. Times are those of the process (one thread); a row holds medians over the steps,
and the median of the ratios to the step without hooks that came just before. Signals are kept in memory after the first
epoch.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import numpy as np
import soundfile
import torch
from omegaconf import OmegaConf

from asr.data.batch import Unit
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.nbest import FORMAT, HEADER, Header, NBest, shard_file, truth_of
from asr.parts import build
from asr.runs.model_folder import LoadedModel, save_model
from asr.runs.run_folder import RunFolder
from asr.training.precision import choose_matmul, flush_denormals
from asr.training.trainer import Trainer
from distributed.learners.world import World
from scripts.bench.report import save_figures
from scripts.composition.build import (
    build_hooks,
    build_material,
    build_model,
    describe,
    fit_tokenizer,
    training_texts,
)
from scripts.composition.compose import compose
from scripts.composition.environment import environment
from scripts.composition.startup import run_main
from scripts.composition.trainer import assemble

RATE = 16000  # Hz
NONE = "none"
HOOKS = {  # the settings that a hook needs; {files}: the folder that ``write_files`` fills
    "spec_augment": (),
    "length_perturbation": (),
    "sequence_noise": (),
    "nbest_label_smoothing": ("hooks.nbest_label_smoothing.lists={files}/lists",),
    "switchout": (),
    "scheduled_sampling": ("hooks.scheduled_sampling.lm={files}/lm",),
    "dropconnect": (),
    "activation_checkpointing": (),
    "speed_perturbation": (),
    "tempo_perturbation": (),
    "replicas": (),
    "additive_noise": ("hooks.additive_noise.manifest={files}/noises.jsonl",),
    "reverberation": ("hooks.reverberation.manifest={files}/rooms.jsonl",),
    "qat_int4": (),
    "structured_pruning": (),
    "layerwise_distillation": ("hooks.layerwise_distillation.teacher={files}/teacher",),
}


@dataclass(slots=True)
class Times:
    """Seconds of process time of one trainer's steps."""

    load: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)

    @property
    def total(self) -> list[float]:
        """Loading and step together."""
        return [load + step for load, step in zip(self.load, self.step, strict=True)]


def overrides(hook: str, files: Path, utterances: int, model: str) -> list[str]:
    """Command-line overrides of the run with a hook; all runs have the same plan."""
    needed = [each.format(files=files) for each in HOOKS.get(hook, ())]
    return [
        f"hooks=[{'' if hook == NONE else hook}]", *needed, f"model={model}", f"data.root={files / 'corpus'}",
        f"data.train_utterances={utterances}", "data.dev_utterances=1", "data.test_utterances=1",
        "batch.units=1", "batch.unit_utterances=8", "batch.frame_margin=0.5", "batch.target_margin=0.5",
        "backend=single", "evaluation.sets=[]", "trainer.epochs=1000", "logger=[]",
    ]  # fmt: skip


def write_files(folder: Path, utterances: int, model: str) -> None:
    """Write the files that hooks need: noises, rooms, n-best lists that lack some tokens, a language model, a teacher."""
    rng = np.random.default_rng(0)
    decay = np.exp(-np.arange(RATE // 2) / (0.1 * RATE))
    for name, samples in (
        ("noises", 0.1 * rng.standard_normal(10 * RATE)),
        ("rooms", rng.standard_normal(len(decay)) * decay),
    ):
        file = folder / f"{name}.wav"
        soundfile.write(file, samples / max(1.0, np.abs(samples).max()), RATE)
        write_manifest(folder / f"{name}.jsonl", [Utterance(name, file, len(samples) / RATE, "")])
    config = compose("train", overrides(NONE, folder, utterances, model))
    corpus = build(config.data)
    tokenizer = build(config.tokenizer).fit(training_texts(corpus))
    said = {each: tokenizer.encode(each.text) for each in read_manifest(corpus.prepare()["train"])}
    header = Header(
        format=FORMAT, tokenizer=tokenizer.fingerprint, run="random", checkpoint="none", weights=0, search={},
        language_models=[], hypotheses=20, split="train", utterances=len(said), corpus=0, shard_utterances=len(said),
    )  # fmt: skip
    (folder / "lists").mkdir()
    (folder / "lists" / HEADER).write_text(header.text())
    rows = [
        NBest(each.id, truth_of(each), [tokens[cut:] for cut in range(1, 21)], [-float(cut) for cut in range(20)])
        for each, tokens in said.items()
    ]
    shard_file(folder / "lists", 0).write_text("".join(row.line() for row in rows))
    write_language_model(folder, utterances)
    write_teacher(folder, utterances, model)


def write_teacher(folder: Path, utterances: int, model: str) -> None:
    """Write the folder of a teacher, the model that is trained with its initial weights."""
    config, run = compose("train", overrides(NONE, folder, utterances, model)), folder / "teacher-run"
    run.mkdir()
    fit_tokenizer(config, run, World(0, 1, 0, 1, torch.device("cpu"), None))
    material = build_material(config, run)
    loaded = LoadedModel(
        model=build_model(config, material).eval(), features=build(config.features), tokenizer=material.tokenizer,
        description=describe(config, material, {}, None), origin={},
    )  # fmt: skip
    save_model(loaded, folder / "teacher")


def write_language_model(folder: Path, utterances: int) -> None:
    """Train the default language model for one step on the corpus's transcripts, with scripts/train_lm.py."""
    data = [each for each in overrides(NONE, folder, utterances, "") if each.startswith("data.")]
    run_of_a_step = ["backend=single", "trainer.max_steps=1", "evaluation.sets=[]", "logger=[]"]
    config = compose("train_lm", [*data, *run_of_a_step])
    run = folder / "lm"
    run.mkdir()
    trainer = assemble(config, run, World(0, 1, 0, 1, torch.device("cpu"), None), build_hooks(config))
    OmegaConf.save(config, RunFolder(run).config)
    trainer.fit(None)
    trainer.parts.recorder.close()


def start(hook: str, files: Path, utterances: int, model: str) -> Trainer:
    """Start the trainer of a hook; it is ready to take steps."""
    config = compose("train", overrides(hook, files, utterances, model))
    choose_matmul(config.launch.matmul)
    folder = files / "runs" / hook
    folder.mkdir(parents=True)
    trainer = assemble(config, folder, World(0, 1, 0, 1, torch.device("cpu"), None), build_hooks(config))
    for each in trainer.parts.hooks.values():
        each.on_fit_start(trainer.parts.run, resumed=False)
    return trainer


def one_step(trainer: Trainer, units: Sequence[Unit], times: Times) -> None:
    """Load the units of a step and take it."""
    began = time.process_time()
    batches = [trainer.parts.dataset[unit] for unit in units]
    loaded = time.process_time()
    for hook in trainer.parts.hooks.values():
        hook.on_step_start(trainer.progress)
    trainer.step(batches, float(sum(len(unit.utterances) for unit in units)))
    times.load.append(loaded - began)
    times.step.append(time.process_time() - loaded)


def measure(trainers: Mapping[str, Trainer], steps: int) -> dict[str, Times]:
    """Time the steps of all trainers in turn; those of the first epoch, which reads signals, are left out."""
    plan = trainers[NONE].parts.plan
    times = {hook: Times() for hook in trainers}
    for units in plan.epoch(0):
        for trainer in trainers.values():
            one_step(trainer, units, Times())
    for units in _later(trainers[NONE], steps):
        for hook, trainer in trainers.items():
            one_step(trainer, units, times[hook])
    return times


def _later(trainer: Trainer, steps: int) -> Iterator[list[Unit]]:
    """The global batches of epoch 1 and following."""
    epoch = 1
    while steps > 0:
        batches = trainer.parts.plan.epoch(epoch)[:steps]
        yield from batches
        steps, epoch = steps - len(batches), epoch + 1


def rows_of(times: Mapping[str, Times]) -> list[dict[str, Any]]:
    """Medians of each hook, and of its ratios to the steps without hooks."""
    plain = times[NONE].total
    return [
        {
            "hook": hook,
            "load_milliseconds": 1000 * statistics.median(each.load),
            "step_milliseconds": 1000 * statistics.median(each.step),
            "step_ratio": statistics.median(own / other for own, other in zip(each.total, plain, strict=True)),
        }
        for hook, each in times.items()
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        f"| `{row['hook']}` | {row['load_milliseconds']:.1f} ms | {row['step_milliseconds']:.1f} ms | {row['step_ratio']:.3f} |"
        for row in rows
    ]
    head = ["| hook | loading | forward, backward, update | both, without hooks = 1 |", "|---|---|---|---|"]
    return "\n".join([*head, *lines])


def main(arguments: list[str]) -> None:
    """Print a table in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help="ten steps instead of a hundred")
    parser.add_argument("--model", default="lstm_tiny", help="of conf/model; dropconnect wants LSTMs")
    parser.add_argument("--hooks", nargs="+", choices=HOOKS, default=list(HOOKS), help="these alone")
    chosen = parser.parse_args(arguments)
    made_with = environment()  # recorded at the start, since commits may follow while it runs
    flush_denormals()
    torch.set_num_threads(1)
    steps, utterances = (10, 40) if chosen.quick else (100, 160)
    with tempfile.TemporaryDirectory() as name:
        write_files(Path(name), utterances, chosen.model)
        trainers = {hook: start(hook, Path(name), utterances, chosen.model) for hook in (NONE, *chosen.hooks)}
        rows = rows_of(measure(trainers, steps))
        for trainer in trainers.values():
            trainer.parts.recorder.close()
    print(table(rows))
    if chosen.json is not None:
        figures = {f"step_ratio/{row['hook']}": row["step_ratio"] for row in rows}
        save_figures(chosen.json, figures, rows, made_with, steps=steps, model=chosen.model)


if __name__ == "__main__":
    run_main(main)
