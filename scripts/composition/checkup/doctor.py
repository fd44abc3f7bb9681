"""scripts/doctor.py: looks at this machine and, if asked, at a run on it; prints a line for each finding."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from asr.foreign.terminal import say
from distributed.errors import UsageError, UserError
from scripts.composition.command_line import Parser, split_at
from scripts.composition.refused_sweeps import NAMED


@dataclass(frozen=True, slots=True)
class Examination:
    """The checked command line of scripts/doctor.py."""

    learners: int
    entry_point: str | None  # None: the machine alone
    arguments: Sequence[str]


def doctor_options(arguments: Sequence[str], usage: str) -> Examination | None:
    """Parse and check the command line; None if it asked for help.

    Raises:
        UsageError: the command line is wrong.
    """
    parser = Parser("doctor")
    parser.add_argument("--learners", type=int, default=1)
    own, entry_point, rest = split_at(arguments, NAMED)
    options = parser.parse_args(own)
    if options.help:
        say(*usage.strip().splitlines())
        return None
    if options.learners < 1:
        raise UsageError(f"--learners={options.learners}: must be 1 or more")
    return Examination(options.learners, entry_point, rest)


def doctor(options: Examination) -> int:
    """Print the findings; 1 if one of them is an error, else 0."""
    from scripts.composition.checkup.machine_checks import check_machine  # torch takes seconds to import
    from scripts.composition.checkup.run_checks import check_run

    logging.getLogger().addHandler(logging.NullHandler())  # warnings are findings here
    errors = 0
    findings = [check_machine(folder_of_runs(options))]
    if options.entry_point is not None:
        findings.append(check_run(options.entry_point, options.arguments, options.learners))
    for checks in findings:
        for finding in checks:
            say(str(finding))
            errors += finding.weight == "error"
    return int(errors > 0)


def folder_of_runs(options: Examination) -> Path:
    """The folder in which the run would be made; the usual one where there is none, or none that can be started."""
    from scripts.composition.compose import compose

    if options.entry_point is not None:
        with suppress(UserError):  # a finding of check_run
            return Path(compose(options.entry_point, options.arguments).exp_dir)
    return Path("exp")
