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

    def fault(self, epochs: float) -> str | None:
        """What is wrong with the choice in a run of so many epochs; ``until`` 0 asks for the plan alone."""
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
        """Say so where the run has no epoch with the hook, or none without it: it trains another method than its name says."""
        if fault := self.epochs.fault(run.epochs):
            log.warning("%s %s", type(self).__name__, fault)
