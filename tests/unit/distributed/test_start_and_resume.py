"""Fresh starts and resumes: whose weights learners begin with, what must be equal, and who is named where it is not."""

import pytest
import torch
from torch import nn

from distributed.learners.world import World
from scripts.composition.startup import line_for_people


def test_a_fresh_start_takes_all_weights_and_buffers_of_learner_0(run_learners, normalised, scheme):
    models = [normalised(seed) for seed in range(3)]
    expected = models[0].snapshot()

    def begin(world: World) -> None:
        backend = scheme.build(world)
        backend.wrap(models[world.rank])
        backend.synchronise(resumed=False)
        backend.close()

    run_learners(3, begin)
    assert all(model.holds(expected) for model in models)


def test_a_resume_of_a_synchronous_scheme_names_the_learners_that_differ(run_learners, normalised, synchronous):
    models = [normalised(0) for _ in range(3)]

    def resume(world: World) -> None:
        backend = synchronous.build(world)
        backend.wrap(models[world.rank])
        backend.synchronise(resumed=True)
        if world.rank == 2:
            with torch.no_grad():
                models[2][0].weight[1, 1].add_(1e-6)
        with pytest.raises(ValueError, match=r"learners \[2\] hold other weights than learner 0") as caught:
            backend.synchronise(resumed=True)
        assert line_for_people(caught.value)

    run_learners(3, resume)


def test_a_resume_of_groups_names_the_learners_that_differ_within_theirs(run_learners, normalised, schemes):
    def resume(world: World) -> None:
        backend = schemes["hierarchical"].build(world)
        backend.wrap(normalised(world.rank))
        with pytest.raises(ValueError, match=r"learners \[1, 3\] hold other weights than the first of") as caught:
            backend.synchronise(resumed=True)
        assert line_for_people(caught.value)

    run_learners(4, resume)


def test_a_resume_of_gossip_keeps_every_learner_s_own_weights(run_learners, normalised, gossip):
    models = [normalised(seed) for seed in range(3)]
    before = [model.snapshot() for model in models]

    def resume(world: World) -> None:
        backend = gossip.build(world)
        backend.wrap(models[world.rank])
        backend.synchronise(resumed=True)
        backend.close()

    run_learners(3, resume)
    assert all(model.holds(own) for model, own in zip(models, before, strict=True))


def test_learners_that_disagree_about_resuming_all_stop(run_learners, normalised, scheme):
    def begin(world: World) -> None:
        backend = scheme.build(world)
        backend.wrap(normalised(0))
        with pytest.raises(ValueError, match=r"learners \[0\] start afresh while the others resume") as caught:
            backend.synchronise(resumed=world.rank == 1)
        assert line_for_people(caught.value)

    run_learners(2, begin)


def test_what_a_scheme_counts_goes_on_also_with_other_learners(run_learners, every_scheme):
    def resume(world: World) -> None:
        backend = every_scheme.build(world)
        backend.wrap(nn.Linear(16, 2))
        counted = {key: 7 for key, value in backend.state_dict().items() if isinstance(value, int)}
        assert "round" in counted or not every_scheme.gossip
        state = backend.state_dict() | counted
        backend.load_state_dict([state, state], world.rank, world.size)
        assert {key: backend.state_dict()[key] for key in counted} == counted
        backend.close()

    run_learners(1, resume)
