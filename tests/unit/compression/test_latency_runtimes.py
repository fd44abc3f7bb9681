"""Parts of an encoder as ONNX Runtime runs them in int8: near what PyTorch computes; a table of them is measured, written and read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asr.models.speech_model import Recogniser, SpeechModel
from compression.pruning import latency
from compression.pruning.costs import Extent, full_sizes
from compression.pruning.latency import Latency, as_json, measure, read_tables
from compression.pruning.parts import BUILDERS, parts_of
from compression.pruning.runtimes import in_onnx_int8
from compression.pruning.sites import sites

pytest.importorskip("onnxruntime")
EXTENT = Extent(40)


pytestmark = pytest.mark.usefixtures("one_registry")

SIZES = {
    "subsampling": ("conformer", (16, 12, 16)), "feed_forward": ("conformer", (16, 48)), "attention": ("conformer", (16, 2)),
    "convolution": ("chunked", (16, 12)), "norm": ("conformer", (16,)), "local_width": ("conformer", (16, 7)), "lstm": ("lstm", (16, 8)),
}  # fmt: skip


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_part_in_int8_comes_near_what_it_computes(kind: str, small_model: Callable[..., SpeechModel]) -> None:
    name, sizes = SIZES[kind]
    model = small_model(name)
    assert isinstance(model, Recogniser)
    torch.manual_seed(2)
    part = BUILDERS[kind](model.encoder, sizes, EXTENT)
    with torch.inference_mode():
        output = part.module.eval()(*part.inputs)
        expected = output[0] if isinstance(output, tuple) else output
        outputs: Any = in_onnx_int8(part)()
    found = torch.from_numpy(outputs[0])
    assert found.shape == expected.shape
    assert (found - expected).norm() < 0.1 * expected.norm()


def test_a_table_of_int8_is_measured_and_used(
    small_model: Callable[..., SpeechModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(latency, "FRACTIONS", (0.5, 1.0))
    model = small_model("lstm")
    assert isinstance(model, Recogniser)
    found = sites(model)
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(as_json(measure(model.encoder, found, EXTENT, 1, "int8"), EXTENT, "int8")))
    caplog.set_level("INFO")
    cost = Latency(parts_of(model.encoder, found), read_tables(path))
    assert f"{path}: milliseconds of ONNX Runtime in int8" in caplog.text
    halves = {name: (each / 2).floor().clamp(min=1) for name, each in full_sizes(found).items()}
    assert 0 < float(cost(halves)) <= float(cost(full_sizes(found)))
