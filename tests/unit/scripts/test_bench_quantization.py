"""The benchmark of quantised training: both versions are measured, and what it saves has the figure's name."""

import json
from pathlib import Path

from asr.models.transducer import Transducer
from compression.quantization.twins import Twin
from scripts.bench.quantization import main, models


def test_it_saves_the_ratio_of_a_layers_training_step(tmp_path: Path) -> None:
    main(["--quick", "--rounds", "1", "--json", str(tmp_path / "figures.json")])
    saved = json.loads((tmp_path / "figures.json").read_text())
    assert saved["figures"].keys() == {"qat_step_ratio"}
    (row,) = saved["rows"]
    assert row["ratio"] == row["quantised_s"] / row["plain_s"] > 0


def test_the_model_is_the_papers_and_its_twin_is_quantised_throughout() -> None:
    plain, quantized = models()
    assert isinstance(plain, Transducer)
    assert sum(each.numel() for each in plain.parameters()) > 56e6
    assert sum(isinstance(each, Twin) for each in quantized.modules()) == 12 + 2 + 3 + 1
    layer = quantized.get_submodule("encoder.layers.1.left_to_right")
    assert (layer.input_size, layer.hidden_size) == (1280, 640)
