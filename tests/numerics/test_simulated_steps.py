"""The simulator of schemes in lockstep is the real backends: the same weights after several steps, given the same batches."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from distributed.gossip.codes import code_of
from distributed.gossip.topology import TopologyName, make_topology
from distributed.learners.world import World
from distributed.simulate import schemes
from distributed.simulate.flat_model import FlatModel, gradients_by_loop, gradients_by_vmap
from distributed.simulate.lockstep import Lockstep
from distributed.simulate.schemes import LockstepScheme
from distributed.sparse.rates import rates_of
from distributed.sparse.segments import Segment
from tests.schemes import SCHEMES

STEPS = 5
SIZE = 3  # utterances of a unit; every learner has one unit per step

Settings = dict[str, object]


def simulated(word: str, segments: list[Segment], settings: Settings) -> LockstepScheme:
    topology: TopologyName = settings.get("topology", "ring")  # type: ignore[assignment]
    sparse = {"segments": segments, "beta": settings.get("beta"), "in_bfloat16": settings.get("values") == "bfloat16"}
    sparse["warmup_steps"] = settings.get("warmup_steps", 0)
    make: dict[str, Callable[[], LockstepScheme]] = {
        "single": schemes.AllReduce,
        "allreduce": schemes.AllReduce,
        "ssgd_noise": lambda: schemes.NoisyAllReduce(sigma=0.05, seed=1),
        "half_allreduce": lambda: schemes.HalfAllReduce(dtype=torch.bfloat16),
        "scalecom": lambda: schemes.ScaleCom(**sparse),
        "local_topk": lambda: schemes.LocalTopK(**sparse),
        "random_k": lambda: schemes.RandomK(**sparse, seed=1),
        "dpsgd": lambda: schemes.Dpsgd(make_topology(topology, seed=1)),
        "delay_by_one": schemes.DelayByOne,
        "hierarchical": lambda: schemes.Hierarchical(make_topology(topology, seed=1), settings["group_size"]),
    }
    return make[word]()


CASES: list[tuple[str, int, Settings]] = [
    ("single", 1, {}),
    ("allreduce", 4, {}),
    ("ssgd_noise", 3, {"sigma": 0.05}),
    ("half_allreduce", 2, {"dtype": "bfloat16"}),
    ("scalecom", 4, {"rate": 10, "beta": 0.5}),
    ("scalecom", 2, {"rate": 10, "beta": 0.3, "values": "bfloat16", "warmup_steps": 2}),  # a sum of two has one order
    ("local_topk", 4, {"rate": 10, "beta": 0.5}),
    ("random_k", 3, {"rate": 10, "beta": 1.0}),
    ("dpsgd", 5, {"topology": "random_ring"}),
    ("dpsgd", 5, {"topology": "random_pairwise"}),
    ("dpsgd", 4, {"topology": "complete"}),
    ("delay_by_one", 4, {}),
    ("hierarchical", 4, {"topology": "ring", "group_size": 2}),
]


def squared_error(model: Callable[..., Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss of one unit over its weight, as the loop of ``train_steps`` divides it."""
    x, y = batch
    return (model(x) - y).square().sum() / SIZE


UNCLIPPED = [case for case in CASES if case[0] in ("allreduce", "local_topk", "hierarchical")]


