"""What every backend does around a step: start, resume, consensus, metrics, errors."""

import math

import pytest
import torch
from torch import nn

from distributed.allreduce import AllReduce
from distributed.async_gossip import AsynchronousGossip
from distributed.delay_by_one import DelayByOne
from distributed.gossip import DecentralisedSgd
from distributed.half_allreduce import HalfAllReduce
from distributed.hierarchical import Hierarchical
from distributed.launch import World
from distributed.local_topk import LocalTopK
from distributed.powersgd import PowerSgd
from distributed.random_k import RandomK
from distributed.scalecom import ScaleCom
from distributed.single import Single
from distributed.ssgd_noise import NoisyAllReduce
from scripts.startup import line_for_people


def hierarchical(world: World) -> Hierarchical:
    """Groups of two where their number is even, else of one."""
    size = 1 if world.size % 2 else 2
    return Hierarchical(group_size=size, topology="ring", seed=1, mix_moments=False, bucket_mb=1, world=world)


SPARSE = {"rate": 8, "rates": [], "values": "full", "beta": 1.0, "warmup_steps": 0}
BACKENDS = {
    "single": lambda world: Single(world=world),
    "allreduce": lambda world: AllReduce(bucket_mb=1, world=world),
    "ssgd_noise": lambda world: NoisyAllReduce(sigma=0.1, seed=1, bucket_mb=1, world=world),
    "scalecom": lambda world: ScaleCom(**SPARSE, overlap=False, bucket_mb=1, world=world),
    "local_topk": lambda world: LocalTopK(**SPARSE, world=world),
    "random_k": lambda world: RandomK(**SPARSE, seed=1, world=world),
    "powersgd": lambda world: PowerSgd(rank=2, min_rate=1.0, warmup_steps=0, seed=1, world=world),
    "half_allreduce": lambda world: HalfAllReduce(dtype="bfloat16", world=world),
    "dpsgd": lambda world, mix_moments=False: DecentralisedSgd(
        topology="ring", seed=1, mix_moments=mix_moments, world=world
    ),
    "delay_by_one": lambda world: DelayByOne(mix_moments=False, world=world),
    "hierarchical": hierarchical,
    "adpsgd": lambda world, mix_moments=False: AsynchronousGossip(
        topology="ring", rounds_per_step=1.0, max_staleness=4, mix_moments=mix_moments, seed=1, world=world
    ),
}
COMPRESSED = ["scalecom", "local_topk", "random_k", "powersgd", "half_allreduce"]
SYNCHRONOUS = ["allreduce", "ssgd_noise", *COMPRESSED]
LOCKSTEP_GOSSIP = ["dpsgd", "delay_by_one", "hierarchical"]
LOCKSTEP = SYNCHRONOUS + LOCKSTEP_GOSSIP
GOSSIP = [*LOCKSTEP_GOSSIP, "adpsgd"]
SEVERAL = SYNCHRONOUS + GOSSIP


