"""Timelines: what was noted is what is read, and only of the newest steps."""

import time
from pathlib import Path

import pytest

from asr.foreign.files import ForeignError
from asr.runs.timeline import STEPS, Spell, TimelineWriter, read_timelines
from distributed.errors import UsageError
from distributed.learners.traffic import Traffic


def test_steps_data_and_communication_are_on_one_clock(tmp_path: Path) -> None:
    traffic = Traffic()
    writer = TimelineWriter(tmp_path, 3, traffic)
    writer.write()
    assert not (tmp_path / "timeline").exists(), "nothing where no step was made"
    before = time.time()
    started = time.perf_counter()
    with traffic.waiting():
        time.sleep(0.02)
    traffic.exchanged_since(started)
    writer.after_step(time.perf_counter() - started, 0.005)
    writer.write()
    (spells,) = read_timelines(tmp_path).values()
    found = {spell.kind: spell for spell in spells}
    assert list(read_timelines(tmp_path)) == [3]
    step, waiting, exchange = found["step"], found["waiting"], found["exchange"]
    assert before - 0.01 <= step.start <= time.time()
    assert found["data"] == Spell("data", step.start, pytest.approx(step.start + 0.005, abs=1e-4))
    assert waiting.end - waiting.start >= 0.019
    assert step.start - 1e-3 <= exchange.start <= waiting.start + 1e-3
    assert waiting.end <= exchange.end + 1e-5 <= step.end + 1e-3


def test_only_the_newest_steps_are_kept(tmp_path: Path) -> None:
    traffic = Traffic()
    writer = TimelineWriter(tmp_path, 0, traffic)
    for _ in range(3 * STEPS):
        started = time.perf_counter()
        with traffic.waiting():
            pass
        writer.after_step(time.perf_counter() - started, 0.0)
    writer.write()
    spells = read_timelines(tmp_path)[0]
    assert sum(spell.kind == "step" for spell in spells) == STEPS
    assert sum(spell.kind == "waiting" for spell in spells) <= STEPS + 1


@pytest.mark.parametrize(
    "spans",
    [
        "null",
        "[1]",
        '[["step", 1]]',
        '[["nap", 1, 2]]',
        '[["step", 2, 1]]',
        '[["step", true, 2]]',
        '[["step", 1, "2"]]',
        "[[[], 1, 2]]",
    ],
)
def test_a_damaged_timeline_is_named(tmp_path: Path, spans: str) -> None:
    (tmp_path / "timeline").mkdir()
    (tmp_path / "timeline" / "0.json").write_text(f'{{"spans": {spans}}}')
    with pytest.raises(UsageError, match=r"0\.json is no timeline of a learner; remove it"):
        read_timelines(tmp_path)
    (tmp_path / "timeline" / "0.json").write_text("{")
    with pytest.raises(ForeignError, match="not JSON"):
        read_timelines(tmp_path)


def test_a_run_without_timelines_has_none(tmp_path: Path) -> None:
    assert read_timelines(tmp_path) == {}
