"""The benchmark of packed models: what it saves has the figure's name, and the size is that of written files."""

import json
from pathlib import Path

import pytest
import torch

from asr.models.lstm import BidirectionalLstm
from scripts.bench.onnx_encoders import FP32, INT8, session_call, write_encoders
from scripts.bench.packed_models import main


def test_it_saves_the_size_of_a_packed_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--json", str(tmp_path / "figures.json")])
    saved = json.loads((tmp_path / "figures.json").read_text())
    assert saved["figures"].keys() == {"size_ratio/int4"}
    assert 7.8 < saved["figures"]["size_ratio/int4"] < 8
    assert "| size | ibm_rnnt | all 4 bits |" in capsys.readouterr().out


def test_onnx_runtime_computes_the_same_encoder_and_its_int8_is_near(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = BidirectionalLstm(feature_dimension=6, stack=2, layers=2, hidden=16, dropout=0.0).eval()
    files = write_encoders(encoder, 6, tmp_path)
    heard = torch.randn(3, 50, 6), torch.tensor([50, 50, 50])
    with torch.no_grad():
        states, _ = encoder(*heard)
    torch.testing.assert_close(session_call(files[FP32])(*heard), states, rtol=1e-4, atol=1e-5)
    near = session_call(files[INT8])(*heard)
    assert 0 < (near - states).abs().mean() < 0.05 * states.abs().mean()
