"""Quantised LSTMs of other libraries, for a layer's training step beside ours: Brevitas and AIMET, where they can be imported.

Neither is a dependency. Both get 4 bits of weights, inputs and outputs, per tensor, and a straight-through gradient; what a library
cannot leave in full precision, or does not quantise, is said beside its figure.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

BITS = 4


@dataclass(frozen=True, slots=True)
class Contender:
    """A library's bidirectional LSTM, and what is different about it."""

    name: str
    remark: str
    make: Callable[[int, int, Tensor], nn.Module]  # inputs, cells of a direction, an example (B, T, inputs)


def of_brevitas(inputs: int, cells: int, example: Tensor) -> nn.Module:
    """Brevitas' QuantLSTM: as ours, gates, cell state and squashings in full precision."""
    library: Any = importlib.import_module("brevitas.nn")
    quantizers: Any = importlib.import_module("brevitas.quant")
    made: nn.Module = library.QuantLSTM(
        inputs, cells, batch_first=True, bidirectional=True, bias_quant=None, gate_acc_quant=None, sigmoid_quant=None,
        tanh_quant=None, cell_state_quant=None, io_quant=quantizers.Int8ActPerTensorFloat.let(bit_width=BITS),
        weight_quant=quantizers.Int8WeightPerTensorFloat.let(bit_width=BITS),
    )  # fmt: skip
    made.train()(example)
    return made


def of_aimet(inputs: int, cells: int, example: Tensor) -> nn.Module:
    """AIMET's QuantizedLSTM, with quantisers of its matrices, its input and its output."""
    library, quantization = (importlib.import_module(f"aimet_torch.v2.{name}") for name in ("nn", "quantization"))
    made: Any = library.QuantizedLSTM(inputs, cells, batch_first=True, bidirectional=True)
    quantizer = quantization.affine.QuantizeDequantize
    for name in made.param_quantizers:
        if name.startswith("weight"):
            made.param_quantizers[name] = quantizer(shape=(), bitwidth=BITS, symmetric=True)
    made.input_quantizers[0] = quantizer(shape=(), bitwidth=BITS, symmetric=True)
    made.output_quantizers[0] = quantizer(shape=(), bitwidth=BITS, symmetric=True)
    with made.compute_encodings():
        made(example)
    assert isinstance(made, nn.Module)
    return made.train()


CONTENDERS = (
    Contender("Brevitas", "its loop over steps in Python", of_brevitas),
    Contender("AIMET", "hidden states between steps are not quantised, so that torch's LSTM computes", of_aimet),
)


def available(inputs: int, cells: int, example: Tensor) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The modules of the libraries that are there, and why others are not."""
    modules, missing = {}, {}
    for each in CONTENDERS:
        try:
            modules[each.name] = each.make(inputs, cells, example)
        except ImportError as error:
            missing[each.name] = " ".join(str(error).split())
    return modules, missing
