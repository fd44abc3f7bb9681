"""What every word of ``backend=`` is to the clock, and how much of a learner's time it takes for itself.

The constants are seconds per byte of the model on the machine of docs/measured/network.md (one thread of an AMD EPYC, Zen 3),
for copies, selection and folding; scripts/bench/simulator.py fits them to docs/results/network.json and says how well
they predict. ``adpsgd``'s are per byte that a learner sends, which includes the kernel's part of it.
"""

from collections.abc import Mapping
from typing import Any

from distributed.errors import UsageError
from distributed.gossip.codes import Code, code_of
from distributed.gossip.topology import Complete, make_topology
from distributed.simulate.clock import Gossip, Timing, time_asynchronous, time_lockstep
from distributed.simulate.cluster import Cluster
from distributed.simulate.model_size import ModelSize
from distributed.simulate.pace import Pace
from distributed.simulate.timed import Alone, Averaged, Delayed, Grouped, Neighbours, Timed
from distributed.simulate.timed_compressed import CommonEntries, Half, LowRank, OwnEntries, SparseSizes
from distributed.simulate.timed_groups import GroupedGossip, time_groups

WORDS = (
    "single", "allreduce", "ssgd_noise", "half_allreduce", "scalecom", "local_topk", "random_k", "powersgd",
    "dpsgd", "delay_by_one", "hierarchical", "adpsgd", "hierarchical_adpsgd",
)  # fmt: skip
Settings = Mapping[str, Any]  # the keys of conf/backend/<word>.yaml

WORK_SECONDS_PER_BYTE: Mapping[str, float] = {
    "adpsgd": 3.7e-9, "dpsgd": 1.59e-9, "delay_by_one": 1.35e-9, "allreduce": 1.33e-9, "half_allreduce": 2.89e-9,
    "scalecom": 1.68e-9, "local_topk": 1.76e-9, "powersgd": 1.76e-9,
}  # fmt: skip
WORK_PER_RANK = 0.41e-9  # of powersgd, beside the above, for each rank
LIKE = {
    "ssgd_noise": "allreduce",
    "random_k": "scalecom",
    "hierarchical": "dpsgd",
    "hierarchical_adpsgd": "adpsgd",
}  # not measured by themselves


def timed(word: str, settings: Settings, cluster: Cluster) -> Timed | Gossip | GroupedGossip:
    """The scheme of a word with the settings of its configuration.

    Raises:
        UsageError: a word or a setting that the simulator does not know.
    """
    if word not in WORDS:
        raise UsageError(f"backend={word}: the simulator knows {', '.join(WORDS)}")
    if word == "single" and cluster.learners > 1:
        raise UsageError(f"backend=single trains with one learner, got {cluster.learners}; set learners=1")
    if "topology" in settings:
        return _of_topology(word, settings, cluster)
    if word in ("scalecom", "random_k", "local_topk"):
        return _sparse(word, settings)
    if word in ("allreduce", "ssgd_noise"):
        return Averaged(settings["bucket_mb"])
    if word == "powersgd":
        return LowRank(settings["rank"], settings["min_rate"])
    if word == "delay_by_one" and (code := _code(settings)) is not None:
        return Neighbours(Complete(), code)  # each hears all others
    plain: dict[str, Timed] = {"single": Alone(), "delay_by_one": Delayed(), "half_allreduce": Half()}
    return plain[word]


def _code(settings: Settings) -> Code | None:
    """How messages of weights are compressed."""
    return code_of(settings.get("compression", "none"), settings.get("compression_rate", 1))


def _of_topology(word: str, settings: Settings, cluster: Cluster) -> Timed | Gossip | GroupedGossip:
    topology = make_topology(settings["topology"], settings["seed"])
    if word == "dpsgd":
        return Neighbours(topology, _code(settings))
    gossip = None
    if word in ("adpsgd", "hierarchical_adpsgd"):
        gossip = Gossip(topology, settings["rounds_per_step"], settings["max_staleness"], _code(settings))
    if gossip is not None and word == "adpsgd":
        return gossip
    size = settings["group_size"] or min(cluster.learners_per_node, cluster.learners)
    if cluster.learners % size:
        raise UsageError(f"backend.group_size={size} must divide the number of learners, got {cluster.learners}")
    bucket_mb = settings["bucket_mb"]
    return Grouped(topology, size, bucket_mb) if gossip is None else GroupedGossip(gossip, size, bucket_mb)


def _sparse(word: str, settings: Settings) -> Timed:
    if settings["rate"] == "auto":
        raise UsageError(
            "backend.rate=auto depends on the model's uses, which the simulator does not know; give a number"
        )
    sizes = SparseSizes(settings["rate"], 2 if settings["values"] == "bfloat16" else 4)
    return OwnEntries(sizes) if word == "local_topk" else CommonEntries(sizes, broadcasts=word == "scalecom")


def time_of(
    scheme: Timed | Gossip | GroupedGossip,
    cluster: Cluster,
    model: ModelSize,
    pace: Pace,
    *,
    steps: int,
    work_seconds: float,
) -> Timing:
    """Time the steps of a scheme; ``work_seconds``: of its own, per step, or per exchange at each end under ``adpsgd``."""
    if isinstance(scheme, GroupedGossip):
        return time_groups(scheme, cluster, model, pace, steps=steps, work_seconds=work_seconds)
    if isinstance(scheme, Gossip):
        return time_asynchronous(scheme, cluster, model, pace, steps=steps, work_seconds=work_seconds)
    return time_lockstep(scheme, cluster, model, pace, steps=steps, work_seconds=work_seconds)


def work_seconds(word: str, settings: Settings, model: ModelSize, speed: float) -> float:
    """What the scheme itself computes per step or exchange, on a learner ``speed`` times as fast as the one measured."""
    per_byte = WORK_SECONDS_PER_BYTE.get(LIKE.get(word, word), 0.0)
    if word == "powersgd":
        per_byte += WORK_PER_RANK * settings["rank"]
    return per_byte * model.nbytes / speed
