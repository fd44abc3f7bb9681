"""The simulation around the two laws of error feedback, on random inputs and few steps."""

import json
from pathlib import Path

import pytest

from scripts.bench import scalecom_regime
from scripts.bench.scalecom_regime import SETTINGS, Setting, main, trained
from scripts.bench.spoken_digits import Digits


def test_compression_learns_with_payments_and_not_without(digits: Digits) -> None:
    dense = trained(Setting(0.05, 120), digits, seed=1)
    paid = trained(Setting(0.05, 120, rate=8, beta=1.0), digits, seed=1)
    unpaid = trained(Setting(0.05, 120, rate=400, beta=0.1), digits, seed=1)
    assert dense[0] < 0.05
    assert paid[0] < 0.05
    assert unpaid[1] > 2 * paid[1]


def test_every_setting_has_a_row_and_a_figure(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scalecom_regime, "read_digits", lambda root, cache: digits)
    monkeypatch.setattr(scalecom_regime, "SETTINGS", SETTINGS[:3])
    file = tmp_path / "figures.json"
    main(["--data", "none", "--quick", "--json", str(file)])
    saved = json.loads(file.read_text())
    assert set(saved["figures"]) == {f"error/0.05/20/{each.scheme}" for each in SETTINGS[:3]}
    assert [row["payments"] for row in saved["rows"]] == [None, pytest.approx(0.18), pytest.approx(0.018)]
