"""How long steps take where groups of learners gossip in the background: ``hierarchical_adpsgd``.

A group is one learner of ``adpsgd`` (clock.py) that computes as long as its slowest member, averages gradients while
backward still runs, and gathers what came in. Its members' shares add up to a whole message on the interface of their node.
"""

from dataclasses import dataclass, replace

from distributed.errors import UsageError
from distributed.learners.traffic import all_reduce_bytes
from distributed.simulate.clock import Gossip, Timing, time_asynchronous
from distributed.simulate.cluster import Cluster
from distributed.simulate.model_size import ModelSize
from distributed.simulate.pace import Pace
from distributed.simulate.timed import bucketed_end


@dataclass(frozen=True, slots=True)
class GroupedGossip:
    """``hierarchical_adpsgd``: gossip between groups of consecutive learners of one node."""

    between: Gossip
    group_size: int
    bucket_mb: float


@dataclass(frozen=True, slots=True)
class GroupPace(Pace):
    """A group's step: its members' computation and all that they do for each other."""

    pace: Pace
    cluster: Cluster
    members: int
    buckets: list[int]
    gather_seconds: float

    def seconds(self, learner: int, unit: int) -> float:
        first = learner * self.members
        computes = [self.pace.seconds(member, unit) for member in range(first, first + self.members)]
        begins = [0.0] * self.members
        averaged = bucketed_end(self.cluster, self.buckets, begins, computes, self.members, crossing=False)
        return averaged + self.gather_seconds


def time_groups(
    scheme: GroupedGossip, cluster: Cluster, model: ModelSize, pace: Pace, *, steps: int, work_seconds: float
) -> Timing:
    """Time ``steps`` units of each learner; ``work_seconds``: of an exchange of the whole model, at each of its ends.

    Raises:
        UsageError: a group spans nodes.
    """
    n, groups = scheme.group_size, cluster.learners // scheme.group_size
    if n > 1 and cluster.learners_per_node % n:
        raise UsageError(
            f"groups of {n} learners span nodes of {cluster.learners_per_node}, which is not simulated for "
            "hierarchical_adpsgd; set backend.group_size to a divisor of the learners per node"
        )
    buckets = model.buckets(scheme.bucket_mb)
    share_bytes = model.nbytes / n
    gather = cluster.all_gather_seconds(share_bytes, n, crossing=False) if groups > 1 else 0.0
    of_groups = replace(cluster, learners=groups, learners_per_node=max(1, cluster.learners_per_node // n))
    group_pace = GroupPace(pace, cluster, n, buckets, gather)
    found = time_asynchronous(scheme.between, of_groups, model, group_pace, steps=steps, work_seconds=work_seconds / n)
    idle = [  # what a member does not compute in a step of its group
        group_pace.seconds(group, unit) - sum(pace.seconds(each, unit) for each in range(group * n, group * n + n)) / n
        for group, units in enumerate(found.units)
        for unit in range(units)
    ]
    inside = sum(all_reduce_bytes(each, n) for each in buckets) + (n - 1) * share_bytes * (groups > 1)
    return replace(
        found,
        waited_seconds=found.waited_seconds + sum(idle) / len(idle),
        bytes_sent=found.bytes_sent / n + inside,
        units=[each for each in found.units for _ in range(n)],
    )
