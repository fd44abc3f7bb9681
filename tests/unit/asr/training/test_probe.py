"""The probe: it measures the worst units, runs none that is known not to fit, and leaves no trace."""

import logging
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from asr.data.batch import Batch, Unit
from asr.data.plan import BatchPlan, Budgets
from asr.models.transducer import LossOutput
from asr.runs.metrics import read_rows
from asr.training import trainer as trainer_module
from asr.training.hook import Hook
from asr.training.loss_terms import LossTerms
from asr.training.memory import MemoryGuard, MemoryShortageError, load_of_unit
from asr.training.probe import Probe, worst_units
from asr.training.trainer import Trainer
from distributed.learners.world import World

Config = Callable[..., DictConfig]
Make = Callable[..., Trainer]
Fit = Callable[..., None]
Losses = Callable[[Path], list[float]]
GIB = 2**30


class Stateful(Hook):
    """The loss depends on how often it was called: a probe that it could tell apart would change the curve."""

    def __init__(self) -> None:
        self.calls = 0

    def on_loss(self, batch: Batch, output: LossOutput, terms: LossTerms) -> None:
        self.calls += 1
        terms.add("calls", terms.summed * 0.01 * self.calls)

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calls = state["calls"]


class Counting(nn.Module):
    """A buffer that every forward changes, and a draw from the global generator."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        noisy: torch.Tensor = self.inner(x) + 0.001 * self.seen * torch.rand(())
        return noisy


class Wrapping(Hook):
    """Puts a module with a buffer into the model."""

    def on_model(self, model: Any) -> Any:
        model.joiner.project_encoder = Counting(model.joiner.project_encoder)
        return model


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb", "lars"])
def test_the_curve_is_bitwise_the_same_with_and_without(
    small_config: Config, make_trainer: Make, fit: Fit, losses: Losses, tmp_path: Path, alone: World, optimizer: str
) -> None:
    curves = {}
    for probe in ("true", "false"):
        config = small_config(
            "backend=single", "trainer.max_steps=3", f"optimizer={optimizer}", f"trainer.memory_probe={probe}"
        )
        hooks = {"stateful": Stateful(), "wrapping": Wrapping()}
        fit(make_trainer(config, tmp_path / probe, alone, hooks))
        curves[probe] = losses(tmp_path / probe)
    assert len(curves["true"]) == 3
    assert curves["true"] == curves["false"]


def test_the_curve_of_several_learners_is_bitwise_the_same_too(
    small_config: Config,
    make_trainer: Make,
    fit: Fit,
    losses: Losses,
    run_learners: Callable[..., list[Any]],
    tmp_path: Path,
) -> None:
    """The wrapper's buckets are regrouped after its first communicating backward: the probe must not be that one."""
    initial: dict[str, torch.Tensor] = {}  # threads share the generator that weights are drawn from
    first = threading.Lock()

    def learner(world: World, config: DictConfig, folder: Path) -> None:
        trainer = make_trainer(config, folder, world)
        model = trainer.parts.run.model
        with first:  # the weights of one learner of the first run are those of all
            if not initial:
                initial.update({name: value.clone() for name, value in model.state_dict().items()})
        model.load_state_dict(initial)
        fit(trainer)

    for probe in ("true", "false"):
        config = small_config(
            "backend=allreduce", "backend.bucket_mb=0.002", "trainer.max_steps=3", f"trainer.memory_probe={probe}",
            "model.encoder.dropout=0", "model.predictor.dropout=0", "model.predictor.embedding_dropout=0",
            "evaluation.sets=[]",
        )  # fmt: skip
        run_learners(2, lambda world, c=config, p=probe: learner(world, c, tmp_path / p))
    assert len(losses(tmp_path / "true")) == 3
    assert losses(tmp_path / "true") == losses(tmp_path / "false")


