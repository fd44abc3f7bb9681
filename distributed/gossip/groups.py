"""Groups of learners that act as one: gradients averaged inside, so that members hold bitwise the same weights.

    g  =  mean of the gradients of one group            all-reduce, overlapped with backward

A group is of consecutive ranks. What is exchanged between groups is cut into as many shares as a group has members: each
exchanges its own with the same member of other groups, its counterparts.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from distributed.backend import Claim, GradientReport
from distributed.base import GossipBackend, UnequalStartError, checksum
from distributed.errors import UsageError
from distributed.learners.world import World
from distributed.parameters.flat_parameters import FlatParameters
from distributed.parameters.gradient_average import GradientAverage

_LOOK_SECONDS = 0.001  # between looks at whether another member's claim has been published


class Groups:
    """The groups of a run, and this learner's own.

    Args:
        group_size: members of each; None takes the learners of one host.
        bucket_mb: MiB of gradients per all-reduce inside a group.

    Raises:
        UsageError: ``group_size`` does not divide the number of learners.
    """

    def __init__(self, world: World, group_size: int | None, bucket_mb: float) -> None:
        self.world = world
        self.size = world.local_size if group_size is None else group_size
        if world.size % self.size:
            given = f"{self.size} learners per host" if group_size is None else f"backend.group_size={group_size}"
            raise UsageError(
                f"{given} must divide the number of learners, got {world.size}; set backend.group_size to one of "
                f"{', '.join(str(n) for n in range(1, world.size + 1) if world.size % n == 0)}"
            )
        self.number = world.size // self.size
        self.own, self.member = divmod(world.rank, self.size)
        self.gradients = GradientAverage(bucket_mb=bucket_mb, traffic=world.traffic)
        self._inside: ProcessGroup | None = None
        self._claims: Counter[str] = Counter()  # made so far, by name

    @property
    def counterparts(self) -> Sequence[int]:
        """Ranks of the learners that are the same member of their groups, this one among them."""
        return range(self.member, self.world.size, self.size)

    @property
    def inside(self) -> ProcessGroup:
        """The process group of this learner's group; there is one once a model is wrapped."""
        if self._inside is None:
            raise RuntimeError("backend.wrap(model) comes first")
        return self._inside

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module to call from now on, whose last backward averages over the group; collective over all learners."""
        sizes = self.world.gather(self.size)
        if len(set(sizes)) > 1:
            raise UsageError(
                f"learners have groups of different sizes {sorted(set(sizes))}, as their hosts hold different numbers "
                "of learners; set backend.group_size to one number that divides them all"
            )
        first = self.own * self.size
        self._inside = self.world.new_group(f"inside-{self.own}", range(first, first + self.size), on_device=True)
        return self.gradients.wrap(model, self._inside)

    def check_equal(self, weights: Sequence[Tensor]) -> None:
        """Raise UnequalStartError unless members hold the same weights; collective over all learners."""
        checksums = self.world.gather(checksum(weights))
        differing = [rank for rank, value in enumerate(checksums) if value != checksums[rank // self.size * self.size]]
        if differing:
            raise UnequalStartError(
                f"after resuming, learners {differing} hold other weights than the first of their group, but learners "
                "of a group need the same; resume with the backend.group_size that the checkpoint was saved under, from "
                "another checkpoint, or start afresh with resume=false"
            )

    def gather(self, share: Tensor) -> Tensor:
        """The shares of all members, in order, from shares of equal length (elements,); collective in the group."""
        whole = torch.empty(len(share) * self.size, dtype=share.dtype, device=share.device)
        self.world.wait(self.inside._allgather_base(whole, share), share.device)
        others_bytes = share.nbytes * (self.size - 1)
        self.world.traffic.count(others_bytes, others_bytes)
        return whole

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true on any member; collective in the group."""
        flags = torch.tensor([int(flag)])
        self.world.wait(self.inside.allreduce([flags]), flags.device)
        self.world.traffic.count_all_reduce(flags.nbytes, self.size)
        return bool(flags.item())

    def claim(self, name: str, number: int) -> Claim:
        """As ``Backend.claim``, where the k-th claims of all members are parts of one claim of the group.

        Whichever member comes first makes it, so that nobody waits for a member that may itself wait.
        """
        store = self.world.joined.get_group_store()
        key = f"claimed/{name}/group-{self.own}/{self._claims[name]}"
        self._claims[name] += 1
        if store.add(f"{key}/turn", 1) == 1:
            store.set(key, str(self.world.claim(name, number * self.size)))
        while not store.check([key]):  # a wait in the store would keep its connection from other threads
            self.world.check()
            time.sleep(_LOOK_SECONDS)
        first = int(store.get(key))
        if store.add(f"{key}/read", 1) == self.size:  # nobody asks again
            for each in (key, f"{key}/turn", f"{key}/read"):
                store.delete_key(each)
        return Claim(first + self.member * number, first, number * self.size)

    def close(self) -> None:
        """Release the process group."""
        self._inside = None


class InGroups(GossipBackend):
    """What backends of groups do inside a group; a class that derives from it too says what travels between groups."""

    whole_last_backward: ClassVar[bool] = True
    groups: Groups

    def wrap(self, model: nn.Module) -> nn.Module:
        self._model, self._flat = model, FlatParameters(model, gradients=False)
        return self.groups.wrap(model)

    def synchronise(self, resumed: bool, rehearse: Callable[[], None] | None = None) -> None:
        super().synchronise(resumed)
        if rehearse is not None:
            self.groups.gradients.rehearse(rehearse)
            self.zero_grad()

    def _check_resumed(self) -> None:
        self.groups.check_equal(self.flat.flat)

    def accumulating(self) -> AbstractContextManager[None]:
        return self.groups.gradients.accumulating()

    def reduce_gradients(self, max_norm: float | None) -> GradientReport:
        self.groups.gradients.finish()
        return super().reduce_gradients(max_norm)

    def close(self) -> None:
        super().close()
        self.groups.close()
