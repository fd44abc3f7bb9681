"""Small runs under scalecom with its diagnostics: bitwise the same without them, and learners agree about the figures."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from asr.hooks.selection_diagnostics import NoSelectionError, SelectionDiagnostics, curvature_along
from asr.runs.metrics import read_rows
from asr.training.trainer import Trainer
from distributed.learners.world import World
from distributed.schemes.scalecom import ScaleCom

RUN = (
    "trainer.max_steps=4", "trainer.evaluate_every=2", "hooks=[]", "evaluation.unit_utterances=2",
    "model.encoder.dropout=0", "model.predictor.dropout=0", "model.predictor.embedding_dropout=0",
)  # fmt: skip
KEYS = (
    *("comm/index_overlap", "comm/contraction", "comm/memory_cosine", "comm/local_union"),
    *("comm/age_p50", "comm/age_p95", "comm/age_max"),
)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_figures_are_taken_at_marks_and_leave_no_trace(
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[Any]],
    one_start: Callable[[Trainer], None],
    tmp_path: Path,
    optimizer: str,
) -> None:
    config = small_config("backend=scalecom", "backend.rate=20", f"optimizer={optimizer}", *RUN)
    for name in ("without", "with"):

        def learner(world: World, name: str = name) -> None:
            hooks = {"selection_diagnostics": SelectionDiagnostics(every=1)} if name == "with" else {}
            trainer = make_trainer(config, tmp_path / name, world, hooks)
            one_start(trainer)
            trainer.fit(None)
            trainer.parts.recorder.close()

        run_learners(2, learner)
    rows = {(name, rank): rows_of(tmp_path / name, rank) for name in ("with", "without") for rank in range(2)}
    curves = {key: [row["train/loss"] for row in found if "train/loss" in row] for key, found in rows.items()}
    assert curves["with", 0] == curves["without", 0]
    assert len(curves["with", 0]) == 4
    marks = [[row for row in rows["with", rank] if "comm/index_overlap" in row] for rank in range(2)]
    assert [row["global_step"] for row in marks[0]] == [2, 4]
    assert [[row[key] for key in KEYS] for row in marks[0]] == [[row[key] for key in KEYS] for row in marks[1]]
    assert all(0 < row["comm/index_overlap"] <= 1 <= row["comm/local_union"] <= 2 for row in marks[0])
    assert [row["comm/age_max"] for row in marks[0]] == [2, 4]  # at rate 20 hardly anything was sent so far
    assert all(row["comm/compression_ratio"] > 5 for row in rows["with", 0] if "train/loss" in row)
    assert [row["comm/payments"] for row in rows["without", 0] if "train/loss" in row] == [
        1 / 20,
        2 / 20,
        3 / 20,
        4 / 20,
    ]
    stability = [[row.get("comm/stability") for row in found] for found in marks]
    assert stability[0] == stability[1]
    assert all(isinstance(each, float) and math.isfinite(each) for each in stability[0]) is (optimizer == "sgd")


def test_what_is_measured_is_clipped_as_in_a_step(
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By each learner to max_norm * sqrt(L)."""
    norms: list[float] = []
    figures = ScaleCom.selection_figures

    def noting(self: ScaleCom, gradient: Tensor) -> dict[str, float]:
        norms.append(gradient.norm().item())
        return figures(self, gradient)

    monkeypatch.setattr(ScaleCom, "selection_figures", noting)
    config = small_config("backend=scalecom", *RUN, "trainer.max_norm=0.01")

    def learner(world: World) -> None:
        trainer = make_trainer(config, tmp_path, world, {"selection_diagnostics": SelectionDiagnostics(every=1)})
        trainer.fit(None)
        trainer.parts.recorder.close()

    run_learners(2, learner)
    assert norms == pytest.approx([0.01 * math.sqrt(2)] * 4, rel=1e-3)


def test_the_curvature_along_a_direction_is_that_of_a_quadratic_loss_and_leaves_the_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=generator)
    hessian = root @ root.T
    model = nn.Linear(11, 1)
    parameters = [*model.parameters()]

    def mean(batches: object) -> Tensor:
        return hessian @ torch.cat([each.detach().reshape(-1) for each in parameters])

    run: Any = SimpleNamespace(model=model, gradients=SimpleNamespace(mean=mean))
    before = [each.detach().clone() for each in parameters]
    direction = torch.randn(12, generator=generator)
    expected = direction @ hessian @ direction / direction.square().sum()
    assert curvature_along(direction, run, []) == pytest.approx(float(expected), rel=1e-2)
    assert all(torch.equal(one, other) for one, other in zip(before, parameters, strict=True))


def test_a_learning_rate_above_the_limit_warns(
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    tmp_path: Path,
    alone: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("asr.hooks.selection_diagnostics.curvature_along", lambda *_: 1e6)
    config = small_config("backend=scalecom", "backend.rate=20", "optimizer=sgd", *RUN)
    trainer = make_trainer(config, tmp_path, alone, {"selection_diagnostics": SelectionDiagnostics(every=1)})
    trainer.fit(None)
    trainer.parts.recorder.close()
    assert "times the highest at which debts shrink" in caplog.text
    assert "lower one of optimizer.lr, backend.rate and backend.beta" in caplog.text


def rows_of(folder: Path, learner: int) -> list[dict[str, Any]]:
    return read_rows(folder / "metrics" / f"{learner}.jsonl")


def test_another_backend_is_refused(
    small_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer], tmp_path: Path, alone: World
) -> None:
    hooks = {"selection_diagnostics": SelectionDiagnostics(every=1)}
    trainer = make_trainer(small_config("backend=single", *RUN), tmp_path, alone, hooks)
    with pytest.raises(NoSelectionError, match=r"under backend=scalecom, but the backend is Single"):
        trainer.fit(None)
    trainer.parts.recorder.close()
