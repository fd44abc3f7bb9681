"""Simulated time: laws that hold for any scheme, and bytes that are those which real backends count."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from distributed.errors import UsageError
from distributed.gossip.topology import make_topology
from distributed.learners.world import World
from distributed.simulate.clock import Timing
from distributed.simulate.cluster import Cluster, SharedLinks
from distributed.simulate.model_size import ModelSize
from distributed.simulate.pace import Constant, LogNormal, Pace, Straggler
from distributed.simulate.timed import Alone, Averaged, Delayed, Grouped, Neighbours, StepStart
from distributed.simulate.words import WORDS, time_of, timed, work_seconds
from tests.schemes import SCHEMES

MODEL = ModelSize(((64, 64), (64,), (64, 32)))
NO_LINK: Mapping[str, float] = {
    "bytes_per_second": 1e30,
    "latency_seconds": 0.0,
    "inside_bytes_per_second": 1e30,
    "inside_latency_seconds": 0.0,
}


def cluster(learners: int, per_node: int = 1, **changes: float) -> Cluster:
    return Cluster(learners, per_node, **(NO_LINK | changes))


def settings_of(word: str, **changes: Any) -> Mapping[str, Any]:
    return SCHEMES[word].keys | changes


def time(word: str, where: Cluster, pace: Pace, steps: int = 20, **changes: Any) -> Timing:
    scheme = timed(word, settings_of(word, **changes), where)
    return time_of(scheme, where, MODEL, pace, steps=steps, work_seconds=0.0)


SEVERAL = [word for word in WORDS if word != "single"]


def test_every_backend_is_known() -> None:
    assert set(WORDS) == set(SCHEMES)


WAITED = {  # by learners of which one of eight is slow, per step; of four groups one has the slow one, in one of 31 steps
    "adpsgd": 0.0,
    "hierarchical_adpsgd": 4.5 / 2 / 31,
}


@pytest.mark.parametrize("word", SEVERAL)
def test_without_a_network_a_step_is_its_computation(word: str) -> None:
    where = cluster(8, per_node=2)
    assert time(word, where, Constant(0.5)).step_seconds == pytest.approx(0.5, rel=1e-6)
    slow = time(word, where, Straggler(Constant(0.5), 10.0))
    ideal = {"adpsgd": 8 / 7.1, "hierarchical_adpsgd": 4 / 3.1}.get(word, 10)
    assert slow.step_seconds == pytest.approx(0.5 * ideal, rel=0.05)
    # 7 of 8 learners wait for the tenth part of a step each, or none
    assert slow.waited_seconds == pytest.approx(WAITED.get(word, 7 / 8 * 4.5), abs=0.02)


def test_where_all_wait_for_the_slowest_a_step_is_the_longest_of_the_draws() -> None:
    pace, where = LogNormal(1.0, 0.3, seed=1), cluster(16)
    longest = sum(max(pace.seconds(learner, step) for learner in range(16)) for step in range(50)) / 50
    assert time("allreduce", where, pace, steps=50).step_seconds == pytest.approx(longest)
    alone = time_of(Alone(), where, MODEL, pace, steps=50, work_seconds=0.0).step_seconds
    of_neighbours, delayed = (time(word, where, pace, steps=50).step_seconds for word in ("dpsgd", "delay_by_one"))
    assert alone < of_neighbours < delayed < longest  # which begin a step without the others having ended the last one


def test_a_delay_travels_one_edge_of_the_ring_per_step() -> None:
    """Learners of dpsgd may be apart by one step along every edge."""
    scheme, where = Neighbours(make_topology("ring", 1)), cluster(9)
    begins = [0.0] * 9
    for step in range(5):
        computes = [11.0 if (learner, step) == (0, 0) else 1.0 for learner in range(9)]
        begins = scheme.ends(where, MODEL, StepStart(begins, computes, 0.0, step))
        away = [min(learner, 9 - learner) for learner in range(9)]
        assert begins == [11.0 + step - d if d <= step else step + 1.0 for d in away]


def test_a_slow_link_shows_behind_the_computation_that_overlaps_it() -> None:
    where = cluster(4, bytes_per_second=MODEL.nbytes / 2.0)  # a model in two seconds
    ring = 2 * 3 / 4 * 2.0
    found = {
        word: time(word, where, Constant(1.0)).step_seconds for word in ("dpsgd", "delay_by_one", "half_allreduce")
    }
    assert found["dpsgd"] == pytest.approx(4.0)  # two neighbours
    assert found["delay_by_one"] == pytest.approx(ring)
    one_bucket = time("allreduce", where, Constant(1.0)).step_seconds
    # Both with the weight of the step, 8 bytes.
    assert found["half_allreduce"] == pytest.approx(1.0 + ring / 2, rel=1e-3)
    assert one_bucket == pytest.approx(1.0 + ring, rel=1e-3)
    assert MODEL.buckets(0.005) == [4 * 64 * 32, 4 * 64 * 65]  # the last tensor first
    first_full = 1 / 3 + 2 / 3 * 64 * 32 / MODEL.parameters
    several = time_of(Averaged(0.005), where, MODEL, Constant(1.0), steps=5, work_seconds=0.0).step_seconds
    assert several == pytest.approx(first_full + ring, rel=1e-3)


def test_learners_of_a_node_share_its_interface() -> None:
    where = cluster(8, per_node=4, bytes_per_second=MODEL.nbytes / 1.0)
    spread = {rank: [(rank + 4) % 8] for rank in range(8)}  # all cross
    assert where.exchange_seconds(spread, MODEL.nbytes) == pytest.approx(dict.fromkeys(range(8), 4.0))
    ring = Neighbours(make_topology("ring", 1)).recipients(8, 0)
    seconds = where.exchange_seconds(ring, MODEL.nbytes)
    assert [seconds[rank] for rank in range(8)] == pytest.approx([2.0, 0, 0, 2.0, 2.0, 0, 0, 2.0])
    links = SharedLinks(where, MODEL.nbytes)
    assert [links.ends(0.0, 0, 4), links.ends(0.0, 1, 5), links.ends(0.0, 2, 3)] == pytest.approx([1.0, 2.0, 0.0])


def test_groups_gather_what_their_members_exchanged() -> None:
    """Three members of each of three groups send a third of the model each; a node's interface carries the whole."""
    model = ModelSize(((90, 90),))
    where = cluster(9, per_node=3, bytes_per_second=model.nbytes, inside_bytes_per_second=model.nbytes)
    scheme = Grouped(make_topology("ring", 1), 3, bucket_mb=25)
    ends = scheme.ends(where, model, StepStart([0.0] * 9, [1.0] * 9, 0.0, 0))
    inside = 1.0 + 2 * 2 / 3  # gradients after backward
    between = 2.0  # to two groups
    assert ends == pytest.approx([max(inside, between) + 2 / 3] * 9)


