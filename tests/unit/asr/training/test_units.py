"""Who processes which unit, and how far a run goes: by steps or by epochs, whichever ends first."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

import pytest

from asr.data.plan import BatchPlan
from asr.runs.progress import Progress
from asr.training.units import LockstepUnits, PooledUnits, Step, global_batches, samples_of_steps
from distributed.backend import Claim
from distributed.learners.stopping import Agreement, Gate


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
    whole = list(LockstepUnits(plan, 40, rank=0, world_size=1, gate=Gate()).steps(Progress()))
    for steps in range(1, len(whole) + 1):
        assert samples_of_steps(plan, steps, epochs=4) == whole[steps - 1].samples


def test_epochs_bound_the_steps(plan: BatchPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of steps that is never reached costs no more planning than the epochs that are."""
    planned: list[int] = []
    epoch = BatchPlan.epoch
    monkeypatch.setattr(BatchPlan, "epoch", lambda self, index: planned.append(index) or epoch(self, index))
    assert samples_of_steps(plan, 100_000_000, epochs=3) == 30
    assert planned == [0, 1, 2]
    assert samples_of_steps(plan, 1, epochs=1000) == sum(len(unit.utterances) for unit in plan.epoch(0)[0])


@pytest.fixture
def claim() -> Callable[[str, int], Claim]:
    """What the learners of a run share, in one process."""
    claimed: Counter[str] = Counter()
    alone = threading.Lock()

    def take(name: str, number: int) -> Claim:
        with alone:
            claimed[name] += number
            return Claim(claimed[name] - number, claimed[name] - number, number)

    return take


def pooled(
    plan: BatchPlan,
    claim: Callable[[str, int], Claim],
    total: int = 40,
    share: int = 1,
    gate: Gate | None = None,
    left_out: Collection[tuple[int, int]] = (),
    marks: Sequence[int] = (4, 6),
) -> PooledUnits:
    return PooledUnits(
        plan, total, share, marks=marks, claim=claim, pool="pool", gate=gate or Gate(), left_out=left_out
    )


def run_apart(sources: list[Iterator[Step]], seed: int) -> list[list[Step]]:
    """Learners that each take their next step at a random moment, but meet where they must."""
    pace, taken = random.Random(seed), [list[Step]() for _ in sources]
    at_mark: set[int] = set()
    ended: set[int] = set()
    while len(ended) < len(sources):
        if len(at_mark | ended) == len(sources):
            at_mark.clear()
        learner = pace.choice([rank for rank in range(len(sources)) if rank not in at_mark | ended])
        step = next(sources[learner], None)
        if step is None:
            ended.add(learner)
            continue
        taken[learner].append(step)
        if step.together:
            at_mark.add(learner)
    return taken


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [1, 2])
def test_a_pool_gives_every_unit_to_exactly_one_learner(
    plan: BatchPlan, claim: Callable[[str, int], Claim], share: int, seed: int
) -> None:
    taken = run_apart([pooled(plan, claim, share=share).steps(Progress()) for _ in range(3)], seed)
    processed = Counter(unit.name for steps in taken for step in steps for unit in step.units)
    planned = [unit.name for batch in global_batches(plan, Progress(), 40) for unit in batch.units]
    assert processed == Counter(planned)
    assert set(processed.values()) == {1}


