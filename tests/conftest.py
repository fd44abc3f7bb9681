"""Fixtures shared by all tests: learners as threads, the smallest loop that drives a backend, a corpus of seconds, n-best lists, language models."""

import gc
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import settings
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.distributed import HashStore

from asr.data import pipeline
from asr.training.hook import Hook
from asr.training.trainer import Trainer
from distributed.backend import Backend, GradientReport
from distributed.learners.environment import SECRET
from distributed.learners.gloo import gloo_group
from distributed.learners.secret import drawn
from distributed.learners.world import World
from scripts.composition.build import build_hooks
from scripts.composition.compose import compose
from scripts.composition.trainer import assemble
from tests import compositions
from tests.corpus import write_corpus
from tests.lists import write_nbest
from tests.processes import SERVER

# A busy machine takes its time over an example now and then. What else is set for CI (repeatable examples) stays.
settings.register_profile("patient", settings(deadline=None))
settings.load_profile("patient")

SECONDS = 20  # before a learner that waits gives up


def pytest_collection_finish() -> None:
    """What is loaded by now stays to the end, so that no search for garbage goes through it; others come after more is made."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Several compute threads beside any other load are many times slower than one."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def quick_compositions() -> Iterator[None]:
    """Configurations are composed as tests/compositions.py says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hydra.compose", compositions.compose)
        patch.setattr(OverridesParser, "parse_overrides", compositions.parse_overrides)
        yield


@pytest.fixture(autouse=True, scope="session")
def own_secret() -> Iterator[None]:
    """Learners that tests start make no file in the home of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET, drawn())
        yield


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """Entry points flush them to zero for their whole process, which here is that of all tests."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def forked_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that load batches are forked from the tests' server; spawned ones, as runs have, take seconds to begin."""
    monkeypatch.setattr(pipeline, "DataLoader", partial(_forked_loader, pipeline.DataLoader))