def normalised(seed: int) -> nn.Module:
    """A model with floating and integer buffers."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[1].running_mean.fill_(float(seed))
    model[1].num_batches_tracked.fill_(seed)
    return model


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_single_refuses_several_learners_and_names_the_remedy(run_learners):
    def build(world: World) -> None:
        with pytest.raises(ValueError, match=r"backend=single .* got 2; use backend=allreduce"):
            Single(world=world)

    run_learners(2, build)


@pytest.mark.parametrize("name", SEVERAL)
def test_a_fresh_start_takes_all_weights_and_buffers_of_learner_0(run_learners, name: str):
    models = [normalised(seed) for seed in range(3)]
    expected = state(models[0])

    def begin(world: World) -> None:
        backend = BACKENDS[name](world)
        backend.wrap(models[world.rank])
        backend.synchronise(resumed=False)
        backend.close()

    run_learners(3, begin)
    assert all(same(state(model), expected) for model in models)


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_a_resume_of_a_synchronous_scheme_names_the_learners_that_differ(run_learners, name: str):
    models = [normalised(0) for _ in range(3)]

    def resume(world: World) -> None:
        backend = BACKENDS[name](world)
        backend.wrap(models[world.rank])
        backend.synchronise(resumed=True)
        if world.rank == 2:
            with torch.no_grad():
                models[2][0].weight[1, 1].add_(1e-6)
        with pytest.raises(ValueError, match=r"learners \[2\] hold other weights than learner 0") as caught:
            backend.synchronise(resumed=True)
        assert line_for_people(caught.value)

    run_learners(3, resume)


def test_a_resume_of_groups_names_the_learners_that_differ_within_theirs(run_learners):
    def resume(world: World) -> None:
        backend = hierarchical(world)
        backend.wrap(normalised(world.rank))
        with pytest.raises(ValueError, match=r"learners \[1, 3\] hold other weights than the first of") as caught:
            backend.synchronise(resumed=True)
        assert line_for_people(caught.value)

    run_learners(4, resume)


@pytest.mark.parametrize("name", GOSSIP)
def test_a_resume_of_gossip_keeps_every_learner_s_own_weights(run_learners, name: str):
    models = [normalised(seed) for seed in range(3)]
    before = [state(model) for model in models]

    def resume(world: World) -> None:
        backend = BACKENDS[name](world)
        backend.wrap(models[world.rank])
        backend.synchronise(resumed=True)
        backend.close()

    run_learners(3, resume)
    assert all(same(state(model), own) for model, own in zip(models, before, strict=True))


@pytest.mark.parametrize("name", SEVERAL)
def test_learners_that_disagree_about_resuming_all_stop(run_learners, name: str):
    def begin(world: World) -> None:
        backend = BACKENDS[name](world)
        backend.wrap(normalised(0))
        with pytest.raises(ValueError, match=r"learners \[0\] start afresh while the others resume") as caught:
            backend.synchronise(resumed=world.rank == 1)
        assert line_for_people(caught.value)

    run_learners(2, begin)


@pytest.mark.parametrize("name", GOSSIP)
@pytest.mark.parametrize("fails", [False, True])
def test_consensus_of_gossip_is_the_mean_and_restores_bitwise(run_learners, name: str, fails: bool):
    models = [normalised(seed) for seed in range(3)]
    before = [state(model) for model in models]

    def evaluate(world: World) -> dict[str, torch.Tensor]:
        backend = BACKENDS[name](world)
        backend.wrap(models[world.rank])
        try:
            with backend.consensus():
                inside = state(models[world.rank])
                if fails:
                    raise KeyError
        except KeyError:
            assert fails
        return inside

    insides = run_learners(3, evaluate)
    for name, tensor in insides[0].items():
        assert all(torch.equal(tensor, inside[name]) for inside in insides) or not tensor.is_floating_point()
        if tensor.is_floating_point():
            mean = torch.stack([own[name].double() for own in before]).mean(0)
            torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-7)
    assert all(same(state(model), own) for model, own in zip(models, before, strict=True))


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("fails", [False, True])
def test_own_weights_come_back_within_the_consensus_and_the_mean_after_them(run_learners, name: str, fails: bool):
    models = [normalised(0 if name in SYNCHRONOUS else seed) for seed in range(3)]
    models[1][1].running_mean.fill_(9.0)

    def measure(world: World) -> None:
        backend, model = BACKENDS[name](world), models[world.rank]
        backend.wrap(model)
        before = state(model)
        with pytest.raises(RuntimeError, match=r"within backend\.consensus"), backend.own_weights():
            pass
        with backend.consensus():
            mean = state(model)
            try:
                with backend.own_weights():
                    assert same(state(model), before)
                    if fails:
                        raise KeyError
            except KeyError:
                assert fails
            assert same(state(model), mean)
            assert not same(mean, before)
        assert same(state(model), before)
        with pytest.raises(RuntimeError, match=r"within backend\.consensus"), backend.own_weights():
            pass

    run_learners(3, measure)


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_consensus_of_a_synchronous_scheme_averages_running_statistics_alone(run_learners, name: str):
    models = [normalised(0) for _ in range(2)]
    models[1][1].running_mean.fill_(1.0)
    before = [state(model) for model in models]

    def evaluate(world: World) -> dict[str, torch.Tensor]:
        backend = BACKENDS[name](world)
        model = models[world.rank]
        model_before = state(model)
        backend.wrap(model)
        with backend.consensus() as figures:
            inside = state(model)
        assert figures == {}
        assert same(state(model), model_before)
        return inside

    for inside in run_learners(2, evaluate):
        assert (inside["1.running_mean"] == 0.5).all()
        del inside["1.running_mean"]
        assert same(inside, before[0])


@pytest.mark.parametrize("name", BACKENDS)
def test_attach_refuses_what_is_not_in_the_flat_buffer(run_learners, name: str):
    def build(world: World) -> None:
        model, backend = normalised(0), BACKENDS[name](world)
        backend.wrap(model)
        foreign = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        with pytest.raises(ValueError, match="not in the wrapped model"):
            backend.attach(foreign)
        model[0].weight.data = torch.zeros(4, 3)
        with pytest.raises(ValueError, match=r"'0\.weight' no longer lies in the flat buffer"):
            backend.attach(torch.optim.SGD(model.parameters(), lr=0.1))

    run_learners(1, build)


@pytest.mark.parametrize("name", BACKENDS)
def test_use_before_wrap_says_so_and_closing_twice_is_safe(alone: World, name: str):
    backend = BACKENDS[name](alone)
    with pytest.raises(RuntimeError, match="wrap"):
        backend.zero_grad()
    backend.close()
    backend.close()


@pytest.mark.parametrize("name", LOCKSTEP)
def test_divisor_is_the_mean_weight_and_one_if_there_is_none(run_learners, name: str):
    def weigh(world: World) -> None:
        backend = BACKENDS[name](world)
        model = nn.Linear(2, 1)
        backend.attach(torch.optim.SGD(backend.wrap(model).parameters(), lr=0.1))
        for weight, divisor in ((3.0 + 2 * world.rank, 4.0), (0.0, 1.0)):
            assert backend.begin_step(weight) == divisor
            model(torch.ones(1, 2)).sum().backward()
            backend.reduce_gradients(None)
            with backend.updating(apply=False):
                pass
        backend.close()

    run_learners(2, weigh)


def test_without_lockstep_the_divisor_is_the_nominal_weight(alone: World):
    """Not what this step's units weigh: nobody is asked, and a small unit is a small step."""
    backend = BACKENDS["adpsgd"](alone)
    backend.wrap(nn.Linear(2, 1))
    backend.nominal_weight = 5.0
    assert [backend.begin_step(weight) for weight in (3.0, 0.0)] == [5.0, 5.0]
    backend.close()


