"""Persistent changes of a model: every model folder names them, and weights come from before or after them."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from asr.runs.checkpoint import list_checkpoints, model_folder_of
from asr.runs.metrics import read_rows
from asr.runs.model_folder import load_model, read_description
from asr.training.trainer import Trainer
from distributed.errors import UsageError
from distributed.learners.world import World
from tests.transforms import GAIN, DampedLinear, Damping

Config = Callable[..., DictConfig]
SMALL = (
    "backend=single", "model=conformer_tiny", "model.encoder.layers=1", "model.encoder.dimension=16",
    "model.encoder.heads=2", "model.predictor.dimension=16", "model.joiner.dimension=16", "hooks=[]",
    "evaluation.sets=[dev]", "trainer.max_steps=2",
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def parts_of_tests() -> Iterator[None]:
    """A configuration may name what lies in tests/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asr.parts.PART_PACKAGES", ("asr", "distributed", "tests"))
        yield


@pytest.fixture
def start(small_config: Config, make_trainer: Callable[..., Trainer], tmp_path: Path, alone: World):
    """``start(damped, *overrides)``: the trainer of a run that has not made a step yet."""

    def make(damped: bool, *overrides: str) -> Trainer:
        hooks = {"damping": Damping()} if damped else {}
        return make_trainer(small_config(*SMALL, *overrides), tmp_path / "next", alone, hooks)

    return make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the runs that all tests read."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def plain_run(small_config: Config, finished_run: Callable[..., Path], folder: Path) -> Path:
    return finished_run(small_config(*SMALL), folder / "plain")


@pytest.fixture(scope="module")
def damped_run(small_config: Config, finished_run: Callable[..., Path], folder: Path) -> Path:
    return finished_run(small_config(*SMALL), folder / "damped", {"damping": Damping()})


def test_a_model_folder_rebuilds_the_changed_model_without_the_hook(damped_run: Path, plain_run: Path) -> None:
    damped, plain = (load_model(model_folder_of(run, "run")) for run in (damped_run, plain_run))
    assert damped.description.transforms == Damping().transforms()
    assert plain.description.transforms == []
    project = damped.model.encoder.subsample.project
    assert isinstance(project, DampedLinear)
    x = torch.randn(2, project.in_features)
    expected = GAIN * torch.nn.functional.linear(x, project.weight, project.bias)
    torch.testing.assert_close(project(x), expected)
    assert damped.model.state_dict().keys() == plain.model.state_dict().keys()


@pytest.mark.parametrize("source", ["plain", "damped"])
def test_weights_come_from_before_the_transform_or_from_after_it(
    source: str, start, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(f"{source}_run")
    trainer = start(True, f"init_from={run}")
    trainer.parts.recorder.close()
    expected = load_model(model_folder_of(run, "run")).model.state_dict()
    found = trainer.parts.run.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert isinstance(trainer.parts.run.model.encoder.subsample.project, DampedLinear)


def test_a_changed_model_gives_no_weights_to_one_that_is_not(start, damped_run: Path) -> None:
    with pytest.raises(UsageError, match=r"^init_from=.*: that model was changed by DampEncoderProjection, which this"):
        start(False, f"init_from={damped_run}")


def test_a_changed_model_gives_the_modules_that_were_not_changed(start, damped_run: Path) -> None:
    trainer = start(False, f"init_from={damped_run}", "init_modules=[encoder.blocks,predictor]")
    trainer.parts.recorder.close()
    expected = load_model(model_folder_of(damped_run, "run")).model.state_dict()
    found = trainer.parts.run.model.state_dict()
    taken = {name for name, value in expected.items() if torch.equal(found[name], value)}
    assert {name for name in expected if name.startswith(("encoder.blocks.", "predictor."))} <= taken
    assert "encoder.subsample.project.weight" not in taken
    for changed in ("encoder", "encoder.subsample.project"):
        with pytest.raises(UsageError, match=r"or modules that were not changed: init_modules=\[\.\.\.\]$"):
            start(False, f"init_from={damped_run}", f"init_modules=[{changed}]")


@pytest.mark.parametrize("damped", [False, True])
def test_a_second_stage_loads_a_changed_model_with_and_without_the_hook(
    damped: bool, damped_run: Path, small_config: Config, make_trainer, tmp_path: Path, alone: World
) -> None:
    base = [each for each in SMALL if not each.startswith("model")]
    config = small_config(*base, f"model_of={damped_run}", f"init_from={damped_run}")
    hooks = {"damping": Damping()} if damped else {}
    trainer = make_trainer(config, tmp_path / "second", alone, hooks)
    trainer.parts.recorder.close()
    assert trainer.parts.checkpoints.model.description.transforms == Damping().transforms(), "once"
    source = load_model(model_folder_of(damped_run, "run")).model
    model = trainer.parts.run.model
    assert isinstance(model.encoder.subsample.project, DampedLinear)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())


def test_model_of_brings_sizes_that_no_option_has(plain_run: Path, small_config: Config) -> None:
    config = small_config("backend=single", f"model_of={plain_run}", f"init_from={plain_run}")
    assert config.model.encoder.dimension == 16
    assert "vocabulary_size" not in config.model
    with pytest.raises(UsageError, match=r"model\.encoder\.dropout=0: model_of=.* brings its own model"):
        small_config(f"model_of={plain_run}", "model.encoder.dropout=0")
    with pytest.raises(UsageError, match=r"^model_of=nothing: no checkpoint there"):
        small_config("model_of=nothing")


def test_a_run_goes_on_when_what_it_began_from_is_gone(
    damped_run: Path, small_config: Config, finished_run: Callable[..., Path], tmp_path: Path
) -> None:
    before = shutil.copytree(damped_run, tmp_path / "damped")

    def go_on(steps: int) -> Path:
        base = [each for each in SMALL if not each.startswith(("model", "trainer.max_steps"))]
        sources = [f"model_of={before}", f"init_from={before}"]
        where = [f"exp_dir={tmp_path}", "name=second", f"trainer.max_steps={steps}"]
        return finished_run(small_config(*base, *sources, *where), tmp_path / "second")

    first = read_description(model_folder_of(go_on(2), "run"))[0]
    assert first.made_of[0]["init_from"].startswith(str(before))
    assert first.transforms == Damping().transforms()
    before.rename(tmp_path / "moved")
    run = go_on(4)
    assert [row["step"] for row in read_rows(run / "metrics" / "0.jsonl") if "train/loss" in row] == [1, 2, 3, 4]
    newest = list_checkpoints(run / "checkpoints")[0][-1]
    assert newest.progress.step == 4
    assert read_description(newest.folder)[0] == first