def _forked_loader(loader: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return loader(*arguments, **(options | {"multiprocessing_context": SERVER}))


@pytest.fixture
def run_learners(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Run ``function(world)`` on ``size`` learners, each a thread with a gloo group over an in-memory store.

    Returns their results by rank; raises the error of the learner that failed first. None waits longer
    than ``seconds`` for another.
    """
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")

    def run(size: int, function: Callable[[World], Any], seconds: float = SECONDS) -> list[Any]:
        store, results, errors = HashStore(), [None] * size, []

        def learner(rank: int) -> None:
            torch.set_num_threads(1)
            try:
                group = gloo_group(store, rank, size, seconds)
                results[rank] = function(World(rank, size, rank, size, torch.device("cpu"), group))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=learner, args=(rank,), daemon=True) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + 10)
        if errors:
            raise errors[0]
        assert not any(thread.is_alive() for thread in threads), "a learner hangs"
        return results

    return run


def lone_world() -> World:
    """The world of one learner."""
    return World(0, 1, 0, 1, torch.device("cpu"), None)


@pytest.fixture
def alone() -> World:
    """The world of one learner that needs no process group; of one test alone, as it remembers that it was asked to stop."""
    return lone_world()


SMALL_RUN = (
    "data=manifests", "data.train=train.jsonl", "data.dev=dev.jsonl", "data.test=dev.jsonl", "data.sample_rate=8000",
    "features.num_mels=20", "batch.units=4", "batch.unit_utterances=2", "logger=[]",
    "trainer.log_every=1", "trainer.evaluate_every=1000", "trainer.checkpoint_every=1000",
)  # fmt: skip
FEW_LABELS = "decode.max_symbols=2"  # models of a few steps write as many labels in a frame as they may
SMALL_LSTM = (
    "model=lstm_tiny", "model.encoder.layers=1", "model.encoder.hidden=16", "model.predictor.dimension=16",
    "model.predictor.embedding=8", "model.joiner.dimension=16",
)  # fmt: skip

SMALL_LM = ("backend=single", "model.predictor.embedding=8", "model.predictor.dimension=24")

Step = Sequence[tuple[Tensor, Tensor]]  # this learner's units: inputs (B, F) and targets (B, O)


@pytest.fixture(scope="session")
def train_steps() -> Callable[..., Iterator[GradientReport]]:
    """The loop of ``Backend``'s docstring on squared errors: a generator of one report per step.

    ``planned`` is the planned weight of each step; None takes that of this learner's own units.
    """

    def loop(
        backend: Backend,
        wrapped: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps: Sequence[Step],
        max_norm: float | None,
        planned: Sequence[float] | None = None,
    ) -> Iterator[GradientReport]:
        weights = [float(sum(len(x) for x, _ in units)) for units in steps]
        for units, weight, planned_weight in zip(steps, weights, planned or weights, strict=True):
            divisor = backend.begin_step(weight, planned_weight)
            for x, y in units[:-1]:
                with backend.accumulating():
                    ((wrapped(x) - y).square().sum() / divisor).backward()
            x, y = units[-1]
            ((wrapped(x) - y).square().sum() / divisor).backward()
            report = backend.reduce_gradients(max_norm)
            with backend.updating(apply=report.finite):
                if report.finite:
                    optimizer.step()
            backend.zero_grad()
            yield report

    return loop


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of seconds, in a folder of its own."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def small_overrides(tiny_corpus: Path) -> Callable[..., list[str]]:
    """Overrides for a run of seconds on the tiny corpus, then those given; a small LSTM and greedy search unless they choose."""

    def make(*overrides: str) -> list[str]:
        chosen = [] if any(each.startswith(("model=", "model_of=")) for each in overrides) else SMALL_LSTM
        search = [] if any(each.startswith("decode=") for each in overrides) else [FEW_LABELS]
        return [*SMALL_RUN, *search, f"data.root={tiny_corpus}", *chosen, *overrides]

    return make


@pytest.fixture(scope="session")
def small_lm_overrides(tiny_corpus: Path) -> Callable[..., list[str]]:
    """Overrides for a run of seconds of a small language model on the texts of the tiny corpus, then those given."""
    run = [each for each in SMALL_RUN if not each.startswith("features.")]
    return lambda *overrides: [*run, f"data.root={tiny_corpus}", *SMALL_LM, *overrides]


@pytest.fixture(scope="session")
def small_config(small_overrides: Callable[..., list[str]]) -> Callable[..., DictConfig]:
    """The configuration of a run on the tiny corpus, with overrides."""
    return lambda *overrides: compose("train", small_overrides(*overrides))


@pytest.fixture(scope="session")
def make_trainer() -> Callable[..., Trainer]:
    """Build the trainer of one learner; hooks may be given as objects beside the configured ones."""

    def make(config: DictConfig, folder: Path, world: World, hooks: Mapping[str, Hook] | None = None) -> Trainer:
        folder.mkdir(parents=True, exist_ok=True)
        trainer = assemble(config, folder, world, build_hooks(config) | dict(hooks or {}))
        trainer.parts.checkpoints.settings = {}  # tests go on under other settings, as no command may
        return trainer

    return make


@pytest.fixture(scope="session")
def lm_config(small_lm_overrides: Callable[..., list[str]]) -> Callable[..., DictConfig]:
    """The configuration of a language model's run on the tiny corpus, with overrides."""
    return lambda *overrides: compose("train_lm", small_lm_overrides(*overrides))


@pytest.fixture(scope="session")
def finished_run(make_trainer: Callable[..., Trainer]) -> Callable[..., Path]:
    """``finished_run(config, folder, hooks=None)``: trains to the end, or on from the newest checkpoint; the run's folder."""

    def run(config: DictConfig, folder: Path, hooks: Mapping[str, Hook] | None = None) -> Path:
        trainer = make_trainer(config, folder, lone_world(), hooks)
        OmegaConf.save(config, folder / "config.yaml")
        try:
            trainer.fit(trainer.parts.checkpoints.newest()[0])
        finally:
            trainer.parts.recorder.close()
        return folder

    return run


@pytest.fixture
def lm_run(
    lm_config: Callable[..., DictConfig], finished_run: Callable[..., Path], tmp_path: Path
) -> Callable[..., Path]:
    """Train a small language model on the texts of the tiny corpus, as scripts/train_lm.py does; returns its run folder.

    Hooks may be given as objects.
    """

    def train(*overrides: str, name: str = "lm", hooks: Mapping[str, Hook] | None = None) -> Path:
        return finished_run(lm_config(*overrides), tmp_path / name, hooks)

    return train


class StopAfter(Hook):
    """Breaks a run off in the middle of the step that follows some others."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def on_gradients(self, model: nn.Module, report: GradientReport) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="session")
def stop_after() -> Callable[[int], Hook]:
    """``stop_after(steps)``: a hook that ends a run as a kill would, within the next step."""
    return StopAfter


@pytest.fixture
def write_lists(tmp_path: Path) -> Callable[..., Path]:
    """``write_nbest`` of tests/lists.py, into a folder of the test."""
    return partial(write_nbest, tmp_path / "nbest")
