"""Layers of few bits as modules that are exported: constants made of their codes, and operators that ONNX has.

    values    fp32: inputs rounded to their grid, weights code x step
    codes     int8: whole numbers in products, by MatMulInteger where no sum can saturate, scaled once to values

Either computes what the packed layer (compression/quantization/packed.py) does, up to the order of floating-point sums, so that an
export writes what evaluation does. Where the sums of 8-bit codes could saturate, and in the steps of an LSTM, products are of
values, whose codes the file holds.

B sequences   T steps   K inputs   R rows   H cells
"""

import copy
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.nn import functional

from asr.export.lstm import ExportedLstm
from asr.models.joiner import Joiner
from asr.models.recurrence import States
from asr.models.speech_model import SpeechModel
from compression.quantization.activations import FixedBound
from compression.quantization.onnx_engine import is_exact
from compression.quantization.pack import ENCODING, Packed
from compression.quantization.packed import (
    InputGrid,
    KnownGrid,
    PackedConv2d,
    PackedEmbedding,
    PackedLayer,
    PackedLstm,
    PackedMatrix,
)
from compression.quantization.squashing import CodedTanh
from compression.quantization.twins import QuantizedBidirectionalLayer, Twin
from compression.quantization.weights import levels

Form = Literal["values", "codes"]


def in_form(model: SpeechModel, form: Form) -> SpeechModel:
    """A copy whose layers of few bits are in a form for export; the model itself if it has none.

    Raises:
        UsageError: a layer reads something that has no codes; the message names the remedy.
    """
    if not any(_has_few_bits(each) for each in model.modules()):
        return model
    made = copy.deepcopy(model)
    if any(isinstance(each, Twin) for each in made.modules()):
        made = Packed(encoding=ENCODING)(made)
    for name, each in list(made.named_modules()):
        if isinstance(each, PackedLayer):
            made.set_submodule(name, _exported(each, form))
        elif isinstance(each, QuantizedBidirectionalLayer) and each.input_quantizer is not None:
            each.input_quantizer = Rounding(each.input_quantizer)  # type: ignore[assignment]
        elif isinstance(each, Joiner) and isinstance(each.squashing, CodedTanh):
            each.squashing = RoundedTanh(bits=each.squashing.bits)
    return made.eval()


def _has_few_bits(module: nn.Module) -> bool:
    return isinstance(module, Twin | PackedLayer) or isinstance(getattr(module, "squashing", None), CodedTanh)


def _exported(layer: PackedLayer, form: Form) -> nn.Module:
    if isinstance(layer, PackedLstm):
        return SteppedLstm(layer, form)
    if isinstance(layer, PackedEmbedding):
        return TableOfCodes(layer, form)
    if isinstance(layer, PackedConv2d):
        return ConvOnGrid(layer, form)
    return LinearOnGrid(layer, form)


class Rounding(nn.Module):
    """The grid of an input: code x step with codes -z ... top - z, of constants."""

    step_1: Tensor
    zero_1: Tensor

    def __init__(self, grid: InputGrid) -> None:
        super().__init__()
        if isinstance(grid, KnownGrid):
            zero_1, self.top = torch.tensor([float(grid.largest)]), 2 * grid.largest
        else:
            self.top = 2 * levels(grid.bits)
            zero_1 = torch.tensor([float(levels(grid.bits))]) if isinstance(grid, FixedBound) else grid.zero_point()
        self.on_grid = isinstance(grid, KnownGrid)  # what is read already
        self.register_buffer("step_1", grid.step().detach().clone())
        self.register_buffer("zero_1", zero_1.detach().clone())

    def codes(self, x: Tensor) -> Tensor:
        """Whole numbers in the dtype of ``x``."""
        return (x / self.step_1).round().clamp(-self.zero_1, self.top - self.zero_1)

    def forward(self, x: Tensor) -> Tensor:
        """The values of the codes."""
        return x if self.on_grid else self.codes(x) * self.step_1


