"""scripts/sweep.py: the trials of a sweep, one after another on this host, or as an array of SLURM jobs."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from hydra.errors import OverrideParseException
from omegaconf import DictConfig

from asr.foreign.terminal import say
from asr.training.stopped import EXIT_CODE as STOPPED
from distributed.errors import UsageError
from distributed.learners.environment import with_variables
from scripts.composition.command_line import split_at
from scripts.composition.compose import SYNTAX, compose, options
from scripts.composition.refused_sweeps import NAMED
from scripts.composition.signals import SIGNALS
from scripts.composition.startup import REPOSITORY
from scripts.composition.sweeps.sampling import Sampler, chosen_sampler, number_of_trials, proposed
from scripts.composition.sweeps.space import Space, read_space
from scripts.composition.sweeps.table import best_line, write_results
from scripts.composition.sweeps.trials import Trial, TrialFolder, check_definition, definition_of, run_of

OWN = ("name", "exp_dir", "resume")  # of a run, which the sweep sets


@dataclass(frozen=True, slots=True)
class Sweep:
    """A checked sweep."""

    config: DictConfig
    entry_point: str
    overrides: Sequence[str]  # of the runs, as they were typed
    space: Space
    sampler: Sampler
    trials: int

    @property
    def folder(self) -> Path:
        """Where everything lands."""
        return Path(self.config.exp_dir) / self.config.name

    @property
    def keys(self) -> list[str]:
        """The keys that differ between trials."""
        return [axis.key for axis in self.space.axes]


def run(arguments: Sequence[str]) -> int:
    """Run the trials that have not finished, or submit them; the exit code."""
    sweep = checked(arguments)
    check_definition(
        sweep.folder,
        definition_of(sweep.entry_point, sweep.overrides, sweep.sampler, sweep.config.seed, sweep.config.figure),
    )
    only = sweep.config.trial
    if sweep.config.where == "slurm" and only is None:
        return submit(sweep, arguments)
    return run_here(sweep, range(sweep.trials) if only is None else [only])


def checked(arguments: Sequence[str]) -> Sweep:
    """The sweep of a command line, with every value of its runs checked before anything starts.

    Raises:
        UsageError: one line that says what is wrong.
    """
    own, entry_point, overrides = split_at(arguments, NAMED)
    config = compose("sweep", own)
    if entry_point is None:
        raise UsageError(f"what shall be swept is not said: one of {', '.join(NAMED)}, then its own arguments")
    if ours := [each for each in overrides if each.split("=")[0] in OWN]:
        raise UsageError(f"{ours[0]}: set by the sweep for each trial; name= before {entry_point} names the sweep")
    try:
        space = read_space(overrides, options)
    except OverrideParseException as error:
        raise UsageError(f"cannot read the argument {error.override!r}: {SYNTAX}") from None
    for values in space.each_value_once():
        settings = compose(entry_point, space.overrides(values))
        if config.figure is None and not settings.evaluation.sets:
            raise UsageError(
                "evaluation.sets=[]: no evaluation will choose a best checkpoint; name the metric that is made small, such "
                "as figure=train/loss, or evaluate: evaluation.sets=[dev]"
            )
    sampler = chosen_sampler(config.sampler, space)
    trials = number_of_trials(config.trials, sampler, space)
    if config.trial is not None and config.trial >= trials:
        raise UsageError(f"trial={config.trial}: there are {trials}, counted from 0")
    return Sweep(config, entry_point, overrides, space, sampler, trials)


def run_here(sweep: Sweep, numbers: Sequence[int]) -> int:
    """Run trials one after another, those that have finished not again; then the table and the page.

    Raises:
        UsageError: a trial lacks the figure; the table and the page are written by then.
    """
    records, key, failed = TrialFolder(sweep.folder), sweep.config.figure, []
    stopped = False
    with passing_on() as child:
        for number in numbers:
            trial = begun(sweep, records, number)
            if trial.state == "finished":
                continue
            stopped = stopped or child.asked
            if stopped:
                break
            say(
                f"trial {number} of {sweep.trials}: {' '.join(f'{each}={value}' for each, value in trial.values.items())}"
            )
            code = child.run(line_of(sweep, trial))
            stopped = code == STOPPED or (child.asked and code != 0)
            if code != 0 and not stopped:
                failed.append(number)
            records.write(replace(trial, exit_code=None if code == 0 or stopped else code))
    results = write_results(sweep.folder, key)
    if (line := best_line(results, sweep.keys)) is not None:
        say(line)
    if results.rows:
        say(f"table: {sweep.folder / 'sweep.csv'}")
    if stopped:
        say("stopped; the same command goes on")
        return STOPPED
    if failed:
        say(f"{len(failed)} trials have failed, {', '.join(map(str, failed))}; the same command tries them again")
    if results.remarks:
        raise UsageError(results.remarks[0])
    return int(bool(failed))


def begun(sweep: Sweep, records: TrialFolder, number: int) -> Trial:
    """The trial of a number; its values are chosen, from what is known by now, when it is first begun."""
    trial = records.read(number)
    if trial is None:
        seen = [] if sweep.sampler != "tpe" else records.seen(sweep.config.figure)
        values = proposed(sweep.space, sweep.sampler, sweep.config.seed, number, seen)
        trial = Trial(number, values, sweep.folder / run_of(number, values))
        records.write(trial)
    return trial


def line_of(sweep: Sweep, trial: Trial) -> list[str]:
    """The command of a trial's run."""
    launch = [sys.executable, str(REPOSITORY / "scripts" / "launch.py")]
    learners = ["--learners", str(sweep.config.learners), "--restarts", str(sweep.config.restarts)]
    where = [f"exp_dir={trial.run.parent}", f"name={trial.run.name}"]
    return [*launch, *learners, sweep.entry_point, *where, *sweep.space.overrides(trial.values)]


