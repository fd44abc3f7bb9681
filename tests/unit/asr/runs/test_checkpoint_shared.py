"""What learners hold alike is stored once, by its bytes and not by what a scheme promises; nothing is lost by it."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from asr.runs.checkpoint import learner_file, newest_intact, read_checkpoint
from asr.runs.checkpoint_folder import CheckpointFolder
from asr.runs.checkpoint_shared import SHARED, divided, joined
from asr.runs.progress import Progress
from asr.training.trainer import Trainer
from distributed.learners.world import World
from tests.schemes import SCHEMES, words

Run = Callable[..., list[Any]]
Folders = Callable[..., CheckpointFolder]


def equal(one: Any, other: Any) -> bool:
    """Whether nested states are the same, tensors by their bytes."""
    if isinstance(one, Tensor):
        return (
            isinstance(other, Tensor)
            and (one.dtype, one.shape) == (other.dtype, other.shape)
            and one.numpy().tobytes() == other.numpy().tobytes()
        )
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other) and type(one) is type(other)


def state_of(rank: int, seed: int) -> dict[str, Any]:
    """A learner's state of which some entries, drawn by the seed, differ between learners."""
    draw = random.Random(seed)

    def tensor(*shape: int) -> Tensor:
        own = rank if draw.random() < 0.4 else 0
        return torch.randn(shape, generator=torch.Generator().manual_seed(draw.randrange(1000) + 7919 * own))

    return {
        "model": {"a.weight": tensor(3, 2), "a.bias": tensor(2), "scalar": tensor(), "empty": torch.zeros(0)},
        "optimizer": {
            "state": {index: {"step": 4, "exp_avg": tensor(2), "none": {}} for index in range(3)},
            "param_groups": [{"lr": 0.1 if draw.random() < 0.5 else 0.1 + rank, "params": [0, 1, 2]}],
        },
        "backend": {"memory": torch.full((2,), float(rank))},
        "hooks": {},
        "step": rank,
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("learners", [1, 2, 3])
def test_the_parts_make_the_whole(run_learners: Run, learners: int, seed: int) -> None:
    def learner(world: World) -> tuple[dict[Any, Any], dict[Any, Any]]:
        state = state_of(world.rank, seed)
        return divided(state, world, state["model"] if world.rank == 0 else None)

    found = run_learners(learners, learner)
    consensus = {"model": state_of(0, seed)["model"]}
    for rank, (own, _) in enumerate(found):
        assert equal(joined(consensus, found[0][1], own), state_of(rank, seed))
    assert "model" not in found[0][1], "the weights are those of the consensus"


def test_equality_is_that_of_bytes(run_learners: Run) -> None:
    def learner(world: World) -> dict[Any, Any]:
        zero = torch.zeros(2) if world.rank == 0 else -torch.zeros(2)
        bits = torch.tensor([torch.nan])
        return divided({"model": {"zero": zero, "nan": bits}, "step": 1}, world, None)[0]

    for own in run_learners(2, learner):
        assert set(own["model"]) == {"zero"}, "0 and -0 are two numbers, and NaN is one"


def test_one_flipped_bit_keeps_an_entry_apart(run_learners: Run) -> None:
    def learner(world: World) -> dict[Any, Any]:
        state = {"model": {"a": torch.ones(1000), "b": torch.ones(1000)}}
        if world.rank == 2:
            state["model"]["b"].view(torch.int32)[517] ^= 1
        return divided(state, world, None)[0]

    for own in run_learners(3, learner):
        assert set(own["model"]) == {"b"}


def test_learners_with_other_entries_share_nothing(run_learners: Run) -> None:
    def learner(world: World) -> tuple[dict[Any, Any], dict[Any, Any]]:
        return divided({"model": {"a": torch.ones(1), f"b{world.rank}": torch.ones(1)}}, world, None)

    for rank, (own, shared) in enumerate(run_learners(2, learner)):
        assert set(own["model"]) == {"a", f"b{rank}"}
        assert shared == {}


def test_damage_to_what_is_stored_once_is_found(tmp_path: Path, alone: World, folder: Folders) -> None:
    checkpoints = folder(tmp_path, alone)
    for step in (1, 2):
        state = {"optimizer": {"state": {0: {"m": torch.full((4,), float(step))}}}}
        written = checkpoints.save(Progress(step=step, global_step=step), state, {"w": torch.ones(1)}, None)
    victim = written / SHARED
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    chosen, problems = newest_intact(tmp_path)
    assert chosen is not None
    assert chosen.progress.step == 1
    assert str(victim) in problems[written]


@pytest.mark.parametrize("scheme", words(lambda each: each.several))
def test_a_scheme_of_equal_learners_stores_weights_and_moments_once(
    scheme: str,
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Run,
    tmp_path: Path,
) -> None:
    """Of whatever scheme, each learner reads back exactly what it had."""
    run = ("hooks=[]", "evaluation.sets=[]", "trainer.max_steps=3", "checkpoint.in_background=true")
    config = small_config(*SCHEMES[scheme].overrides(2, group_size=1), *run)

    def learner(world: World) -> dict[str, Any]:
        trainer = make_trainer(config, tmp_path, world)
        trainer.fit(None)
        trainer.parts.recorder.close()
        return trainer.saver.state_dict(trainer.progress, trainer.units)

    states = run_learners(2, learner)
    checkpoint = read_checkpoint(tmp_path / "checkpoints" / "step-00000003")
    assert checkpoint.damaged_file() is None
    assert (SHARED in checkpoint.files) == SCHEMES[scheme].synchronous
    for rank, state in enumerate(states):
        assert equal(checkpoint.learner_state(rank, torch.device("cpu")), state)
        stored = torch.load(checkpoint.folder / learner_file(rank), weights_only=True)
        assert ("model" in stored or "optimizer" in stored) != SCHEMES[scheme].synchronous
