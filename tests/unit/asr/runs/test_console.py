"""What the console shows: how far the run is, in every line and at every width, and the figures of each row."""

import io

import pytest
from rich.console import Console

from asr.runs.console import (
    PlainLogger,
    ProgressLogger,
    Way,
    clock,
    console_logger,
    evaluation_line,
    step_line,
)
from asr.runs.metrics import Row

BASE: Row = {"learner": 0, "step": 50, "global_step": 50, "samples": 1600, "epoch": 0.4, "wall_seconds": 12.5}
STEP: Row = BASE | {
    "train/loss": 12.312,
    "train/lr": 0.0012,
    "train/grad_norm": 3.14,
    "time/step": 0.5,
    "time/data_wait": 0.01,
    "throughput/audio_seconds_per_second": 84.21,
}
EVALUATION: Row = BASE | {"eval/dev/loss": 10.2, "eval/dev/wer": 0.453}
WAY = "50/100  ETA 0:12"  # of 3200 samples and 100 steps


def rows(*marks: tuple[int, float]) -> list[Row]:
    return [BASE | {"samples": samples, "wall_seconds": seconds} for samples, seconds in marks]


def test_step_line() -> None:
    figures = "epoch 0.40  loss 12.31  lr 1.2e-03  grad 3.1  learner 0: 84.2 audio-s/s  data 2 %"
    assert step_line(STEP, WAY) == f"step {WAY}  {figures}"
    assert step_line(BASE, WAY) == f"step {WAY}  epoch 0.40"


def test_evaluation_line() -> None:
    row = EVALUATION | {"eval/test/wer": 0.5}
    assert evaluation_line(row, WAY) == f"evaluation at step {WAY}  dev: loss 10.20  WER 45.30 %  test: WER 50.00 %"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (9.4, "0:09"), (59.6, "1:00"), (3599.6, "1:00:00"), (360000, "100:00:00")]
)
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_the_remaining_time_is_that_of_the_pace_until_now() -> None:
    way = Way(total_samples=1000, total_steps=100)
    told = [way.after(row).partition("ETA ")[2] for row in rows((0, 1.0), (100, 11.0), (200, 31.0), (1000, 99.0))]
    assert told == ["?", "1:30", "2:00", "0:00"], "(99 s - 1 s) / 100, then (31 s - 1 s) / 200 per sample"


def test_a_resumed_run_begins_with_its_pace_before_and_forgets_it() -> None:
    way = Way(total_samples=1000, total_steps=100)
    first, second = (way.after(row) for row in rows((500, 50.0), (600, 150.0)))
    assert first.endswith("ETA 0:50"), "0.1 s per sample before"
    assert second.endswith("ETA 6:40"), "1 s per sample since"


def test_the_pace_follows_the_newest_rows() -> None:
    way = Way(total_samples=100_000, total_steps=1000)
    slow = rows(*((10 * index, 100.0 * index) for index in range(1, 10)))
    fast = rows(*((100 + 10 * index, 1000.0 + index) for index in range(100)))
    told = [way.after(row) for row in slow + fast]
    assert told[-1].endswith(f"ETA {clock((100_000 - 1090) * 0.1)}")


def test_plain_lines_off_a_terminal() -> None:
    out = io.StringIO()
    sink = console_logger(3200, 100, out)
    assert isinstance(sink, PlainLogger)
    sink.log(STEP)
    sink.log(EVALUATION)
    sink.close()
    assert out.getvalue() == step_line(STEP, WAY) + "\n" + evaluation_line(EVALUATION, WAY) + "\n"


def on_a_terminal(width: int) -> str:
    out = io.StringIO()
    sink = ProgressLogger(Way(3200, 100), Console(file=out, force_terminal=True, width=width))
    for row in (STEP, EVALUATION, STEP):
        sink.log(row)
    sink.close()
    sink.close()
    return out.getvalue()


def test_a_bar_on_a_terminal_with_evaluations_above_it() -> None:
    text = on_a_terminal(width=160)
    assert evaluation_line(EVALUATION, WAY) + "\n" in text
    assert "84.2 audio-s/s  data 2 %  WER 45.30 %" in text, "the last word error rate stays in the bar"


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_shows_how_far_the_run_is(width: int) -> None:
    text = on_a_terminal(width)
    bars = [line for line in text.replace("\r", "\n").splitlines() if "━" in line]
    assert bars
    assert all(f"step {WAY}" in bar for bar in bars)
    assert "epoch 0.40" in bars[-1]
    assert "…" in bars[-1], "cut off at the right"


def test_console_chooses_by_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(console_logger(10, 1, terminal), ProgressLogger)
    assert isinstance(console_logger(10, 1, io.StringIO()), PlainLogger)