@pytest.mark.parametrize("share", [1, 2])
def test_a_claim_is_made_ahead_while_the_stretch_has_plenty_left(plan: BatchPlan, share: int) -> None:
    """Not nearer to its end, where a slow learner would keep the others waiting with what it holds."""
    claimed: list[str] = []  # the thread of each claim
    another = threading.Semaphore(0)

    def claim(name: str, number: int) -> Claim:
        first = share * len(claimed)
        claimed.append(threading.current_thread().name)
        another.release()
        return Claim(first, first, number)

    units = len([unit for batch in global_batches(plan, Progress(), 100) for unit in batch.units])
    steps = pooled(plan, claim, total=100, share=share, marks=(1000,)).steps(Progress())
    for index, step in enumerate(steps):
        assert another.acquire(timeout=10)
        if not step.together and index * share + 8 * plan.units < units:
            assert another.acquire(timeout=10), "no claim was made while this step was trained"
            another.release()
    ahead = len([first for first in range(0, units, share) if first + 8 * plan.units < units])
    assert claimed == ["MainThread"] + ["claims"] * ahead + ["MainThread"] * (units // share - ahead)
    for thread in threading.enumerate():
        if thread.name == "claims":
            thread.join(timeout=10)
            assert not thread.is_alive()


def test_an_error_of_a_claim_that_is_made_ahead_ends_the_steps(plan: BatchPlan) -> None:
    numbers = iter(range(3))

    def claim(name: str, number: int) -> Claim:
        first = next(numbers, None)
        if first is None:
            raise ConnectionError("the store has gone")
        return Claim(first, first, number)

    steps = pooled(plan, claim, total=100, marks=(1000,)).steps(Progress())
    assert all(next(steps).units for _ in range(3))
    with pytest.raises(ConnectionError, match="the store has gone"):
        next(steps)


def test_learners_of_a_pool_meet_at_the_same_marks_and_lose_no_units(
    plan: BatchPlan, claim: Callable[[str, int], Claim]
) -> None:
    taken = run_apart([pooled(plan, claim).steps(Progress()) for _ in range(3)], seed=1)
    marks = [[(step.samples, step.position) for step in steps if step.together] for steps in taken]
    assert marks[0] == marks[1] == marks[2]
    ends = [batch.samples for batch in global_batches(plan, Progress(), 40)]
    # Marks lie every 4 and every 6 nominal batches of 10/3 samples, where the next global batch ends; the last at the end.
    due = {min(end for end in ends if end >= every * 10 / 3 - 1e-6) for every in (4, 6, 8, 12)}
    assert [samples for samples, _ in marks[0]] == sorted(due)
    assert max(due) == 40
    for steps in taken:
        assert all(not step.units for step in steps if step.together)
        assert [step.samples for step in steps] == sorted(step.samples for step in steps)
        assert all(step.samples_before <= step.samples for step in steps)


def test_the_planned_weight_is_shared_in_lockstep_and_nominal_in_a_pool(
    plan: BatchPlan, claim: Callable[[str, int], Claim]
) -> None:
    steps = list(LockstepUnits(plan, 10, rank=1, world_size=2, gate=Gate()).steps(Progress()))
    assert sorted(step.planned_weight for step in steps) == [1.0, 2.0, 2.0]
    assert [2 * step.planned_weight for step in steps] == [step.samples - step.samples_before for step in steps]
    for share, learners in ((1, 2), (2, 1)):
        weights = {step.planned_weight for step in pooled(plan, claim, total=10, share=share).steps(Progress())}
        assert weights == {10 / 3 / learners}


def test_learners_that_step_together_stand_at_one_place_of_the_plan(
    plan: BatchPlan, claim: Callable[[str, int], Claim]
) -> None:
    """The rate follows the place, and members of a group must take the same step."""

    def of_member(member: int) -> Callable[[str, int], Claim]:
        def take(name: str, number: int) -> Claim:
            first = claim(f"{name}/{member}", 2 * number).first  # each counts the group's claims for itself
            return Claim(first + member * number, first, 2 * number)

        return take

    members = [list(pooled(plan, of_member(member)).steps(Progress())) for member in (0, 1)]
    for one, other in zip(*members, strict=True):
        assert (one.samples_before, one.samples, one.position) == (other.samples_before, other.samples, other.position)
        assert not one.units or one.units != other.units
    trained = [unit for steps in zip(*members, strict=True) for step in steps for unit in step.units]
    assert trained == [unit for batch in global_batches(plan, Progress(), 40) for unit in batch.units]


def test_a_pool_goes_on_from_a_mark(plan: BatchPlan, claim: Callable[[str, int], Claim]) -> None:
    whole = list(pooled(plan, claim).steps(Progress()))
    mark = next(index for index, step in enumerate(whole) if step.together)
    epoch, batch = whole[mark].position
    start = Progress(samples=whole[mark].samples, epoch=epoch, batch=batch)
    rest = list(PooledUnits(plan, 40, 1, marks=(4, 6), claim=claim, pool="again", gate=Gate()).steps(start))
    assert rest == whole[mark + 1 :]


def test_alone_a_pool_is_lockstep_cut_into_units(plan: BatchPlan, claim: Callable[[str, int], Claim]) -> None:
    alone = [unit for step in pooled(plan, claim, share=2).steps(Progress()) for unit in step.units]
    lockstep = [unit for step in LockstepUnits(plan, 40, 0, 1, Gate()).steps(Progress()) for unit in step.units]
    assert alone == lockstep


@pytest.mark.parametrize("marks", [(4, 6), (1000,)])  # within the second, claims are made ahead
@pytest.mark.parametrize("left_out", [(), ((0, 1),), ((0, 2), (1, 0)), ((0, 0), (0, 1), (0, 2), (1, 0))])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [1, 2])
def test_learners_of_a_pool_that_stop_have_processed_whole_batches_once(
    plan: BatchPlan,
    claim: Callable[[str, int], Claim],
    share: int,
    seed: int,
    left_out: tuple[tuple[int, int], ...],
    marks: tuple[int, ...],
) -> None:
    gates = [Gate(alone=False) for _ in range(3)]
    sources = [
        pooled(plan, claim, share=share, gate=gate, left_out=left_out, marks=marks).steps(Progress()) for gate in gates
    ]
    pace, taken = random.Random(seed), [list[Step]() for _ in sources]
    asked_after = pace.randrange(2, 6)
    for _ in range(asked_after):  # before the first mark, at the fourth batch
        learner = pace.randrange(3)
        taken[learner].append(next(sources[learner]))
    agreement, point = Agreement(3), None
    for rank, gate in enumerate(gates):
        gate.stop("asked")
        point = agreement.hear(rank, gate.answer() or 0)
    assert point is not None
    for gate in gates:
        gate.settle(point)
    for learner, source in enumerate(sources):
        taken[learner] += source
    marks = [[(step.samples, step.position) for step in steps if step.together] for steps in taken]
    assert marks[0] == marks[1] == marks[2]
    samples, position = marks[0][-1] if marks[0] else (0, (0, 0))
    assert samples >= point
    all_batches = list(global_batches(plan, Progress(), 40, left_out))
    processed = Counter(unit.name for steps in taken for step in steps for unit in step.units)
    assert processed == Counter(unit.name for each in all_batches if each.samples <= samples for unit in each.units)
    assert all(not each.units for each in all_batches if point < each.samples <= samples), "only such as are left out"
    start = Progress(samples=samples, epoch=position[0], batch=position[1])
    again = PooledUnits(plan, 40, share, (4, 6), claim, "again", Gate(), left_out).steps(start)
    processed.update(unit.name for step in again for unit in step.units)
    assert processed == Counter(unit.name for batch in all_batches for unit in batch.units)
