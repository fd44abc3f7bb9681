"""How a part of an encoder is run when its time is measured: by PyTorch in fp32, or as it is exported to ONNX in int8."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch

from asr.export.lstm import with_onnx_lstms
from asr.export.onnx_files import Network, session_of, write_int8, write_network
from compression.pruning.parts import Runnable

Arithmetic = Literal["fp32", "int8"]
Step = Callable[[], object]


def in_pytorch(part: Runnable) -> Step:
    """One forward."""
    module = part.module.eval()
    return lambda: module(*part.inputs)


def in_onnx_int8(part: Runnable) -> Step:
    """One run of ONNX Runtime's dynamic int8, with the settings of scripts/export.py.

    Raises:
        ExportError: the packages of the extra ``export`` are missing.
    """
    names = [f"input_{place}" for place in range(len(part.inputs))]
    with TemporaryDirectory() as folder, torch.inference_mode(False):
        whole, small = Path(folder) / "part.onnx", Path(folder) / "part.int8.onnx"
        inputs = tuple(each.clone() for each in part.inputs)  # what inference mode has made cannot be exported
        module = with_onnx_lstms(part.module)
        write_network(Network(module, inputs, tuple({} for _ in inputs), names, ("output",), {}), whole)
        write_int8(whole, small)
        session = session_of(small)
    feed = {name: each.numpy() for name, each in zip(names, inputs, strict=True)}
    return lambda: session.run(None, feed)


RUNTIMES: Mapping[Arithmetic, Callable[[Runnable], Step]] = {"fp32": in_pytorch, "int8": in_onnx_int8}
