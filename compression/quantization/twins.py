"""Quantised twins of layers: the same parameters, names and state as the layer, which computes with quantised values.

A layer becomes its twin in place, by its class, so that its parameters, hooks and tied weights stay what and where they are and
weights of an unquantised model load into it. Learned bounds of its input are the only parameters that it adds.

    twin.codes()["weight"], twin.steps()["weight"]        the integer codes and steps of its quantised parameters
    twin.input_quantizer                                  with step() and codes(x); None where the input is on a grid already

Biases and cell states are not quantised.

B sequences   T steps   K inputs   H cells   G groups of weights with a step of their own
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.models.dropout import dropout
from asr.models.lstm import BidirectionalLayer
from asr.models.recurrence import Lstm, States
from asr.models.strided_convolution import StridedConv2d
from compression.quantization.activations import FixedBound, LearnedBounds
from compression.quantization.lstm import lstm_sequence
from compression.quantization.weights import WeightQuantizer, levels

InputQuantizer = FixedBound | LearnedBounds


class Twin(nn.Module):
    """What all twins share."""

    weight_quantizer: WeightQuantizer
    input_quantizer: InputQuantizer | None

    def quantized_names(self) -> list[str]:
        """Names of the parameters of this layer that are quantised."""
        return ["weight"]

    def codes(self) -> dict[str, Tensor]:
        """Codes of the quantised parameters, int8, in their shapes: code x step of its group = value."""
        return {name: self.weight_quantizer.codes(self.get_parameter(name)) for name in self.quantized_names()}

    def steps(self) -> dict[str, Tensor]:
        """Steps (G,) of the quantised parameters; rows of a parameter form G groups of equal size."""
        return {name: self.weight_quantizer.step(self.get_parameter(name)) for name in self.quantized_names()}

    def effective_weight(self) -> Tensor:
        """The quantised ``weight``; gradients pass to the parameter."""
        return self._quantized("weight", self.get_parameter("weight"))

    def quantized_input(self, x: Tensor) -> Tensor:
        """The input as the layer's product reads it."""
        return x if self.input_quantizer is None else self.input_quantizer(x)

    def _quantized(self, name: str, weight: Tensor) -> Tensor:
        """Quantise; a search, which calls a layer once per token, has it done once and not for each token."""
        if self.training or torch.is_grad_enabled():
            return self.weight_quantizer(weight)
        kept = self._kept.get(name)
        if kept is None or kept[0] is not weight or kept[1] != weight._version:
            kept = self._kept[name] = (weight, weight._version, self.weight_quantizer(weight))
        return kept[2]

    @property
    def _kept(self) -> dict[str, tuple[Tensor, int, Tensor]]:
        """Quantised weights, with the parameter and its version that they were made of; dropped when the mode is set."""
        kept: dict[str, tuple[Tensor, int, Tensor]] = self.__dict__.setdefault("_kept_weights", {})
        return kept

    def train(self, mode: bool = True) -> "Twin":
        """Set the mode. Whoever evaluates sets it, before which a backend may have exchanged the weights."""
        self._kept.clear()
        super().train(mode)
        return self

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._kept.clear()
        super()._load_from_state_dict(*arguments, **options)

    def extra_repr(self) -> str:
        """The settings shown when the model is printed."""
        quantizer = self.weight_quantizer
        return f"{super().extra_repr()}, weights={quantizer.kind}, bits={quantizer.bits}, groups={quantizer.groups}"


class QuantizedLinear(Twin, nn.Linear):
    """``nn.Linear`` of a quantised input and weight."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., K) to (..., outputs)."""
        return functional.linear(self.quantized_input(input), self.effective_weight(), self.bias)


class QuantizedConv1d(Twin, nn.Conv1d):
    """``nn.Conv1d`` of a quantised input and weight."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, K, T) to (B, channels, T')."""
        return self._conv_forward(self.quantized_input(input), self.effective_weight(), self.bias)


class QuantizedConv2d(Twin, nn.Conv2d):
    """``nn.Conv2d`` of a quantised input and weight."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, K, T, F) to (B, channels, T', F')."""
        return self._conv_forward(self.quantized_input(input), self.effective_weight(), self.bias)


class QuantizedStridedConv2d(Twin, StridedConv2d):
    """``StridedConv2d`` of a quantised input and weight."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, K, T, F) to (B, channels, T', F')."""
        return self._conv_forward(self.quantized_input(input), self.effective_weight(), self.bias)


