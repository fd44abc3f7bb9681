"""What every entry point does first: check that our packages are ours, and end errors in one line.

Two of our top-level names exist elsewhere: Dask's import name is `distributed`, and from Python 3.14 on the standard
library has a `compression`. Whoever wins on sys.path would fail much later with a puzzling message.
"""

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("asr", "distributed", "scripts")
SAY_SECONDS = 3.0  # for the first learner of a host to say what all have met, before a launcher ends it with the others


class UsageError(ValueError):
    """Something the user wrote cannot be used; the message says what, and what to write instead."""


class LearnerError(RuntimeError):
    """A UsageError of one learner after the start: other learners need not have it."""


def check_packages() -> None:
    """Raise UsageError if one of our packages resolves outside the repository."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        if origin is None or not origin.is_relative_to(REPOSITORY):
            raise UsageError(
                f"package {name!r} resolves to {origin or 'nothing'}, not to {REPOSITORY / name}: another "
                "distribution has the same import name; use the project's own environment (make setup)"
            )


def run_main(main: Callable[[list[str]], None]) -> None:
    """Run an entry point. Errors that its user can mend end in one line and exit code 2, others in a traceback."""
    try:
        check_packages()
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line = line_for_people(error)
        if line is None:
            raise
        if not line:
            time.sleep(SAY_SECONDS)
        print(line, file=sys.stderr, end="")
        sys.exit(2)


def line_for_people(error: Exception) -> str | None:
    """What to print about an error that its user can mend; None for the others, which are ours to mend.

    Empty for learners beside the first one of a host, where all of them meet the same mistake in the configuration.
    """
    from distributed.launch import LaunchError, Place, place  # not before check_packages

    try:
        here = place()
    except LaunchError:  # perhaps the very error to report
        here = Place(rank=0, size=1, local_rank=0, local_size=1, launched=False)
    if isinstance(error, UsageError):
        return f"error: {error}\n" if here.local_rank == 0 else ""
    who = f"error on learner {here.rank}" if here.size > 1 else "error"
    if isinstance(error, OSError):
        return f"{who}: {error.strerror or error}{f': {error.filename}' if error.filename else ''}\n"
    if type(error).__module__.split(".")[0] in PACKAGES:
        return f"{who}: {error}\n"
    return None
