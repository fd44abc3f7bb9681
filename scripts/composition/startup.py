"""What every entry point does first: check that our packages are ours, and end errors in one line.

Two of our top-level names exist elsewhere: Dask's import name is `distributed`, and from Python 3.14 on the standard
library has a `compression`. Whoever wins on sys.path would fail much later with a puzzling message.

Whatever Python runs an entry point reads this module, be it too old or without any of our dependencies, and is then
told in one line where the right one is. So nothing here or at the top of an entry point goes beyond Python 3.6 and its
standard library, and annotations that would are quoted.
"""

import importlib.util
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("asr", "compression", "distributed", "scripts")
PYTHONS = ((3, 11), (3, 14))  # from the first one on, below the second one
NEEDED = (
    "hydra",
    "matplotlib",
    "numpy",
    "soundfile",
    "torch",
)  # by one benchmark or another; all come with the environment
SAY_SECONDS = 3.0  # for the first learner of a host to say what all have met, before a launcher ends it with the others
REMEDY = "make setup, then . .venv/bin/activate"


class WrongPythonError(RuntimeError):
    """The project does not run on this version of Python."""


class WrongPackageError(RuntimeError):
    """One of our package names resolves to a foreign package."""


def check_python() -> None:
    """Raise WrongPythonError if this version of Python is none of ours."""
    if not PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]:
        raise WrongPythonError(f"Python {'.'.join(map(str, sys.version_info[:3]))} is not 3.11, 3.12 or 3.13: {REMEDY}")


def check_packages() -> None:
    """Raise WrongPackageError if one of our packages resolves outside the repository."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        if origin is None or not origin.is_relative_to(REPOSITORY):
            raise WrongPackageError(
                f"package {name!r} resolves to {origin or 'nothing'}, not to {REPOSITORY / name}: another "
                "distribution has the same import name; use the project's own environment (make setup)"
            )


def run_main(main: "Callable[[list[str]], None]") -> None:
    """Run an entry point. Errors that its user can mend end in one line and exit code 2 (1 where the
    learners have not met), others in a traceback."""
    try:
        check_python()
        check_packages()
        from distributed.learners.environment import without_stack_frames  # which imports no torch

        without_stack_frames()
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print_last("interrupted\n")
        sys.exit(130)
    except Exception as error:
        line = line_for_people(error)
        if line is None:
            raise
        code = getattr(error, "exit_code", 2)
        is_failure = getattr(error, "is_failure", True)
        if not line and is_failure:
            time.sleep(SAY_SECONDS)
        if line and not (is_failure and _left_to_the_launcher(line, error, code)):
            print_last(line)
        sys.exit(code)


def require_environment() -> None:
    """Check packages before a benchmark's own imports, and end in one line if one is missing."""
    run_main(_look_for_packages)


def _look_for_packages(_: "list[str]") -> None:
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def run_and_leave(main: "Callable[[list[str]], None]") -> None:
    """Run an entry point that trains, and end the process as learners do."""
    status = 0
    try:
        run_main(main)
    except SystemExit as ended:
        status = int(ended.code or 0)
    launch = sys.modules.get("distributed.learners.launch")
    if launch is None:  # what was asked needed no learner
        sys.exit(status)
    launch.leave(status)


def _left_to_the_launcher(line: "str", error: "Exception", code: "int") -> "bool":
    """Leave the line to scripts/launch.py, which prints it after all learners' output; False where there is none."""
    environment = sys.modules.get("distributed.learners.environment")
    return environment is not None and environment.leave_word(line, own=getattr(error, "loss", None) is None, code=code)


def print_last(line: "str") -> None:
    """Flush standard output, then print on standard error: both may go to one file."""
    with suppress(OSError):  # the reader of standard output has gone
        sys.stdout.flush()
    print(line, file=sys.stderr, end="", flush=True)


def _is_first_of_its_host() -> bool:
    """Whether this is the first learner of its host; True where torch is missing, without which no launcher runs."""
    try:
        from distributed.learners.environment import LaunchError, place
    except ModuleNotFoundError:
        return True
    try:
        return place().local_rank == 0
    except LaunchError:
        return True


def line_for_people(error: Exception) -> "str | None":
    """The line to print about an error that the user can mend; None for other errors, which are bugs.

    Empty on all but the first learner of a host, where all meet the same mistake in the configuration, and where the run was
    asked to stop, which its log says.
    """
    if isinstance(error, (WrongPythonError, WrongPackageError)):
        return f"error: {error}\n"
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] not in PACKAGES:
        line = f"error: {sys.executable} has no package {error.name.split('.')[0]}: {REMEDY}\n"
        return line if _is_first_of_its_host() else ""
    from asr.foreign.terminal import shown_error  # not before check_packages
    from distributed.errors import UsageError, UserError
    from distributed.learners.environment import LaunchError, Place, place

    try:
        here = place()
    except LaunchError:  # perhaps the very error to report
        here = Place(rank=0, size=1, local_rank=0, local_size=1, launched=False)
    if isinstance(error, UserError) and not error.is_failure:
        return ""
    if isinstance(error, UsageError):
        return f"error: {shown_error(error)}\n" if here.local_rank == 0 else ""
    who = f"error on learner {here.rank}" if here.size > 1 else "error"
    if isinstance(error, UserError):
        return f"{who}: {shown_error(error)}\n"
    if isinstance(error, OSError):
        return f"{who}: {shown_error(error.strerror or error)}{f': {shown_error(error.filename)}' if error.filename else ''}\n"
    return None
