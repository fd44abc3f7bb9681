"""The consensus: the mean of all learners inside, own weights within it, and exactly the own weights afterwards."""

import pytest
import torch

from distributed.learners.world import World


@pytest.fixture(params=[False, True])
def fails(request: pytest.FixtureRequest) -> bool:
    """Whether what runs inside raises an error: weights come back all the same."""
    return request.param


def test_consensus_of_gossip_is_the_mean_and_restores_bitwise(run_learners, normalised, fails: bool, gossip):
    models = [normalised(seed) for seed in range(3)]
    before = [model.snapshot() for model in models]

    def evaluate(world: World) -> dict[str, torch.Tensor]:
        backend = gossip.build(world)
        backend.wrap(models[world.rank])
        try:
            with backend.consensus():
                inside = models[world.rank].snapshot()
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
    assert all(model.holds(own) for model, own in zip(models, before, strict=True))


def test_own_weights_return_within_the_consensus_and_the_mean_afterwards(run_learners, normalised, fails: bool, scheme):
    models = [normalised(0 if scheme.synchronous else seed) for seed in range(3)]
    models[1][1].running_mean.fill_(9.0)

    def measure(world: World) -> None:
        backend, model = scheme.build(world), models[world.rank]
        backend.wrap(model)
        before = model.snapshot()
        with pytest.raises(RuntimeError, match=r"within backend\.consensus"), backend.own_weights():
            pass
        with backend.consensus():
            mean = model.snapshot()
            try:
                with backend.own_weights():
                    assert model.holds(before)
                    if fails:
                        raise KeyError
            except KeyError:
                assert fails
            assert model.holds(mean)
            assert not model.holds(before)
        assert model.holds(before)
        with pytest.raises(RuntimeError, match=r"within backend\.consensus"), backend.own_weights():
            pass

    run_learners(3, measure)


def test_synchronous_consensus_averages_running_statistics_alone(run_learners, normalised, synchronous):
    models = [normalised(0) for _ in range(2)]
    models[1][1].running_mean.fill_(1.0)
    before = [model.snapshot() for model in models]

    def evaluate(world: World) -> dict[str, torch.Tensor]:
        backend = synchronous.build(world)
        model = models[world.rank]
        model_before = model.snapshot()
        backend.wrap(model)
        with backend.consensus() as figures:
            inside = model.snapshot()
        assert figures == {}
        assert model.holds(model_before)
        return inside

    for inside in run_learners(2, evaluate):
        assert (inside["1.running_mean"] == 0.5).all()
        del inside["1.running_mean"]
        assert all(torch.equal(tensor, before[0][name]) for name, tensor in inside.items())
