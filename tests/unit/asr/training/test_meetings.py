"""Hooks that need all learners: those that meet now and then, those that need lockstep; teachers inside the guard of memory."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from asr.models.encoder import padding_mask
from asr.models.taps import Taps, layer_names
from asr.runs.progress import Progress
from asr.training.hook import Hook, Run
from asr.training.trainer import Trainer
from distributed.errors import UsageError
from distributed.learners.world import World

Config = Callable[..., DictConfig]
Make = Callable[..., Trainer]


class Meeting(Hook):
    """Sums the learners' ranks at every meeting."""

    def __init__(self, every: int) -> None:
        self.meets_every = every
        self.met: list[int] = []
        self.sums: list[float] = []
        self.run: Any = None

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        self.run = run

    def on_meeting(self, progress: Progress) -> None:
        self.met.append(progress.global_step)
        self.sums.append(float(self.run.world.all_reduce_sum(torch.tensor([1.0 + self.run.world.rank]))))


class Lockstep(Hook):
    needs_lockstep: ClassVar[bool] = True


@pytest.mark.parametrize("scheme", ["allreduce", "dpsgd", "adpsgd"])
def test_all_learners_meet_at_the_same_points(
    scheme: str, small_config: Config, make_trainer: Make, run_learners: Callable[..., list[Any]], tmp_path: Path
) -> None:
    config = small_config(f"backend={scheme}", "hooks=[]", "evaluation.sets=[]", "trainer.max_steps=7")

    def learner(world: World) -> Meeting:
        hook = Meeting(every=2)
        trainer = make_trainer(config, tmp_path, world, {"meeting": hook})
        trainer.fit(None)
        trainer.parts.recorder.close()
        return hook

    for hook in run_learners(2, learner):
        assert hook.met == [2, 4, 6]
        assert hook.sums == [3.0, 3.0, 3.0]


def test_a_hook_that_needs_lockstep_is_refused_where_there_is_none(
    small_config: Config, make_trainer: Make, tmp_path: Path, alone: World
) -> None:
    make_trainer(small_config("backend=dpsgd"), tmp_path, alone, {"lockstep": Lockstep()}).parts.recorder.close()
    with pytest.raises(
        UsageError, match=r"^hooks=\[lockstep\] needs all learners to make every step together, which Asyn"
    ):
        make_trainer(small_config("backend=adpsgd"), tmp_path, alone, {"lockstep": Lockstep()})
    with pytest.raises(UsageError, match=r"^hooks\.meeting: it meets every 0 global steps; that must be 1 or more$"):
        make_trainer(small_config("backend=single"), tmp_path, alone, {"meeting": Meeting(0)})


class Teacher(Hook):
    """Distils the encoder's layers from a trained model; memory suffices for ``most`` utterances of its forward."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        self.most = most
        self.refused = 0
        self.dtypes: set[torch.dtype] = set()

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        self.teacher = run.load_model(self.folder, key="hooks.teacher.folder").model.double()
        names = layer_names(run.model, run.model.encoder.layers)
        self.taps = {model: Taps(model, names) for model in (run.model, self.teacher)}
        self.student = run.model
        assert run.optimizer is run.learning_rate.optimizer
        assert run.precision == "fp64"

    def on_loss(self, batch: Any, output: Any, terms: Any) -> None:
        if len(batch.utterance_ids) > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError("a teacher is one model more")
        with torch.no_grad():
            _, lengths_B = self.teacher.encode(batch.features, batch.feature_lengths)
        student, teacher = (self.taps[model].take() for model in (self.student, self.teacher))
        assert student.keys() == teacher.keys()
        padding_BS = padding_mask(lengths_B, output.encoder_states.shape[1])
        for name in student:
            squares_BS = (student[name] - teacher[name]).square().sum(2)
            terms.add(f"distillation/{name}", 0.01 * squares_BS.masked_fill(padding_BS, 0.0).sum())


def test_a_teachers_forward_is_split_with_the_units(
    small_config: Config, make_trainer: Make, finished_run: Callable[..., Path], tmp_path: Path, alone: World
) -> None:
    exact = (
        "backend=single", "hooks=[]", "evaluation.sets=[]", "trainer.max_steps=2", "trainer.precision=fp64",
        "model.encoder.dropout=0", "model.predictor.dropout=0", "model.predictor.embedding_dropout=0",
    )  # fmt: skip
    source = finished_run(small_config(*exact), tmp_path / "teacher")
    weights: list[dict[str, Tensor]] = []
    for most in (2, 1):
        hook = Teacher(source, most)
        config = small_config(*exact, "seed=2", f"trainer.memory_probe={'true' if most == 2 else 'false'}")
        trainer = make_trainer(config, tmp_path / f"at-most-{most}", alone, {"teacher": hook})
        trainer.fit(None)
        trainer.parts.recorder.close()
        assert (hook.refused > 0) == (most == 1)
        weights.append(trainer.parts.run.model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-9, atol=1e-9)


def test_batches_of_a_split_come_in_an_order_of_their_seed(
    small_config: Config, make_trainer: Make, tmp_path: Path, alone: World
) -> None:
    trainer = make_trainer(small_config("backend=single"), tmp_path, alone)
    run = trainer.parts.run
    first, again, other = ([each.utterance_ids for each in run.batches("train", seed)] for seed in (1, 1, 2))
    assert first == again != other
    for found in (first, other):
        assert sorted(chain.from_iterable(found)) == sorted(each.id for each in run.utterances)
    trainer.parts.recorder.close()