@pytest.mark.parametrize(
    ("word", "learners", "settings", "max_norm", "optimizer_class"),
    [
        *[(*case, 0.7, torch.optim.SGD) for case in CASES],  # clipped in some steps
        *[(*case, None, torch.optim.AdamW) for case in UNCLIPPED],
    ],
)
def test_steps_are_those_of_the_real_backends(
    run_learners,
    laboratory,
    word: str,
    learners: int,
    settings: Settings,
    max_norm: float | None,
    optimizer_class: type[torch.optim.Optimizer],
):
    steps = laboratory.global_steps([SIZE] * learners, STEPS)

    def learner(world: World) -> dict[str, Tensor]:
        backend = SCHEMES[word].build(world, **settings)
        mine = [[units[world.rank]] for units in steps]
        return laboratory.train(backend, mine, max_norm, optimizer_class)[1]

    real = run_learners(learners, learner)
    network = laboratory.network()
    rates = rates_of(network, settings["rate"], []) if "rate" in settings else None
    model = FlatModel(network, squared_error, rates)
    simulation = Lockstep(
        scheme=simulated(word, model.segments, settings),
        learners=learners,
        loss=model.loss,
        start_P=model.start_P,
        make_optimizer=lambda parameters: optimizer_class(parameters, lr=0.1),
        max_norm=max_norm,
    )
    for units in steps:
        assert all(simulation.step(units).finite)
    copies = simulation.scheme.copy_of(learners)
    for rank, weights in enumerate(real):
        views = model.views(simulation.copies.weights_CP[copies[rank]])
        for name, value in weights.items():
            torch.testing.assert_close(views[name], value, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
    moved = (simulation.copies.mean - model.start_P).norm()
    assert moved > 0.01
    if simulation.scheme.copies(learners) > 1:
        assert simulation.copies.consensus_distance > 1e-6


BITWISE: list[tuple[str, Settings]] = [
    *[("dpsgd", {"topology": name}) for name in ("ring", "random_pairwise", "exponential")],
    ("dpsgd", {"topology": "ring", "compression": "int8"}),
    ("dpsgd", {"topology": "random_pairwise", "compression": "topk", "compression_rate": 4}),
    ("delay_by_one", {"compression": "int4"}),
]


@pytest.mark.parametrize(("word", "settings"), BITWISE)
def test_weights_of_gossip_are_bitwise_the_real_ones(run_learners, laboratory, word: str, settings: Settings):
    """In fp32: what learners do each for itself rounds in the same way here, compression included."""
    steps = laboratory.global_steps([SIZE] * 4, STEPS, torch.float32)

    def learner(world: World) -> Tensor:
        model = laboratory.network(torch.float32)
        backend = SCHEMES[word].build(world, **settings)
        laboratory.train(backend, [[units[world.rank]] for units in steps], model=model)
        return backend.flat.flat[0].clone()

    real_LP = torch.stack(run_learners(4, learner))
    model = FlatModel(laboratory.network(torch.float32), squared_error)
    topology = make_topology(settings.get("topology", "complete"), seed=1)
    code = code_of(settings.get("compression", "none"), settings.get("compression_rate", 8))
    simulation = Lockstep(
        scheme=schemes.Dpsgd(topology) if code is None else schemes.CompressedGossip(topology, code),
        learners=4,
        loss=model.loss,
        start_P=model.start_P,
        make_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        pieces=model.pieces,
    )
    for units in steps:
        simulation.step(units)
    assert torch.equal(simulation.copies.weights_CP, real_LP)


def test_gradients_of_all_learners_are_those_of_the_module_either_way():
    network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)).double()
    model = FlatModel(network, lambda call, batch: (call(batch[0]) - batch[1]).square().mean())
    generator = torch.Generator().manual_seed(0)
    points_LP = torch.randn(3, len(model.start_P), generator=generator, dtype=torch.float64)
    batches = [tuple(torch.randn(4, n, generator=generator, dtype=torch.float64) for n in (5, 2)) for _ in range(3)]
    looped, vectorised = (each(model.loss, points_LP, batches) for each in (gradients_by_loop, gradients_by_vmap))
    torch.testing.assert_close(looped, vectorised)
    for rank, (x, y) in enumerate(batches):
        with torch.no_grad():
            for parameter, value in zip(network.parameters(), model.pieces(points_LP[rank]), strict=True):
                parameter.copy_(value)
        network.zero_grad()
        loss = (network(x) - y).square().mean()
        loss.backward()
        torch.testing.assert_close(looped[0][rank], loss.detach())
        for parameter, gradient in zip(network.parameters(), model.pieces(looped[1][rank]), strict=True):
            torch.testing.assert_close(gradient, parameter.grad)


@pytest.mark.parametrize("scheme", ["allreduce", "dpsgd", "scalecom"])
def test_a_gradient_that_is_not_finite_moves_what_the_real_scheme_moves(scheme: str):
    """Of all under averaging, of none under compression with its memory kept, of the others alone under gossip."""
    model = FlatModel(nn.Linear(4, 1, bias=False), lambda call, batch: (call(batch) - 1).square().mean())
    chosen = simulated(scheme, [Segment(0, 0, len(model.start_P), 2)], {"beta": 1.0})
    simulation = Lockstep(
        scheme=chosen,
        learners=2,
        loss=model.loss,
        start_P=model.start_P,
        make_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    )
    good, bad = torch.ones(3, 4), torch.full((3, 4), torch.inf)
    simulation.step([good, good])
    before_CP = simulation.copies.weights_CP.clone()
    memory_LP = chosen.memory_LP.clone() if isinstance(chosen, schemes.Sparse) else None
    finite = simulation.step([good, bad]).finite
    after_CP = simulation.copies.weights_CP
    if scheme == "dpsgd":
        assert finite == [True, False]
        assert torch.equal(after_CP[1], before_CP[1])
        assert not torch.equal(after_CP[0], before_CP[0])
    else:
        assert finite == [False]
        assert torch.equal(after_CP, before_CP)
    if memory_LP is not None:
        assert torch.equal(chosen.memory_LP, memory_LP)
