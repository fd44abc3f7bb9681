"""LSTMs as nodes of ONNX, for export: torch's exporter bakes the number of steps into those that it translates itself.

torch keeps the gates as input, forget, cell, output; ONNX as input, output, forget, cell.

B sequences   T steps   I input dimension   H cells
"""

import copy
from abc import ABC, abstractmethod
from typing import TypeVar

import torch
from torch import Tensor, nn

from asr.models.recurrence import Lstm, States
from distributed.errors import UsageError

Module = TypeVar("Module", bound=nn.Module)


def gates_of_onnx(rows: Tensor) -> Tensor:
    """Rows (4H, ...) in torch's order of gates to ONNX's."""
    enter, forget, cell, leave = rows.chunk(4)
    return torch.cat([enter, leave, forget, cell])


class ExportedLstm(nn.Module, ABC):
    """What takes the place of an LSTM of one direction in an exported network."""

    @abstractmethod
    def forward(self, x_BTI: Tensor, hx: States | None = None) -> tuple[Tensor, None]:
        """Outputs (B, T, H) of all steps from zero states; ``hx`` is None. No state is given out."""

    @abstractmethod
    def last(self, x_BTI: Tensor, lengths_B: Tensor) -> Tensor:
        """Output (B, H) of the last layer after ``lengths_B`` steps of each sequence, all at least 1."""


class OnnxLstm(ExportedLstm):
    """An ``Lstm`` of one direction that is exported as one node of ONNX per layer, without states or from zero."""

    def __init__(self, lstm: Lstm) -> None:
        super().__init__()
        if type(lstm) is not Lstm:
            raise UsageError(f"{type(lstm).__name__} has no export; export the run that the model was made from")
        plain = lstm.batch_first and not lstm.bidirectional and lstm.proj_size == 0 and lstm.bias
        if not plain:
            raise UsageError(f"an LSTM with other settings than the project's has no export: {lstm}")
        self.hidden_size = lstm.hidden_size
        self.layers = lstm.num_layers
        for layer, (w_ih, w_hh, b_ih, b_hh) in enumerate(lstm.all_weights):
            self.register_buffer(f"input_{layer}", gates_of_onnx(w_ih.detach())[None].clone())
            self.register_buffer(f"recurrent_{layer}", gates_of_onnx(w_hh.detach())[None].clone())
            biases = torch.cat([gates_of_onnx(b_ih.detach()), gates_of_onnx(b_hh.detach())])
            self.register_buffer(f"bias_{layer}", biases[None].clone())

    def forward(self, x_BTI: Tensor, hx: States | None = None) -> tuple[Tensor, None]:
        """Outputs (B, T, H) of all steps."""
        x_TBI = x_BTI.transpose(0, 1)
        for layer in range(self.layers):
            x_TBI, _ = self._layer(layer, x_TBI, None)
        return x_TBI.transpose(0, 1), None

    def last(self, x_BTI: Tensor, lengths_B: Tensor) -> Tensor:
        """Output (B, H) of the last layer after ``lengths_B`` steps of each sequence, all at least 1."""
        x_TBI = x_BTI.transpose(0, 1)
        hidden_BH = x_BTI[:, 0]
        for layer in range(self.layers):
            x_TBI, hidden_BH = self._layer(layer, x_TBI, lengths_B.to(torch.int32))
        return hidden_BH

    def _layer(self, layer: int, x_TBI: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Outputs (T, B, H), and that of the last step (B, H)."""
        weights = [getattr(self, f"{name}_{layer}") for name in ("input", "recurrent", "bias")]
        steps, batch = x_TBI.shape[:2]
        outputs_T1BH, hidden_1BH, _ = torch.onnx.ops.symbolic_multi_out(
            "LSTM",
            (x_TBI, *weights, lengths_B),
            attrs={"hidden_size": self.hidden_size},
            dtypes=(x_TBI.dtype,) * 3,
            shapes=((steps, 1, batch, self.hidden_size), *((1, batch, self.hidden_size),) * 2),
        )
        return outputs_T1BH.squeeze(1), hidden_1BH.squeeze(0)


def exported_lstm(lstm: nn.Module) -> ExportedLstm:
    """What is exported in the place of an LSTM: itself where it is made for that."""
    if isinstance(lstm, ExportedLstm):
        return lstm
    assert isinstance(lstm, Lstm)
    return OnnxLstm(lstm)


def with_onnx_lstms(module: Module) -> Module:
    """A copy of a module for export, its LSTMs replaced; it computes nothing outside of an export."""
    made = copy.deepcopy(module)
    found = [name for name, part in made.named_modules() if isinstance(part, Lstm)]
    for name in found:
        part = made.get_submodule(name)
        assert isinstance(part, Lstm)
        made.set_submodule(name, OnnxLstm(part))
    return made
