"""An encoder as ONNX Runtime computes it: the floor that few bits must beat, and its own dynamic int8.

The files are written as scripts/export.py writes them: fp32, and int8 per channel with 7 of the 8 bits (asr/export/onnx_files.py).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr.export.lstm import with_onnx_lstms
from asr.export.onnx_files import Network, export_part, write_int8, write_network
from asr.models.encoder import Encoder

FP32, INT8 = "fp32, ONNX Runtime", "int8, ONNX Runtime"  # their names in tables
FP32_FILE, INT8_FILE = "encoder.onnx", "encoder.int8.onnx"
EXAMPLE_FRAMES = 40


class _Encoder(nn.Module):
    """The encoder alone, its LSTMs as nodes of ONNX."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = with_onnx_lstms(encoder)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """States and their lengths."""
        states_BSD, lengths_B = self.encoder(features_BTF, lengths_B)
        return states_BSD, lengths_B


def write_encoders(encoder: Encoder, features: int, folder: Path) -> dict[str, Path]:
    """Write both files of an encoder of so many features; returns them by their names in tables."""
    any_size = torch.export.Dim.DYNAMIC
    frames_B = torch.tensor([EXAMPLE_FRAMES, EXAMPLE_FRAMES // 2])
    network = Network(
        _Encoder(encoder), (torch.randn(2, EXAMPLE_FRAMES, features), frames_B),
        ({0: any_size, 1: any_size}, {0: any_size}), ("x", "x_lens"), ("states", "lens"), {},
    )  # fmt: skip
    files = {FP32: folder / FP32_FILE, INT8: folder / INT8_FILE}
    write_network(network, files[FP32])
    write_int8(files[FP32], files[INT8])
    return files


def session_call(file: Path) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of features (B, T, F) and lengths (B,) to states (B, S, D), on one thread."""
    runtime: Any = export_part("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def call(features_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        states_BSD, _ = session.run(None, {"x": features_BTF.numpy(), "x_lens": lengths_B.numpy()})
        return torch.from_numpy(states_BSD)

    return call
