"""One learner, no communication: every other scheme must give the same result with one learner."""

from distributed.base import SynchronousBackend
from distributed.errors import UsageError
from distributed.learners.world import World


class Single(SynchronousBackend):
    """Trains one learner without communication."""

    def __init__(self, *, world: World) -> None:
        if world.size > 1:
            raise UsageError(f"backend=single trains with one learner, got {world.size}; use backend=allreduce")
        super().__init__(world=world)
