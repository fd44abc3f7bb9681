"""An encoder as ONNX Runtime runs it on one thread, in fp32 and with dynamic int8, as scripts/export.py writes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr.export.lstm import with_onnx_lstms
from asr.export.onnx_files import Network, session_of, write_int8, write_network
from asr.export.sherpa import ANY, EXAMPLE_FRAMES
from asr.models.encoder import Encoder

ONNX_FP32, ONNX_INT8 = "ONNX Runtime, fp32", "ONNX Runtime, dynamic int8"


class Exported(nn.Module):
    """Features (B, T, F) and lengths (B,) to states (B, T', D) and their lengths."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = with_onnx_lstms(encoder)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's."""
        states: tuple[Tensor, Tensor] = self.encoder(features_BTF, lengths_B)
        return states


def onnx_encoders(
    encoder: Encoder, feature_dimension: int, folder: Path
) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Functions of features and lengths that give states, by name; files are written into ``folder``."""
    whole, small = folder / "encoder.onnx", folder / "encoder.int8.onnx"
    lengths = torch.tensor([EXAMPLE_FRAMES, EXAMPLE_FRAMES // 2])
    write_network(
        Network(
            Exported(encoder), (torch.randn(2, EXAMPLE_FRAMES, feature_dimension), lengths), ({0: ANY, 1: ANY}, {0: ANY}),
            ("x", "x_lens"), ("encoder_out", "encoder_out_lens"), {},
        ),
        whole,
    )  # fmt: skip
    write_int8(whole, small)
    return {ONNX_FP32: _session(whole), ONNX_INT8: _session(small)}


def _session(path: Path) -> Callable[[Tensor, Tensor], Tensor]:
    session = session_of(path)

    def run(features_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        outputs: list[Any] = session.run(None, {"x": features_BTF.numpy(), "x_lens": lengths_B.numpy()})
        return torch.from_numpy(outputs[0])

    return run
