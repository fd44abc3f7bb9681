"""The study of pruned word error rates: all ways begin at the start and get the same number of further steps; rows are paired with the control."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from asr.decoding.wer import ErrorCounts, count_errors
from asr.runs.metrics import to_json
from asr.runs.run_folder import RunFolder
from scripts.bench import compression_study, paired, pruning_wer
from scripts.bench.compression_study import CORPORA
from scripts.bench.forked import ForkedTrials
from scripts.bench.pruning_wer import EXPECTED, WAYS, PruningStudy, main
from scripts.composition.compose import compose


class Recorded(ForkedTrials):
    """Stands in for training and decoding; keeps the commands."""

    commands: list[tuple[str, list[str]]] = []  # noqa: RUF012 - of the test

    def call(self, run: Path, *command: str) -> None:
        self.commands.append((run.name, list(command)))
        if "masked" in run.name and not run.exists():
            rows = RunFolder(run).metrics_of(0)
            rows.parent.mkdir(parents=True)
            rows.write_text(to_json({"samples": 1, EXPECTED: 0.98 if "flops" in run.name else 0.1}) + "\n")

    def errors(
        self, run: Path, search: Sequence[str], fold: str, weights: Path | None = None
    ) -> dict[str, ErrorCounts]:
        bad = run.name.startswith("low")
        return {"/a": count_errors("one two", "one" if bad else "one two"), "/b": count_errors("three", "three")}


def value(command: Sequence[str], key: str) -> str:
    return [each.removeprefix(key) for each in command if each.startswith(key)][-1]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    monkeypatch.setattr(compression_study, "ForkedTrials", Recorded)
    monkeypatch.setattr(Recorded, "commands", [])
    monkeypatch.setattr(paired, "REPLICATIONS", 3)
    monkeypatch.setattr(PruningStudy, "latency", lambda self, seed: Path("latency.json"))
    monkeypatch.setattr(pruning_wer, "model_folder_of", lambda folder, key: folder)
    costs = {"parameters": 4.0, "flops": 2.0, "milliseconds": 1.0, "peak_bytes": 3.0}
    monkeypatch.setattr(pruning_wer, "encoder_costs", lambda folders: dict.fromkeys(folders, costs))
    return Recorded.commands


def test_all_ways_get_the_steps_of_the_control(tmp_path: Path, recorded: list[tuple[str, list[str]]]) -> None:
    file, folder = tmp_path / "figures.json", tmp_path / "runs" / "conformer"
    main(["--models", "conformer", "--seeds", "5", "--folder", str(folder.parent), "--json", str(file)])
    steps: dict[str, int] = {}
    for name, command in recorded:
        if command[0].endswith("train.py") and name != "start-5":
            parent = value(command, "init_from=") if any("init_from" in each for each in command) else "nothing"
            taken = int(value(command, "trainer.max_steps=")) if parent != "nothing" else 0
            before = parent.removeprefix(f"{folder}/").partition("/")[0]
            steps[name] = taken + (0 if before in ("start-5", "control-5", "nothing") else steps[before])
        elif f"run={folder / 'control-5'}" in command:
            assert f"weights={folder / 'start-5'}" in command, (
                "what is pruned at once is the start, in the control's export"
            )
    ends = {name: number for name, number in steps.items() if "-masked-" not in name and "-round-" not in name}
    assert {name: number for name, number in ends.items() if number != CORPORA["fsdd"].pruning_steps} == {
        "sizes-of-the-masks_from-nothing_50-5": 0
    }
    assert len(ends) == 1 + sum(len(way.sparsities) for way in WAYS.values())


def test_rows_are_paired_with_the_control_and_have_sizes(tmp_path: Path, recorded: list[tuple[str, list[str]]]) -> None:
    file = tmp_path / "figures.json"
    main(["--models", "lstm", "--seeds", "5", "6", "--folder", str(tmp_path / "runs"), "--json", str(file)])
    saved: dict[str, Any] = json.loads(file.read_text())
    assert saved["figures"]["wer/lstm/control"] == 0
    assert saved["figures"]["wer_difference/lstm/low rank, 50%"] == pytest.approx(1 / 3)
    rows = {row["variant"]: row for row in saved["rows"]}
    assert rows["masks, 50%"]["wer_by_seed"].keys() == {"5", "6"}
    assert rows["masks, 70%"]["wer_by_seed"].keys() == {"5"}
    assert all(row["parameters_ratio"] == row["milliseconds_ratio"] == 1 for row in rows.values())
    assert not any("heads" in name for name in rows)
    assert rows["masks by flops, distilled, 50%"]["masks_kept"] == 0.98
    assert rows["masks, 50%"]["masks_kept"] == 0.1
    assert rows["magnitude, 50%"]["masks_kept"] is None
    removals = [command for _, command in recorded if "pass=prune" in command]
    assert removals
    assert all(value(command, "pass.sparsity=") in ("0.5", "0.3", "0.7") for command in removals)
    costs = {value(command, "pass.objective=") for command in removals if any("objective" in each for each in command)}
    assert costs == {"flops", "milliseconds"}


def test_some_ways_may_be_chosen(tmp_path: Path, recorded: list[tuple[str, list[str]]]) -> None:
    main(["--models", "lstm", "--seeds", "5", "--folder", str(tmp_path), "--ways", "magnitude", "--steps", "9"])
    trained = [name for name, command in recorded if command[0].endswith("train.py")]
    assert trained == ["start-5", "control-5", "magnitude_50-5", "magnitude_30-5", "magnitude_70-5"]
    further = [command for name, command in recorded if command[0].endswith("train.py") and name != "start-5"]
    assert all(value(command, "trainer.max_steps=") == "9" for command in further)


def test_a_way_at_one_sparsity_may_be_chosen(
    tmp_path: Path, recorded: list[tuple[str, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--models", "lstm", "--seeds", "5", "--folder", str(tmp_path), "--ways", "magnitude, 30%"])
    trained = [name for name, command in recorded if command[0].endswith("train.py")]
    assert trained == ["start-5", "control-5", "magnitude_30-5"]
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "magnitude, 30%; " in " ".join(capsys.readouterr().out.split())


def test_settings_of_masks_compose(tmp_path: Path, recorded: list[tuple[str, list[str]]]) -> None:
    study = PruningStudy(Recorded(1, tmp_path, "test"), CORPORA["fsdd"], "conformer", [], 600)
    for name, way, sparsity in study.ways():
        study.make(name, way, sparsity, 5)
    masked = [command for name, command in recorded if name.endswith("masked-5")]
    trained, removed = (
        [each for each in masked if each[0].endswith(f"{script}.py")] for script in ("train", "compress")
    )
    assert len(trained) == len(removed) == sum(len(way.sparsities) for way in WAYS.values() if way.kind == "masks")
    for command in trained:
        hook = compose("train", command[1:]).hooks.structured_pruning
        assert (hook.mask_lr, hook.multiplier_lr) == (0.1, 0.2)
    for command in removed:
        words = [each.replace("pass", "passes", 1) if each.startswith("pass") else each for each in command[1:]]
        assert compose("compress", words).passes.sparsity in (0.1, 0.3, 0.5, 0.7)
