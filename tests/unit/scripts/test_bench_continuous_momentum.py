"""The simulation of the continuous momentum, on random inputs and few steps."""

import json
from pathlib import Path

import pytest

from scripts.bench import continuous_momentum
from scripts.bench.continuous_momentum import WAYS, main, trained
from scripts.bench.spoken_digits import Digits


def test_the_momentum_keeps_learners_on_a_ring_closer_with_as_many_exchanges(digits: Digits) -> None:
    plain, with_momentum = (trained(32, way, 60, digits, seed=1) for way in ("ring", "ring, momentum"))
    assert plain.exchanges == with_momentum.exchanges
    assert with_momentum.distance < 0.9 * plain.distance
    assert with_momentum.error < 0.1


def test_every_way_has_a_row_and_a_figure(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuous_momentum, "read_digits", lambda root, cache: digits)
    file = tmp_path / "figures.json"
    main(["--data", "none", "--quick", "--json", str(file)])
    saved = json.loads(file.read_text())
    assert set(saved["figures"]) == {f"consensus_distance/8/{way}" for way in WAYS}
    assert all(row["exchanges"] > 0 and row["distance"] > 0 for row in saved["rows"])
