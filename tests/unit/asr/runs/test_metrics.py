"""Metric rows survive kills exactly, and resumed runs cut what came after the checkpoint."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.runs import metrics
from asr.runs.metrics import MetricsWriter, Row, cut_former_learners, cut_rows, merge, read_rows, to_json


def row(samples: int, **figures: float) -> Row:
    return {"step": 1, "global_step": samples // 8, "samples": samples, "epoch": 0.5, "wall_seconds": 1.25, **figures}


def write(folder: Path, learner: int, *samples: int) -> MetricsWriter:
    writer = MetricsWriter(folder, learner)
    for each in samples:
        writer.write(row(each))
    return writer


def samples_of(path: Path) -> list[int]:
    return [each["samples"] for each in read_rows(path)]


def test_rows_are_on_disk_at_once_and_name_their_learner(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, 3)
    returned = writer.write({**row(8), "train/loss": 0.1 + 0.2})
    text = (tmp_path / "metrics" / "3.jsonl").read_text()
    assert text.endswith("}\n")
    assert json.loads(text) == returned
    assert returned["learner"] == 3


@given(value=st.floats())
def test_floats_come_back_exactly_and_the_line_is_valid_json(value: float) -> None:
    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is not JSON")

    line = to_json({"train/loss": value})
    parsed = json.loads(line, parse_constant=refuse)["train/loss"]
    back = metrics._from_json(parsed)
    assert back == value or (math.isnan(back) and math.isnan(value))


def test_what_json_does_not_know_is_written_as_text_and_read_as_a_number(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, 0)
    writer.write({**row(8), "train/loss": math.nan, "train/grad_norm": math.inf, "a": -math.inf, "note": None})
    raw = json.loads(writer.path.read_text())
    assert [raw[key] for key in ("train/loss", "train/grad_norm", "a", "note")] == [
        "NaN",
        "Infinity",
        "-Infinity",
        None,
    ]
    (read,) = read_rows(writer.path)
    assert math.isnan(read["train/loss"])
    assert (read["train/grad_norm"], read["a"], read["note"]) == (math.inf, -math.inf, None)


def test_incomplete_rows_and_odd_values_are_refused(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, 0)
    with pytest.raises(ValueError, match="missing: global_step, samples"):
        writer.write({"step": 1, "epoch": 0, "wall_seconds": 0})
    with pytest.raises(ValueError, match="train/loss must be a number, a string or None, got list"):
        writer.write({**row(8), "train/loss": [1.0]})
    assert not writer.path.exists()


def test_cut_keeps_rows_up_to_the_checkpoint_and_returns_them(tmp_path: Path) -> None:
    writer = write(tmp_path, 0, 8, 16, 24, 32)
    assert [kept["samples"] for kept in writer.cut(16)] == [8, 16]
    assert samples_of(writer.path) == [8, 16]
    writer.write(row(24))
    assert samples_of(writer.path) == [8, 16, 24]
    assert MetricsWriter(tmp_path, 7).cut(16) == []


@pytest.mark.parametrize("length", range(1, 90, 8))
def test_a_torn_last_line_is_dropped(tmp_path: Path, length: int) -> None:
    writer = write(tmp_path, 0, 8, 16)
    writer.close()
    last = writer.path.read_text().splitlines()[-1]
    with writer.path.open("a") as file:
        file.write(last[:length])
    assert samples_of(writer.path) == [8, 16]
    write(tmp_path, 0, 24)
    assert samples_of(writer.path) == [8, 16, 24]
    assert len(writer.path.read_text().splitlines()) == 3


def test_a_cut_that_changes_nothing_leaves_the_file_alone(tmp_path: Path) -> None:
    path = write(tmp_path, 0, 8, 16).path
    before = path.stat().st_ino
    cut_rows(path, 16)
    assert path.stat().st_ino == before


def test_an_interrupted_cut_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, 0, 8, 16, 24).path
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        cut_rows(path, 8)
    assert path.read_bytes() == before


def test_learners_that_are_no_more_are_cut_too(tmp_path: Path) -> None:
    paths = [write(tmp_path, learner, 8, 16, 24).path for learner in range(3)]
    cut_former_learners(tmp_path, 8, learners=1)
    assert [samples_of(path) for path in paths] == [[8, 16, 24], [8], [8]]


def test_merge_orders_by_samples_then_learner_and_keeps_every_byte(tmp_path: Path) -> None:
    write(tmp_path, 10, 8, 16)
    write(tmp_path, 2, 8, 12, 16)
    path = merge(tmp_path)
    assert path == tmp_path / "metrics.jsonl"
    assert [(each["samples"], each["learner"]) for each in read_rows(path)] == [
        (8, 2),
        (8, 10),
        (12, 2),
        (16, 2),
        (16, 10),
    ]
    lines = [line for learner in (2, 10) for line in (tmp_path / f"metrics/{learner}.jsonl").read_text().splitlines()]
    assert sorted(path.read_text().splitlines()) == sorted(lines)
    assert merge(tmp_path).read_text() == path.read_text()
    assert [child.name for child in tmp_path.iterdir() if "tmp" in child.name] == []


def test_merge_while_a_learner_is_writing_leaves_its_torn_line_out(tmp_path: Path) -> None:
    path = write(tmp_path, 0, 8, 16).path
    with path.open("a") as file:
        file.write('{"learner": 0, "samp')
    assert samples_of(merge(tmp_path)) == [8, 16]


DAMAGED = (
    b'{"samp', b"123", b"null", b"[]", b"{}", b"", b"\x00" * 40, b"\xff\xfe", b"[" * 5000, b'{"samples": "8"}',
    b'{"samples": true}', b'{"samples": NaN}', b'{"samples": 1e999}', b'{"samples": ' + b"9" * 5000 + b"}",
    b'{"samples": 8, "wall_seconds": null}', b'{"samples": 8, "train/loss": [1]}', b'{"samples": 8, "a": "\\ud800"}',
)  # fmt: skip


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_line_is_set_aside_and_the_run_goes_on(
    tmp_path: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, 0, 8, 16).path
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + b"\n" + second)
    assert samples_of(path) == [8, 16]
    assert "0.jsonl: 1 damaged line passed over; line 2 " in caplog.text
    assert samples_of(merge(tmp_path)) == [8, 16]
    assert [row["samples"] for row in MetricsWriter(tmp_path, 0).cut(16)] == [8, 16]
    assert "0.jsonl: 1 damaged line set aside in 0.damaged; line 2 " in caplog.text
    assert path.read_bytes() == first + second
    assert path.with_suffix(".damaged").read_bytes() == line + b"\n"
    write(tmp_path, 0, 24)
    assert samples_of(path) == [8, 16, 24]


def test_what_is_set_aside_later_lies_behind_what_was_before(tmp_path: Path) -> None:
    path = write(tmp_path, 0, 8).path
    for line in ("one\n", "two\nthree\n"):
        with path.open("a") as file:
            file.write(line)
        cut_rows(path, 8)
    assert path.with_suffix(".damaged").read_text() == "one\ntwo\nthree\n"
    assert samples_of(path) == [8]


def test_a_file_of_another_name_is_no_learners(tmp_path: Path) -> None:
    write(tmp_path, 0, 8)
    for name in ("\u00b2.jsonl", "a.jsonl", "-1.jsonl"):
        (tmp_path / "metrics" / name).write_text("nonsense\n")
    assert samples_of(merge(tmp_path)) == [8]


def test_kill_minus_nine_loses_no_finished_row(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from asr.runs.metrics import MetricsWriter\n"
        "writer = MetricsWriter(Path(sys.argv[1]), 0)\n"
        "for n in range(10**9):\n"
        "    writer.write(dict(step=n, global_step=n, samples=n, epoch=0, wall_seconds=0.0))\n"
        "    print(n, flush=True)\n"
    )
    root = Path(metrics.__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert process.stdout is not None
    while int(process.stdout.readline()) < 50:
        pass
    process.send_signal(signal.SIGKILL)
    said = [int(line) for line in process.stdout.read().split("\n")[:-1]]
    process.wait()
    found = samples_of(tmp_path / "metrics" / "0.jsonl")
    assert found == list(range(len(found)))
    assert len(found) > max(said, default=50)
