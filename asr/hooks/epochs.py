"""The epochs in which a hook acts: papers switch a method on late, or off for the last epochs."""

import logging
from dataclasses import dataclass

from asr.training.hook import Hook, Run

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Epochs:
    """The epochs from ``first`` up to, but excluding, ``until``; epochs are counted from 0.

    With ``until`` at or before ``first`` the range is empty: a run then has the hook's batch plan, but not its effect.
    """

    first: int
    until: int | None  # None: to the end

    def __contains__(self, epoch: int) -> bool:
        return epoch >= self.first and (self.until is None or epoch < self.until)

    def fault(self, epochs: float) -> str | None:
        """The fault of the range in a run of ``epochs`` epochs, or None; ``until`` 0, the plan alone, is no fault."""
        if self.until == 0:
            return None
        if self.until is not None and self.until <= self.first:
            return (
                f"never acts: from_epoch={self.first} and until_epoch={self.until} leave no epoch; epochs are counted "
                "from 0, until_epoch is the first without it (until_epoch=0: the batch plan alone is meant)"
            )
        if self.first >= epochs:
            return f"never acts: from_epoch={self.first}, and the run ends after {epochs:.3g} epochs"
        if self.until is not None and self.until > epochs:
            return f"is never lifted: until_epoch={self.until}, and the run ends after {epochs:.3g} epochs"
        return None


class HookOfEpochs(Hook):
    """A hook that acts in some epochs, given by ``from_epoch`` and ``until_epoch``."""

    def __init__(self, epochs: Epochs) -> None:
        self.epochs = epochs

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        """Warn if the run has no epoch with the hook, or none without it: it trains another method than configured."""
        if fault := self.epochs.fault(run.epochs):
            log.warning("%s %s", type(self).__name__, fault)
