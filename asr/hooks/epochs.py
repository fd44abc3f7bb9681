"""The epochs in which a hook acts: papers switch a method on late, or lift it for the last epochs."""

import logging
from dataclasses import dataclass

from asr.training.hook import Hook, Run

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Epochs:
    """From ``first`` on, up to but without ``until``; epochs are counted from 0.

    With ``until`` at or before ``first`` there is none: a run has the hook's batch plan then, but not its effect.
    """

    first: int
    until: int | None  # None: to the end

    def __contains__(self, epoch: int) -> bool:
        return epoch >= self.first and (self.until is None or epoch < self.until)

    @property
    def contradictory(self) -> bool:
        """There is no epoch, and not because ``until`` 0 asks for the plan alone."""
        return self.until is not None and 0 < self.until <= self.first


class HookOfEpochs(Hook):
    """A hook that acts in some epochs, given by ``from_epoch`` and ``until_epoch``."""

    def __init__(self, epochs: Epochs) -> None:
        self.epochs = epochs

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        """Say so where no epoch is left: what trains then is a baseline under the method's name."""
        if self.epochs.contradictory:
            log.warning(
                "%s never acts: from_epoch=%d and until_epoch=%d leave no epoch; epochs are counted from 0, until_epoch is "
                "the first without it (until_epoch=0: the batch plan alone is meant)",
                type(self).__name__,
                self.epochs.first,
                self.epochs.until,
            )
