"""What a checkpoint costs: python scripts/bench/checkpoint.py --json checkpoint.json

Time: learners take the same steps in turns without a checkpoint, beside one that threads write, and after one that they
write at once. A turn counts from before the save until its steps are done and the checkpoint is complete. Rows hold
medians over turns; ratios are to the turn without a checkpoint just before. "Beside" are the steps that began while a
checkpoint was being written.

Bytes: of a checkpoint after one step, as it is written, and with model and optimizer in every learner's file.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from asr.data.batch import Batch
from asr.training.precision import choose_matmul, flush_denormals
from asr.training.trainer import Trainer
from distributed.learners.world import World
from scripts.bench.learners import run_learners
from scripts.bench.report import save_figures
from scripts.composition.build import build_hooks
from scripts.composition.compose import compose
from scripts.composition.environment import environment
from scripts.composition.startup import run_main
from scripts.composition.trainer import assemble

NONE, BACKGROUND, AT_ONCE = "none", "background", "at once"
KINDS = (NONE, BACKGROUND, AT_ONCE)
SCHEMES = ("allreduce", "scalecom", "dpsgd")  # all alike; alike but for the memories; nothing alike


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds of one turn on one learner."""

    kind: str
    save: float  # while training waits
    steps: list[float]
    beside: list[bool]  # whether a checkpoint was being written when the step began
    finish: float  # waited for the checkpoint after the last step

    @property
    def total(self) -> float:
        """All of it."""
        return self.save + sum(self.steps) + self.finish


def start(world: World, scheme: str, folder: Path, model: str, utterances: int) -> Trainer:
    """The trainer of a learner, ready to take steps; a learner has one unit of so many utterances in each."""
    config = compose("train", [
        f"backend={scheme if world.size > 1 else 'single'}", f"model={model}", f"data.root={folder / str(world.rank)}",
        f"data.train_utterances={8 * world.size * utterances}", "data.dev_utterances=1", "data.test_utterances=1",
        f"batch.units={world.size}", f"batch.unit_utterances={utterances}", "evaluation.sets=[]", "logger=[]", "hooks=[]",
        "checkpoint.keep_last=1",
    ])  # fmt: skip
    choose_matmul(config.launch.matmul)
    flush_denormals()
    run = folder / f"run-{scheme}"
    run.mkdir(exist_ok=True)
    world.barrier()
    trainer = assemble(config, run, world, build_hooks(config))
    trainer.parts.objective.plan_step(trainer.progress)
    trainer.backend.synchronise(resumed=False)
    return trainer


def own_batches(trainer: Trainer, steps: int) -> list[list[Batch]]:
    """The loaded units of this learner in the first steps of the plan."""
    plan, world = trainer.parts.plan, trainer.parts.world
    units = [plan.learner_units(each, world.rank, world.size) for each in plan.epoch(0)[:steps]]
    return [[trainer.parts.dataset[unit] for unit in own] for own in units]


def step(trainer: Trainer, batches: list[Batch]) -> float:
    """Seconds of a step."""
    began = time.perf_counter()
    trainer.step(batches, float(sum(len(batch.utterance_ids) for batch in batches)))
    return time.perf_counter() - began


def turn(trainer: Trainer, batches: Sequence[list[Batch]], kind: str) -> Turn:
    """The steps of a turn, after a save of the given kind."""
    checkpoints = trainer.parts.checkpoints
    checkpoints.in_background = kind == BACKGROUND
    trainer.progress.global_step += 1
    trainer.parts.world.barrier()
    began = time.perf_counter()
    if kind != NONE:
        trainer.saver.save(trainer.progress, trainer.units, None, last=False)
    saved = time.perf_counter() - began
    steps, beside = [], []
    for each in batches:
        beside.append(any(thread.name == "checkpoint" for thread in threading.enumerate()))
        steps.append(step(trainer, each))
    began = time.perf_counter()
    checkpoints.finish()
    return Turn(kind, saved, steps, beside, time.perf_counter() - began)


def take_turns(world: World, folder: Path, model: str, utterances: int, steps: int, turns: int) -> list[Turn]:
    """All turns of a learner; those of a first round are left out."""
    trainer = start(world, "allreduce", folder, model, utterances)
    batches = own_batches(trainer, steps)
    found = [turn(trainer, batches, kind) for _ in range(turns + 1) for kind in KINDS]
    trainer.parts.recorder.close()
    return found[len(KINDS) :]


def sizes(world: World, folder: Path, model: str) -> list[dict[str, Any]]:
    """Bytes of a checkpoint under each scheme, as it is written and with everything in every learner's file."""
    return [_size(start(world, scheme, folder, model, 1), scheme) for scheme in SCHEMES]


