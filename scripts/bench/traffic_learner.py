"""One learner of scripts/bench/traffic.py, which starts it inside its network namespace."""

import json
import sys
import time
from pathlib import Path

import torch

from distributed.learners.environment import place
from distributed.learners.launch import start, stop
from distributed.learners.world import World
from scripts.bench.namespaces import interface_bytes
from scripts.bench.network_contenders import Contender, contenders

ROWS = 4  # rows of the perceptron's input; the computation does not matter
SETTLED_SECONDS = 0.3  # time for retransmissions and acknowledgements


def main(interface: str, output: str, width: str, steps: str) -> None:
    """Take steps of every scheme that counts its bytes, and write its counts and the interface's."""
    world = start(place(), join_seconds=120, timeout_seconds=120, patience_seconds=None, device="cpu", threads=1)
    torch.manual_seed(0)
    x = torch.randn(ROWS, int(width))
    found = {name: each for name, each in contenders(world, int(width)).items() if each.backend is not None}
    record = {name: counted(contender, x, int(steps), interface, world) for name, contender in found.items()}
    Path(output).write_text(json.dumps(record))
    for contender in found.values():
        assert contender.backend is not None
        contender.backend.close()
    stop(world)


def counted(contender: Contender, x: torch.Tensor, steps: int, interface: str, world: World) -> dict[str, float]:
    """Bytes sent by this learner, settling included on both sides."""
    contender.step(x)  # buckets are regrouped
    settled(contender, world)
    contender.take(world)
    before = interface_bytes(interface)
    for _ in range(steps):
        contender.step(x)
    settled(contender, world)
    sent = interface_bytes(interface) - before
    return {"counted": contender.take(world)["comm/bytes_sent"], "interface": sent}


def settled(contender: Contender, world: World) -> None:
    """Wait until nothing is in flight, neither here nor in the kernel."""
    contender.settle(world)
    time.sleep(SETTLED_SECONDS)
    world.barrier()
    time.sleep(SETTLED_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
