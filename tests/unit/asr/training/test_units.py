"""How far a run goes: by steps or by epochs, whichever ends first."""

import pytest

from asr.data.plan import BatchPlan
from asr.training.hook import Progress
from asr.training.units import planned_steps, samples_of_steps


@pytest.fixture
def plan() -> BatchPlan:
    """Ten utterances of one length in global batches of 2 x 2: three batches an epoch, of 4, 4 and 2."""
    return BatchPlan(
        units=2,
        unit_utterances=2,
        max_frames=1000,
        max_cells=10000,
        frame_margin=None,
        target_margin=0.0,
        frames=[50] * 10,
        target_lengths=[5] * 10,
        utterance_ids=[str(index) for index in range(10)],
        subsampling=4,
        lengthening=0.0,
        seed=1,
    )


def test_samples_are_those_of_the_steps_that_are_walked(plan: BatchPlan) -> None:
    whole = list(planned_steps(plan, Progress(), 40, rank=0, world_size=1))
    for steps in range(1, len(whole) + 1):
        assert samples_of_steps(plan, steps, epochs=4) == sum(step.samples for step in whole[:steps])


def test_epochs_bound_the_steps(plan: BatchPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of steps that is never reached costs no more planning than the epochs that are."""
    planned: list[int] = []
    epoch = BatchPlan.epoch
    monkeypatch.setattr(BatchPlan, "epoch", lambda self, index: planned.append(index) or epoch(self, index))
    assert samples_of_steps(plan, 100_000_000, epochs=3) == 30
    assert planned == [0, 1, 2]
    assert samples_of_steps(plan, 1, epochs=1000) == sum(len(unit.utterances) for unit in plan.epoch(0)[0])
