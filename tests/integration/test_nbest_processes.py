"""N-best lists by several processes at once, one of which is killed: others go on, and the lists are those of one process."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from scripts.make_nbest import main as make_nbest
from tests.processes import Forked


@pytest.fixture
def run(small_config: Callable[..., DictConfig], finished_run: Callable[..., Path], tmp_path: Path) -> Path:
    """A recogniser of two steps, which writes one letter or another."""
    short = ("backend=single", "hooks=[]", "evaluation.sets=[]", "trainer.max_steps=2", "optimizer.lr=0.01")
    return finished_run(small_config(*short), tmp_path / "run")


def contents(folder: Path) -> dict[str, str]:
    """Every file, what an interrupted write leaves beside them left out."""
    return {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".")}


def end(process: Forked) -> str:
    """The last line of a process that succeeds, without the folder."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output.splitlines()[-1].partition(": ")[2]


def test_lists_are_the_same_after_a_kill_and_with_another_process_count(
    launcher: Any, run: Path, tmp_path: Path
) -> None:
    settings = (f"run={run}", "hypotheses=5", "decode.beam=10", "shard_utterances=1")
    make_nbest([*settings, f"out={tmp_path / 'whole'}"])
    whole, shared = contents(tmp_path / "whole"), tmp_path / "shared"
    assert len(whole) == 1 + 40
    command = ("make_nbest", *settings, f"out={shared}")

    both = launcher.start_script(2, *command)
    while not (begun := list(shared.glob("*.jsonl"))):
        assert [each.poll() for each in both] == [None, None], [each.communicate() for each in both]
        time.sleep(0.001)
    first = int(begun[0].stem) % 2
    both[first].kill()
    assert both[first].wait() == -signal.SIGKILL, "it had more to do"
    both[first].communicate()
    assert end(both[1 - first]) == "20 shards written, 0 of 20 were there", "it does not wait for the other one"
    left = whole.keys() - contents(shared).keys()
    assert 0 < len(left) < 20
    assert {int(name[:5]) % 2 for name in left} == {first}

    ended = [end(each) for each in launcher.start_script(3, *command)]
    assert sum(int(line.split()[0]) for line in ended) == len(left)
    assert contents(shared) == whole
