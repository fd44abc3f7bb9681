"""The global batches after which a learner's numbers were not finite: a run that returns to a checkpoint leaves them out.

Those are the batch of the last update, and the first one whose loss or gradient was bad after it: the update may have
made the weights useless, or the batch itself may be.
"""

import logging
from collections.abc import Iterable

from asr.data.batch import Unit
from asr.runs.left_out import Place, leave_out
from asr.training.hook import Run

log = logging.getLogger(__name__)


class Suspects:
    """Follows the steps of one learner."""

    def __init__(self) -> None:
        self._last_applied: set[Place] = set()
        self._first_bad: set[Place] = set()

    def after_step(self, units: Iterable[Unit], finite: bool) -> None:
        """Take the units of a step, and whether its update was applied."""
        places = {(unit.epoch, unit.batch) for unit in units}
        if finite:
            self._last_applied, self._first_bad = places, set()
        elif not self._first_bad:
            self._first_bad = places

    def leave_out(self, run: Run, why: str) -> None:
        """List them in the run's folder."""
        for epoch, batch in sorted(self._last_applied | self._first_bad):
            units = run.plan.epoch(epoch)[batch]
            ids = [run.utterances[index].id for unit in units for index in unit.utterances]
            try:
                leave_out(run.folder, (epoch, batch), ids, why)
            except OSError as error:  # the run returns all the same, and meets the batch again
                log.error("batch %d of epoch %d cannot be listed in left_out/: %s", batch, epoch, error)
