"""``on_update`` writes weights and moments: what a mask takes away stays exactly 0 on every learner, under every backend."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.optim import Optimizer

from asr.models.speech_model import SpeechModel
from asr.training.hook import Hook
from asr.training.trainer import Trainer
from distributed.learners.world import World
from distributed.schemes.adpsgd import AsynchronousGossip
from tests.schemes import SCHEMES, Scheme

NAME = "joiner.output.weight"


class Mask(Hook):
    """Zeroes every third row of a weight, and its moments, after each update."""

    def __init__(self) -> None:
        self.updates = 0
        self.held: list[bool] = []
        self.backend: Any = None

    def on_fit_start(self, run: Any, resumed: bool) -> None:
        self.backend = run.backend

    @torch.no_grad()
    def on_update(self, model: SpeechModel, optimizer: Optimizer) -> None:
        self.updates += 1
        parameter = model.get_parameter(NAME)
        parameter[::3] = 0
        for moment in ("exp_avg", "exp_avg_sq"):
            optimizer.state[parameter][moment][::3] = 0
        if isinstance(self.backend, AsynchronousGossip):
            self.held.append(self._others_wait())

    def _others_wait(self) -> bool:
        """Whether another thread would have to wait for a snapshot."""
        lock, free = self.backend.mixing._changed, []

        def look() -> None:
            free.append(lock.acquire(blocking=False))
            if free[0]:
                lock.release()

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return not free[0]


class NotFinite(Hook):
    """Spoils the gradient of the second step."""

    def on_loss(self, batch: Any, output: Any, terms: Any) -> None:
        if batch.unit.startswith("0-1-"):  # epoch, global batch, unit
            terms.add("spoiled", output.total * float("nan"))


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_what_a_mask_takes_away_stays_away(
    scheme: Scheme,
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[Any]],
    tmp_path: Path,
) -> None:
    size = 2 if scheme.several else 1
    backend = scheme.overrides(size, mix_moments="true")
    config = small_config(*backend, "trainer.max_steps=4", "hooks=[]", "evaluation.sets=[]")

    def learner(world: World) -> tuple[Mask, int, Tensor, list[Tensor]]:
        mask = Mask()
        trainer = make_trainer(config, tmp_path, world, {"mask": mask})
        trainer.fit(None)
        trainer.parts.recorder.close()
        parameter = trainer.parts.run.model.get_parameter(NAME)
        state = trainer.parts.optimizer.state[parameter]
        return mask, trainer.progress.step, parameter.detach(), [state["exp_avg"], state["exp_avg_sq"]]

    for mask, steps, weight, moments in run_learners(size, learner):
        assert mask.updates == steps > 0
        for tensor in (weight, *moments):
            assert (tensor[::3] == 0).all()
            assert (tensor[1::3] != 0).any()
        assert len(mask.held) == (0 if scheme.lockstep else steps)
        assert all(mask.held), "a neighbour could be sent weights in the middle of a change"


def test_a_step_that_is_not_finite_updates_nothing(
    small_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer], tmp_path: Path, alone: World
) -> None:
    config = small_config("backend=single", "trainer.max_steps=4", "hooks=[]", "evaluation.sets=[]")
    mask = Mask()
    trainer = make_trainer(config, tmp_path, alone, {"mask": mask, "spoil": NotFinite()})
    trainer.fit(None)
    trainer.parts.recorder.close()
    assert trainer.progress.step == 4
    assert mask.updates == 3