class Child:
    """Runs a command at a time, and passes signals on to it."""

    def __init__(self) -> None:
        self.asked = False  # whether a signal has come
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting: int | None = None  # a signal that came before there was a process

    def run(self, line: Sequence[str]) -> int:
        """Run a command to its end; its exit code, negative for a signal."""
        self._process = subprocess.Popen(line)
        if self._waiting is not None:
            self._process.send_signal(self._waiting)
        try:
            return self._process.wait()
        finally:
            self._process = None

    def ask(self, number: int, _: FrameType | None) -> None:
        """Pass a signal on."""
        self.asked = True
        if self._process is not None:
            self._process.send_signal(number)
        else:
            self._waiting = number


@contextmanager
def passing_on() -> Iterator[Child]:
    """Within: signals that ask to stop go to the running trial, which saves and ends, and no other is begun."""
    child = Child()
    before = {number: signal.signal(number, child.ask) for number in SIGNALS}
    try:
        yield child
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def submit(sweep: Sweep, arguments: Sequence[str]) -> int:
    """Submit the trials that have not finished as an array of jobs."""
    records = TrialFolder(sweep.folder)
    found = {number: records.read(number) for number in range(sweep.trials)}
    left = [number for number, trial in found.items() if trial is None or trial.state != "finished"]
    if not left:
        say(f"all {sweep.trials} trials have finished: {sweep.folder / 'sweep.csv'}")
        return 0
    variables = {"MURMURATION_CODE": str(REPOSITORY), "PYTHON": sys.executable}
    script = str(REPOSITORY / "scripts" / "slurm" / "sweep.sbatch")
    line = [
        "sbatch",
        "--export=ALL",  # names of variables and no values, in which a comma would end one
        f"--array={','.join(map(str, left))}",
        *options_of_sbatch(sweep.config.sbatch or ""),
        script,
        *arguments,
    ]
    try:
        code = subprocess.run(line, check=False, env=with_variables(variables)).returncode
    except FileNotFoundError:
        raise UsageError(
            "where=slurm: there is no sbatch here; submit from a host that has SLURM, or where=local"
        ) from None
    return code


def options_of_sbatch(written: str) -> list[str]:
    """Split options as a shell does.

    Raises:
        UsageError: a quotation mark without its other one.
    """
    try:
        return shlex.split(written)
    except ValueError as error:
        raise UsageError(
            f"sbatch={written}: {error}; write it as in a shell, '--partition=gpu --time=2:00:00'"
        ) from None
