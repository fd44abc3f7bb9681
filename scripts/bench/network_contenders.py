"""The contenders of scripts/bench/network.py: schemes of this project and of torch that train the same perceptron."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from distributed.base import FlatBackend
from distributed.learners.world import World
from scripts.composition.backends import build_backend

LAYERS = 7
MAX_STALENESS = 64  # updates; one exchange takes some 25 steps at 200 Mbit/s, and learners shall not wait for it
SCALECOM_RATE = 400  # one entry in so many is sent
BUCKET_MB = 1  # less than a layer of the smallest model here
# Of weights, uncompressed, in the rounds that a learner initiates: those of both are 0.8 of 1 Gbit/s, in a step of 170 ms.
BYTES_PER_STEP = 9.1e6


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
        self.backend.begin_step(1.0, 1.0)
        self.model(x).square().mean().backward()
        self.backend.reduce_gradients(None)
        with self.backend.updating(apply=True):
            self.optimizer.step()
        self.backend.zero_grad()

    def settle(self, world: World) -> None:
        """Wait until no message of this scheme is in flight anywhere."""
        if self.backend is not None:
            self.backend.drain()
        world.barrier()

    def take(self, world: World) -> dict[str, float]:
        """The metrics of communication since the last call."""
        return world.traffic.take() if self.backend is None else self.backend.metrics()


def network(width: int) -> nn.Module:
    """A perceptron; its weights do not matter."""
    layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers)


def rounds_per_step(message_bytes: int) -> float:
    """Rounds of asynchronous gossip that each learner initiates; as many with compression, which is to be seen in the steps."""
    return min(1.0, BYTES_PER_STEP / message_bytes)


def contenders(world: World, width: int) -> dict[str, Contender]:
    """All schemes that are compared; all of them stay in memory and take turns."""
    message_bytes = sum(p.numel() * p.element_size() for p in network(width).parameters())
    asynchronous: Mapping[str, Any] = {
        "topology": "ring",
        "rounds_per_step": rounds_per_step(message_bytes),
        "max_staleness": MAX_STALENESS,
    }

    def ours(word: str, **changes: Any) -> Contender:
        backend, model = build_backend(word, world, **changes), network(width)
        wrapped = backend.wrap(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        backend.attach(optimizer)
        backend.synchronise(resumed=False)
        return Contender(wrapped, optimizer, backend, 0)

    def theirs(model: nn.Module, payload_bytes: int) -> Contender:
        return Contender(model, torch.optim.SGD(model.parameters(), lr=1e-6), None, payload_bytes)

    compressed = DistributedDataParallel(network(width), gradient_as_bucket_view=True)
    compressed.register_comm_hook(None, fp16_compress_hook)
    return {
        "compute": theirs(network(width), 0),
        "tcp": theirs(network(width), 0),  # computation while plain TCP fills the link
        "adpsgd": ours("adpsgd", **asynchronous),
        "adpsgd-compressed": ours("adpsgd", **asynchronous, compression="int8"),
        "dpsgd": ours("dpsgd", topology="ring"),
        "dpsgd-compressed": ours("dpsgd", topology="ring", compression="int4"),
        "delay_by_one": ours("delay_by_one"),
        "allreduce": ours("allreduce"),
        "scalecom": ours("scalecom", rate=SCALECOM_RATE),
        "scalecom-overlap": ours("scalecom", rate=SCALECOM_RATE, overlap=True, bucket_mb=BUCKET_MB),
        "local_topk": ours("local_topk", rate=SCALECOM_RATE),
        "half_allreduce": ours("half_allreduce", dtype="float16"),
        "powersgd-r1": ours("powersgd", rank=1),
        "powersgd-r4": ours("powersgd", rank=4),
        "ddp": theirs(DistributedDataParallel(network(width), gradient_as_bucket_view=True), message_bytes),
        "ddp_fp16": theirs(compressed, message_bytes // 2),
    }
