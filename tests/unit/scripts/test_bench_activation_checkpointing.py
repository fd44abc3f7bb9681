"""The bench of activation checkpointing: every way has its figures."""

import json
from pathlib import Path

from scripts.bench.activation_checkpointing import WAYS, main


def test_every_way_has_its_figures(tmp_path: Path) -> None:
    main(["--quick", "--json", str(tmp_path / "figures.json")])
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    ways = [f"{key}/conformer_tiny/{way}" for way in WAYS for key in ("step_ratio", "memory_ratio")]
    assert sorted(figures) == sorted(ways)
    assert figures["memory_ratio/conformer_tiny/every layer"] < 1
