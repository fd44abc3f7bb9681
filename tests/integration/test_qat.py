"""Runs with the hook qat_int4: under every backend, from an unquantised run, and used without the hook."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from asr.models.speech_model import SpeechModel
from asr.runs.checkpoint import model_folder_of
from asr.runs.metrics import read_rows
from asr.runs.model_folder import load_model
from asr.training.hook import Hook
from asr.training.trainer import Trainer
from compression.quantization.activations import LearnedBounds
from compression.quantization.twins import Twin
from distributed.learners.world import World
from scripts.evaluate import main as evaluate
from scripts.transcribe import main as transcribe
from tests.schemes import SCHEMES, long_unless_often, words

RUN = ("trainer.max_steps=3", "trainer.checkpoint_every=3", "trainer.evaluate_every=3", "hooks=[qat_int4]", "evaluation.sets=[dev]")  # fmt: skip


def bounds_of(model: SpeechModel) -> dict[str, Tensor]:
    """The learned bounds, by name."""
    names = [name for name, each in model.named_modules() if isinstance(each, LearnedBounds)]
    found = {name: each.detach().clone() for name, each in model.named_parameters()}
    return {name: each for name, each in found.items() if name.rpartition(".")[0] in names}


class FirstBounds(Hook):
    """Keeps the bounds that the first step begins with."""

    def on_fit_start(self, run: Any, resumed: bool) -> None:
        self.model, self.bounds = run.model, None

    def on_step_start(self, progress: Any) -> None:
        self.bounds = self.bounds or bounds_of(self.model)


SYMMETRIC = "hooks.qat_int4.hidden=pact_plus_symmetric"


@pytest.mark.parametrize("word", [*long_unless_often(words(lambda each: each.several)), f"dpsgd {SYMMETRIC}"])
def test_bounds_are_the_learners_own_or_equal_as_their_weights_are(
    word: str,
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[Any]],
    tmp_path: Path,
) -> None:
    word, *more = word.split()
    config = small_config(*SCHEMES[word].overrides(2), *RUN, "trainer.memory_probe=false", *more)

    def learner(world: World) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        first = FirstBounds()
        trainer = make_trainer(config, tmp_path, world, {"first": first})
        trainer.fit(None)
        trainer.parts.recorder.close()
        assert first.bounds is not None
        return first.bounds, bounds_of(trainer.parts.run.model)

    (begun, ended), (other_begun, other_ended) = run_learners(2, learner)
    assert begun
    assert all(torch.equal(begun[name], other_begun[name]) for name in begun), "calibrated, and made equal"
    assert all((each > 0).all() for name, each in begun.items() if name.endswith("upper"))
    assert all(not torch.equal(begun[name], ended[name]) for name in begun), "they learn"
    if SCHEMES[word].synchronous:
        assert all(torch.equal(ended[name], other_ended[name]) for name in ended)
    saved = bounds_of(load_model(model_folder_of(tmp_path, "run")).model)
    for name, bound in saved.items():
        torch.testing.assert_close(bound, (ended[name] + other_ended[name]) / 2, rtol=1e-5, atol=1e-6)
    rows = [row for row in read_rows(tmp_path / "metrics" / "0.jsonl") if "qat_int4/smallest_bound" in row]
    assert rows
    assert 0 < rows[0]["qat_int4/smallest_bound"] <= rows[0]["qat_int4/largest_bound"]


def test_two_learners_train_as_one_does(
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[Any]],
    one_start: Callable[[Trainer], None],
    tmp_path: Path,
) -> None:
    """In double precision, where rounding of sums hardly ever moves a code."""
    config = small_config(
        "backend=allreduce", *RUN, "trainer.max_steps=4", "evaluation.sets=[]", "trainer.precision=fp64",
        "model.encoder.dropout=0", "model.predictor.dropout=0", "model.predictor.embedding_dropout=0",
    )  # fmt: skip
    for learners in (1, 2):

        def learner(world: World, folder: Path = tmp_path / str(learners)) -> None:
            trainer = make_trainer(config, folder, world)
            one_start(trainer)
            trainer.fit(None)
            trainer.parts.recorder.close()

        run_learners(learners, learner)
    rows = {name: read_rows(tmp_path / name / "metrics" / "0.jsonl") for name in "12"}
    losses = {name: [row["train/loss"] for row in found if "train/loss" in row] for name, found in rows.items()}
    one, two = losses["1"], losses["2"]
    assert len(one) == 4
    assert two == pytest.approx(one, rel=1e-9)


def test_bounds_have_a_rate_of_their_own_that_nothing_scales(
    small_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer], alone: World, tmp_path: Path
) -> None:
    trainer = make_trainer(small_config("backend=single", *RUN), tmp_path, alone)
    (group,) = [each for each in trainer.parts.optimizer.param_groups if each["name"] == "qat_int4"]
    assert group["initial_lr"] == 0.001
    assert group["weight_decay"] == 0
    assert [group[flag] for flag in ("clip", "scale_lr", "compress")] == [False] * 3
    names = {id(each): name for name, each in trainer.parts.run.model.named_parameters()}
    assert {names[id(each)] for each in group["params"]} == bounds_of(trainer.parts.run.model).keys()
    trainer.parts.recorder.close()


def test_an_unquantised_run_is_quantised_used_and_gone_on_with(
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    finished_run: Callable[..., Path],
    alone: World,
    tmp_path: Path,
    tiny_corpus: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = finished_run(small_config("backend=single", *RUN, "hooks=[]"), tmp_path / "plain")
    config = small_config("backend=single", *RUN, f"init_from={plain}")
    trainer = make_trainer(config, tmp_path / "start", alone)
    started, source = trainer.parts.run.model.state_dict(), load_model(model_folder_of(plain, "run")).model.state_dict()
    assert all(torch.equal(started[name], value) for name, value in source.items())
    trainer.parts.recorder.close()

    run = finished_run(config, tmp_path / "quantised")
    folder = model_folder_of(run, "run")
    loaded = load_model(folder)
    assert [node["_target_"] for node in loaded.description.transforms] == [
        "compression.quantization.transform.Quantize"
    ]
    assert any(isinstance(each, Twin) for each in loaded.model.modules())
    evaluate([f"run={run}", "sets=[dev]"])
    assert list(run.rglob("wer-greedy.json"))
    audio = str(tiny_corpus / "dev-0.wav")
    transcribe([f"run={run}", audio])
    assert f"{audio}\t" in capsys.readouterr().out

    again = make_trainer(small_config("backend=single", *RUN, f"init_from={folder}"), tmp_path / "again", alone)
    before = bounds_of(again.parts.run.model)
    for hook in again.parts.hooks.values():
        hook.on_fit_start(again.parts.run, resumed=False)
    trained = bounds_of(loaded.model)
    assert trained.keys() == before.keys() == bounds_of(again.parts.run.model).keys()
    for name, bound in bounds_of(again.parts.run.model).items():
        assert torch.equal(bound, trained[name]), "trained bounds are not calibrated anew"
    again.parts.recorder.close()


def test_a_language_model_trains_with_few_bits(lm_run: Callable[..., Path]) -> None:
    run = lm_run("trainer.max_steps=2", "+hooks=[qat_int4]")
    model = load_model(model_folder_of(run, "run")).model
    assert {type(each).__name__ for each in model.modules() if isinstance(each, Twin)} == {
        "QuantizedEmbedding", "QuantizedLstm", "QuantizedLinear",
    }  # fmt: skip