@pytest.mark.parametrize("word", ["hierarchical", "random_k", "scalecom", "dpsgd"])
def test_bytes_are_those_that_the_real_backend_counts(run_learners, train_steps, word: str) -> None:
    """Beside the weight of each step, of which averages of gradients sum 8 bytes; sizes are multiples of a chunk."""
    learners, steps, changes = 4, 4, {"rate": 8, "group_size": 2}
    known = {key: value for key, value in changes.items() if key in SCHEMES[word].keys}

    def run(world: World) -> float:
        backend, model = SCHEMES[word].build(world, **known), nn.Linear(32, 16)
        wrapped = backend.wrap(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        backend.attach(optimizer)
        backend.synchronise(resumed=False)
        backend.metrics()
        list(train_steps(backend, wrapped, optimizer, [[(torch.ones(2, 32), torch.ones(2, 16))]] * steps, None))
        figures = backend.metrics()
        backend.close()
        return figures["comm/bytes_sent"] - figures["comm/control_bytes_sent"]

    counted = sum(run_learners(learners, run)) / learners / steps
    model = ModelSize.of(nn.Linear(32, 16))
    scheme = timed(word, settings_of(word, **known), cluster(learners))
    assert scheme.bytes_sent(cluster(learners), model) == pytest.approx(counted, abs=1)


def test_a_model_of_which_only_the_size_is_known_has_that_size() -> None:
    assert ModelSize.square(43_000_000).parameters == 43_000_000
    assert ModelSize.square(5).shapes == ((5,),)
    assert ModelSize.of(nn.Linear(3, 4)).parameters == 16
    assert sum(ModelSize.square(43_000_000).buckets(25)) == 4 * 43_000_000


def test_staleness_of_a_slow_link_is_counted_up_to_its_bound() -> None:
    where = cluster(4, bytes_per_second=MODEL.nbytes / 3.0)
    timing = time("adpsgd", where, Constant(1.0), steps=60, max_staleness=5, rounds_per_step=1.0)
    assert 1 <= timing.staleness_mean <= max(timing.staleness) <= 5
    assert timing.bytes_sent < 2 * MODEL.nbytes * 1.0
    assert sum(timing.units) == 240


def test_work_of_its_own_adds_to_every_step_and_scales_with_the_machine() -> None:
    slow, fast = (work_seconds("scalecom", {}, MODEL, speed) for speed in (1.0, 4.0))
    assert slow == pytest.approx(4 * fast)
    low, high = (work_seconds("powersgd", {"rank": rank}, MODEL, 1.0) for rank in (1, 4))
    assert low < high
    worked = time_of(Delayed(), cluster(2), MODEL, Constant(1.0), steps=5, work_seconds=0.25)
    assert worked.step_seconds == pytest.approx(1.25)
    assert worked.waited_seconds == pytest.approx(0.0)


def test_what_the_simulator_does_not_know_is_refused_in_one_line() -> None:
    for word, changes, message in (
        ("scalecom", {"rate": "auto"}, "rate=auto depends on the model's uses"),
        ("hierarchical", {"group_size": 3}, "group_size=3 must divide the number of learners, got 8"),
        ("single", {}, "trains with one learner, got 8"),
    ):
        with pytest.raises(UsageError, match=message):
            timed(word, settings_of(word, **changes), cluster(8))
    with pytest.raises(UsageError, match="backend=gossip: the simulator knows single"):
        timed("gossip", {}, cluster(8))
    with pytest.raises(UsageError, match="do not fill nodes of 8"):
        cluster(12, per_node=8)


@pytest.mark.parametrize("word", ["dpsgd", "delay_by_one", "adpsgd"])
def test_compressed_gossip_sends_the_bytes_of_its_code(word: str) -> None:
    where, model = cluster(4), ModelSize(((64, 64),))
    sent = {}
    for compression, rate in (("none", 8), ("int8", 8), ("topk", 8)):
        scheme = timed(word, settings_of(word, compression=compression, compression_rate=rate), where)
        sent[compression] = time_of(scheme, where, model, Constant(1.0), steps=20, work_seconds=0.0).bytes_sent
    whole = 3 * model.nbytes if word == "delay_by_one" else sent["none"]  # each then hears three others
    assert sent["int8"] / whole == pytest.approx(1 / 4 + 1 / 256)  # and a scale for 256 entries
    assert sent["topk"] / whole == pytest.approx(3 / 32)  # three bytes for eight entries of four
