"""One learner of scripts/bench/network.py, which starts it inside its network namespace."""

import json
import socket
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from distributed.allreduce import AllReduce
from distributed.base import FlatBackend
from distributed.delay_by_one import DelayByOne
from distributed.gossip import DecentralisedSgd
from distributed.launch import World, place, start, stop
from distributed.transport import NeighbourExchange
from scripts.bench.namespaces import limit_bandwidth

WIDTH, LAYERS = 1280, 7  # 11.5 million parameters
COMPUTE_SECONDS = 0.17  # of one step, which the batch size is chosen for
TCP_PORT = 29578
MIB = 1 << 20


@dataclass(slots=True)
class Contender:
    """One way to train the same model on the same data."""

    model: nn.Module  # to call
    optimizer: torch.optim.Optimizer
    backend: FlatBackend | None  # None: the model communicates by itself, or not at all
    payload_bytes: int  # sent per step by each learner, where no backend counts them

    def step(self, x: Tensor) -> None:
        """Forward, backward, agreement, update."""
        if self.backend is None:
            self.model(x).square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=False)
            return
        self.backend.begin_step(1.0)
        self.model(x).square().mean().backward()
        self.backend.reduce_gradients(None)
        with self.backend.updating(apply=True):
            self.optimizer.step()
        self.backend.zero_grad()


def network() -> nn.Module:
    """A perceptron; its weights do not matter."""
    layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(*layers)


