"""Units in parts: bounds that hold, the same gradient in any number of parts, and errors that name what to lower."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig
from torch import Tensor, nn

from asr.data.batch import Batch
from asr.data.plan import Budgets
from asr.training.memory import Load, Measured, MemoryGuard, MemoryShortageError, Needs, attempt
from asr.training.trainer import Trainer
from distributed.learners.world import World

EXACT = (
    "hooks=[]", "trainer.precision=fp64", "trainer.max_steps=3", "evaluation.sets=[]", "trainer.memory_probe=false",
    "model.encoder.dropout=0", "model.predictor.dropout=0", "model.predictor.embedding_dropout=0", "optimizer=sgd",
    "batch.unit_utterances=5", "batch.units=2",
)  # fmt: skip


def make_batch(lengths: list[int], tokens: int = 3) -> Batch:
    rows = len(lengths)
    targets = torch.ones(rows, tokens, dtype=torch.int64)
    return Batch(
        [f"u{index}" for index in range(rows)],
        torch.zeros(rows, max(lengths), 2),
        torch.tensor(lengths),
        targets,
        torch.full((rows,), tokens),
        targets,
        float(rows),
        "0-0-0",
    )


def make_guard() -> MemoryGuard:
    return MemoryGuard(subsampling=4, budgets=Budgets(utterances=8, frames=1000, cells=4000))


shapes = st.tuples(st.integers(1, 9), st.integers(1, 400), st.integers(0, 30))


def load_of(utterances: int, frames: int, tokens: int) -> Load:
    states = -(-frames // 4)
    return Load(utterances, utterances * frames, utterances * states * (tokens + 1), utterances * states**2)


@given(whole=shapes, other=shapes, costs=st.tuples(*[st.floats(0, 100)] * 4))
def test_the_bound_holds_where_memory_grows_as_it_says(
    whole: tuple[int, int, int], other: tuple[int, int, int], costs: tuple[float, ...]
) -> None:
    """Whatever the constant and the bytes per frame, cell and attention cell: from one unit and a single utterance."""

    def truth(load: Load) -> float:
        constant, *slopes = costs
        return constant + sum(s * x for s, x in zip(slopes, (load.frames, load.cells, load.attention), strict=True))

    needs = Needs()
    for load in (load_of(1, *whole[1:]), load_of(whole[0] + 1, *whole[1:])):
        needs = needs.including(Measured(load, truth(load)))
        assert needs.bound(load) == pytest.approx(truth(load))
    assert needs.bound(load_of(*other)) >= truth(load_of(*other)) * (1 - 1e-9) - 1e-6


def test_nothing_is_split_before_anything_is_known() -> None:
    batch = make_batch([100, 100, 100])
    assert make_guard().parts(batch) == [batch]
    emptied = Batch([], torch.zeros(0, 0, 2), *[torch.zeros(0, 0, dtype=torch.int64)] * 4, weight=0.0)
    assert make_guard().parts(emptied) == [emptied]


@pytest.mark.parametrize(("available", "sizes"), [(900.0, [8]), (500.0, [4, 4]), (401.0, [2, 3, 3]), (5.0, [1] * 8)])
def test_a_unit_is_run_in_the_fewest_even_parts_that_fit(available: float, sizes: list[int]) -> None:
    guard = make_guard()
    batch = make_batch([40] * 8)
    guard.needs = Needs((Measured(guard.load(batch), 900.0),), (100.0, 100.0))
    guard.available_bytes = available
    parts = guard.parts(batch)
    assert [len(part.utterance_ids) for part in parts] == sizes
    assert [name for part in parts for name in part.utterance_ids] == batch.utterance_ids


def test_what_cannot_be_split_is_named_with_the_budget_to_lower() -> None:
    guard = make_guard()
    with pytest.raises(
        MemoryShortageError, match=r"utterance u0 alone .* 1 x 400 frames, 400 cells; lower batch.max_fr"
    ):
        guard.halves(make_batch([400]))
    message = r"backward, of 2 x 400 frames, 3,400 cells: .*lower batch\.max_cells=4000 to 1700 or less in a new run"
    with pytest.raises(MemoryShortageError, match=message), guard.backward(make_batch([400, 400], tokens=16)):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_an_attempt_lets_go_of_what_it_held() -> None:
    """The traceback of an error keeps the frames' tensors alive: they must be gone before the next attempt."""
    released = []

    class Holder:
        def __del__(self) -> None:
            released.append(True)

    def forward() -> None:
        holder = Holder()
        raise torch.OutOfMemoryError(repr(holder))

    assert attempt(forward) is None
    assert released


