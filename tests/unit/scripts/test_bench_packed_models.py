"""The benchmark of packed models: what it saves has the figure's name, and the size is that of written files."""

import json
from pathlib import Path

import pytest

from scripts.bench.packed_models import main


def test_it_saves_the_size_of_a_packed_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--json", str(tmp_path / "figures.json")])
    saved = json.loads((tmp_path / "figures.json").read_text())
    assert saved["figures"].keys() == {"size_ratio/int4"}
    assert 7.8 < saved["figures"]["size_ratio/int4"] < 8
    assert "| size | ibm_rnnt | all 4 bits |" in capsys.readouterr().out
