"""One learner of scripts/bench/network.py, which starts it inside its network namespace."""

import json
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distributed.gossip.neighbours import NeighbourExchange
from distributed.learners.environment import place
from distributed.learners.launch import start, stop
from distributed.learners.world import World
from scripts.bench import plain_tcp
from scripts.bench.namespaces import interface_bytes, limit_bandwidth
from scripts.bench.network_contenders import Contender, contenders, rounds_per_step

ASYNCHRONOUS = ("adpsgd", "adpsgd-compressed", "tcp")  # whose messages last as long as several steps
COMPUTE_SECONDS = 0.17  # computation time of one step, for which the batch size is chosen
COMPUTE_STEPS = 5  # steps of computation alone or beside plain TCP, for each step of a scheme


@dataclass(frozen=True, slots=True)
class Plan:
    """The extent of the measurement."""

    width: int  # width of the perceptron's layers
    turns: int
    steps: int  # steps of a scheme per turn
    exchanges: int  # one after the other, that an asynchronous scheme has time for per turn


def seconds_of(action: Callable[[], object]) -> float:
    """Time a call, in seconds."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def choose_batch(world: World, contender: Contender, width: int) -> Tensor:
    """Inputs with which a step computes for about COMPUTE_SECONDS, while all learners compute."""
    x = torch.randn(64, width)
    for _ in range(3):
        world.barrier()
        seconds = statistics.median(seconds_of(partial(contender.step, x)) for _ in range(6))
        wanted = world.average(torch.tensor([len(x) * COMPUTE_SECONDS / seconds])).item()
        x = torch.randn(max(1, round(wanted)), width)
    return x


class Measurement:
    """Takes turns between contenders, transport alone and plain TCP at one bandwidth."""

    def __init__(self, world: World, interface: str, address: str, found: dict[str, Contender]) -> None:
        self.world = world
        self.interface = interface
        self.address = address  # address of learner 0
        self.found = found
        self.message = torch.zeros(sum(p.numel() for p in found["compute"].model.parameters()))
        self.exchange = NeighbourExchange(
            group=world.new_group("bench-exchange", range(2)), learners=range(2), world=world
        )
        self.reduction = world.new_group("bench-reduction", range(2))
        self.transports = {
            "adpsgd": self._gossip,
            "dpsgd": lambda: seconds_of(self._exchange),
            "delay_by_one": lambda: seconds_of(self._reduce),
        }

    def _exchange(self) -> None:
        others = [1 - self.world.rank]
        self.exchange.start([self.message], others, others)
        self.exchange.wait()

    def _reduce(self) -> None:
        self.reduction.allreduce([self.message]).wait()

    def _gossip(self) -> float:
        """Seconds per message of exchanges by the background threads, snapshots and mixing included."""
        contender = self.found["adpsgd"]
        contender.take(self.world)

        def rounds() -> None:
            assert contender.backend is not None
            for _ in range(math.ceil(1 / rounds_per_step(self.message.nbytes))):
                contender.backend.begin_step(1.0, 1.0)
            time.sleep(0.05)  # both learners' threads begin a round, which takes longer than this
            contender.backend.drain()

        seconds = seconds_of(rounds)
        messages = payload(contender.take(self.world)) / self.message.nbytes
        if not messages:
            raise RuntimeError("no exchange of asynchronous gossip began in time; is the machine overloaded?")
        return seconds / messages

    def run(self, x: Tensor, plan: Plan) -> dict[str, Any]:
        """Measure every contender; returns the values by kind."""
        figures: dict[str, Any] = defaultdict(lambda: defaultdict(list))
        goodput = []
        for _ in range(plan.turns):
            self.world.barrier()
            with plain_tcp.connection(self.world.rank, self.address) as joined:
                goodput.append(
                    self.message.nbytes / seconds_of(lambda: plain_tcp.exchange(joined, self.message.nbytes))
                )
            for name, transport in self.transports.items():
                self.world.barrier()
                figures["exchange_seconds"][name].append(transport())
            for name in self.found:
                steps = COMPUTE_STEPS * plan.steps if name in ("compute", "tcp") else plan.steps
                asynchronous_seconds = plan.exchanges * self.message.nbytes / goodput[-1]
                self._turn(name, x, steps, asynchronous_seconds if name.startswith("adpsgd") else 0.0, figures)
        return {
            **{kind: dict(values) for kind, values in figures.items()},
            "goodput_bytes_per_second": goodput,
            "batch": len(x),
        }

    @contextmanager
    def _beside(self, name: str) -> Iterator[Callable[[], int]]:
        """The traffic beside a contender's computation; gives a function that returns the bytes it has sent so far."""
        if name == "tcp":
            with plain_tcp.saturated(self.world.rank, self.address) as sent:
                yield sent
        else:
            yield lambda: 0

    def _turn(self, name: str, x: Tensor, least_steps: int, least_seconds: float, figures: dict[str, Any]) -> None:
        contender = self.found[name]
        self.world.barrier()
        with self._beside(name) as sent:
            contender.step(x)  # pipelines fill, buckets are regrouped
            contender.settle(self.world)
            contender.take(self.world)
            before, sent_before = interface_bytes(self.interface), sent()
            started, steps = time.perf_counter(), 0
            while steps < least_steps or time.perf_counter() - started < least_seconds:
                contender.step(x)
                steps += 1
            figures["step_seconds"][name].append((time.perf_counter() - started) / steps)
            inside = contender.take(self.world)  # asynchronous schemes: exchanges that began and ended inside
            by_itself = steps * contender.payload_bytes + sent() - sent_before  # bytes that no backend has counted
            contender.settle(self.world)
        counted = inside["comm/bytes_sent"] + contender.take(self.world)["comm/bytes_sent"]
        sent_per_step = (payload(inside) + by_itself) / steps
        figures["payload_bytes"][name].append(sent_per_step)
        # With two learners a round of the ring is one message each way, whoever began it.
        messages = sent_per_step * inside.get("comm/compression_ratio", 1.0) / self.message.nbytes
        rounds = messages if name in ASYNCHRONOUS else inside["comm/rounds"] / steps
        figures["rounds_per_step"][name].append(rounds)
        figures["steps"][name].append(steps)
        figures["counted_bytes"][name].append(counted + by_itself)
        figures["interface_bytes"][name].append(interface_bytes(self.interface) - before)


def payload(figures: dict[str, float]) -> float:
    """Number of payload bytes that a step's exchange sends."""
    return figures["comm/bytes_sent"] - figures["comm/control_bytes_sent"]


def main(interface: str, output: str, address: str, plan: str, *bandwidths: str) -> None:
    """Measure at every bandwidth and write the record; ``plan`` is a Plan in JSON."""
    world = start(place(), join_seconds=120, timeout_seconds=120, patience_seconds=None, device="cpu", threads=1)
    planned = Plan(**json.loads(plan))
    found = contenders(world, planned.width)
    measurement = Measurement(world, interface, address, found)
    record: dict[str, Any] = {"message_bytes": measurement.message.nbytes}
    for bandwidth in bandwidths:
        limit_bandwidth(interface, bandwidth)
        x = choose_batch(world, found["compute"], planned.width)
        record[bandwidth] = measurement.run(x, planned)
    Path(output).write_text(json.dumps(record))
    for contender in found.values():
        if contender.backend is not None:
            contender.backend.close()
    stop(world)


if __name__ == "__main__":
    main(*sys.argv[1:])
