"""Damaged checkpoints, and manifests that were changed: found, named, passed over, and never believed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from asr.foreign.files import ForeignError
from asr.runs import checkpoint_manifest
from asr.runs.checkpoint import read_checkpoint
from asr.runs.checkpoint_folder import CheckpointFolder
from asr.runs.checkpoint_manifest import CheckpointError, read_manifest, write_manifest
from asr.runs.files import sha256
from distributed.learners.world import World

Folders = Callable[..., CheckpointFolder]
Save = Callable[..., Path]
Steps = Callable[[Path], list[int]]
Damage = Callable[..., Path]


@pytest.mark.parametrize("fault", ["truncated", "altered", "missing"])
@pytest.mark.parametrize("name", ["learner-0.pt", "model.safetensors"])
def test_damage_is_named_and_the_checkpoint_before_is_used(
    tmp_path: Path, alone: World, fault: str, name: str, folder: Folders, save: Save
) -> None:
    checkpoints = folder(tmp_path, alone)
    save(checkpoints, 1)
    victim = save(checkpoints, 2) / name
    data = bytearray(victim.read_bytes())
    if fault == "missing":
        victim.unlink()
    else:
        data[len(data) // 2] ^= 1
        victim.write_bytes(data[:-1] if fault == "truncated" else data)
    chosen, problems = checkpoints.newest()
    assert chosen is not None
    assert chosen.progress.step == 1
    assert len(problems) == 1
    assert str(victim) in problems[0]


def check_passed_over(checkpoints: CheckpointFolder) -> None:
    chosen, problems = checkpoints.newest()
    assert chosen is not None
    assert chosen.progress.step == 1
    assert len(problems) == 1
    assert "step-00000002" in problems[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [("}", ""), ('"figure": 0.5', '"figure": 0.1'), ('"samples": 16', '"samples": 0'), ('"world_size": 1,', "")],
)
def test_an_altered_manifest_is_reported_and_passed_over(
    tmp_path: Path, alone: World, old: str, new: str, folder: Folders, save: Save
) -> None:
    checkpoints = folder(tmp_path, alone)
    save(checkpoints, 1)
    path = save(checkpoints, 2, figure=0.5) / "manifest.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    check_passed_over(checkpoints)


@pytest.mark.parametrize("missing", ["figure", "learner-0.pt", "model.safetensors"])
def test_a_manifest_must_be_complete(tmp_path: Path, alone: World, missing: str, folder: Folders, save: Save) -> None:
    """Also one that carries the right digest."""
    checkpoints = folder(tmp_path, alone)
    save(checkpoints, 1)
    victim = save(checkpoints, 2)
    record = read_manifest(victim)
    record.pop(missing, None)
    record["files"].pop(missing, None)
    write_manifest(victim, record)
    check_passed_over(checkpoints)


def test_a_manifest_may_be_laid_out_anew(tmp_path: Path, alone: World, folder: Folders, save: Save) -> None:
    path = save(folder(tmp_path, alone), 1, figure=0.1) / "manifest.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(record.items()))))
    assert read_checkpoint(path.parent).figure == 0.1


def test_a_damaged_newer_checkpoint_does_not_cost_the_intact_one(
    tmp_path: Path, alone: World, folder: Folders, save: Save, steps: Steps, damage: Damage
) -> None:
    """Retention must count what a resume can use."""
    checkpoints = folder(tmp_path, alone, keep_last=1)
    save(checkpoints, 10)
    keep = folder(tmp_path, alone)
    damage(save(keep, 15, figure=0.1))
    chosen, problems = checkpoints.newest()
    assert chosen is not None
    assert chosen.progress.step == 10
    assert "damaged-step-00000015" in problems[0]
    assert (tmp_path / "damaged-step-00000015" / "learner-0.pt").is_file(), "kept for inspection"
    assert checkpoints.newest()[1] == [], "reported once"
    save(checkpoints, 12)
    assert steps(tmp_path) == [12]
    damage(save(keep, 15))
    assert "damaged-step-00000015-2" in checkpoints.newest()[1][0]
    assert {path.name for path in tmp_path.iterdir()} == {
        "step-00000012", "damaged-step-00000015", "damaged-step-00000015-2",
    }  # fmt: skip


def test_damage_before_the_chosen_one_is_left_alone(
    tmp_path: Path, alone: World, folder: Folders, save: Save, damage: Damage
) -> None:
    checkpoints = folder(tmp_path, alone)
    (save(checkpoints, 1) / "manifest.json").unlink()
    damage(save(checkpoints, 2))
    save(checkpoints, 3)
    chosen, problems = checkpoints.newest()
    assert chosen is not None
    assert chosen.progress.step == 3
    assert problems == []
    assert (tmp_path / "step-00000001").is_dir()


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_afresh(
    tmp_path: Path, alone: World, folder: Folders, save: Save, damage: Damage
) -> None:
    checkpoints = folder(tmp_path, alone)
    victims = [damage(save(checkpoints, 1)), damage(save(checkpoints, 2), "manifest.json")]
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is intact: .*move them away") as raised:
        checkpoints.newest()
    assert all(str(victim) in str(raised.value) for victim in victims)
    assert all(victim.is_file() for victim in victims), "nothing is renamed"


def test_a_manifest_of_another_format_stops(tmp_path: Path, alone: World, folder: Folders, save: Save) -> None:
    checkpoints = folder(tmp_path, alone)
    save(checkpoints, 1)
    path = save(checkpoints, 2) / "manifest.json"
    path.write_text(json.dumps({"format": 1, "shards": []}))
    with pytest.raises(CheckpointError, match=r"step-00000002/manifest.json: format 1, this version reads 3, 4, 5"):
        checkpoints.newest()
    assert path.is_file()


def test_a_damaged_checkpoint_gives_its_name_to_a_worse_one(
    tmp_path: Path, alone: World, folder: Folders, save: Save, damage: Damage
) -> None:
    checkpoints = folder(tmp_path, alone)
    damage(save(checkpoints, 2, figure=0.1))
    assert read_checkpoint(save(checkpoints, 2, figure=0.2)).figure == 0.2


def test_pickled_code_is_not_run(tmp_path: Path, alone: World, folder: Folders, save: Save) -> None:
    written = save(folder(tmp_path, alone), 1)

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"model": Trap()}, written / "learner-0.pt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        read_checkpoint(written).learner_state(0, torch.device("cpu"))
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_of_other_settings_is_refused_with_their_keys(
    tmp_path: Path, alone: World, folder: Folders, save: Save
) -> None:
    written = {"lr": 0.1, "gone": None, "floor": float("nan"), "hooks": ["a", "b"]}
    save(folder(tmp_path, alone, **written), 1)
    chosen, _ = folder(tmp_path, alone, **written).newest()
    assert chosen is not None
    with pytest.raises(CheckpointError, match=r"by a run with other settings: gone, hooks, lr, new differ;") as caught:
        folder(tmp_path, alone, lr=0.2, new=1, floor=float("nan"), hooks=["b", "a"]).newest()
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"s0, .*, s7 and 12 more differ"):
        folder(tmp_path, alone, **written, **{f"s{n}": n for n in range(8)}, **{f"t{n}": n for n in range(12)}).newest()


def test_a_checkpoint_that_does_not_tell_its_settings_is_taken(
    tmp_path: Path, alone: World, folder: Folders, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = save(folder(tmp_path, alone), 1)
    record = read_manifest(victim)
    del record["settings"]
    monkeypatch.setattr(checkpoint_manifest, "FORMAT", 3)
    write_manifest(victim, record)
    chosen, problems = folder(tmp_path, alone, lr=0.1).newest()
    assert chosen is not None
    assert chosen.settings is None
    assert not problems


@pytest.mark.parametrize(
    "change",
    [
        {"world_size": 10**12}, {"world_size": "1"}, {"world_size": -1}, {"files": []}, {"files": {"model.yaml": 1}},
        {"figure": "0.1"}, {"figure": True}, {"plan": None}, {"backend": 1}, {"settings": []},
        {"progress": {"step": "1"}}, {"progress": {"other": 1}}, {"progress": [1]}, {"unknown": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_signed_manifest_of_odd_values_is_passed_over(
    tmp_path: Path, alone: World, change: dict[str, object], folder: Folders, save: Save
) -> None:
    checkpoints = folder(tmp_path, alone)
    save(checkpoints, 1)
    victim = save(checkpoints, 2)
    write_manifest(victim, read_manifest(victim) | change)
    check_passed_over(checkpoints)


@pytest.mark.parametrize("stored", [b"", b"nonsense", b"PK\x03\x04", b"\x80\x02cos\nsystem\n(S'true'\ntR."])
def test_a_signed_state_that_cannot_be_read_ends_in_one_line(
    tmp_path: Path, alone: World, stored: bytes, folder: Folders, save: Save
) -> None:
    checkpoints = folder(tmp_path, alone)
    victim = save(checkpoints, 1)
    (victim / "learner-0.pt").write_bytes(stored)
    record = read_manifest(victim)
    record["files"]["learner-0.pt"] = sha256(victim / "learner-0.pt")
    write_manifest(victim, record)
    with pytest.raises(ForeignError, match=r"learner-0\.pt: cannot be read"):
        read_checkpoint(victim).learner_state(0, alone.device)
    with pytest.raises(CheckpointError, match=r"learner-0\.pt: cannot be read") as caught:
        checkpoints.newest()
    assert "\n" not in str(caught.value)
