"""One learner, no communication: what every scheme must equal when it is alone."""

from distributed.base import SynchronousBackend
from distributed.errors import UsageError
from distributed.learners.launch import World


class Single(SynchronousBackend):
    """Trains alone."""

    def __init__(self, *, world: World) -> None:
        if world.size > 1:
            raise UsageError(f"backend=single trains with one learner, got {world.size}; use backend=allreduce")
        super().__init__(world=world)
