"""Writing networks as ONNX files, with metadata, in fp32 and int8.

int8 is ONNX Runtime's dynamic quantisation of weights per channel to 7 bits of the 8 (``reduce_range``): processors without
VNNI add two products of 8-bit numbers into 16 bits, which saturate with full-range weights and give wrong sums.
"""

import importlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from distributed.errors import UserError

QUANTISED = ("MatMul", "Gemm", "LSTM")  # operators whose weights become int8; as integers convolutions are slower
OPSET = 18


class ExportError(UserError, RuntimeError):
    """A model that cannot be exported, or a package that is missing; the message names the remedy."""


def export_part(name: str) -> ModuleType:
    """The module ``name`` of the extra ``export``, loaded where it is used; ExportError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ExportError(
            f"{name.partition('.')[0]} is not installed; install it: pip install -e '.[export]'"
        ) from None


@dataclass(frozen=True, slots=True)
class Network:
    """A network and how its file is written."""

    module: nn.Module
    examples: tuple[Tensor, ...]
    dynamic: tuple[dict[int, Any], ...]  # for each input: its axes of any size
    inputs: Sequence[str]
    outputs: Sequence[str]
    metadata: Mapping[str, object]


def write_network(network: Network, path: Path) -> None:
    """Write one file, weights included.

    Raises:
        ExportError: the model has a module that cannot be expressed in ONNX.
    """
    export_part("onnxscript")
    for chatty in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch's own about itself
            program = torch.onnx.export(
                network.module.eval(), network.examples, dynamo=True, dynamic_shapes=network.dynamic, opset_version=OPSET,
                input_names=list(network.inputs), output_names=list(network.outputs), verbose=False,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise ExportError(
            f"{path.name}: a module of this model has no form in ONNX ({reason}); export it without"
        ) from None
    assert program is not None
    unused = export_part("onnx_ir.passes.common").RemoveUnusedNodesPass  # constants left over, of which clients warn
    unused()(program.model)
    program.model.metadata_props.update({key: str(value) for key, value in network.metadata.items()})
    program.save(str(path), external_data=False)


def write_int8(source: Path, target: Path) -> None:
    """Write the int8 twin of a file; metadata are kept."""
    quantization = export_part("onnxruntime.quantization")
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a preprocessing, through the root logger
    try:
        quantization.quantize_dynamic(
            source, target, op_types_to_quantize=list(QUANTISED), per_channel=True, reduce_range=True,
            weight_type=quantization.QuantType.QInt8, nodes_to_exclude=_constant_batches(source),
        )  # fmt: skip
    finally:
        root.setLevel(level)
    _name_axes(target)


def _name_axes(path: Path) -> None:
    """Give transposes of matrices their axes, which quantize_dynamic leaves out: clients with an older runtime fail at them."""
    onnx = export_part("onnx")
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "Transpose" and not node.attribute:
            node.attribute.append(onnx.helper.make_attribute("perm", [1, 0]))
    onnx.save(model, path)


def session_of(path: Path) -> Any:
    """A file, ready to be run by ONNX Runtime on one thread of the CPU."""
    runtime = export_part("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _constant_batches(path: Path) -> list[str]:
    """Names of the products with a constant of more than two axes, as relative positions are: no weights of a channel each."""
    graph = export_part("onnx").load(path).graph
    batches = {each.name for each in graph.initializer if len(each.dims) > 2}
    return [node.name for node in graph.node if node.op_type == "MatMul" and batches.intersection(node.input)]
