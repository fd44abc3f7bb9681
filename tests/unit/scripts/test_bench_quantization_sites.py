"""The bench that says which layers lose by few bits: every row quantises its own layers alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from asr.runs.model_folder import load_model
from scripts.bench import paired
from scripts.bench.quantization_sites import main


def twins(folder: Path) -> set[str]:
    """Names of the quantised layers of a model folder."""
    named = load_model(folder).model.named_modules()
    ours = {name for name, module in named if type(module).__module__.startswith("compression.")}
    return {name for name in ours if not name.endswith("_quantizer")}  # a part of a layer


def test_every_row_quantises_its_own_layers_alone(
    random_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paired, "REPLICATIONS", 3)
    run, path = random_run("run"), tmp_path / "sites.json"
    groups = ["--group", "prediction network", "predictor.*", "--group", "joiner", "joiner*"]
    command = ["--run", str(run), "--set", "dev", *groups, "--setting", "bits=2", "--json", str(path)]
    main(command)
    first, second, every = (twins(run / "export" / f"sites-{number}") for number in range(3))
    assert first
    assert second
    assert all(name.startswith("predictor.") for name in first)
    assert all(name.startswith("joiner") for name in second)
    assert first | second < every
    rows = json.loads(path.read_text())["rows"]
    assert [row["variant"] for row in rows] == ["full precision", "prediction network", "joiner", "all layers"]
    assert rows[0]["difference"] == 0
    assert "| all layers | " in capsys.readouterr().out
    main(command)  # what is there is written again, with the same result
    assert json.loads(path.read_text())["rows"] == rows
