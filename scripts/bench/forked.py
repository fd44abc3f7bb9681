"""Runs of one learner each in a process forked from this one, which has imported everything: seconds saved in every run.

A forked process may compute if this one has not: whoever uses it leaves all training and decoding to the runs.
"""

import importlib
import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.bench.trials import Trials
from scripts.composition.startup import run_and_leave

ENTRY_POINTS = (
    "training",
    "evaluation",
    "compression",
)  # modules of scripts/composition that the forked processes share


class ForkedTrials(Trials):
    """Runs entry points in forked processes, one after the other."""

    def execute(self, command: Sequence[str], log: Path) -> int:
        """The exit status of an entry point, given by its path, with these arguments."""
        for each in ENTRY_POINTS:
            importlib.import_module(f"scripts.composition.{each}")
        process = multiprocessing.get_context("fork").Process(target=_enter, args=(tuple(command), log))
        process.start()
        process.join()
        return process.exitcode or 0


def _enter(command: tuple[str, ...], log: Path) -> None:
    """Become the entry point: its arguments, its output."""
    with log.open("a", encoding="utf-8") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    sys.argv = list(command)
    run_and_leave(importlib.import_module(f"scripts.{Path(command[0]).stem}").main)
