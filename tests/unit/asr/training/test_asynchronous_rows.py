"""An asynchronous run with dense marks is told whole: every interval of every learner in the rows, and the end on the page."""

import re
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from omegaconf import DictConfig

from asr.reporting import text
from asr.reporting.report import report
from asr.reporting.run import read_run
from asr.runs.metrics import Row, read_rows
from asr.runs.progress import Progress
from asr.training.hook import Hook
from asr.training.trainer import Trainer
from asr.training.units import global_batches, global_step
from distributed.learners.world import World

LEARNERS, STEPS = 2, 12


class Watched(Hook):
    """Notes the samples after each step of one learner, which it slows down so that each has its turn."""

    def __init__(self, pause_seconds: float) -> None:
        self.pause_seconds = pause_seconds
        self.samples: list[int] = []

    def on_step_end(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.samples.append(progress.samples)
        time.sleep(self.pause_seconds)


def check_rows(rows: list[Row], samples: list[int], marks: list[int], interval: Callable[[int], int]) -> None:
    """Every step is in exactly one row, and every row is where it is due: neither earlier nor later."""
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert rows[-1]["step"] == len(samples), "nothing after the last row"
    for before, row in pairwise([{"step": 0, "samples": 0}, *rows]):
        window, end = samples[before["step"] : row["step"]], row["samples"]
        assert end in (window[-1], *marks), "a row stands at its last step, or at a mark"
        seen = sorted({before["samples"], *(each for each in (*window, *marks) if before["samples"] <= each < end)})
        assert end == marks[-1] or interval(end) > interval(seen[-1]), "an interval has ended here"
        assert len({interval(each) for each in seen if each >= window[0]}) <= 1, "and none before"


@pytest.mark.parametrize(("log_every", "evaluate_every"), [(2, 2), (3, 4)])
def test_every_learner_logs_every_interval_that_it_worked_in(
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[tuple[Trainer, Watched]]],
    tmp_path: Path,
    log_every: int,
    evaluate_every: int,
) -> None:
    config = small_config(
        "backend=adpsgd", "hooks=[]", f"trainer.max_steps={STEPS}", f"trainer.log_every={log_every}",
        f"trainer.evaluate_every={evaluate_every}", "trainer.memory_probe=false",
    )  # fmt: skip

    def learner(world: World) -> tuple[Trainer, Watched]:
        watched = Watched(0.02 + 0.03 * world.rank)
        trainer = make_trainer(config, tmp_path / "run", world, {"watched": watched})
        try:
            trainer.fit(None)
        finally:
            trainer.parts.recorder.close()
        return trainer, watched

    results = run_learners(LEARNERS, learner, seconds=120)
    plan, total = results[0][0].parts.plan, results[0][0].total_samples
    rows_of_all = [read_rows(tmp_path / "run" / "metrics" / f"{rank}.jsonl") for rank in range(LEARNERS)]
    marks: list[int] = [row["samples"] for row in rows_of_all[0] if "eval/dev/wer" in row]
    assert len(marks) == STEPS // evaluate_every
    units, audio_seconds, last_losses = 0.0, 0.0, []
    for (_, watched), rows in zip(results, rows_of_all, strict=True):
        own = [row for row in rows if "train/loss" in row]
        check_rows(own, watched.samples, marks, lambda samples: global_step(plan, samples) // log_every)
        if log_every == evaluate_every:  # every interval ends at a mark
            worked_in = {sum(mark < samples for mark in marks) for samples in watched.samples}
            assert len(own) == len(worked_in)
        for before, row in pairwise([{"step": 0, "data/units": 0.0}, *own]):
            units += row["data/units"] - before["data/units"]
            seconds = row["time/step"] * (row["step"] - before["step"])
            audio_seconds += row["throughput/audio_seconds_per_second"] * seconds
        last_losses += [own[-1]["train/loss"]] if own[-1]["samples"] == total else []
    processed = [unit for each in global_batches(plan, Progress(), total) for unit in each.units]
    utterances = [results[0][0].parts.run.utterances[index] for unit in processed for index in unit.utterances]
    assert len(utterances) == total
    assert units == len(processed)
    assert audio_seconds == pytest.approx(sum(utterance.duration for utterance in utterances))
    page = report(read_run(tmp_path / "run"))
    shown = re.search(r"Training loss\. run: from \S+ to (\S+), lowest", page)
    assert shown is not None
    assert text.figure(sum(last_losses) / len(last_losses)) == shown[1], "the curve ends where the losses do"
