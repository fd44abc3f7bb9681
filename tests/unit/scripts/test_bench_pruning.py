"""The benchmark of structured pruning and the measurement of latencies, in their shortest form."""

import json
from pathlib import Path

import pytest

from compression.pruning.costs import full_sizes
from compression.pruning.latency import Latency, read_tables
from compression.pruning.parts import parts_of
from compression.pruning.sites import sites
from scripts.bench.latency import main as measure_latency
from scripts.bench.latency import model_of
from scripts.bench.pruning import main


def test_it_saves_what_removal_leaves_of_parameters_and_time(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    main(["--quick", "--rounds", "1", "--steps", "120", "--json", str(path)])
    saved = json.loads(path.read_text())
    ratios = {"parameters_ratio/0.5", *(f"rtf_ratio/0.5/{each}" for each in ("parameters", "flops", "milliseconds"))}
    assert saved["figures"].keys() == ratios | {"latency_error"}
    assert saved["figures"]["parameters_ratio/0.5"] == pytest.approx(0.5, abs=0.02)
    assert all(saved["figures"][name] > 0 for name in ratios), "speech this short says nothing of time"
    assert all(row["parameters_ratio"] < 1 for row in saved["rows"])


def test_latencies_of_a_model_are_measured_and_read(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    measure_latency(["--model", "conformer_tiny", "--frames", "80", "--rounds", "1", "--json", str(path)])
    model = model_of(None, "conformer_tiny")
    found = sites(model)
    assert float(Latency(parts_of(model.encoder, found), read_tables(path))(full_sizes(found))) > 0
