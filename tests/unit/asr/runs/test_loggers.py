"""Sinks show the rows untouched and never take a run down with them."""

import io
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from asr.parts import build
from asr.runs import loggers
from asr.runs.loggers import TensorBoardLogger, WandbLogger, figures, setup_logging
from asr.runs.metrics import MetricsWriter, Row

CONF = Path(__file__).parents[4] / "conf" / "logger"

SETTINGS = {"seed": 1, "model": {"layers": [1, 2]}}

STEP: Row = {
    "learner": 0,
    "step": 50,
    "global_step": 50,
    "samples": 1600,
    "epoch": 0.4,
    "wall_seconds": 12.5,
    "train/loss": 12.312,
    "train/lr": 0.0012,
    "train/grad_norm": 3.14,
    "time/step": 0.5,
    "time/data_wait": 0.01,
    "throughput/audio_seconds_per_second": 84.21,
}
BASE = {key: value for key, value in STEP.items() if "/" not in key}
TABLES = ("tables/evaluations", "tables/learners")
EVALUATION: Row = BASE | {"eval/dev/loss": 10.2, "eval/dev/wer": 0.453}


def test_figures_are_the_curves_untouched() -> None:
    row = STEP | {"note": "x", "train/ok": True, "train/text": "x"}
    plotted = {key: value for key, value in STEP.items() if "/" in key or key in ("epoch", "samples", "wall_seconds")}
    assert figures(row) == plotted


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=True)
    accumulator.Reload()
    return accumulator


def test_tensorboard_has_every_figure_at_its_global_step(tmp_path: Path) -> None:
    sink = build(OmegaConf.load(CONF / "tensorboard.yaml"), folder=tmp_path, settings=SETTINGS)
    assert isinstance(sink, TensorBoardLogger)
    assert not (tmp_path / "tensorboard").exists(), "nothing before the first row"
    sink.log(STEP)
    sink.log(EVALUATION | {"global_step": 60})
    sink.close()
    sink.close()
    found = events(tmp_path)
    assert set(found.Tags()["scalars"]) == figures(STEP).keys() | figures(EVALUATION).keys()
    (loss,) = found.Scalars("train/loss")
    assert (loss.step, loss.value) == (50, pytest.approx(12.312))
    assert found.Scalars("eval/dev/wer")[0].step == 60


def write_rows(folder: Path) -> None:
    writer = MetricsWriter(folder, 0)
    for row in (STEP, EVALUATION, EVALUATION | {"step": 60, "eval/dev/wer": 0.3}):
        writer.write({key: value for key, value in row.items() if key != "learner"})
    writer.close()


def test_tensorboard_gets_tables_and_the_best_figures_beside_the_configuration(tmp_path: Path) -> None:
    write_rows(tmp_path)
    sink = TensorBoardLogger(flush_seconds=1, folder=tmp_path, settings=SETTINGS)
    sink.log(EVALUATION)
    sink.close()
    found = events(tmp_path)
    assert found.Scalars("best/eval/dev/wer")[0].value == pytest.approx(0.3)
    texts = {tag: found.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0].decode() for tag in TABLES}
    assert texts["tables/learners"].startswith("| learner | step |")
    assert texts["tables/evaluations"].count("\n") == 3, "a head, its line, two evaluations"
    plugins = found.summary_metadata
    assert any(each.plugin_data.plugin_name == "hparams" for each in plugins.values())


def test_wandb_gets_the_same_tables(tmp_path: Path, starts: list[dict[str, Any]]) -> None:
    write_rows(tmp_path)
    sink = wandb_sink(tmp_path, mode="offline")
    sink.log(EVALUATION)
    sink.close()
    shown = {name: table for row in starts[0]["run"].rows for name, table in row.items() if name.startswith("tables/")}
    assert shown.keys() == set(TABLES)
    header = shown["tables/evaluations"].columns
    assert [dict(zip(header, row, strict=True))["eval/dev/wer"] for row in shown["tables/evaluations"].data] == [
        0.453,
        0.3,
    ]


def test_a_resumed_run_hides_the_events_after_its_checkpoint(tmp_path: Path) -> None:
    for start, value in ((0, 1.0), (20, 2.0)):
        sink = TensorBoardLogger(flush_seconds=1, folder=tmp_path, settings={})
        for step in range(start, 50, 10):
            sink.log(BASE | {"global_step": step, "train/loss": value})
        sink.close()
        time.sleep(1.1)  # event files are ordered by a name that counts seconds
    curve = [(event.step, event.value) for event in events(tmp_path).Scalars("train/loss")]
    assert curve == [(0, 1.0), (10, 1.0), (20, 2.0), (30, 2.0), (40, 2.0)]


class FakeRun:
    """What the sink uses of a wandb run."""

    url = None

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.metrics: dict[str, tuple[str, str]] = {}
        self.finished = 0

    def define_metric(self, name: str, step_metric: str, summary: str = "last") -> None:
        self.metrics[name] = (step_metric, summary)

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def finish(self) -> None:
        self.finished += 1