class Constant(nn.Module):
    """The values of a matrix of codes, kept as such or as the codes."""

    kept: Tensor
    steps_R: Tensor | None

    def __init__(self, matrix: PackedMatrix, form: Form) -> None:
        super().__init__()
        values = form == "values"
        self.register_buffer("kept", matrix.values() if values else matrix.unpacked().reshape(matrix.shape).clone())
        self.register_buffer("steps_R", None if values else matrix.row_steps().clone())

    def forward(self) -> Tensor:
        """The values, in the shape of the parameter. In an export an operator that no optimiser replaces by what it makes."""
        if self.steps_R is None:
            return self.kept
        if torch.onnx.is_in_onnx_export():
            return torch.onnx.ops.symbolic(
                "DequantizeLinear", (self.kept, self.steps_R), attrs={"axis": 0}, dtype=self.steps_R.dtype,
                shape=self.kept.shape, version=13,
            )  # fmt: skip
        return self.kept.to(self.steps_R.dtype) * self.steps_R.view(-1, *[1] * (self.kept.dim() - 1))


class ProductOfValues(nn.Module):
    """Values (..., K), rounded, times a matrix: (..., R)."""

    def __init__(self, grid: InputGrid, matrix: PackedMatrix, form: Form) -> None:
        super().__init__()
        self.rounding = Rounding(grid)
        self.matrix = Constant(matrix, form)

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        return functional.linear(self.rounding(x), self.matrix().flatten(1))


class ProductOfCodes(nn.Module):
    """Values (..., K), as bytes whose zero is z, times the codes of a matrix in whole numbers, scaled: (..., R)."""

    codes_KR: Tensor
    scale_R: Tensor

    def __init__(self, grid: InputGrid, matrix: PackedMatrix) -> None:
        super().__init__()
        self.rounding = Rounding(grid)
        self.register_buffer("codes_KR", matrix.unpacked().t().contiguous())
        self.register_buffer("scale_R", self.rounding.step_1 * matrix.row_steps())

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        zero_1 = self.rounding.zero_1
        shifted = self.rounding.codes(x) + zero_1
        return _integer_product(shifted.to(torch.uint8), self.codes_KR, zero_1[0].to(torch.uint8)) * self.scale_R


def _integer_product(bytes_K: Tensor, codes_KR: Tensor, zero: Tensor) -> Tensor:
    """(bytes - zero) . codes in fp32: in an export ONNX's operator, otherwise the same whole numbers from torch."""
    if not torch.onnx.is_in_onnx_export():
        return (bytes_K.float() - zero) @ codes_KR.float()
    shape = (*bytes_K.shape[:-1], codes_KR.shape[1])
    sums: Tensor = torch.onnx.ops.symbolic(
        "MatMulInteger", (bytes_K, codes_KR, zero), dtype=torch.int32, shape=shape, version=10
    )
    return sums.float()


