"""Encoders in ONNX Runtime for benchmarks: fp32 gives the model's states, int8 comes near them."""

from pathlib import Path

import pytest
import torch

from asr.parts import build
from scripts.bench.exported_encoders import ONNX_FP32, ONNX_INT8, onnx_encoders
from scripts.composition.compose import compose

pytest.importorskip("onnxruntime")


def test_states_are_those_of_the_model(tmp_path: Path, one_registry: None) -> None:
    torch.manual_seed(0)
    encoder = build(compose("train", ["model=lstm_tiny"]).model, vocabulary_size=9, feature_dimension=16).encoder.eval()
    features, lengths = torch.randn(3, 70, 16), torch.tensor([70, 70, 31])
    with torch.inference_mode():
        expected = encoder(features, lengths)[0]
    found = {name: encode(features, lengths) for name, encode in onnx_encoders(encoder, 16, tmp_path).items()}
    torch.testing.assert_close(found[ONNX_FP32], expected, rtol=1e-4, atol=1e-4)
    away = (found[ONNX_INT8] - expected).norm() / expected.norm()
    assert 0 < away < 0.2
