"""The batch plan: its laws for any corpus and any budgets, and errors that name what to change."""

import math
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asr.data.plan import (
    EDGE_FRAMES,
    BatchPlan,
    Budgets,
    check_learners,
    chunk,
    planned_frames,
    planned_tokens,
    split_to_multiple,
)


def make(frames: list[int], targets: list[int] | None = None, **changes: Any) -> BatchPlan:
    settings: dict[str, Any] = {
        "units": 4,
        "unit_utterances": 8,
        "max_frames": 10_000,
        "max_cells": 1_000_000,
        "frame_margin": None,
        "target_margin": 0.0,
        "frames": frames,
        "target_lengths": [frame // 10 for frame in frames] if targets is None else targets,
        "utterance_ids": [f"u{index}" for index in range(len(frames))],
        "subsampling": 4,
        "lengthening": 0.0,
        "seed": 1,
    }
    return BatchPlan(**(settings | changes))


def lengths(number: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(50, 1000, number).tolist()


@given(
    frames=st.lists(st.integers(1, 100), min_size=16, max_size=120),
    units=st.integers(1, 8),
    unit_utterances=st.integers(2, 9),
    max_frames=st.integers(300, 1000),
    max_cells=st.integers(1200, 3000),
    margin=st.sampled_from([0.0, 0.3]),
    epoch=st.integers(0, 3),
)
def test_laws(
    frames: list[int], units: int, unit_utterances: int, max_frames: int, max_cells: int, margin: float, epoch: int
) -> None:
    """Every utterance once; G non-empty units per global batch; no budget exceeded; equal inputs, equal plans."""
    settings: dict[str, Any] = {
        "units": units,
        "unit_utterances": unit_utterances,
        "max_frames": max_frames,
        "max_cells": max_cells,
        "target_margin": margin,
    }
    batches = make(frames, **settings).epoch(epoch)
    members = [index for batch in batches for unit in batch for index in unit.utterances]
    assert sorted(members) == list(range(len(frames)))
    for number, batch in enumerate(batches):
        assert [(unit.epoch, unit.batch, unit.index) for unit in batch] == [(epoch, number, i) for i in range(units)]
        for unit in batch:
            longest = max(frames[index] for index in unit.utterances)
            targets = max(math.ceil(frames[index] // 10 * (1 + margin)) for index in unit.utterances)
            assert 1 <= len(unit.utterances) <= unit_utterances
            assert len(unit.utterances) * longest <= max_frames
            assert len(unit.utterances) * math.ceil(longest / 4) * (targets + 1) <= max_cells
    assert make(frames, **settings).epoch(epoch) == batches


@given(frames=st.lists(st.integers(90, 110), min_size=4, max_size=16), units=st.integers(2, 4))
def test_what_the_constructor_accepts_can_be_planned_in_every_epoch(frames: list[int], units: int) -> None:
    """Budgets so tight that it depends on the jitter whether two utterances share a unit."""
    try:
        plan = make(frames, units=units, max_frames=200)
    except ValueError:
        assume(False)
    for epoch in range(20):
        assert all(len(batch) == units for batch in plan.epoch(epoch))


@given(rank_of=st.sampled_from([1, 2, 4]), epoch=st.integers(0, 2))
def test_learners_share_a_global_batch_whatever_their_number(rank_of: int, epoch: int) -> None:
    plan = make(lengths(100))
    for batch in plan.epoch(epoch):
        shares = [plan.learner_units(batch, rank, rank_of) for rank in range(rank_of)]
        assert Counter(unit for share in shares for unit in share) == Counter(batch)
        assert {len(share) for share in shares} == {plan.units // rank_of}


def test_epochs_and_seeds_give_other_units() -> None:
    def composition(plan: BatchPlan, epoch: int) -> set[frozenset[int]]:
        return {frozenset(unit.utterances) for batch in plan.epoch(epoch) for unit in batch}

    one, frames = make(lengths(400)), lengths(400)
    first = composition(one, 0)
    for other in (composition(one, 1), composition(make(frames, seed=2), 0)):
        assert len(first & other) < len(first) / 4


def test_order_of_batches_is_not_by_length() -> None:
    """Neither on the whole nor from one batch to the next; for independent batches both correlations are near 0."""
    frames = lengths(32 * 400)
    for epoch in range(3):
        means = [np.mean([frames[i] for unit in batch for i in unit.utterances]) for batch in make(frames).epoch(epoch)]
        bound = 4 / len(means) ** 0.5  # four standard deviations
        assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < bound <= 0.2
        assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < bound


def test_units_hold_similar_lengths() -> None:
    frames = lengths(2000)
    units = [[frames[i] for i in unit.utterances] for batch in make(frames).epoch(0) for unit in batch]
    padding = 1 - sum(frames) / sum(len(members) * max(members) for members in units)
    assert padding < 0.08


def test_nominal_batch_is_the_mean_of_epoch_zero() -> None:
    plan = make(lengths(100))
    assert plan.utterances == 100
    assert plan.nominal_batch * len(plan.epoch(0)) == pytest.approx(100)


def test_the_last_units_are_split_until_the_batch_is_full() -> None:
    plan = make([100] * 6)
    (batch,) = plan.epoch(0)
    assert sorted(len(unit.utterances) for unit in batch) == [1, 1, 2, 2]


def test_chunk_by_each_budget() -> None:
    frames, encoded, targets = [10, 10, 20, 30], [5, 5, 10, 15], [1, 3, 1, 1]
    assert chunk(range(4), frames, encoded, targets, Budgets(2, 999, 999)) == [[0, 1], [2, 3]]
    assert chunk(range(4), frames, encoded, targets, Budgets(9, 60, 999)) == [[0, 1, 2], [3]]
    assert chunk(range(4), frames, encoded, targets, Budgets(9, 999, 40)) == [[0, 1], [2], [3]]
    assert chunk(range(4), frames, encoded, targets, Budgets(9, 5, 999)) == [[0], [1], [2], [3]]
    assert chunk([], frames, encoded, targets, Budgets(1, 1, 1)) == []


def test_split_keeps_the_order_and_divides_the_largest() -> None:
    assert split_to_multiple([[0], [1, 2, 3, 4, 5], [6, 7]], 4) == [[0], [1, 2], [3, 4, 5], [6, 7]]
    assert split_to_multiple([[0], [1, 2, 3, 4, 5], [6, 7]], 5) == [[0], [1], [2, 3], [4, 5], [6, 7]]
    assert split_to_multiple([[0], [1, 2]], 3) == [[0], [1], [2]]
    assert split_to_multiple([[0], [1]], 3) is None


def test_the_number_of_learners_divides_the_units() -> None:
    check_learners(12, 6)
    with pytest.raises(ValueError, match=r"5 learners .*batch\.units=12.* start 1, 2, 3, 4, 6, 12 learners"):
        check_learners(12, 5)


@pytest.mark.parametrize(
    ("frames", "changes", "message"),
    [
        (
            [10, 20, 900, 30],
            {"max_frames": 800},
            r"utterance u2 alone has 900 feature frames \(with the room .*\), .*batch\.max_frames=800",
        ),
        ([10, 20, 900, 30], {"max_cells": 9000}, r"u2 alone has 20475 lattice cells .*batch\.max_cells=9000"),
        ([10, 20], {}, r"2 utterances cannot fill the batch\.units=4"),
        ([10] * 5, {"unit_utterances": 1}, r"batch\.unit_utterances=1.* multiple of batch\.units=4; raise a budget"),
    ],
)
def test_plans_that_cannot_be(frames: list[int], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(frames, **changes)


def test_the_margin_makes_room_for_longer_targets() -> None:
    tight: dict[str, Any] = {"max_cells": 25 * 12, "units": 1}
    make([100] * 4, [10] * 4, **tight)
    with pytest.raises(ValueError, match="325 lattice cells"):
        make([100] * 4, [10] * 4, target_margin=0.15, **tight)


def test_the_target_margin_is_the_hooks_need_or_a_larger_number() -> None:
    frames = lengths(40)
    assert make(frames, target_lengthening=0.25, target_margin=None).planned_targets.tolist() == [
        planned_tokens(frame // 10, 0.25) for frame in frames
    ]
    wide = make(frames, target_margin=0.25)
    assert make(frames, target_lengthening=0.25, target_margin=None).fingerprint == wide.fingerprint
    assert make(frames, target_lengthening=0.1, target_margin=0.25).epoch(1) == wide.epoch(1)
    assert make(frames, target_margin=None).fingerprint == make(frames).fingerprint != wide.fingerprint
    with pytest.raises(ValueError, match=r"batch\.target_margin=0\.1 .* targets up to 25\.0% longer; set .*=0\.25 or"):
        make(frames, target_margin=0.1, target_lengthening=0.25)


def test_room_for_slower_speech_holds_whatever_the_length_and_the_speed() -> None:
    """The frames of the longest signal that has so many frames, slowed down, against those planned for."""
    window, shift = 400, 160
    frames = np.arange(1, 400)
    longest_samples = window + frames * shift - 1
    for factor in (0.5, 0.6, 0.75, 0.8, 0.9, 0.95, 0.99):
        slowed = 1 + (np.ceil(longest_samples / factor).astype(int) - window) // shift
        assert (slowed <= planned_frames(frames, 1 / factor - 1)).all()
        assert (planned_frames(frames, 1 / factor - 1) - slowed).max() <= EDGE_FRAMES + 1


def test_longer_utterances_make_smaller_units() -> None:
    """Eight of 100 frames fill the budget; slowed down to 112 + 3 frames, only seven fit."""
    budget: dict[str, Any] = {"max_frames": 810, "units": 1}
    assert [len(unit.utterances) for (unit,) in make([100] * 8, **budget).epoch(0)] == [8]
    slower = make([100] * 8, lengthening=1 / 0.9 - 1, **budget)
    assert sorted(len(unit.utterances) for (unit,) in slower.epoch(0)) == [1, 7]
    assert slower.encoder_frames.tolist() == [math.ceil(115 / 4)] * 8


def test_the_frame_margin_is_the_hooks_need_or_a_larger_number() -> None:
    frames = lengths(40)
    assert make(frames, lengthening=0.25).fingerprint == make(frames, frame_margin=0.25).fingerprint
    assert make(frames, frame_margin=0.25, lengthening=0.1).epoch(1) == make(frames, frame_margin=0.25).epoch(1)
    assert make(frames, frame_margin=0.25).fingerprint != make(frames).fingerprint
    with pytest.raises(ValueError, match=r"batch\.frame_margin=0\.1 .* up to 11\.1% longer; set .*=0\.112 or more"):
        make(frames, frame_margin=0.1, lengthening=1 / 0.9 - 1)


def test_a_large_corpus_is_planned_in_seconds() -> None:
    number = 300_000
    frames = np.random.default_rng(0).integers(50, 3500, number).tolist()
    plan = make(frames, units=32, unit_utterances=32, max_frames=40_000, max_cells=10_000_000)
    start = time.process_time()
    batches = plan.epoch(1)
    assert time.process_time() - start < 4  # about 0.4 s on one core
    assert sum(len(unit.utterances) for batch in batches for unit in batch) == number