def contenders(world: World) -> dict[str, Contender]:
    """Everything that is compared; all of them stay in memory and take turns."""
    message_bytes = sum(p.numel() * p.element_size() for p in network().parameters())

    def ours(backend: FlatBackend) -> Contender:
        model = network()
        wrapped = backend.wrap(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        backend.attach(optimizer)
        backend.synchronise(resumed=False)
        return Contender(wrapped, optimizer, backend, 0)

    def theirs(model: nn.Module, payload_bytes: int) -> Contender:
        return Contender(model, torch.optim.SGD(model.parameters(), lr=1e-6), None, payload_bytes)

    compressed = DistributedDataParallel(network(), gradient_as_bucket_view=True)
    compressed.register_comm_hook(None, fp16_compress_hook)
    return {
        "compute": theirs(network(), 0),
        "dpsgd": ours(DecentralisedSgd(topology="ring", seed=1, mix_moments=False, world=world)),
        "delay_by_one": ours(DelayByOne(mix_moments=False, world=world)),
        "allreduce": ours(AllReduce(bucket_mb=25, world=world)),
        "ddp": theirs(DistributedDataParallel(network(), gradient_as_bucket_view=True), message_bytes),
        "ddp_fp16": theirs(compressed, message_bytes // 2),
    }


def seconds_of(action: Callable[[], object]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def choose_batch(world: World, contender: Contender) -> Tensor:
    """Inputs with which a step computes for about COMPUTE_SECONDS, while all learners compute."""
    trial = 32
    contender.step(torch.randn(trial, WIDTH))
    seconds = min(seconds_of(lambda: contender.step(torch.randn(trial, WIDTH))) for _ in range(5))
    wanted = torch.tensor([trial * COMPUTE_SECONDS / seconds])
    return torch.randn(max(1, int(world.average(wanted).item())), WIDTH)


@contextmanager
def connection(rank: int, address: str) -> Iterator[socket.socket]:
    """Plain TCP between the two learners."""
    if rank == 0:
        with socket.create_server((address, TCP_PORT)) as server, server.accept()[0] as joined:
            yield joined
        return
    for _ in range(100):
        try:
            joined = socket.create_connection((address, TCP_PORT))
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    with joined:
        yield joined


def tcp_seconds(joined: socket.socket, message_bytes: int) -> float:
    """How long a message each way takes, both at once."""
    outgoing, incoming = bytes(message_bytes), memoryview(bytearray(MIB))

    def exchange() -> None:
        sender = threading.Thread(target=joined.sendall, args=(outgoing,))
        sender.start()
        left = message_bytes
        while left:
            left -= joined.recv_into(incoming, min(left, MIB))
        sender.join()

    return seconds_of(exchange)


def interface_bytes(interface: str) -> int:
    """Bytes that left the interface so far, headers included."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == interface:
            return int(counters.split()[8])
    raise RuntimeError(f"no interface {interface} in /proc/net/dev")


class Measurement:
    """Takes turns between contenders, transport alone and plain TCP at one bandwidth."""

    def __init__(self, world: World, interface: str, joined: socket.socket, message: Tensor) -> None:
        self.world = world
        self.interface = interface
        self.joined = joined
        self.message = message
        self.exchange = NeighbourExchange(
            group=world.new_group("bench-exchange", range(2)), learners=range(2), traffic=world.traffic
        )
        self.reduction = world.new_group("bench-reduction", range(2))
        self.transports = {"dpsgd": self._exchange, "delay_by_one": self._reduce}

    def _exchange(self) -> None:
        others = [1 - self.world.rank]
        self.exchange.start([self.message], others, others)
        self.exchange.wait()

    def _reduce(self) -> None:
        self.reduction.allreduce([self.message]).wait()

    def run(self, found: dict[str, Contender], x: Tensor, turns: int, steps: int) -> dict[str, Any]:
        """Figures of every contender, by kind."""
        figures: dict[str, Any] = defaultdict(lambda: defaultdict(list))
        goodput = []
        for _ in range(turns):
            self.world.barrier()
            goodput.append(self.message.nbytes / tcp_seconds(self.joined, self.message.nbytes))
            for name, transport in self.transports.items():
                self.world.barrier()
                figures["exchange_seconds"][name].append(seconds_of(transport))
            for name, contender in found.items():
                self._turn(name, contender, x, steps, figures)
        return {**{kind: dict(values) for kind, values in figures.items()}, "goodput_bytes_per_second": goodput}

    def _turn(self, name: str, contender: Contender, x: Tensor, steps: int, figures: dict[str, Any]) -> None:
        self.world.barrier()
        contender.step(x)  # pipelines fill, buckets are regrouped
        self.world.barrier()
        self.world.traffic.take()
        before = interface_bytes(self.interface)
        figures["step_seconds"][name] += [seconds_of(lambda: contender.step(x)) for _ in range(steps)]
        counted = self.world.traffic.take()
        sent_bytes = counted["comm/bytes_sent"] if contender.backend else steps * contender.payload_bytes
        payload_bytes = sent_bytes - (counted["comm/control_bytes_sent"] if contender.backend else 0)
        figures["payload_bytes"][name].append(payload_bytes / steps)
        figures["rounds_per_step"][name].append(counted["comm/rounds"] / steps)
        self.world.barrier()
        figures["counted_bytes"][name].append(sent_bytes)
        figures["interface_bytes"][name].append(interface_bytes(self.interface) - before)


def main(interface: str, address: str, output: str, turns: str, steps: str, *bandwidths: str) -> None:
    """Measure at every bandwidth and write the record."""
    world = start(place(), timeout_seconds=120, patience_seconds=None, device="cpu", threads=1)
    found = contenders(world)
    x = choose_batch(world, found["compute"])
    message = torch.zeros(sum(p.numel() for p in found["compute"].model.parameters()))
    record: dict[str, Any] = {"message_bytes": message.nbytes, "batch": len(x)}
    with connection(world.rank, address) as joined:
        measurement = Measurement(world, interface, joined, message)
        for bandwidth in bandwidths:
            limit_bandwidth(interface, bandwidth)
            record[bandwidth] = measurement.run(found, x, int(turns), int(steps))
    Path(output).write_text(json.dumps(record))
    stop(world)


if __name__ == "__main__":
    main(*sys.argv[1:])
