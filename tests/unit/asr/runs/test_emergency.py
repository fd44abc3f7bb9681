"""The mean of survivors, made by processes that share nothing but a folder: here threads."""

import json
import resource
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from asr.runs.checkpoint import list_checkpoints, list_emergencies
from asr.runs.emergency import Survivor, _elsewhere, save_mean
from asr.runs.progress import Progress
from distributed.learners.signs import Loss
from tests.model_parts import NO_MODEL


def leave(root: Path, rank: int, model: dict[str, Tensor], wait: float, lost: int = 0) -> Path | None:
    return save_mean(
        root,
        Survivor(rank=rank, world_size=4, launch_id="abcd", loss=Loss(lost, "was killed")),
        model,
        parts=NO_MODEL,
        progress=Progress(step=13, samples=99, global_step=13),
        run={"backend": "DecentralisedSgd", "plan": 5},
        wait_seconds=wait,
    )


def models() -> dict[int, dict[str, Tensor]]:
    drawn = torch.Generator().manual_seed(0)
    return {rank: {"w": torch.randn(3, 2, generator=drawn), "count": torch.tensor(rank)} for rank in (1, 2, 3)}


def test_all_survivors_are_averaged_by_the_first(tmp_path: Path) -> None:
    own, results = models(), {}
    threads = [
        threading.Thread(target=lambda r=rank: results.update({r: leave(tmp_path, r, own[r], 20.0)}))
        for rank in (3, 1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (results[2], results[3]) == (None, None)
    assert results[1] == tmp_path / "emergency-abcd-without-0"
    ([checkpoint], problems) = list_emergencies(tmp_path)
    assert not problems
    assert checkpoint.damaged_file() is None
    mean = sum(own[rank]["w"].double() for rank in own) / 3
    torch.testing.assert_close(checkpoint.model_state()["w"], mean.float())
    assert checkpoint.model_state()["count"] == 1  # not floating: that of the first
    record = json.loads((checkpoint.folder / "loss.json").read_text())
    assert record == {"lost": 0, "what": "was killed", "mean_of": [1, 2, 3]}
    assert list_checkpoints(tmp_path) == ([], {})  # no resume takes it
    assert sorted(each.name for each in checkpoint.folder.iterdir()) == [
        "loss.json", "manifest.json", "model.safetensors", "model.yaml", "tokenizer",
    ]  # fmt: skip


def test_late_learners_are_left_out_and_the_first_of_the_others_averages(tmp_path: Path) -> None:
    own, results = models(), {}
    threads = [
        threading.Thread(target=lambda r=rank: results.update({r: leave(tmp_path, r, own[r], 1.0)})) for rank in (2, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[3] is None
    assert results[2] is not None
    assert json.loads((results[2] / "loss.json").read_text())["mean_of"] == [2, 3]
    ([checkpoint], _) = list_emergencies(tmp_path)
    torch.testing.assert_close(checkpoint.model_state()["w"], (own[2]["w"] + own[3]["w"]) / 2)
    assert leave(tmp_path, 1, own[1], 1.0) is None  # too late
    assert [each.name for each in tmp_path.iterdir()] == [results[2].name]


def test_a_damaged_one_is_a_problem_not_a_checkpoint(tmp_path: Path) -> None:
    folder = leave(tmp_path, 1, models()[1], 0.0)
    assert folder is not None
    (folder / "manifest.json").write_text("{}")
    found, problems = list_emergencies(tmp_path)
    assert not found
    assert list(problems) == [folder]


@pytest.mark.parametrize("rank", [1, 2])
def test_survivors_are_all_but_the_lost(rank: int) -> None:
    assert Survivor(rank=rank, world_size=4, launch_id="", loss=Loss(2, "")).others == [0, 1, 3]


def test_each_side_of_a_network_that_fell_apart_has_a_mean_of_its_own(tmp_path: Path) -> None:
    """Learners 0 and 1 miss 2, learners 2 and 3 miss 0: nobody waits for those of the other side."""
    own, results = models() | {0: {"w": torch.zeros(3, 2), "count": torch.tensor(0)}}, {}
    sides = {0: 2, 1: 2, 2: 0, 3: 0}
    started = time.monotonic()
    threads = [
        threading.Thread(target=lambda r=rank: results.update({r: leave(tmp_path, r, own[r], 30.0, sides[r])}))
        for rank in sides
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < 10
    assert results == {
        0: tmp_path / "emergency-abcd-without-2", 1: None, 2: tmp_path / "emergency-abcd-without-0", 3: None,
    }  # fmt: skip
    for checkpoint in list_emergencies(tmp_path)[0]:
        record = json.loads((checkpoint.folder / "loss.json").read_text())
        assert record["mean_of"] == ([0, 1] if record["lost"] == 2 else [2, 3])
        first, second = record["mean_of"]
        mean = (own[first]["w"].double() + own[second]["w"].double()) / 2
        torch.testing.assert_close(checkpoint.model_state()["w"], mean.float())


def test_weights_that_cannot_be_written_are_an_error_for_people(tmp_path: Path) -> None:
    """As on a full disk: files may not grow beyond a kilobyte here."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        with pytest.raises(OSError, match=r"learner-1\.unfinished"):
            leave(tmp_path, 1, {"w": torch.zeros(10_000)}, 0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list_emergencies(tmp_path) == ([], {})


def test_who_comes_to_this_side_in_between_is_not_on_another(tmp_path: Path) -> None:
    survivor = Survivor(rank=1, world_size=4, launch_id="abcd", loss=Loss(0, "was killed"))
    final = tmp_path / "emergency-abcd-without-0"
    folder = tmp_path / f".writing-{final.name}"
    folder.mkdir()
    (folder / "learner-2.safetensors").touch()
    assert not _elsewhere(folder, final, survivor, 2)
    other = tmp_path / ".writing-emergency-abcd-without-1"
    other.mkdir()
    (other / "learner-2.safetensors").touch()
    assert _elsewhere(folder, final, survivor, 2)
