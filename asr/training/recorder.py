"""Accumulates the metrics of a learner's steps between two rows and writes each row to every sink."""

import time
from collections.abc import Mapping, Sequence

from asr.data.batch import Batch
from asr.runs.loggers import Logger
from asr.runs.metrics import MetricsWriter
from asr.runs.progress import Progress
from asr.runs.timeline import TimelineWriter
from asr.training.refusals import Refusals


class Window:
    """Sums over the steps since the last row."""

    def __init__(self) -> None:
        self.steps = 0
        self.step_seconds = 0.0
        self.waited_seconds = 0.0
        self.audio_seconds = 0.0
        self.tokens = 0
        self.frames = 0
        self.padded_frames = 0
        self.cells = 0
        self.units = 0
        self.hook_sums: dict[str, tuple[float, int]] = {}

    def add(self, batches: Sequence[Batch], step_seconds: float, waited_seconds: float, subsampling: int) -> None:
        """Count one step."""
        self.steps += 1
        self.step_seconds += step_seconds
        self.waited_seconds += waited_seconds
        for batch in batches:
            states = -(-batch.feature_lengths // subsampling)
            self.units += 1
            self.audio_seconds += batch.audio_seconds
            self.tokens += int(batch.target_lengths.sum())
            self.frames += int(batch.feature_lengths.sum())
            self.padded_frames += batch.features.shape[0] * batch.features.shape[1]
            self.cells += int((states * (batch.target_lengths + 1)).sum())
            self.add_hook_metrics(batch.metrics)

    def add_hook_metrics(self, metrics: Mapping[str, float]) -> None:
        """Add metrics of hooks; each is averaged over the number of times it was reported."""
        for name, value in metrics.items():
            total, count = self.hook_sums.get(name, (0.0, 0))
            self.hook_sums[name] = (total + value, count + 1)

    def row(self, comm_exposed_seconds: float) -> dict[str, float]:
        """Metrics of this window, per step."""
        steps = max(self.steps, 1)
        wait = self.waited_seconds / steps
        step = self.step_seconds / steps
        what, amount = ("audio_seconds", self.audio_seconds) if self.audio_seconds else ("tokens", self.tokens)
        return {
            "time/step": step,
            "time/data_wait": wait,
            "time/compute": max(step - wait - comm_exposed_seconds, 0.0),
            f"throughput/{what}_per_second": amount / max(self.step_seconds, 1e-9),
            "data/padding_fraction": 1 - self.frames / max(self.padded_frames, 1),
            "data/lattice_cells": self.cells / max(self.units, 1),
        } | {name: total / count for name, (total, count) in self.hook_sums.items()}


class Recorder:
    """Writes one learner's rows to metrics/<learner>.jsonl, and to further sinks where the caller gives any."""

    def __init__(
        self,
        *,
        writer: MetricsWriter,
        timeline: TimelineWriter,
        sinks: Sequence[Logger],
        refusals: Refusals,
        subsampling: int,
        epoch_samples: int,
    ) -> None:
        self.writer = writer
        self.timeline = timeline
        self.sinks = sinks
        self.refusals = refusals
        self.subsampling = subsampling
        self.epoch_samples = epoch_samples
        self.latest: dict[str, float] = {}  # the last value of every figure
        self.window = Window()
        self.earlier_seconds = 0.0
        self.started = time.perf_counter()

    def start(self, samples: int) -> None:
        """Start or resume at ``samples``: rows that an interrupted run wrote after that point are cut."""
        kept = self.writer.cut(samples)
        for row in kept:
            self.latest |= {key: value for key, value in row.items() if "/" in key}
        if kept:
            self.earlier_seconds = float(kept[-1].get("wall_seconds", 0.0))
        self.refusals.start(samples)
        self.started = time.perf_counter()

    def after_step(
        self,
        progress: Progress,
        batches: Sequence[Batch],
        step_seconds: float,
        waited_seconds: float,
        hook_metrics: Mapping[str, float],
    ) -> None:
        """Count one step of this learner."""
        self.timeline.after_step(step_seconds, waited_seconds)
        self.window.add(batches, step_seconds, waited_seconds, self.subsampling)
        self.window.add_hook_metrics(hook_metrics)
        self.refusals.add((bad for batch in batches for bad in batch.refused), progress.samples)

    def log(self, progress: Progress, figures: Mapping[str, float]) -> None:
        """Write a row of training metrics and start a new window."""
        costs = self.window.row(figures.get("time/comm_exposed", 0.0))
        self.window = Window()
        self._write(progress, {**figures, **costs, "data/skipped": float(self.refusals.total)})

    def log_evaluation(self, progress: Progress, figures: Mapping[str, float]) -> None:
        """Write a row of evaluation metrics, and when the newest steps did what."""
        self._write(progress, figures)
        self.timeline.write()

    def _write(self, progress: Progress, figures: Mapping[str, float]) -> None:
        row: dict[str, float] = {
            "step": progress.step,
            "global_step": progress.global_step,
            "samples": progress.samples,
            "epoch": progress.samples / self.epoch_samples,
            "wall_seconds": self.wall_seconds,
        }
        self.latest |= figures
        written = self.writer.write(row | dict(figures))
        for sink in self.sinks:
            sink.log(written)

    @property
    def wall_seconds(self) -> float:
        """Seconds of training, including those before an interruption."""
        return self.earlier_seconds + time.perf_counter() - self.started

    def close(self) -> None:
        """Close every sink."""
        self.writer.close()
        for sink in self.sinks:
            sink.close()
        self.timeline.write()