@pytest.mark.parametrize("backend", ["single", "dpsgd"])
def test_nothing_remains(
    small_config: Config,
    make_trainer: Make,
    tmp_path: Path,
    alone: World,
    backend: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer = make_trainer(small_config(f"backend={backend}"), tmp_path, alone, {"stateful": Stateful()})
    parameters = dict(trainer.parts.run.model.named_parameters())
    before = {name: value.detach().clone() for name, value in parameters.items()}
    gradients = {name: value.grad for name, value in parameters.items()}
    generator = torch.get_rng_state()
    with caplog.at_level(logging.INFO):
        trainer._probe()
    for name, value in parameters.items():
        assert torch.equal(value, before[name])
        assert value.grad is gradients[name]
        assert value.grad is None or not value.grad.any()
    assert not trainer.parts.optimizer.state
    assert torch.equal(torch.get_rng_state(), generator)
    assert trainer.parts.hooks["stateful"].state_dict() == {"calls": 0}
    assert trainer.parts.memory.metrics() == {"memory/split_units": 0, "memory/exhausted": 0}
    trainer.parts.recorder.close()
    (line,) = [record.getMessage() for record in caplog.records if "worst batch" in record.getMessage()]
    assert re.fullmatch(r"worst batch of the plan: 2 x \d+ frames, \d+ cells: \d+\.\d\d GiB", line), line


# With a memory of which everything is known


class Simulated:
    """A meter of a device that holds 1 GiB, and a forward and backward that takes 0.25 GiB and 0.5 per utterance."""

    def __init__(self, capacity_gib: float) -> None:
        self.capacity_bytes = int(capacity_gib * GIB)
        self.taken_bytes = 0
        self.runs: list[int] = []

    def held(self) -> int:
        return GIB

    def reset(self) -> None:
        self.taken_bytes = 0

    def peak(self) -> int:
        return GIB + self.taken_bytes

    def capacity(self) -> int:
        return self.capacity_bytes

    def run(self, batch: Batch) -> Batch:
        self.runs.append(len(batch.utterance_ids))
        self.taken_bytes = int((0.25 + 0.5 * len(batch.utterance_ids)) * GIB)
        if GIB + self.taken_bytes > self.capacity_bytes:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch


def probed(device: Simulated, limit_gb: float | None = None, utterances: int = 8) -> MemoryGuard:
    guard = MemoryGuard(subsampling=4, budgets=Budgets(8, 1000, 10_000))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=1.0)
    targets = torch.ones(utterances, 3, dtype=torch.int64)
    lengths = torch.full((utterances,), 100)
    ids = [f"u{index}" for index in range(utterances)]
    batch = Batch(ids, torch.zeros(utterances, 100, 2), lengths, targets, torch.full((utterances,), 3), targets, 8.0)
    Probe(guard, device, device.run, limit_gb).measure([batch], optimizer)
    guard.batch = batch
    return guard


def sizes(guard: MemoryGuard) -> list[int]:
    return [len(part.utterance_ids) for part in guard.parts(guard.batch)]


def test_a_unit_that_fits_is_run_whole_and_stays_whole() -> None:
    device = Simulated(capacity_gib=100)
    assert sizes(probed(device)) == [8]
    assert device.runs == [1, 1, 8]


@pytest.mark.parametrize(("limit_gb", "expected"), [(5.25, [8]), (5.2, [4, 4]), (3.3, [4, 4]), (1.8, [1] * 8)])
def test_units_are_split_at_the_limit_and_larger_ones_never_tried(limit_gb: float, expected: list[int]) -> None:
    """8 utterances need 5.25 GiB in all, 4 need 3.25, 1 needs 1.75."""
    device = Simulated(capacity_gib=100)
    guard = probed(device, limit_gb)
    assert sizes(guard) == expected
    assert max(device.runs) == expected[0]


def test_a_device_that_holds_less_than_was_thought_is_found_out() -> None:
    """The device says that 100 GiB are free, and then gives 3.3."""

    class Boasting(Simulated):
        def capacity(self) -> int:
            return 100 * GIB

    device = Boasting(capacity_gib=3.3)
    assert max(sizes(probed(device))) <= 4


