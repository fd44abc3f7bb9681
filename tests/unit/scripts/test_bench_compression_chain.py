"""The chain of compressions: each link begins with what the one before has left, the control has the steps of all, sizes are those of files."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from asr.decoding.wer import ErrorCounts, count_errors
from scripts.bench import compression_chain, compression_study, paired
from scripts.bench.compression_chain import FOUR_BITS, HALF, PACKED, ChainStudy, large_bytes, main
from scripts.bench.compression_study import CORPORA
from scripts.bench.forked import ForkedTrials


def value(command: Sequence[str], key: str) -> str:
    return [each.removeprefix(key) for each in command if each.startswith(key)][-1]


def test_every_link_goes_on_from_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, list[str]]] = []

    class Recorded(ForkedTrials):
        """Stands in for training and decoding; keeps the commands."""

        def call(self, run: Path, *command: str) -> None:
            made.append((run.name, list(command)))

        def errors(
            self, run: Path, search: Sequence[str], fold: str, weights: Path | None = None
        ) -> dict[str, ErrorCounts]:
            assert weights is None or weights.parent.name == "export" or weights.name == "start"
            return {"/a": count_errors("one two", "one" if weights else "one two")}

    monkeypatch.setattr(compression_study, "ForkedTrials", Recorded)
    monkeypatch.setattr(paired, "REPLICATIONS", 3)
    monkeypatch.setattr(compression_chain, "model_folder_of", lambda folder, key: folder)
    monkeypatch.setattr(compression_chain, "large_bytes", lambda: {"dense": 8, PACKED: 2})
    monkeypatch.setattr(ChainStudy, "bytes_of", lambda self, seed: {"dense": 6, PACKED: 2})
    file, start = tmp_path / "figures.json", tmp_path / "start"
    options = ["--models", "lstm", "--seeds", "5", "--start", str(start), "--folder", str(tmp_path / "runs")]
    main([*options, "--json", str(file)])
    corpus = CORPORA["fsdd"]
    both = corpus.pruning_steps + corpus.quantisation_steps
    control, half, quantised = (
        (tmp_path / "runs/lstm" / name) for name in ("control-5", "half-removed-5", "half-removed_4-bits-5")
    )
    trained = {name: command for name, command in made if command[0].endswith("train.py")}
    assert {name: int(value(command, "trainer.max_steps=")) for name, command in trained.items()} == {
        "control-5": both, "half-removed-5": corpus.pruning_steps, "half-removed_4-bits-5": corpus.quantisation_steps,
    }  # fmt: skip
    begun = {name: value(command, "init_from=") for name, command in trained.items()}
    assert begun == {
        control.name: str(start),
        half.name: str(control / "export/half"),
        quantised.name: str(half),
    }
    assert value(trained[quantised.name], "model_of=") == str(half)
    assert "+hooks=[qat_int4]" in trained[quantised.name]
    passes = [(name, value(command, "pass=")) for name, command in made if command[0].endswith("compress.py")]
    assert passes == [(control.name, "magnitude"), (quantised.name, "pack")]
    record = json.loads(file.read_text())
    assert [each["variant"] for each in record["rows"]] == ["start", "control", HALF, FOUR_BITS, PACKED]
    assert record["size_ratios"][f"size_ratio/conformer_m/{PACKED}"] == 4


def test_sizes_are_those_of_files_that_can_be_read_and_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression_chain, "LARGE", "conformer_tiny")
    found = large_bytes()
    assert list(found) == ["dense", HALF, PACKED]
    assert found["dense"] > 1.3 * found[HALF]
    assert found[HALF] > 4 * found[PACKED]