def wandb_sink(folder: Path, **changes: Any) -> WandbLogger:
    sink = build(OmegaConf.merge(OmegaConf.load(CONF / "wandb.yaml"), changes), folder=folder, settings=SETTINGS)
    assert isinstance(sink, WandbLogger)
    return sink


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Arguments of every call of wandb.init, which gives a fake run."""
    calls: list[dict[str, Any]] = []

    def init(**arguments: Any) -> FakeRun:
        run = FakeRun()
        calls.append(arguments | {"run": run})
        return run

    monkeypatch.setattr(wandb, "init", init)
    return calls


@pytest.mark.parametrize(("key", "mode", "resume"), [(True, "online", "allow"), (False, "offline", None)])
def test_wandb_is_offline_unless_a_key_is_configured(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    starts: list[dict[str, Any]],
    key: bool,
    mode: str,
    resume: str | None,
) -> None:
    asked: list[dict[str, Any]] = []

    def login(**arguments: Any) -> bool:
        asked.append(arguments)
        return key

    monkeypatch.setattr(wandb, "login", login)
    monkeypatch.setattr(wandb.setup().settings, "mode", "online")
    sink = wandb_sink(tmp_path, group="sweep")
    sink.log(STEP)
    sink.log(EVALUATION)
    sink.close()
    (start,) = starts
    assert (start["mode"], start["resume"], start["dir"], start["name"]) == (mode, resume, tmp_path, tmp_path.name)
    assert (start["project"], start["group"], start["config"]) == ("murmuration", "sweep", SETTINGS)
    assert asked == [{"prompt": False, "verify": False}], "nobody is asked, no server is called"
    run = start["run"]
    assert run.rows == [{"global_step": 50, **figures(row)} for row in (STEP, EVALUATION)]
    assert run.metrics == {"*": ("global_step", "last"), "eval/*": ("global_step", "min")}
    assert run.finished == 1


def test_wandb_settings_of_the_user_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(wandb.setup().settings, "mode", "disabled")
    wandb_sink(tmp_path).log(STEP)
    assert starts[0]["mode"] == "disabled"


def test_a_resumed_run_keeps_its_wandb_id(tmp_path: Path, starts: list[dict[str, Any]]) -> None:
    for folder in (tmp_path / "a", tmp_path / "a", tmp_path / "b"):
        wandb_sink(folder, mode="offline").log(STEP)
    first, again, other = (start["id"] for start in starts)
    assert first == again != other


@pytest.mark.parametrize("error", [wandb.errors.CommError("no\nserver"), OSError("disk full")])
def test_a_wandb_that_does_not_start_is_reported_in_one_line_and_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    attempts: list[int] = []

    def fail(**_: Any) -> None:
        attempts.append(1)
        raise error

    monkeypatch.setattr(wandb, "init", fail)
    sink = wandb_sink(tmp_path, mode="online")
    for _ in range(3):
        sink.log(STEP)
    sink.close()
    assert len(attempts) == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "Weights & Biases is off for this run" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_wandb_offline_leaves_its_files_and_tables_in_the_run_folder(tmp_path: Path) -> None:
    write_rows(tmp_path)
    sink = wandb_sink(tmp_path, mode="offline")
    sink.log(EVALUATION)
    sink.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    written = {
        path.name.partition("_")[0]: path for path in tmp_path.glob("wandb/offline-run-*/files/media/table/**/*.json")
    }
    assert {f"tables/{name}" for name in written} == set(TABLES)
    table = json.loads(written["evaluations"].read_text(encoding="utf-8"))
    column = table["columns"].index("eval/dev/wer")
    assert [row[column] for row in table["data"]] == [0.453, 0.3]


@pytest.fixture
def _clean_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in loggers.PACKAGES}
    yield
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
        handler.close()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(False)


@pytest.mark.usefixtures("_clean_logging")
@pytest.mark.parametrize("rank", [0, 3])
def test_text_log_of_each_rank(tmp_path: Path, rank: int, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(tmp_path, rank)
    setup_logging(tmp_path, rank)
    logging.getLogger("asr.training").info("hello %d", 1)
    logging.getLogger("somebody.else").info("chatter")
    logging.getLogger("distributed.schemes.dpsgd").error("lost a peer")
    lines = (tmp_path / "logs" / f"rank-{rank}.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        "INFO asr.training: hello 1",
        "ERROR distributed.schemes.dpsgd: lost a peer",
    ], "once each, though logging was set up twice"
    shown = capsys.readouterr().err.splitlines()
    assert shown == (["hello 1", "lost a peer"] if rank == 0 else ["[rank 3] lost a peer"])


@pytest.mark.usefixtures("_clean_logging")
def test_log_lines_go_to_the_stderr_of_the_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup_logging(tmp_path, 0)
    bar = io.StringIO()
    monkeypatch.setattr(sys, "stderr", bar)
    logging.getLogger("asr").warning("above the bar")
    assert bar.getvalue() == "above the bar\n"
