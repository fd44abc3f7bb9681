"""What every entry point does first: check that our packages are ours, and end errors in one line.

Two of our top-level names exist elsewhere: Dask's import name is `distributed`, and from Python 3.14 on the standard
library has a `compression`. Whoever wins on sys.path would fail much later with a puzzling message.
"""

import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("asr", "distributed", "scripts")

log = logging.getLogger(__name__)


class UsageError(ValueError):
    """Something the user wrote cannot be used; the message says what, and what to write instead."""


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
        sys.exit("interrupted; the same command goes on from the last checkpoint")
    except Exception as error:
        if not is_for_people(error):
            raise
        log.debug("where it came from", exc_info=error)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def is_for_people(error: Exception) -> bool:
    """Whether an error is one of our own kinds, whose message says what is wrong and what to do about it."""
    return type(error).__module__.split(".")[0] in PACKAGES