def test_an_utterance_that_cannot_fit_stops_the_run() -> None:
    message = (
        r"utterance u0 alone \(1 x 100 frames, 100 cells\) needs 1\.75 GiB .* trainer\.memory_limit_gb=1\.70: raise"
    )
    with pytest.raises(MemoryShortageError, match=message):
        probed(Simulated(capacity_gib=100), limit_gb=1.7)
    with pytest.raises(MemoryShortageError, match="utterance u0 alone does not fit into memory"):
        probed(Simulated(capacity_gib=1.7))


def test_the_worst_units_are_those_with_the_most_of_each() -> None:
    frames = [100] * 8 + [400, 400] + [60] * 8
    targets = [2] * 8 + [2, 2] + [40] * 8
    plan = BatchPlan(
        units=1, unit_utterances=8, max_frames=800, max_cells=10_000, frame_margin=None, target_margin=0.0, frames=frames,
        target_lengths=targets, utterance_ids=list(map(str, range(18))), subsampling=4, lengthening=0.0, seed=1,
    )  # fmt: skip
    units: list[Unit] = [unit for batch in plan.epoch(0) for unit in batch]
    chosen = [load_of_unit(unit, plan) for unit in worst_units(units, plan)]
    assert len(chosen) == 2
    assert max(load.cells for load in chosen) == 8 * 15 * 41
    assert max(load.frames for load in chosen) == 800
    assert max(load.attention for load in chosen) == 2 * 100**2


def test_split_units_are_counted_and_reported(
    small_config: Config,
    make_trainer: Make,
    fit: Fit,
    tmp_path: Path,
    alone: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A run at its limit: the plan is the same, the longest units of two utterances are run one by one."""
    device = Simulated(capacity_gib=100)
    monkeypatch.setattr(trainer_module, "meter_of", lambda *_: device)
    config = small_config("backend=single", "trainer.max_steps=2", "trainer.memory_limit_gb=1.9")
    trainer = make_trainer(config, tmp_path, alone)
    trial = trainer.parts.objective.trial

    def measured(batch: Batch) -> object:
        device.run(batch)
        return trial(batch)

    monkeypatch.setattr(trainer.parts.objective, "trial", measured)
    with caplog.at_level(logging.INFO):
        fit(trainer)
    found = re.search(r"(\d+) of 20 units of an epoch need more than 1\.90 GiB and are run in parts", caplog.text)
    assert found is not None
    epoch = [unit for batch in trainer.parts.plan.epoch(0) for unit in batch]
    split = [len(trainer.parts.memory.parts(trainer.parts.dataset[unit])) == 2 for unit in epoch]
    assert 0 < sum(split) == int(found[1])
    rows = [row for row in read_rows(tmp_path / "metrics" / "0.jsonl") if "train/loss" in row]
    assert [row["memory/split_units"] for row in rows] == [sum(split[:4]), sum(split[4:8])]
    assert [row["samples"] for row in rows] == [8, 16]


@pytest.mark.gpu
def test_a_gpu_never_holds_more_than_the_limit(
    small_config: Config, make_trainer: Make, fit: Fit, losses: Losses, tmp_path: Path
) -> None:
    device = torch.device("cuda", 0)
    world = World(0, 1, 0, 1, device, None)
    overrides = (
        "backend=single", "trainer.max_steps=3", "batch.unit_utterances=8", "model=conformer_tiny", "evaluation.sets=[]",
    )  # fmt: skip
    peaks: dict[str, int] = {}
    for name, limit in (("whole", "null"), ("limited", None)):
        config = small_config(*overrides, f"trainer.memory_limit_gb={limit or 0.7 * peaks['whole'] / GIB}")
        trainer = make_trainer(config, tmp_path / name, world)
        torch.cuda.reset_peak_memory_stats(device)
        fit(trainer)
        peaks[name] = torch.cuda.max_memory_allocated(device)
        del trainer
        torch.cuda.empty_cache()
    assert peaks["limited"] <= 0.7 * peaks["whole"]
    assert losses(tmp_path / "limited") == pytest.approx(losses(tmp_path / "whole"), rel=0.05)
