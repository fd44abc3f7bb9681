"""Layers that hold codes: packed bytes in memory and in the file, and no weight in full precision.

A packed layer takes the place of a quantised twin (compression/quantization/twins.py), with values in and values out, but
computes on codes: inputs become codes, products are sums of whole numbers, and scales are applied once to a sum.

    y = (x_codes . w_codes) (input step x weight step) + bias

Codes are unpacked for the one product that reads them, for an LSTM for one call; ONNX Runtime keeps them, one to a byte. Nonlinearities are torch's, on tensors of the same
layout whatever the engine, so that engines agree bitwise. Packed layers do not train.

B sequences   T steps   K inputs   H cells   R rows   G groups of weights with a step of their own
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.models.recurrence import Lstm, States
from asr.models.strided_convolution import StridedConv2d
from compression.quantization.activations import FixedBound, LearnedBounds
from compression.quantization.codes import Engine, Product, bytes_per_row, is_packed, pack, unpack
from compression.quantization.onnx_engine import fastest_engine
from compression.quantization.weights import from_codes, levels
from distributed.errors import UsageError


class KnownGrid(nn.Module):
    """The grid that an input is on already: code x step."""

    step_1: Tensor

    def __init__(self, step_1: Tensor, largest: int) -> None:
        super().__init__()
        self.register_buffer("step_1", step_1.detach().clone())
        self.largest = largest

    def step(self) -> Tensor:
        """The step, (1,)."""
        return self.step_1

    def codes(self, x: Tensor) -> Tensor:
        """The codes of values on the grid."""
        return (x / self.step_1.to(x.dtype)).round_()


InputGrid = FixedBound | LearnedBounds | KnownGrid


def largest_input(grid: InputGrid) -> int:
    """The largest code of an input: of asymmetric bounds up to 2n, wherever their zero lies."""
    if isinstance(grid, KnownGrid):
        return grid.largest
    symmetric = isinstance(grid, FixedBound) or grid.lower is None
    return levels(grid.bits) * (1 if symmetric else 2)


class PackedMatrix(nn.Module):
    """Codes of a quantised parameter, packed, and its steps; the first axis of ``shape`` are its rows."""

    codes: Tensor
    steps: Tensor

    def __init__(self, codes: Tensor, steps_G: Tensor, bits: int) -> None:
        super().__init__()
        self.shape, self.bits = codes.shape, bits
        self.columns = codes[0].numel()
        self.register_buffer("codes", pack(codes.flatten(1), bits))
        self.register_buffer("steps", steps_G.detach().clone())

    def unpacked(self) -> Tensor:
        """The codes (R, K), int8."""
        return unpack(self.codes, self.columns, self.bits)

    def row_steps(self) -> Tensor:
        """The step of each row, (R,)."""
        return self.steps.repeat_interleave(len(self.codes) // len(self.steps))

    def values(self) -> Tensor:
        """What the codes stand for, in the shape of the parameter."""
        return from_codes(self.unpacked().to(self.steps.dtype), self.steps).view(self.shape)

    def rows(self, index: Tensor) -> Tensor:
        """The values (..., K) of some rows; no others are unpacked."""
        codes = unpack(self.codes[index.flatten()], self.columns, self.bits).to(self.steps.dtype)
        values = codes * self.row_steps()[index.flatten(), None]
        return values.view(*index.shape, self.columns)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        """Refuse codes and steps that no quantiser makes, before they are taken over."""
        codes, steps = state_dict.get(f"{prefix}codes"), state_dict.get(f"{prefix}steps")
        if codes is not None and steps is not None:
            shape = (len(self.codes), bytes_per_row(self.columns, self.bits))
            if codes.dtype != torch.uint8 or codes.shape != shape or not is_packed(codes, self.columns, self.bits):
                raise UsageError(
                    f"{prefix}codes: not {self.bits}-bit codes of {self.columns} columns, packed; restore the folder"
                )
            if not (steps.is_floating_point() and bool((steps > 0).all()) and bool(steps.isfinite().all())):
                raise UsageError(f"{prefix}steps: a step is not a positive number; restore the folder")
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def extra_repr(self) -> str:
        """The settings shown when the model is printed."""
        return f"{tuple(self.shape)}, bits={self.bits}, groups={len(self.steps)}"


class PackedLayer(nn.Module):
    """What all packed layers share: ``packed`` matrices by the names of their parameters, and the grid of the input."""

    packed: nn.ModuleDict
    input_quantizer: InputGrid
    engine: Engine | None
    kept: dict[str, Product]  # those of engines that keep them

    def compute_with(self, engine: Engine | None) -> None:
        """Choose how products are computed; None: as is fastest here. The numbers are the same."""
        self.engine, self.kept = engine, {}

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles hold: no sessions."""
        state: Any = super().__getstate__()
        return {**state, "kept": {}}

    def _apply(self, *arguments: Any, **options: Any) -> Self:
        self.kept = {}  # of another device
        return super()._apply(*arguments, **options)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self.kept = {}  # of other codes
        super()._load_from_state_dict(*arguments, **options)

    def matrix(self, name: str = "weight") -> PackedMatrix:
        """A packed matrix."""
        found = self.packed[name]
        assert isinstance(found, PackedMatrix)
        return found

    def product(self, name: str, grid: InputGrid) -> Product:
        """The product of codes on a grid with a matrix."""
        if name not in self.kept:
            matrix, largest = self.matrix(name), largest_input(grid)
            engine = self.engine or fastest_engine(levels(matrix.bits), largest, matrix.codes.device)
            made = engine.product(matrix.unpacked(), levels(matrix.bits), largest)
            if not engine.keeps:
                return made
            self.kept[name] = made
        return self.kept[name]

    def effective_weight(self) -> Tensor:
        """The values of ``weight``, for code that makes the product in its own way."""
        return self.matrix().values()

    def affine(self, x_NK: Tensor, bias_R: Tensor | None) -> Tensor:
        """Values (N, K) to (N, R): the product of codes, scaled once, and the bias."""
        grid = self.input_quantizer
        sums_NR = self.product("weight", grid)(grid.codes(x_NK).to(torch.float32))
        y_NR = sums_NR.to(x_NK.dtype) * (grid.step().to(x_NK.dtype) * self.matrix().row_steps().to(x_NK.dtype))
        return y_NR if bias_R is None else y_NR + bias_R

    @contextmanager
    def computing(self, x: Tensor) -> Iterator[None]:
        """Inside, autocast is off: codes and sums need fp32. UsageError in training."""
        if self.training:
            raise UsageError("a packed model does not train; train the model that it was made of")
        with torch.autocast(x.device.type, enabled=False):
            yield

    def _wide(self, x: Tensor) -> Tensor:
        return x.to(torch.promote_types(x.dtype, torch.float32))


