"""The end of a run before its last sample, because it was asked to stop: by the user, a scheduler or a machine that goes down."""

from asr.runs.progress import Progress
from distributed.errors import UserError

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command is to be given again


class StoppedError(UserError):
    """All learners have stopped at the same step; none of them has failed."""

    exit_code = EXIT_CODE
    agreed = True
    is_failure = False

    def __init__(self, why: str | None, progress: Progress, *, saved: bool) -> None:
        where = f"step {progress.global_step}"
        unsaved = (
            f"{where} is not saved, as it belongs to a streak of bad steps"
            if progress.samples
            else "nothing was trained yet"
        )
        done = f"saved {where}" if saved else unsaved
        super().__init__(f"{why or 'stopped'}: {done}; the same command goes on")
