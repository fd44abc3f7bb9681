"""Numbers that are not finite: no checkpoint holds them, gossip does not spread them, and a resume passes them over."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch.optim import Optimizer

from asr.runs.checkpoint import list_checkpoints
from asr.training.bad_steps import TrainingDivergedError
from asr.training.health import ailment
from asr.training.hook import Hook, Run
from asr.training.trainer import Trainer
from distributed.errors import UserError
from distributed.gossip.finite import is_finite
from distributed.learners.world import World
from tests.schemes import SCHEMES, words

Config = Callable[..., DictConfig]
Make = Callable[..., Trainer]
RUN = ("hooks=[]", "evaluation.sets=[]", "trainer.checkpoint_every=1", "checkpoint.keep_last=9", "trainer.max_steps=30")


class MemoryFault(Hook):
    """One weight of one learner becomes NaN after its third update."""

    def __init__(self, learner: int) -> None:
        self.learner = learner
        self.updates = 0
        self.rank = -1

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        self.rank = run.world.rank

    def on_update(self, model: Any, optimizer: Optimizer) -> None:
        self.updates += 1
        if self.updates == 3 and self.rank == self.learner:
            model.joiner.output.weight.data[0, 0] = torch.nan


class BadLoss(Hook):
    """The losses of one step are not finite."""

    def __init__(self, place: str) -> None:
        self.place = place  # "epoch-batch-" of units

    def on_loss(self, batch: Any, output: Any, terms: Any) -> None:
        if batch.unit.startswith(self.place):
            terms.add("spoiled", output.total * torch.nan)


@pytest.mark.parametrize("scheme", words(lambda each: each.several))
def test_a_nan_weight_is_named_ends_the_run_and_enters_no_checkpoint(
    scheme: str, small_config: Config, make_trainer: Make, run_learners: Callable[..., list[Any]], tmp_path: Path
) -> None:
    config = small_config(*SCHEMES[scheme].overrides(2, group_size=1), *RUN)

    def learner(world: World) -> str:
        trainer = make_trainer(config, tmp_path, world, {"fault": MemoryFault(learner=1)})
        with pytest.raises((UserError, RuntimeError)) as caught:
            trainer.fit(None)
        trainer.parts.recorder.close()
        return str(caught.value)

    lines = run_learners(2, learner)
    assert any("learner 1" in line for line in lines), lines
    found, problems = list_checkpoints(tmp_path / "checkpoints")
    assert found
    assert not problems
    for each in found:
        each.refuse_non_finite()
    if SCHEMES[scheme].lockstep:
        assert found[-1].progress.global_step == 2, "all that were written before stay"


def test_a_checkpoint_that_falls_on_a_bad_step_is_written_after_it(
    small_config: Config, make_trainer: Make, tmp_path: Path, alone: World
) -> None:
    steps = ("trainer.checkpoint_every=2", "trainer.max_steps=5")
    trainer = make_trainer(small_config("backend=single", *RUN, *steps), tmp_path, alone, {"bad": BadLoss("0-1-")})
    trainer.fit(None)
    trainer.parts.recorder.close()
    found, _ = list_checkpoints(tmp_path / "checkpoints")
    assert [each.progress.global_step for each in found] == [3, 4, 5]


def test_a_run_whose_last_step_is_bad_keeps_its_end(
    small_config: Config, make_trainer: Make, tmp_path: Path, alone: World
) -> None:
    trainer = make_trainer(
        small_config("backend=single", *RUN, "trainer.max_steps=2"), tmp_path, alone, {"bad": BadLoss("0-1-")}
    )
    trainer.fit(None)
    trainer.parts.recorder.close()
    assert list_checkpoints(tmp_path / "checkpoints")[0][-1].progress.global_step == 2


def test_a_run_that_ends_with_such_weights_says_so(
    small_config: Config, make_trainer: Make, tmp_path: Path, alone: World
) -> None:
    config = small_config("backend=single", *RUN, "trainer.max_steps=3")
    trainer = make_trainer(config, tmp_path, alone, {"fault": MemoryFault(learner=0)})
    with pytest.raises(
        TrainingDivergedError, match=r"^no checkpoint of step 3: learner 0 holds numbers .*joiner\.output"
    ):
        trainer.fit(None)
    trainer.parts.recorder.close()


def test_a_resume_passes_over_a_checkpoint_of_such_weights(
    small_config: Config, make_trainer: Make, tmp_path: Path, alone: World
) -> None:
    config = small_config("backend=single", *RUN, "trainer.max_steps=2")
    trainer = make_trainer(config, tmp_path, alone)
    trainer.fit(None)
    trainer.parts.recorder.close()
    state = trainer.saver.state_dict(trainer.progress, trainer.units)
    state["model"]["joiner.output.bias"][0] = torch.inf
    trainer.progress.global_step = 3
    trainer.parts.checkpoints.save(trainer.progress, state, state["model"], None)
    chosen, lines = trainer.parts.checkpoints.newest()
    assert chosen is not None
    assert chosen.progress.global_step == 2
    (line,) = lines
    assert "NaN or infinite weights in joiner.output.bias" in line
    assert "kept as damaged-step-00000003" in line


def test_an_ailment_is_named_by_the_tensors_that_have_it() -> None:
    fit = {"model": {"a": torch.ones(2)}, "optimizer": {"state": {0: {"m": torch.ones(1), "step": 3}}}, "backend": {}}
    assert ailment(fit) is None
    sick = fit | {
        "backend": {"memory": [torch.tensor([torch.nan])]},
        "optimizer": {"state": {0: {"m": torch.tensor([torch.inf])}}},
    }
    assert ailment(sick) == "holds numbers that are not finite, in optimizer.state.0.m, backend.memory.0"


def test_a_sum_tells_whether_a_message_is_finite() -> None:
    for value, finite in ((1e30, True), (torch.inf, False), (-torch.inf, False), (torch.nan, False)):
        assert is_finite([torch.ones(3), torch.tensor([0.0, value])]) == finite
    assert not is_finite([torch.tensor([torch.inf, -torch.inf])])
    assert is_finite([torch.full((400,), 1e36)]), "of which the sum overflows"
