"""Units processed against units planned: that no learner has lost or invented any is checked where all meet anyway."""

from distributed.errors import UserError
from distributed.learners.world import World


class LostUnitsError(UserError, RuntimeError):
    """Learners have together processed another number of units than the plan has."""

    agreed = True


class Accounting:
    """Counts units of this learner and of the plan since the last check."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._processed = 0
        self._planned = 0

    def processed(self, units: int) -> None:
        """Count units that this learner has processed."""
        self._processed += units

    def planned(self, units: int) -> None:
        """Count units that all learners together had to process."""
        self._planned += units

    def check(self, global_step: int) -> None:
        """Compare; collective.

        Raises:
            LostUnitsError: the sum over learners is not what was planned.
        """
        processed, planned = self.world.gather(self._processed), self._planned
        self._processed = self._planned = 0
        if sum(processed) != planned:
            each = ", ".join(f"learner {rank}: {number}" for rank, number in enumerate(processed))
            raise LostUnitsError(
                f"at step {global_step} learners have processed {sum(processed)} units since the last mark, but the plan has "
                f"{planned} ({each}): was the rendezvous' store changed from outside? The same command goes on from the newest "
                "checkpoint"
            )
