"""What a run computes in: the nearest that all its processors can make, kept by a resume, and said."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from asr.models.recurrence import Lstm
from asr.runs.run_folder import RunFolder
from asr.training import arithmetic
from asr.training.arithmetic import agree_on_precision, bf16_possible, precision_for_decoding
from asr.training.processor import bf16_slowness
from distributed.learners.world import World

CPU = torch.device("cpu")


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), Lstm(3, 2))


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """``processor(able)``: from now on this processor can make an LSTM in bf16, or cannot; bf16 is as fast as fp32."""
    monkeypatch.setattr(arithmetic, "bf16_slowness", lambda: 1.0)

    def become(able: bool) -> None:
        monkeypatch.setattr(arithmetic, "bf16_lstm_works", lambda: able)
        monkeypatch.setattr(arithmetic, "onednn_usable", lambda: able)

    return become


def test_the_nearest_supported_arithmetic_is_taken_and_reported(
    model: nn.Module, processor: Any, tmp_path: Path, alone: World, caplog: pytest.LogCaptureFixture
) -> None:
    processor(True)
    assert agree_on_precision("bf16", model, tmp_path, alone) == "bf16"
    assert not caplog.messages
    processor(False)
    assert agree_on_precision("bf16", model, tmp_path, alone) == "fp32"
    (said,) = caplog.messages
    assert said.startswith("trainer.precision=bf16: this processor (")
    assert said.endswith("cannot make the model's LSTM in bf16: the run computes in fp32")
    assert agree_on_precision("bf16", model[0], tmp_path, alone) == "bf16"  # without an LSTM it can
    assert agree_on_precision("fp32", model, tmp_path, alone) == "fp32"
    assert agree_on_precision("fp64", model, tmp_path, alone) == "fp64"
    assert len(caplog.messages) == 1


def test_one_learner_that_cannot_decides_for_all(
    run_learners: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    model: nn.Module,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(arithmetic, "bf16_possible", lambda given, device: given is model)

    def learner(world: World) -> str:
        return agree_on_precision("bf16", nn.Identity() if world.rank == 1 else model, tmp_path, world)

    assert run_learners(3, learner) == ["fp32"] * 3
    assert {each.split(":")[1] for each in caplog.messages} == {" learners [1] cannot make the model's LSTM in bf16"}


def test_a_resume_takes_the_same_path_or_says_so(
    model: nn.Module, processor: Any, tmp_path: Path, alone: World, caplog: pytest.LogCaptureFixture
) -> None:
    processor(True)
    assert agree_on_precision("bf16", model, tmp_path, alone) == "bf16"
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    processor(False)
    assert agree_on_precision("bf16", model, tmp_path, alone) == "fp32"
    assert "the run was begun in bf16: from here on its curve differs" in caplog.messages[-1]
    caplog.clear()
    assert agree_on_precision("bf16", model, tmp_path, alone) == "fp32"
    assert len(caplog.messages) == 1  # the second time in fp32 differs from nothing
    processor(True)
    assert agree_on_precision("bf16", model, tmp_path, alone) == "fp32"
    assert "the run was begun in fp32 (arithmetic.json) and goes on in it" in caplog.messages[-1]
    assert precision_for_decoding("bf16", model, tmp_path, CPU) == "fp32"


def test_what_a_start_without_a_checkpoint_left_binds_no_one(
    model: nn.Module, processor: Any, tmp_path: Path, alone: World
) -> None:
    processor(False)
    agree_on_precision("bf16", model, tmp_path, alone)
    assert (RunFolder(tmp_path).arithmetic).is_file()
    processor(True)
    assert agree_on_precision("bf16", model, tmp_path, alone) == "bf16"
    assert not (RunFolder(tmp_path).arithmetic).exists()


@pytest.mark.parametrize("able", [True, False])
def test_decoding_needs_no_bf16(
    model: nn.Module, processor: Any, tmp_path: Path, able: bool, caplog: pytest.LogCaptureFixture
) -> None:
    processor(able)
    assert precision_for_decoding("bf16", model, tmp_path, CPU) == ("bf16" if able else "fp32")
    assert precision_for_decoding("bf16", model, tmp_path, torch.device("cuda")) == "bf16"
    assert precision_for_decoding("fp64", model, tmp_path, CPU) == "fp64"
    assert [each.endswith("decoding in fp32") for each in caplog.messages] == [True] * (not able)


def test_slow_bf16_is_warned_of_with_its_ratio_and_taken(
    run_learners: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    alone: World,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = nn.Linear(2, 3)
    monkeypatch.setattr(arithmetic, "bf16_slowness", lambda: 1.2)
    assert agree_on_precision("bf16", model, tmp_path, alone) == "bf16"
    assert not caplog.messages
    monkeypatch.setattr(arithmetic, "bf16_slowness", lambda: 8.04)
    assert agree_on_precision("bf16", model, tmp_path, alone) == "bf16"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "bf16 is slow on this processor (" in record.message
    assert "takes 8.0 times as long as in fp32; trainer.precision=fp32 would be faster" in record.message
    assert run_learners(2, lambda world: agree_on_precision("bf16", model, tmp_path, world)) == ["bf16", "bf16"]
    assert "the processor of learner 0" in caplog.messages[-1]


def test_the_ratio_is_of_this_processor_and_changes_nothing() -> None:
    before = torch.get_rng_state()
    assert 0.02 < bf16_slowness() < 1000
    assert torch.equal(torch.get_rng_state(), before)


def test_a_gpu_makes_every_layer(model: nn.Module, processor: Any) -> None:
    processor(False)
    assert bf16_possible(model, torch.device("cuda"))
    assert not bf16_possible(model, CPU)
