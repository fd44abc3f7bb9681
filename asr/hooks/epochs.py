"""The epochs in which a hook acts: papers switch a method on late, or lift it for the last epochs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Epochs:
    """From ``first`` on, up to but without ``until``; epochs are counted from 0.

    With ``until`` at or before ``first`` there is none: a run has the hook's batch plan then, but not its effect.
    """

    first: int
    until: int | None  # None: to the end

    def __contains__(self, epoch: int) -> bool:
        return epoch >= self.first and (self.until is None or epoch < self.until)