def _size(trainer: Trainer, scheme: str) -> dict[str, Any]:
    step(trainer, own_batches(trainer, 1)[0])
    found: dict[str, Any] = {"backend": scheme, "learners": trainer.parts.world.size}
    for name, alike in (("bytes", trainer.backend.synchronous), ("bytes_each_its_own", False)):
        trainer.progress.global_step += 1
        state = trainer.saver.state_dict(trainer.progress, trainer.units)
        with trainer.backend.consensus():
            consensus = trainer.parts.run.model.state_dict() if trainer.parts.world.rank == 0 else None
            written = trainer.parts.checkpoints.save(trainer.progress, state, consensus, None, alike=alike)
            trainer.parts.checkpoints.finish()
        found[name] = sum(file.stat().st_size for file in written.rglob("*") if file.is_file())
        trainer.parts.world.barrier()  # before the next one retires it
    trainer.backend.close()
    trainer.parts.recorder.close()
    return found


def rows_of(learners: int, turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Medians of each kind, and of its ratios to the turn without a checkpoint of the same round."""
    plain = [each for each in turns if each.kind == NONE]
    rows = []
    for kind in KINDS:
        own = [each for each in turns if each.kind == kind]
        beside = [_beside(each, other) for each, other in zip(own, plain, strict=True) if any(each.beside)]
        rows.append(
            {
                "learners": learners,
                "checkpoint": kind,
                "save_milliseconds": 1000 * statistics.median(each.save for each in own),
                "turn_milliseconds": 1000 * statistics.median(each.total for each in own),
                "added_milliseconds": 1000
                * statistics.median(each.total - other.total for each, other in zip(own, plain, strict=True)),
                "turn_ratio": statistics.median(e.total / o.total for e, o in zip(own, plain, strict=True)),
                "steps_beside": statistics.median(sum(each.beside) for each in own),
                "step_ratio_beside": statistics.median(beside) if beside else None,
            }
        )
    return rows


def _beside(each: Turn, plain: Turn) -> float:
    """Time of the steps beside the writing over that of the same steps without."""
    chosen = [index for index, flag in enumerate(each.beside) if flag]
    return sum(each.steps[index] for index in chosen) / sum(plain.steps[index] for index in chosen)


def tables(times: Sequence[Mapping[str, Any]], bytes_found: Sequence[Mapping[str, Any]]) -> str:
    """Both tables in Markdown."""
    lines = [
        "| learners | checkpoint | training waits | added to a turn | steps beside it | time per step beside it |",
        "|---|---|---|---|---|---|",
    ]
    for row in times:
        ratio = "" if row["step_ratio_beside"] is None else f"{row['step_ratio_beside']:.3f}"
        lines.append(
            f"| {row['learners']} | {row['checkpoint']} | {row['save_milliseconds']:.0f} ms | "
            f"{row['added_milliseconds']:.0f} ms | {row['steps_beside']:g} | {ratio} |"
        )
    lines += ["", "| learners | backend | MB | MB with everything in every learner's file |", "|---|---|---|---|"]
    lines += [
        f"| {row['learners']} | `{row['backend']}` | {row['bytes'] / 1e6:.1f} | {row['bytes_each_its_own'] / 1e6:.1f} |"
        for row in bytes_found
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Print two tables in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help="two turns, and bytes of two learners only")
    parser.add_argument("--timed", type=int, nargs="*", default=[1, 2], metavar="LEARNERS", help="whose turns to time")
    parser.add_argument(
        "--stored", type=int, nargs="*", default=[2, 4, 8], metavar="LEARNERS", help="bytes of how many"
    )
    parser.add_argument("--model", default="conformer_s", help="of conf/model")
    parser.add_argument("--utterances", type=int, default=4, help="of a learner in a step")
    parser.add_argument("--steps", type=int, default=6, help="of a turn")
    parser.add_argument("--turns", type=int, default=15, help="of each kind")
    chosen = parser.parse_args(arguments)
    made_with = environment()  # recorded at the start, since commits may follow while it runs
    turns, many = (2, [2]) if chosen.quick else (chosen.turns, chosen.stored)
    times, found = [], []
    for learners in chosen.timed:
        with tempfile.TemporaryDirectory() as name:
            settings = (Path(name), chosen.model, chosen.utterances, chosen.steps, turns)
            times += rows_of(learners, run_learners(learners, take_turns, *settings, pinned=learners > 1)[0])
    for learners in many:
        with tempfile.TemporaryDirectory() as name:
            found += run_learners(learners, sizes, Path(name), chosen.model)[0]
    print(tables(times, found))
    if chosen.json is not None:
        figures = {
            f"step_ratio_beside/{r['learners']}": r["step_ratio_beside"] for r in times if r["step_ratio_beside"]
        }
        figures |= {f"bytes/{row['backend']}/{row['learners']}": row["bytes"] for row in found}
        save_figures(chosen.json, figures, [*times, *found], made_with, model=chosen.model, steps=chosen.steps)


if __name__ == "__main__":
    run_main(main)
