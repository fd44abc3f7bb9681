"""The training loop: one step for every scheme of communication, every regulariser and every compression.

The loop knows hooks and a backend; no method adds a branch to it. Its order is the pseudo-code in asr/training/hook.py.
"""

import itertools
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NoReturn

import torch

from asr.data.batch import Batch
from asr.data.pipeline import unit_loader
from asr.runs.checkpoint import Checkpoint
from asr.runs.progress import Progress
from asr.training.accounting import Accounting
from asr.training.bad_steps import BadSteps, TrainingDivergedError
from asr.training.idle import drop_gradients, left_alone
from asr.training.meter import meter_of
from asr.training.parts import TrainerOptions
from asr.training.probe import Probe, probe_memory
from asr.training.run_parts import Parts
from asr.training.saving import Saver
from asr.training.state import gradients_dropped, untouched
from asr.training.step_result import StepResult
from asr.training.stopped import StoppedError
from asr.training.suspects import Suspects
from asr.training.units import Step, global_step, total_samples
from distributed.backend import Backend
from distributed.errors import UserError
from distributed.learners.environment import has_returned
from distributed.learners.signs import LearnerLostError

log = logging.getLogger(__name__)


class Trainer:
    """Runs the loop over ready-made parts."""

    def __init__(self, parts: Parts, options: TrainerOptions) -> None:
        self.parts = parts
        self.options = options
        self.backend: Backend = parts.run.backend
        self.progress = Progress()
        self.marked_step = 0  # global step at which all learners were last together
        self.units = 0  # number of units that this learner has processed
        self.logged_step = 0  # global step at which this learner last checked whether a row is due
        self.unlogged: StepResult | None = None  # result of the newest step until it is written in a row
        self.suspects = Suspects()
        self.accounting = Accounting(parts.world)
        gather = parts.world.gather if self.backend.synchronous else None
        self.bad_steps = BadSteps(parts.run.folder, parts.world.rank, options.max_bad_steps, gather)
        self.saver = Saver(parts, self.bad_steps)
        self.total_samples = total_samples(options, parts.plan)

    # ------------------------------------------------------------------ the run

    def fit(self, resume_from: Checkpoint | None) -> Progress:
        """Train until all samples are processed, from the start or from a checkpoint.

        Raises:
            StoppedError: all learners have agreed to stop before, and have written a checkpoint.
        """
        hooks = self.parts.hooks.values()
        with ExitStack() as closing:
            for hook in hooks:
                closing.callback(hook.close)
            closing.callback(self.backend.close)
            closing.callback(self.parts.checkpoints.close)
            closing.enter_context(self.parts.world.naming_the_lost())  # announces an error before parts are closed
            try:
                self._start(resume_from)
                for step, batches, waited_seconds in self._steps():
                    if batches:
                        self._run_step(step, batches, waited_seconds)
                    if step.together:
                        self._marks(step)
                if not self._finished:
                    self._stop()
                self.backend.drain()
                self.parts.checkpoints.finish()
                for hook in hooks:
                    hook.on_fit_end(self.progress)
            except BaseException as error:
                for hook in hooks:
                    hook.on_error(error)
                if isinstance(error, UserError) and self.comes_back(error):
                    self._leave_out_suspects(error)
                raise
        return self.progress

    def comes_back(self, error: UserError) -> bool:
        """Whether the run goes on from its newest checkpoint by itself after this error; the same on all learners.

        It does where numbers went bad, once, if there is a checkpoint, and all learners know of the error.
        """
        known = error.agreed or self.parts.world.can_agree
        return error.returns and known and self.parts.checkpoints.has_one and not has_returned()

    def _leave_out_suspects(self, error: UserError) -> None:
        """List the batches after which numbers went bad, on one of the learners that have found so."""
        if isinstance(error, LearnerLostError):
            return
        lists = 0 if error.agreed else self.parts.world.rank
        if isinstance(error, TrainingDivergedError) and error.learner is not None:
            lists = error.learner
        if self.parts.world.rank == lists:
            self.suspects.leave_out(self.parts.run, str(error))

    def _start(self, resume_from: Checkpoint | None) -> None:
        resumed = resume_from is not None
        if resume_from is not None:
            self.progress, self.units = self.saver.load(resume_from)
            self.marked_step = self.logged_step = self.progress.global_step
        for hook in self.parts.hooks.values():
            hook.on_fit_start(self.parts.run, resumed)
        self.saver.saved_samples = self.progress.samples
        self.parts.world.gate.start(self.progress.samples)
        self.parts.objective.plan_step(self.progress)
        if self.options.memory_probe and self.progress.samples < self.total_samples:
            self._probe()
        self.backend.synchronise(resumed, self._rehearse)
        self.parts.recorder.start(self.progress.samples)
        self.parts.clock.start(self.progress.global_step)

    def _steps(self) -> Iterator[tuple[Step, list[Batch], float]]:
        """The learner's steps with their loaded units, and the seconds spent waiting for them."""
        parts = self.parts
        ahead, steps = itertools.tee(parts.units.steps(self.progress))
        units = (unit for step in ahead for unit in step.units)
        loader = parts.loader
        batches = unit_loader(parts.dataset, units, num_workers=loader.num_workers, prefetch=loader.prefetch)
        for step in steps:
            if not self.parts.units.begin(step):
                return
            started = time.perf_counter()
            loaded = [next(batches) for _ in step.units]
            yield step, loaded, time.perf_counter() - started

    def _run_step(self, step: Step, batches: list[Batch], waited_seconds: float) -> None:
        started = time.perf_counter()
        self.parts.run.learning_rate.set(step.samples_before)
        for hook in self.parts.hooks.values():
            hook.on_step_start(self.progress)
        self.parts.objective.plan_step(self.progress)
        result = self.unlogged = self.step(batches, step.planned_weight)
        self._advance(step)
        self.units += len(step.units)
        self.accounting.processed(len(step.units))
        self.suspects.after_step(step.units, result.report.finite)
        self.bad_steps.after_step(
            result.report, self.progress, batches, result.losses, self.parts.run.learning_rate.current
        )
        metrics: dict[str, float] = {}
        for hook in self.parts.hooks.values():
            hook.on_step_end(self.progress, metrics)
        seconds = time.perf_counter() - started + waited_seconds
        self.parts.recorder.after_step(self.progress, batches, seconds, waited_seconds, metrics)
        self._log_if_due()

    # ------------------------------------------------------------------ one step

    def step(self, batches: list[Batch], planned_weight: float) -> StepResult:
        """One update of this learner from its units."""
        parts, backend = self.parts, self.backend
        objective = parts.objective
        weight = sum(batch.weight for batch in batches)
        divisor = backend.begin_step(weight, planned_weight)
        units = [objective.backward(batch, divisor, last=batch is batches[-1]) for batch in batches]
        for unit in units:
            parts.memory.count(split=len(unit) > len(objective.passes))
        drop_gradients(objective.idle)
        report = backend.reduce_gradients(self.options.max_norm)
        for hook in parts.hooks.values():
            hook.on_gradients(parts.run.model, report)
        with backend.updating(apply=report.finite):
            if report.finite:
                with left_alone(objective.idle):
                    parts.optimizer.step()
                for hook in parts.hooks.values():
                    hook.on_update(parts.run.model, parts.optimizer)
        backend.zero_grad()
        sums = [torch.stack([terms.value for terms in unit]).sum() for unit in units]
        parts_of_all = [terms for unit in units for terms in unit]
        return StepResult(
            report=report,
            losses=torch.stack(sums).double().tolist(),
            weight=weight,
            sums=[terms.logged() for terms in parts_of_all],
            regularisers=parts_of_all[-1].regularisers,  # only the last part has per-step terms
        )

    def _rehearse(self) -> None:
        """Forward and backward on the first unit; leaves only gradients, which the backend drops."""
        parts, first = self.parts, self.parts.plan.epoch(0)[0][self.parts.world.rank]
        with untouched(parts.run.model, parts.hooks, parts.world.device):
            parts.objective.rehearse(parts.dataset[first])

    def _probe(self) -> None:
        """Run the worst units of the epoch on this learner alone; keeps only their memory measurements."""
        parts, model, device = self.parts, self.parts.run.model, self.parts.world.device
        meter = meter_of(device, parts.world.local_size)
        probe = Probe(parts.memory, meter, parts.objective.trial, self.options.memory_limit_gb)
        with untouched(model, parts.hooks, device), gradients_dropped(model), self.backend.accumulating():
            probe_memory(probe, parts.plan, self.progress.epoch, parts.dataset.__getitem__, parts.optimizer)

    # ------------------------------------------------------------------ rows and marks

    def _advance(self, step: Step) -> None:
        self.progress.step += 1
        self._stand_at(step)

    def _stand_at(self, step: Step) -> None:
        progress = self.progress
        progress.samples = step.samples
        progress.epoch, progress.batch = step.position
        progress.global_step = global_step(self.parts.plan, step.samples)

    @property
    def _finished(self) -> bool:
        return self.progress.samples >= self.total_samples

    def _crossed(self, before: int, every: int) -> bool:
        return self.progress.global_step // every > before // every

    def _log_if_due(self) -> None:
        """Write a row if an interval or the run has ended and this learner has made a step since its last row.

        Without lockstep other learners may have ended it: this one notices after its own next step, or at a mark.
        """
        before, self.logged_step = self.logged_step, self.progress.global_step
        if self.unlogged is not None and (self._finished or self._crossed(before, self.options.log_every)):
            self._log(self.unlogged)
            self.unlogged = None

    def _log(self, result: StepResult) -> None:
        row = {
            "train/loss": self.backend.global_mean(sum(result.losses), result.weight),
            "train/lr": self.parts.run.learning_rate.current,
            "train/grad_norm": result.report.norm,
            "train/clipped": float(result.report.clipped),
            "train/bad_steps": float(self.bad_steps.total),
            "data/units": float(self.units),
        }
        self.parts.recorder.log(
            self.progress, row | result.term_means() | self.backend.metrics() | self.parts.memory.metrics()
        )

    def _marks(self, step: Step) -> None:
        """Evaluate and write a checkpoint where they are due; collective."""
        self._stand_at(step)
        self.accounting.planned(step.planned_units)
        self._log_if_due()
        before, self.marked_step = self.marked_step, self.progress.global_step
        for hook in self.parts.hooks.values():
            if hook.meets_every is not None and self._crossed(before, hook.meets_every):
                hook.on_meeting(self.progress)
        evaluates = self._finished or self._crossed(before, self.options.evaluate_every)
        saves = self._finished or self.saver.put_off or self._crossed(before, self.options.checkpoint_every)
        saves = saves or self.parts.clock.due(self.progress.global_step)
        if evaluates or saves:
            self.accounting.check(self.progress.global_step)
        figure = self._evaluate() if evaluates else None
        if saves or (figure is not None and self.parts.checkpoints.among_best(figure)):
            self._save(figure)

    def _save(self, figure: float | None) -> None:
        self.saver.save(self.progress, self.units, figure, last=self._finished)

    def _stop(self) -> NoReturn:
        """End before all samples are processed, as all learners have agreed; collective."""
        if self.saver.saved_samples < self.progress.samples:
            self.accounting.check(self.progress.global_step)
            self._save(None)
        self.parts.checkpoints.finish()
        saved = self.saver.saved_samples == self.progress.samples and self.parts.checkpoints.has_one
        stopped = StoppedError(self.parts.world.gate.why, self.progress, saved=saved)
        log.info("%s", stopped)
        self.parts.world.barrier()  # a launcher may end the others once the first one has left
        raise stopped

    def _evaluate(self) -> float | None:
        with self.backend.consensus() as disagreement:
            evaluated = self.parts.evaluator.evaluate(self.parts.run.model, may_stop=not self._finished)
            if evaluated is None:
                return None
            metrics = disagreement | evaluated
            for hook in self.parts.hooks.values():
                hook.on_evaluation(self.progress, metrics)
        self.parts.recorder.log_evaluation(self.progress, metrics | {"data/units": float(self.units)})
        return self.parts.evaluator.selecting_figure(metrics)
