"""This learner among all of them: the small messages by which learners agree, and the groups in which they exchange large ones.

Backends receive a ``World``, which launch.py makes, and use no global state.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroup, Work

from distributed.learners.gloo import connect, gloo_group
from distributed.learners.signs import LONGEST_LINE, encoded
from distributed.learners.stopping import Gate
from distributed.learners.traffic import Traffic, broadcast_copies_sent
from distributed.learners.waiting import wait_for_collective
from distributed.learners.watch import Watch


@dataclass(frozen=True, slots=True)
class World:
    """This learner among all of them, and the small messages by which they agree.

    The methods are collective: every learner calls them, in the same order, from the thread that trains. A learner
    that is alone needs no ``group``. ``traffic`` counts what the methods send, as control; backends add their own.
    With a ``watch`` no learner waits for one that is lost.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    group: ProcessGroup | None
    traffic: Traffic = field(default_factory=Traffic, compare=False)
    watch: Watch | None = field(default=None, compare=False)
    gate: Gate = field(default_factory=Gate, compare=False)  # where this learner stops, if all agree to

    def __post_init__(self) -> None:
        if self.group is None and self.size > 1:
            raise ValueError(f"{self.size} learners need a process group; launch.start makes one")

    @property
    def joined(self) -> ProcessGroup:
        """The group of all learners; ValueError where there is none."""
        if self.group is None:
            raise ValueError("this needs a process group; launch.start makes one, also for a single learner")
        return self.group

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum a contiguous tensor over learners, in place; bitwise the same result everywhere."""
        if self.size > 1:
            self.wait(self.joined.allreduce([tensor]), tensor.device)
            with self.traffic.control():
                self.traffic.count_all_reduce(tensor.nbytes, self.size)
        return tensor

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """Overwrite a contiguous tensor of any dtype with that of learner ``source``, in place."""
        if self.size > 1:
            # As bytes: gloo has no collectives for some dtypes (bool among them).
            self.wait(self.joined.broadcast(tensor.detach().view(-1).view(torch.uint8), source), tensor.device)
            copies_sent = broadcast_copies_sent(self.rank, source, self.size)
            with self.traffic.control():
                self.traffic.count(tensor.nbytes * copies_sent, tensor.nbytes * (self.rank != source))
        return tensor

    def wait(self, work: Work, device: torch.device) -> None:
        """Wait for a collective of any group, of tensors on ``device``; LearnerLostError where a learner is lost meanwhile."""
        if self.watch is None or device.type == "cuda":
            work.wait()
        else:
            wait_for_collective(work, self.watch.check)

    def wait_between_two(self, action: Callable[[], None]) -> None:
        """Run ``action``, which waits for messages between learners; LearnerLostError where one is lost meanwhile."""
        if self.watch is None:
            action()
        else:
            self.watch.waiter.wait(action, self.watch.check)

    def average(self, tensor: Tensor) -> Tensor:
        """Mean over learners of a contiguous floating tensor, in place; where all hold the same, exactly that."""
        if self.size > 1:
            reference = self.broadcast(tensor.clone(), source=0)
            self.all_reduce_sum(tensor.sub_(reference)).div_(self.size).add_(reference)
        return tensor

    def gather(self, value: int) -> list[int]:
        """The values of all learners, by rank."""
        values = torch.zeros(self.size, dtype=torch.int64)
        values[self.rank] = value
        return self.all_reduce_sum(values).tolist()

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true on any learner: lets all of them stop together when one has met an error."""
        return any(self.gather(int(flag)))

    def first_failure(self, line: str | None) -> tuple[int, str] | None:
        """Lowest rank that has failed, and its line, so that all learners end with one reason; None if none has failed.

        ``line``: this learner's error, None if it has not failed.
        """
        failed = self.gather(int(line is not None))
        if not any(failed):
            return None
        text = torch.zeros(LONGEST_LINE, dtype=torch.uint8)
        own = encoded(line or "")
        text[: len(own)] = torch.tensor(list(own), dtype=torch.uint8)
        self.broadcast(text, source=failed.index(1))
        return failed.index(1), bytes(text.tolist()).partition(b"\n")[0].decode(errors="replace")

    def barrier(self) -> None:
        """Return when every learner has come here."""
        self.gather(0)

    def claim(self, name: str, number: int) -> int:
        """Claim the next ``number`` of the things called ``name`` that learners share; returns the first one's index.

        Not collective: every learner calls it as it likes. One message to the rendezvous store and back.
        """
        return int(self.joined.get_group_store().add(f"claimed/{name}", number)) - number

    def first_proposal(self, name: str, value: int) -> int:
        """The value that the first learner to call this has proposed for ``name``.

        Not collective: every learner calls it when it likes, and all get the same. One message to the rendezvous store
        and back.
        """
        if self.size == 1:
            return value
        return int(self.joined.get_group_store().compare_set(f"proposed/{name}", "", str(value)))

    def new_group(
        self, name: str, ranks: Sequence[int], on_device: bool = False, partners: Collection[int] | None = None
    ) -> ProcessGroup:
        """A gloo group of ``ranks`` with sockets of its own; called by exactly these learners.

        Its operations wait as long as those of the group of all learners.

        Args:
            on_device: it shall also take tensors of the learners' GPUs, if they have any; those travel by NCCL.
            partners: members, by place, with which this one alone exchanges messages, as they do with it: it is connected
                with these, and there are no collectives. None: all members are connected with each other.
        """
        timeout = self.joined._get_backend(torch.device("cpu")).options._timeout
        store = self.joined.get_group_store()
        # A later group of the same name must not find the addresses of an earlier one.
        made = store.add(f"{name}/made-by-{self.rank}", 1)
        store = PrefixStore(f"{name}/{made}", store)
        own = list(ranks).index(self.rank)
        with nullcontext() if self.watch is None else self.watch.connections.recording():
            group = gloo_group(store, own, len(ranks), timeout.total_seconds(), lazily=partners is not None)
            if self.watch is not None:
                self.watch.groups.append(group)
            if partners is not None:
                self.wait_between_two(partial(connect, group, partners))
        if self.watch is not None:
            self.watch.connections.close_doors()
        if on_device and self.device.type == "cuda":
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = timeout
            nccl = dist.ProcessGroupNCCL(PrefixStore("nccl", store), own, len(ranks), options)
            group._register_backend(self.device, ProcessGroup.BackendType.NCCL, nccl)
        return group

    @contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """Wraps this learner's work: an error caused by the loss of another learner becomes LearnerLostError."""
        with nullcontext() if self.watch is None else self.watch.naming_the_lost():
            yield

    @property
    def can_agree(self) -> bool:
        """Whether learners can agree to stop: there is one alone, or they watch each other."""
        return self.size == 1 or self.watch is not None

    @property
    def lost(self) -> bool:
        """Whether another learner is known to be lost. Not collective."""
        return self.watch is not None and self.watch.liveness.loss is not None

    def check(self) -> None:
        """Raise LearnerLostError if another learner is known to be lost. Not collective."""
        if self.watch is not None:
            self.watch.check()