class PackedLinear(PackedLayer, nn.Linear):
    """A linear layer on codes."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., K) to (..., R)."""
        with self.computing(input):
            return self.affine(self._wide(input).reshape(-1, input.shape[-1]), self.bias).view(*input.shape[:-1], -1)


class PackedConv1d(PackedLayer, nn.Conv1d):
    """A pointwise convolution on codes."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, K, T) to (B, R, T)."""
        with self.computing(input):
            x_BTK = self._wide(input).transpose(1, 2)
            return self.affine(x_BTK.flatten(0, 1), self.bias).view(*x_BTK.shape[:2], -1).transpose(1, 2)


class PackedConv2d(PackedLayer, nn.Conv2d):
    """A two-dimensional convolution on codes: of one utterance after the other a product of its windows."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, K, T, F) to (B, R, T', F')."""
        if self.groups != 1 or isinstance(self.padding, str):
            raise UsageError("a packed convolution has one group and padding in numbers")
        with self.computing(input):
            return torch.cat([self._one(each) for each in self._wide(input).split(1)])

    def _one(self, x_1KTF: Tensor) -> Tensor:
        assert not isinstance(self.padding, str)
        axes = zip(x_1KTF.shape[2:], self.padding, self.dilation, self.kernel_size, self.stride, strict=True)
        sizes = [(size + 2 * pad - gap * (kernel - 1) - 1) // stride + 1 for size, pad, gap, kernel, stride in axes]
        windows_1WN = functional.unfold(x_1KTF, self.kernel_size, self.dilation, self.padding, self.stride)
        return self.affine(windows_1WN[0].t(), self.bias).t().reshape(1, -1, *sizes)


class PackedStridedConv2d(PackedConv2d, StridedConv2d):
    """``StridedConv2d`` on codes."""


class PackedEmbedding(PackedLayer, nn.Embedding):
    """A table of codes, of which the rows that are read are unpacked."""

    def forward(self, input: Tensor) -> Tensor:
        """Tokens (...) to (..., K)."""
        with self.computing(input):
            return self.matrix().rows(input)


class PackedLstm(PackedLayer, Lstm):
    """An LSTM on codes: of its inputs, its hidden states and its matrices; its two biases are one, ``bias_l0``."""

    hidden_bits: int
    hidden_quantizer: LearnedBounds | None

    def flatten_parameters(self) -> None:
        """There is nothing to lay out for cuDNN."""

    def hidden_grid(self) -> InputGrid:
        """The grid of the hidden states."""
        return FixedBound(bits=self.hidden_bits, bound=1.0) if self.hidden_quantizer is None else self.hidden_quantizer

    def forward(self, input: Tensor, hx: States | None = None) -> tuple[Tensor, States]:  # type: ignore[override]
        """(B, T, K) to (B, T, H) and the last states (layers, B, H), as ``nn.LSTM(batch_first=True)``."""
        with self.computing(input):
            x_TBK = self._wide(input).transpose(0, 1)
            shape = (self.num_layers, x_TBK.shape[1], self.hidden_size)
            hidden_LBH, cell_LBH = hx or (x_TBK.new_zeros(shape), x_TBK.new_zeros(shape))
            grid, last = self.input_quantizer, []
            codes_TBK, step_1 = grid.codes(x_TBK).to(torch.float32), grid.step().to(x_TBK.dtype)
            hidden = self.hidden_grid()
            hidden_step_1 = hidden.step().to(x_TBK)
            for layer in range(self.num_layers):
                gates_TB4H = self.input_gates(layer, codes_TBK, step_1, grid)
                before = self.states(layer, gates_TB4H, hidden_LBH[layer], cell_LBH[layer].to(x_TBK.dtype), hidden)
                codes_TBK, grid, step_1 = before[0], hidden, hidden_step_1
                last.append((codes_TBK[-1].to(x_TBK.dtype) * hidden_step_1, before[1]))
            outputs_TBH = codes_TBK.to(x_TBK.dtype) * hidden_step_1
        return outputs_TBH.transpose(0, 1), (torch.stack([h for h, _ in last]), torch.stack([c for _, c in last]))

    def input_gates(self, layer: int, codes_TBK: Tensor, step_1: Tensor, grid: InputGrid) -> Tensor:
        """W_ih x + b of all steps, (T, B, 4H)."""
        name = f"weight_ih_l{layer}"
        sums_N4H = self.product(name, grid)(codes_TBK.reshape(-1, codes_TBK.shape[2]))
        gates_N4H = sums_N4H.to(step_1.dtype) * (step_1 * self.matrix(name).row_steps().to(step_1.dtype))
        if self.bias:
            gates_N4H += self.get_parameter(f"bias_l{layer}")
        return gates_N4H.view(*codes_TBK.shape[:2], -1)

    def states(
        self, layer: int, gates_TB4H: Tensor, hidden_BH: Tensor, cell_BH: Tensor, hidden: InputGrid
    ) -> tuple[Tensor, Tensor]:
        """The codes of the hidden states (T, B, H) and the last cell state (B, H); overwrites the gates."""
        name, largest = f"weight_hh_l{layer}", largest_input(hidden)
        product, dtype = self.product(name, hidden), gates_TB4H.dtype
        step_1 = hidden.step().to(dtype)
        scale_4H = step_1 * self.matrix(name).row_steps().to(dtype)
        clamped = self.hidden_quantizer is not None  # between fixed bounds no code exceeds the largest
        code_BH, cell_BH, cells = (hidden_BH.to(dtype) / step_1).round_(), cell_BH.clone(), self.hidden_size
        codes_TBH = gates_TB4H.new_empty(*gates_TB4H.shape[:2], cells)
        for gates_B4H, made_BH in zip(gates_TB4H.unbind(), codes_TBH.unbind(), strict=True):
            gates_B4H += product(code_BH.to(torch.float32)).to(dtype).mul_(scale_4H)
            entry_forget, new, exit_ = gates_B4H.split((2 * cells, cells, cells), dim=1)
            entry, forget = entry_forget.sigmoid_().split(cells, dim=1)
            cell_BH.mul_(forget).addcmul_(entry, new.tanh_())
            torch.tanh(cell_BH, out=made_BH).mul_(exit_.sigmoid_()).div_(step_1).round_()
            code_BH = made_BH.clamp_(-largest, largest) if clamped else made_BH
        return codes_TBH, cell_BH
