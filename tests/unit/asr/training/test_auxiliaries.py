"""Modules that train with a model: mixed, resumed and in no model folder; groups that ascend; groups that rest in a step."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from asr.runs.checkpoint import model_folder_of
from asr.runs.model_folder import load_model
from asr.runs.progress import Progress
from asr.training.hook import Hook, ParameterGroup, Run
from asr.training.trainer import Trainer
from distributed.errors import UsageError
from distributed.learners.world import World
from scripts.composition.build import count_parameters
from tests.schemes import SCHEMES, long_unless_often

Config = Callable[..., DictConfig]
Make = Callable[..., Trainer]
STEPS = ("hooks=[]", "evaluation.sets=[]", "trainer.max_norm=null", "schedule=constant")
LIMIT = 0.5


class Multiplier(Hook):
    """A Lagrange multiplier m for m (|w| - LIMIT), which ascends while the weight of a layer is larger than a limit."""

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.model: Any = None
        self.values: list[float] = []
        self.moments: list[float] = []
        self.run: Any = None

    def on_auxiliary(self, model: Any) -> nn.Module:
        self.model = model
        part = nn.Module()
        part.multiplier = nn.Parameter(torch.zeros(()))
        return part

    def on_parameter_groups(self, model: Any) -> list[ParameterGroup]:
        rules = {"compress": False, "idle": lambda progress: progress.step % self.every != 0}
        options = {"lr": 0.1, "maximize": True}
        return [ParameterGroup.of(model, model.auxiliary["lagrangian"], options=options, schedule=False, **rules)]

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        self.run = run

    @property
    def multiplier(self) -> nn.Parameter:
        parameter: nn.Parameter = self.model.auxiliary["lagrangian"].multiplier
        return parameter

    def on_loss(self, batch: Any, output: Any, terms: Any) -> None:
        if terms.last:
            norm = self.model.joiner.output.weight.detach().norm()
            terms.add_per_step("constraint", self.multiplier * (norm - LIMIT))

    def on_step_end(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.values.append(self.multiplier.item())
        state = self.run.optimizer.state[self.multiplier]
        self.moments.append(float(state["exp_avg"]) if state else 0.0)


@pytest.fixture
def train(
    small_config: Config, make_trainer: Make, run_learners: Callable[..., list[Any]], tmp_path: Path
) -> Callable[..., list[tuple[Trainer, Multiplier]]]:
    """``train(name, size, options, every)``: trainers and hooks of all learners after the run, resumed where it was begun."""

    def run(name: str, size: int, options: Sequence[str], every: int = 1) -> list[tuple[Trainer, Multiplier]]:
        config = small_config(*STEPS, *options)

        def learner(world: World) -> tuple[Trainer, Multiplier]:
            hook = Multiplier(every)
            trainer = make_trainer(config, tmp_path / name, world, {"lagrangian": hook})
            trainer.fit(trainer.parts.checkpoints.newest()[0])
            trainer.parts.recorder.close()
            return trainer, hook

        return run_learners(size, learner)

    return run


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_ascending_multiplier_grows_while_its_constraint_is_broken(scheme: str, train: Any) -> None:
    size = 2 if SCHEMES[scheme].several else 1
    for _, hook in train(scheme, size, [*SCHEMES[scheme].overrides(size), "trainer.max_steps=4"]):
        assert min(hook.values) > 0 > max(hook.moments), "the moments are of the negated gradient, whose sign is fixed"
        if SCHEMES[
            scheme
        ].lockstep:  # elsewhere a neighbour that is further on, or not so far, may be mixed in at any time
            assert hook.values[0] == pytest.approx(0.1, rel=1e-4), "Adam's first step has the length of the rate"
            assert hook.values == sorted(hook.values)


@pytest.mark.parametrize("scheme", long_unless_often(SCHEMES))
def test_a_group_that_is_idle_is_touched_by_nothing(scheme: str, train: Any) -> None:
    size = 2 if SCHEMES[scheme].several else 1
    for _, hook in train(scheme, size, [*SCHEMES[scheme].overrides(size), "trainer.max_steps=4"], every=2):
        changes = [b - a for a, b in zip([0.0, *hook.values], hook.values, strict=False)]
        moments = [b - a for a, b in zip([0.0, *hook.moments], hook.moments, strict=False)]
        if not hook.run.backend.lockstep:
            continue  # its steps may be any two
        assert [change != 0 for change in moments] == [True, False, True, False]
        if hook.run.backend.synchronous:  # elsewhere neighbours' values are mixed in
            assert [change != 0 for change in changes] == [True, False, True, False]


@pytest.mark.parametrize("sizes", [(1, 1), (2, 2), (2, 1)])
def test_it_resumes_with_the_model_also_on_another_number_of_learners(sizes: tuple[int, int], train: Any) -> None:
    first, second = sizes
    before = train("run", first, ["backend=allreduce", "trainer.max_steps=2"])
    after = train("run", second, ["backend=allreduce", "trainer.max_steps=3"])
    values = [hook.values for _, hook in before]
    assert all(each == values[0] for each in values)
    assert after[0][1].values[0] > values[0][-1] > 0.1


def test_gossip_mixes_it(train: Any) -> None:
    (one, _), (other, _) = train(
        "delay_by_one", 2, ["backend=delay_by_one", "trainer.max_steps=3", "optimizer.lr=1e-9"]
    )
    both = [trainer.parts.run.model.auxiliary["lagrangian"].multiplier.item() for trainer in (one, other)]
    assert both[0] == pytest.approx(both[1], rel=1e-3)


def test_it_is_in_no_model_folder_no_count_and_no_initial_weights(
    train: Any, tmp_path: Path, small_config: Config, make_trainer: Make, alone: World
) -> None:
    ((trainer, hook),) = train("single", 1, ["backend=single", "trainer.max_steps=2"])
    model = trainer.parts.run.model
    folder = model_folder_of(tmp_path / "single", "run")
    assert not [name for name in load_model(folder).model.state_dict() if name.startswith("auxiliary")]
    assert count_parameters(model) == sum(p.numel() for p in model.parameters()) - 1
    config = small_config("backend=single", *STEPS, f"init_from={tmp_path / 'single'}", "trainer.max_steps=2")
    again = make_trainer(config, tmp_path / "again", alone, {"lagrangian": Multiplier()})
    again.parts.recorder.close()
    found: Tensor = again.parts.run.model.auxiliary["lagrangian"].multiplier
    assert found.item() == 0.0 < hook.multiplier.item()


def test_moments_are_not_mixed_with_a_group_that_rests(
    small_config: Config, make_trainer: Make, tmp_path: Path, alone: World
) -> None:
    config = small_config("backend=dpsgd", "backend.mix_moments=true", *STEPS)
    with pytest.raises(UsageError, match=r"^hooks\.lagrangian: .* set backend\.mix_moments=false$"):
        make_trainer(config, tmp_path, alone, {"lagrangian": Multiplier(every=2)})
