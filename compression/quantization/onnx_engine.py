"""Products of codes by ONNX Runtime's MatMulInteger: whole numbers of 8 bits in, int32 sums out.

It needs the packages onnx and onnxruntime (``pip install -e .[export]``); a packed model uses it where they are. Processors with AVX2 but no VNNI add two products of
bytes in 16 bits, which saturates with 8-bit codes: those are refused, on every processor alike. Its sums are those of
the other engines, so that everything computed from them is the same bitwise.
"""

import importlib
import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor

from compression.quantization.codes import FLOAT, Engine, Product
from distributed.errors import UsageError

BYTE, PAIR = 255, 2**15 - 1  # largest unsigned byte; largest sum of two products in 16 bits


def is_exact(largest_weight: int, largest_input: int) -> bool:
    """Whether no sum of such codes saturates on any processor; an input is a byte with its zero at ``largest_input``."""
    return 2 * largest_input <= BYTE and 2 * (2 * largest_input) * largest_weight <= PAIR


def onnx_product(codes_RK: Tensor, largest_weight: int, largest_input: int) -> Product:
    """The product as an inference session, which keeps its own copy of the codes, one to a byte.

    Raises:
        UsageError: the packages are missing, or sums of such codes could saturate.
    """
    if not is_exact(largest_weight, largest_input):
        raise UsageError(
            f"codes up to {largest_weight} and {largest_input} saturate in MatMulInteger without VNNI; use at most 7 bits"
        )
    session = _session(codes_RK, largest_input)

    def product(codes_NK: Tensor) -> Tensor:
        (sums_NR,) = session.run(None, {"x": codes_NK.detach().numpy()})
        return torch.from_numpy(sums_NR)

    return product


def _session(codes_RK: Tensor, zero: int) -> Any:
    """A session: x (N, K) as bytes whose zero is ``zero``, times the codes, to (N, R); whole numbers in fp32 outside."""
    try:
        onnx, onnxruntime = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    except ImportError as error:
        raise UsageError(f"{error}: the engine needs onnx and onnxruntime; pip install -e .[export]") from None
    helper, kinds = onnx.helper, onnx.TensorProto
    rows, columns = codes_RK.shape
    nodes = [
        helper.make_node("Add", ["x", "shift"], ["shifted"]),
        helper.make_node("Cast", ["shifted"], ["bytes"], to=kinds.UINT8),
        helper.make_node("MatMulInteger", ["bytes", "codes", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["y"], to=kinds.FLOAT),
    ]
    constants = [
        onnx.numpy_helper.from_array(codes_RK.t().contiguous().numpy(), "codes"),
        helper.make_tensor("zero", kinds.UINT8, [], [zero]),
        helper.make_tensor("shift", kinds.FLOAT, [], [float(zero)]),
    ]
    inputs = [helper.make_tensor_value_info("x", kinds.FLOAT, [None, columns])]
    outputs = [helper.make_tensor_value_info("y", kinds.FLOAT, [None, rows])]
    graph = helper.make_graph(nodes, "product", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # an arena for each matrix would hold more than the codes
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


ONNX = Engine(onnx_product, keeps=True)


@cache
def installed() -> bool:
    """Whether the packages are there."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))


def fastest_engine(largest_weight: int, largest_input: int, device: torch.device) -> Engine:
    """ONNX Runtime where it is installed, exact and on the processor; else fp32. Their numbers are the same."""
    suits = device.type == "cpu" and installed() and is_exact(largest_weight, largest_input)
    return ONNX if suits else FLOAT