def test_global_mean_is_global_in_synchronous_schemes_and_local_in_gossip(run_learners):
    def mean(world: World) -> None:
        total, weight = (6.0, 2.0) if world.rank else (2.0, 2.0)
        for name in SYNCHRONOUS:
            assert BACKENDS[name](world).global_mean(total, weight) == 2.0
            assert math.isnan(BACKENDS[name](world).global_mean(0.0, 0.0))
        for name in GOSSIP:
            assert BACKENDS[name](world).global_mean(total, weight) == total / weight

    run_learners(2, mean)


@pytest.mark.parametrize("name", LOCKSTEP)
@pytest.mark.parametrize("ends_with_forward", [False, True])
def test_counted_bytes_are_those_of_the_formula(run_learners, train_steps, name: str, ends_with_forward: bool):
    """One gradient, or one model to each neighbour, per step; accumulated units send nothing.

    Control: at the start who resumes, weights and buffers (none), in a rehearsal a gradient; per step one weight.
    """
    steps, size = 3, 4 if name == "hierarchical" else 3

    def run(world: World) -> tuple[dict[str, float], dict[str, float]]:
        backend, model = BACKENDS[name](world), nn.Linear(31, 16, bias=False)
        wrapped = backend.wrap(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        backend.attach(optimizer)
        backend.metrics()
        unit = (torch.ones(2, 31), torch.ones(2, 16))

        def rehearse() -> None:
            wrapped(unit[0]).sum().backward()
            if ends_with_forward:
                wrapped(unit[0])

        backend.synchronise(resumed=False, rehearse=rehearse)
        start = backend.metrics()
        list(train_steps(backend, wrapped, optimizer, [[unit, unit]] * steps, None))
        figures = backend.metrics()
        backend.close()
        return start, figures

    payload_bytes = 31 * 16 * 4
    reduced_bytes = 2 * (size - 1) * payload_bytes // size
    wire_bytes = {
        "allreduce": reduced_bytes,
        "ssgd_noise": reduced_bytes,
        "dpsgd": 2 * payload_bytes,  # to two neighbours
        "delay_by_one": reduced_bytes,
        "hierarchical": payload_bytes + payload_bytes // 2 + payload_bytes // 2,  # gradient, share, gathered share
        "scalecom": 2 * (size - 1) * (payload_bytes // 8) // size,
        "local_topk": (size - 1) * (payload_bytes // 8 + 64),  # 62 offsets, filled up to 64 bytes
        "random_k": 2 * (size - 1) * (payload_bytes // 8) // size,
        "powersgd": 2 * (size - 1) * (2 * 16 * 4) // size + 2 * (size - 1) * (2 * 31 * 4) // size,
        "half_allreduce": reduced_bytes // 2,
    }[name]
    # In three steps each of three learners hands the others the offsets of its 62 chunks, filled up to 64 bytes.
    offsets_bytes = 2 * 64 if name == "scalecom" else 0
    # A rehearsal that ends with a forward makes the next backward reduce too.
    rehearsals = 1 + ends_with_forward
    rehearsed_bytes = {"allreduce": reduced_bytes, "ssgd_noise": reduced_bytes, "hierarchical": payload_bytes}
    weights_bytes = 2 * (size - 1) * 8 // size  # the weight of the step, one float64
    results = run_learners(size, run)
    for _, figures in results:
        assert figures["comm/control_bytes_sent"] == figures["comm/control_bytes_received"] == steps * weights_bytes
        assert figures["comm/bytes_sent"] == steps * (wire_bytes + weights_bytes) + offsets_bytes
        assert figures["comm/bytes_received"] == figures["comm/bytes_sent"]
        assert figures["comm/rounds"] == steps
        assert figures["comm/rounds_per_step"] == 1
        assert 0 < figures["time/comm_exposed"] < 10
    resumed_bytes = 2 * (size - 1) * 8 * size // size
    for start, _ in results:
        assert start["comm/bytes_sent"] == start["comm/control_bytes_sent"]
    sent_bytes = sum(start["comm/bytes_sent"] for start, _ in results)
    assert sent_bytes == size * (resumed_bytes + rehearsals * rehearsed_bytes.get(name, 0)) + (size - 1) * payload_bytes


def test_a_lone_learner_sends_nothing(alone: World, train_steps):
    for name in ("single", "dpsgd", "delay_by_one", "adpsgd"):
        backend, model = BACKENDS[name](alone), nn.Linear(2, 1)
        optimizer = torch.optim.SGD(backend.wrap(model).parameters(), lr=0.01)
        backend.attach(optimizer)
        backend.synchronise(resumed=False)
        list(train_steps(backend, model, optimizer, [[(torch.ones(1, 2), torch.ones(1, 1))]], None))
        assert backend.metrics()["comm/bytes_sent"] == 0


@pytest.mark.parametrize(("name", "key"), [*((name, "round") for name in GOSSIP), ("ssgd_noise", "step")])
def test_state_goes_on_also_with_other_learners(alone: World, name: str, key: str):
    backend = BACKENDS[name](alone)
    backend.load_state_dict([{key: 7}, {key: 7}], rank=0, world_size=1)
    assert backend.state_dict() == {key: 7}


@pytest.mark.parametrize("name", ["mixing", "async_gossip"])
def test_whether_there_are_moments_is_asked_once(alone: World, monkeypatch: pytest.MonkeyPatch, name: str):
    """One learner never mixes them; after a first step that is not applied there are none yet."""
    asked = []
    monkeypatch.setattr(f"distributed.{name}.require_moments", asked.append)
    backend = BACKENDS["dpsgd" if name == "mixing" else "adpsgd"](alone, mix_moments=True)
    optimizer = torch.optim.AdamW(backend.wrap(nn.Linear(2, 1)).parameters())
    backend.attach(optimizer)
    backend.synchronise(resumed=False)
    for applied in (False, True, True):
        backend.begin_step(1.0)
        with backend.updating(apply=applied):
            pass
        assert len(asked) == applied
    backend.close()