def _product(grid: InputGrid, matrix: PackedMatrix, form: Form) -> nn.Module:
    """The product in a form; of values where sums of codes could saturate on some processor."""
    if form == "codes" and is_exact(levels(matrix.bits), Rounding(grid).top // 2):
        return ProductOfCodes(grid, matrix)
    return ProductOfValues(grid, matrix, form)


class LinearOnGrid(nn.Module):
    """A linear layer, or a pointwise convolution."""

    def __init__(self, layer: PackedLayer, form: Form) -> None:
        super().__init__()
        self.over_channels = isinstance(layer, nn.Conv1d)
        self.product = _product(layer.input_quantizer, layer.matrix(), form)
        self.bias = getattr(layer, "bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., R); of a convolution (B, K, T) to (B, R, T)."""
        y: Tensor = self.product(x.transpose(1, 2) if self.over_channels else x)
        if self.bias is not None:
            y = y + self.bias
        return y.transpose(1, 2) if self.over_channels else y


class ConvOnGrid(nn.Module):
    """A two-dimensional convolution of rounded inputs; the product is of values in either form."""

    def __init__(self, layer: PackedConv2d, form: Form) -> None:
        super().__init__()
        self.rounding = Rounding(layer.input_quantizer)
        self.matrix = Constant(layer.matrix(), form)
        self.bias = layer.bias
        assert not isinstance(layer.padding, str)
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation
        self.groups = layer.groups

    def forward(self, x_BKTF: Tensor) -> Tensor:
        """(B, K, T, F) to (B, R, T', F')."""
        x_BKTF = self.rounding(x_BKTF)
        return functional.conv2d(
            x_BKTF, self.matrix(), self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class TableOfCodes(nn.Module):
    """An embedding."""

    def __init__(self, layer: PackedEmbedding, form: Form) -> None:
        super().__init__()
        self.matrix = Constant(layer.matrix(), form)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (...) to (..., K)."""
        return functional.embedding(tokens, self.matrix())


class SteppedLstm(ExportedLstm):
    """An LSTM whose hidden state is rounded at every step: in ONNX a Scan, since its LSTM does not round."""

    def __init__(self, layer: PackedLstm, form: Form) -> None:
        super().__init__()
        grids = [layer.input_quantizer, *[layer.hidden_grid()] * (layer.num_layers - 1)]
        numbered = list(enumerate(grids))
        self.entries = nn.ModuleList(
            _product(grid, layer.matrix(f"weight_ih_l{place}"), form) for place, grid in numbered
        )
        self.recurrent = nn.ModuleList(Constant(layer.matrix(f"weight_hh_l{place}"), form) for place, _ in numbered)
        self.biases = nn.ParameterList(layer.get_parameter(f"bias_l{place}") for place, _ in numbered if layer.bias)
        self.hidden = Rounding(layer.hidden_grid())

    def forward(self, x_BTI: Tensor, hx: States | None = None) -> tuple[Tensor, None]:
        """Outputs (B, T, H) of all steps."""
        x_TBI = x_BTI.transpose(0, 1)
        for place, (entry, recurrent) in enumerate(zip(self.entries, self.recurrent, strict=True)):
            gates_TB4H = entry(x_TBI) + self.biases[place] if len(self.biases) else entry(x_TBI)
            x_TBI = self._states(gates_TB4H, recurrent().t())
        return x_TBI.transpose(0, 1), None

    def last(self, x_BTI: Tensor, lengths_B: Tensor) -> Tensor:
        """Output (B, H) of the last layer; steps beyond the longest sequence are not computed."""
        steps = cast(int, lengths_B.max().item())
        torch._check(steps >= 1)
        torch._check(steps <= x_BTI.shape[1])
        outputs_BTH, _ = self.forward(x_BTI[:, :steps])
        place_B11 = (lengths_B - 1)[:, None, None]
        return outputs_BTH.gather(1, place_B11.expand(-1, 1, outputs_BTH.shape[2])).squeeze(1)

    def _states(self, gates_TB4H: Tensor, recurrent_H4H: Tensor) -> Tensor:
        """The rounded hidden states (T, B, H)."""
        zeros_BH = gates_TB4H.new_zeros(gates_TB4H.shape[1], recurrent_H4H.shape[0])

        def step(states: States, gates_B4H: Tensor) -> tuple[States, Tensor]:
            hidden_BH, cell_BH = states
            enter, forget, new, leave = (gates_B4H + hidden_BH @ recurrent_H4H).chunk(4, dim=1)
            cell_BH = cell_BH * forget.sigmoid() + enter.sigmoid() * new.tanh()
            hidden_BH = self.hidden.codes(leave.sigmoid() * cell_BH.tanh()) * self.hidden.step_1
            return (hidden_BH, cell_BH), hidden_BH.clone()

        if torch.onnx.is_in_onnx_export():
            states_TBH: Tensor = scan(step, (zeros_BH, zeros_BH.clone()), gates_TB4H)[1]
            return states_TBH
        states, made = (zeros_BH, zeros_BH), []
        for gates_B4H in gates_TB4H.unbind():
            states, hidden_BH = step(states, gates_B4H)
            made.append(hidden_BH)
        return torch.stack(made)


class RoundedTanh(CodedTanh):
    """The joiner's squashing in operators that ONNX has."""

    def __call__(self, x: Tensor) -> Tensor:
        """2 sigmoid(2x) - 1, rounded to few levels."""
        return ((torch.sigmoid(2 * x) * 2 - 1) * levels(self.bits)).round() / levels(self.bits)
