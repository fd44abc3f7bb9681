"""A backend around a step: what it refuses, what divides the loss, whose mean it gives, what it asks for once."""

import math

import pytest
import torch
from torch import nn

from distributed.learners.world import World
from distributed.schemes.single import Single


def test_single_refuses_several_learners_and_names_the_remedy(run_learners):
    def build(world: World) -> None:
        with pytest.raises(ValueError, match=r"backend=single .* got 2; use backend=allreduce"):
            Single(world=world)

    run_learners(2, build)


def test_attach_refuses_what_is_not_in_the_flat_buffer(run_learners, normalised, every_scheme):
    def build(world: World) -> None:
        model, backend = normalised(0), every_scheme.build(world)
        backend.wrap(model)
        foreign = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        with pytest.raises(ValueError, match="not in the wrapped model"):
            backend.attach(foreign)
        model[0].weight.data = torch.zeros(4, 3)
        with pytest.raises(ValueError, match=r"'0\.weight' no longer lies in the flat buffer"):
            backend.attach(torch.optim.SGD(model.parameters(), lr=0.1))

    run_learners(1, build)


def test_use_before_wrap_says_so_and_closing_twice_is_safe(alone: World, every_scheme):
    backend = every_scheme.build(alone)
    with pytest.raises(RuntimeError, match="wrap"):
        backend.zero_grad()
    backend.close()
    backend.close()


def test_divisor_is_the_mean_weight_and_one_if_there_is_none(run_learners, synchronous):
    """Of what was loaded, whatever was planned."""

    def weigh(world: World) -> None:
        backend = synchronous.build(world)
        model = nn.Linear(2, 1)
        backend.attach(torch.optim.SGD(backend.wrap(model).parameters(), lr=0.1))
        for weight, divisor in ((3.0 + 2 * world.rank, 4.0), (0.0, 1.0)):
            assert backend.begin_step(weight, planned_weight=7.0) == divisor
            model(torch.ones(1, 2)).sum().backward()
            backend.reduce_gradients(None)
            with backend.updating(apply=False):
                pass
        backend.close()

    run_learners(2, weigh)


def test_under_gossip_the_divisor_is_the_planned_weight(run_learners, gossip):
    """Not what this learner could load: nobody is asked."""

    def weigh(world: World) -> None:
        backend = gossip.build(world)
        backend.wrap(nn.Linear(2, 1))
        for weight in (3.0, 0.0):
            assert backend.begin_step(weight, planned_weight=5.0) == 5.0
            with backend.updating(apply=False):
                pass
        backend.close()

    run_learners(1, weigh)


def test_global_mean_is_global_in_synchronous_schemes_and_local_in_gossip(run_learners, schemes):
    def mean(world: World) -> None:
        total, weight = (6.0, 2.0) if world.rank else (2.0, 2.0)
        for scheme in schemes.values():
            if scheme.several and scheme.synchronous:
                assert scheme.build(world).global_mean(total, weight) == 2.0
                assert math.isnan(scheme.build(world).global_mean(0.0, 0.0))
            if scheme.gossip:
                assert scheme.build(world).global_mean(total, weight) == total / weight

    run_learners(2, mean)


@pytest.mark.parametrize(("module", "scheme"), [("gossip.lockstep", "dpsgd"), ("schemes.adpsgd", "adpsgd")])
def test_whether_there_are_moments_is_asked_once(
    alone: World, schemes, monkeypatch: pytest.MonkeyPatch, module: str, scheme: str
):
    """One learner never mixes them; after a first step that is not applied there are none yet."""
    asked = []
    monkeypatch.setattr(f"distributed.{module}.require_moments", asked.append)
    backend = schemes[scheme].build(alone, mix_moments=True)
    optimizer = torch.optim.AdamW(backend.wrap(nn.Linear(2, 1)).parameters())
    backend.attach(optimizer)
    backend.synchronise(resumed=False)
    for applied in (False, True, True):
        backend.begin_step(1.0, 1.0)
        with backend.updating(apply=applied):
            pass
        assert len(asked) == applied
    backend.close()