class QuantizedEmbedding(Twin, nn.Embedding):
    """``nn.Embedding`` of a quantised table; what it gives out is on a grid."""

    def forward(self, input: Tensor) -> Tensor:
        """Tokens (...) to (..., K)."""
        return functional.embedding(input, self.effective_weight(), self.padding_idx)


class QuantizedLstm(Twin, Lstm):
    """An LSTM of quantised matrices and hidden states; its outputs are codes x ``hidden_step``.

    ``hidden_quantizer`` holds a bound of the hidden states that is learned; None: it is 1. Between its layers dropout scales codes, so that their input is not quantised again. Computes in fp32 under autocast.
    """

    hidden_bits: int
    hidden_quantizer: LearnedBounds | None

    def quantized_names(self) -> list[str]:
        """The matrices of all layers."""
        return [name for name in self._flat_weights_names if name.startswith("weight")]

    def hidden_step(self) -> Tensor:
        """The step of the hidden states, (1,)."""
        return (
            torch.tensor([1 / levels(self.hidden_bits)])
            if self.hidden_quantizer is None
            else self.hidden_quantizer.step()
        )

    def forward(self, input: Tensor, hx: States | None = None) -> tuple[Tensor, States]:  # type: ignore[override]
        """(B, T, K) to (B, T, H) and the last states (layers, B, H), as ``nn.LSTM(batch_first=True)``."""
        with torch.autocast(input.device.type, enabled=False):
            x_TBK = self.quantized_input(input).to(self._operands["weight_hh_l0"].dtype).transpose(0, 1)
            outputs_TBH, states = self.sequence(x_TBK, hx)
        return outputs_TBH.transpose(0, 1), states

    def sequence(self, x_TBK: Tensor, hx: States | None = None) -> tuple[Tensor, States]:
        """The same of an input that is quantised already, with time as the first axis."""
        shape = (self.num_layers, x_TBK.shape[1], self.hidden_size)
        hidden_LBH, cell_LBH = hx or (x_TBK.new_zeros(shape), x_TBK.new_zeros(shape))
        operands, last, learned = self._operands, [], self.hidden_quantizer
        bound_1 = None if learned is None else learned.acting_upper(self.hidden_size)
        for layer in range(self.num_layers):
            if layer > 0:
                x_TBK = dropout(x_TBK, self.dropout, self.training)
            weights = [self._quantized(name, operands[name]) for name in (f"weight_ih_l{layer}", f"weight_hh_l{layer}")]
            bias_4H = operands[f"bias_ih_l{layer}"] + operands[f"bias_hh_l{layer}"] if self.bias else None
            states = hidden_LBH[layer].to(x_TBK.dtype), cell_LBH[layer].to(x_TBK.dtype)
            x_TBK, *end = lstm_sequence(
                x_TBK, weights[0], weights[1], bias_4H, *states, largest_code=levels(self.hidden_bits),
                bound_1=bound_1, residual=learned is not None and learned.residual,
            )  # fmt: skip
            last.append(end)
        return x_TBK, (torch.stack([each[0] for each in last]), torch.stack([each[1] for each in last]))

    @property
    def _operands(self) -> Mapping[str, Tensor]:
        """The parameters by name, or what stands for them in a forward (asr/hooks/dropconnect.py)."""
        return dict(zip(self._flat_weights_names, self._flat_weights, strict=True))  # type: ignore[arg-type]


class QuantizedBidirectionalLayer(BidirectionalLayer):
    """A bidirectional layer, both LSTMs of which are quantised and read one quantised input."""

    input_quantizer: InputQuantizer | None

    def forward(self, x_BSD: Tensor, reversal_N: Tensor) -> Tensor:
        """(B, S, input dimension) to (B, S, cells of both directions)."""
        return super().forward(x_BSD if self.input_quantizer is None else self.input_quantizer(x_BSD), reversal_N)


TWINS: dict[type[nn.Module], type[Twin]] = {
    nn.Linear: QuantizedLinear,
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
    StridedConv2d: QuantizedStridedConv2d,
    nn.Embedding: QuantizedEmbedding,
    Lstm: QuantizedLstm,
}


def become(module: nn.Module, weight_quantizer: WeightQuantizer, input_quantizer: InputQuantizer | None) -> Twin:
    """Turn a layer, of a class in ``TWINS``, into its twin; returns it."""
    module.__class__ = TWINS[type(module)]
    assert isinstance(module, Twin)
    module.weight_quantizer = weight_quantizer
    module.input_quantizer = input_quantizer
    return module