# In the trainer


def exhausted_above(trainer: Trainer, rows: int, where: Callable[[int], bool]) -> None:
    """Let memory run out in forwards of more than ``rows`` utterances, in those calls that ``where`` says."""
    calls = []

    def forward(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        (batch,) = inputs
        calls.append(len(batch.utterance_ids))
        if calls[-1] > rows and where(len(calls)):
            raise torch.OutOfMemoryError("CUDA out of memory")

    trainer.parts.run.model.register_forward_pre_hook(forward)


def split_below(trainer: Trainer, rows: int) -> None:
    """Let no more than ``rows`` utterances as short as the shortest fit."""
    guard, dataset = trainer.parts.memory, trainer.parts.dataset
    batches = [dataset[unit] for batch in trainer.parts.plan.epoch(0) for unit in batch]
    batch = min(batches, key=lambda batch: guard.load(batch).frames)
    guard.needs = Needs((Measured(guard.load(batch), float(len(batch.utterance_ids))),))
    guard.available_bytes = float(rows)


def fit(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, float]]:
    try:
        trainer.fit(None)
    finally:
        trainer.parts.recorder.close()
    state = {name: value.clone() for name, value in trainer.parts.run.model.state_dict().items()}
    return state, trainer.parts.recorder.latest


FIRST = threading.Lock()


def take_weights(trainer: Trainer, initial: dict[str, Tensor]) -> None:
    """Begin with the weights of the first one that came."""
    model = trainer.parts.run.model
    with FIRST:
        if not initial:
            initial.update({name: value.clone() for name, value in model.state_dict().items()})
    model.load_state_dict(initial)


def check_same(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=1e-12, atol=1e-12)


def test_the_step_is_the_same_in_any_number_of_parts(
    small_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer], tmp_path: Path, alone: World
) -> None:
    config = small_config(*EXACT, "backend=single")
    expected, whole = fit(make_trainer(config, tmp_path / "whole", alone))
    assert (whole["memory/split_units"], whole["memory/exhausted"]) == (0, 0)

    planned = make_trainer(config, tmp_path / "planned", alone)
    split_below(planned, rows=2)
    state, row = fit(planned)
    check_same(state, expected)
    assert row["memory/split_units"] > 0
    assert row["memory/exhausted"] == 0
    assert row["train/loss"] == pytest.approx(whole["train/loss"], rel=1e-12)
    assert row["train/ctc"] == pytest.approx(whole["train/ctc"], rel=1e-12)

    surprised = make_trainer(config, tmp_path / "surprised", alone)
    exhausted_above(surprised, rows=1, where=lambda call: True)
    state, row = fit(surprised)
    check_same(state, expected)
    assert row["memory/split_units"] == 2, "both units of the step"
    assert row["memory/exhausted"] >= 6, "5 utterances: as a whole, as 2 and 3, and 2 of the 3"


def test_learners_may_split_differently(
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[Any]],
    tmp_path: Path,
) -> None:
    """Under DistributedDataParallel too, where memory runs out in the very forward whose backward communicates."""
    config = small_config(*EXACT, "backend=allreduce", "batch.units=4")
    initial: dict[str, Tensor] = {}  # threads share the generator that weights are drawn from

    def learner(world: World, surprised: bool) -> dict[str, Tensor]:
        trainer = make_trainer(config, tmp_path / f"{surprised}", world)
        take_weights(trainer, initial)
        if surprised and world.rank == 1:
            exhausted_above(trainer, rows=2, where=lambda call: True)  # already in the rehearsal
        elif surprised:
            split_below(trainer, rows=4)
        return fit(trainer)[0]

    (expected, _), states = (run_learners(2, lambda world, s=s: learner(world, s)) for s in (False, True))
    for state in states:
        check_same(state, expected)


def test_memory_that_runs_out_in_a_backward_stops_the_run(
    small_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer], tmp_path: Path, alone: World
) -> None:
    trainer = make_trainer(small_config(*EXACT, "backend=single"), tmp_path, alone)

    def backward(gradient: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    trainer.parts.run.model.joiner.output.weight.register_hook(backward)
    with pytest.raises(
        MemoryShortageError, match=r"^out of memory in a backward, of 5 x \d+ frames.* lower batch\.max_"
    ):
        fit(trainer)
