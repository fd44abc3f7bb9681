"""The bench of compressed gradients: build-up in simulation, and what is made of rows. Learners are too slow for here."""

from pathlib import Path

import pytest

from scripts.bench.compression import SIMULATED, figures, plot, simulate, table

ROW = {"scheme": "scalecom", "learners": 2, "payload_bytes": 465_000, "bytes_ratio": 88.0, "wire_bytes_sent": 490_000}
GROWTH = [
    {"scheme": scheme, "learners": learners, "union": 1.0 if scheme == "scalecom" else float(learners)}
    for scheme in ("local_topk", "scalecom")
    for learners in SIMULATED
]


def test_local_top_k_builds_up_and_scalecom_does_not():
    local = [simulate("local_topk", learners, 100, 6, 5000, 1.0)[-1] for learners in (1, 2, 8)]
    assert local[0] == 1.0
    assert 1.2 < local[1] < local[2] <= 8
    assert set(simulate("scalecom", 8, 100, 6, 5000, 1.0)) == {1.0}


def test_without_noise_learners_choose_the_same():
    assert set(simulate("local_topk", 4, 100, 5, 2000, 0.0)) == {1.0}


def test_figures_and_tables_name_schemes_and_learners(tmp_path: Path):
    found = figures([ROW], GROWTH)
    assert found["bytes_ratio/scalecom/2"] == 88.0
    assert found["union/local_topk/64"] == 64.0
    text = table([ROW], GROWTH)
    assert "| `scalecom` | 2 | 465 | 88.0 | 490 |" in text
    assert "| `local_topk` | 1.00 | 2.00 | 4.00 | 8.00 | 16.00 | 32.00 | 64.00 |" in text
    plot(GROWTH, tmp_path / "plots" / "build-up.svg")
    assert "local_topk" in (tmp_path / "plots" / "build-up.svg").read_text()


@pytest.mark.long
def test_the_quick_measurement_has_the_figures_of_the_contract(tmp_path: Path):
    import json

    from scripts.bench.compression import main

    main(["--quick", "--json", str(tmp_path / "figures.json")])
    found = json.loads((tmp_path / "figures.json").read_text())["figures"]
    for scheme in ("scalecom", "local_topk", "random_k", "powersgd-r1", "fp16"):
        assert found[f"bytes_ratio/{scheme}/2"] > 1.9
    assert found["bytes_ratio/scalecom/2"] == found["bytes_ratio/scalecom/4"] >= 65
    assert 0 < found["selection_fraction"] < 1
