"""The bench of kept memory: every way trains in a process of its own, and is compared with memory that is given back."""

import json
from pathlib import Path

import pytest

from scripts.bench.kept_memory import WAYS, main, unequal


def test_every_way_is_compared(tmp_path: Path) -> None:
    main(["--quick", "--json", str(tmp_path / "kept-memory.json")])
    rows = json.loads((tmp_path / "kept-memory.json").read_text())["rows"]
    assert [row["way"] for row in rows] == list(WAYS)
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 2**20 for row in rows)
    assert (rows[0]["step_ratio"], rows[0]["memory_ratio"]) == (1, 1)


def test_shapes_recur_where_so_many_are_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--models", "conformer_tiny", "--units", "6", "--shapes", "2", "--way", "kept"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["seconds"] > 0


def test_units_are_of_one_duration_and_of_many_shapes() -> None:
    units = list(unequal("conformer_tiny", 12))
    assert len({each.features.shape for each in units}) == 12
    assert all(72 < each.features.shape[0] * each.features.shape[1] / 100 <= 80 for each in units)
