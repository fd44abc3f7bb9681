"""The contenders of scripts/bench/network.py: schemes of this project and of torch that train the same perceptron."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from distributed.base import FlatBackend
from distributed.gossip.codes import Compression
from distributed.learners.launch import World
from distributed.schemes.adpsgd import AsynchronousGossip
from distributed.schemes.allreduce import AllReduce
from distributed.schemes.delay_by_one import DelayByOne
from distributed.schemes.dpsgd import DecentralisedSgd
from distributed.schemes.half_allreduce import HalfAllReduce
from distributed.schemes.local_topk import LocalTopK
from distributed.schemes.powersgd import PowerSgd
from distributed.schemes.scalecom import ScaleCom

LAYERS = 7
MAX_STALENESS = 64  # updates; one exchange takes some 25 steps at 200 Mbit/s, and learners shall not wait for it
SCALECOM_RATE = 400  # one entry in so many is sent
BUCKET_MB = 1  # less than a layer of the smallest model here
# That each learner initiates under asynchronous gossip: both, 0.8 of what the faster link has room for.
ROUNDS_PER_STEP = 0.22


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


def contenders(world: World, width: int) -> dict[str, Contender]:
    """All schemes that are compared; all of them stay in memory and take turns."""
    message_bytes = sum(p.numel() * p.element_size() for p in network(width).parameters())

    def ours(backend: FlatBackend) -> Contender:
        model = network(width)
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
        "adpsgd": ours(asynchronous_gossip(world, "none")),
        "adpsgd-compressed": ours(asynchronous_gossip(world, "int8")),
        "dpsgd": ours(gossip(world, "none")),
        "dpsgd-compressed": ours(gossip(world, "int4")),
        "delay_by_one": ours(DelayByOne(mix_moments=False, **compressed_by("none"), world=world)),
        "allreduce": ours(AllReduce(bucket_mb=25, world=world)),
        "scalecom": ours(scalecom(world, overlap=False)),
        "scalecom-overlap": ours(scalecom(world, overlap=True)),
        "local_topk": ours(local_topk(world)),
        "half_allreduce": ours(HalfAllReduce(dtype="float16", world=world)),
        "powersgd-r1": ours(
            PowerSgd(rank=1, min_rate=2.0, warmup_steps=0, refresh_moments=None, refresh_batches=1, seed=1, world=world)
        ),
        "powersgd-r4": ours(
            PowerSgd(rank=4, min_rate=2.0, warmup_steps=0, refresh_moments=None, refresh_batches=1, seed=1, world=world)
        ),
        "ddp": theirs(DistributedDataParallel(network(width), gradient_as_bucket_view=True), message_bytes),
        "ddp_fp16": theirs(compressed, message_bytes // 2),
    }


def scalecom(world: World, overlap: bool) -> ScaleCom:
    """Compressed gradients; with overlap, each bucket holds one layer."""
    return ScaleCom(
        rate=SCALECOM_RATE,
        rates=[],
        values="full",
        beta=1.0,
        warmup_steps=0,
        refresh_moments=None,
        refresh_batches=1,
        overlap=overlap,
        bucket_mb=BUCKET_MB,
        world=world,
    )


def local_topk(world: World) -> LocalTopK:
    """Compressed gradients for which every learner selects its own entries."""
    return LocalTopK(
        rate=SCALECOM_RATE,
        rates=[],
        values="full",
        beta=1.0,
        warmup_steps=0,
        refresh_moments=None,
        refresh_batches=1,
        world=world,
    )


def gossip(world: World, compression: Compression) -> DecentralisedSgd:
    """DPSGD on a ring."""
    return DecentralisedSgd(topology="ring", seed=1, mix_moments=False, **compressed_by(compression), world=world)


def compressed_by(compression: Compression) -> dict[str, Any]:
    """The options of compressed gossip, with defaults for all but the code."""
    return {"compression": compression, "compression_rate": 8, "consensus_step": None}


def asynchronous_gossip(world: World, compression: Compression) -> AsynchronousGossip:
    """ADPSGD on a ring, with as many rounds whatever the compression: what it saves is to be seen in the steps."""
    return AsynchronousGossip(
        topology="ring",
        rounds_per_step=ROUNDS_PER_STEP,
        max_staleness=MAX_STALENESS,
        continuous_momentum=False,
        mix_moments=False,
        **compressed_by(compression),
        seed=1,
        world=world,
    )
