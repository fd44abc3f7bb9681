"""The LSTM of all models: torch's, and in fp32 under bf16 autocast where the processor cannot make it in bf16.

On a CPU torch hands a bf16 LSTM to oneDNN, which has one on processors with AVX-512 alone and fails elsewhere ("could
not create a primitive descriptor"). On those, the layers compute in fp32 and return bf16 outputs and states all the
same.
"""

from functools import cache

import torch
from torch import Tensor, nn

States = tuple[Tensor, Tensor]  # hidden and cell


@cache
def bf16_lstm_works() -> bool:
    """True if this processor runs LSTMs forward and backward in bf16; tested once, without drawing random numbers."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
        state, weights = torch.zeros(1, 1, 4), [torch.zeros(16, 4, requires_grad=True) for _ in range(2)]
        try:
            output, _, _ = torch.lstm(torch.zeros(2, 1, 4), (state, state), weights, False, 1, 0.0, True, False, False)
            output.sum().backward()
        except RuntimeError:  # torch has no kind of its own for what a processor lacks
            return False
    return True


class Lstm(nn.LSTM):
    """``nn.LSTM`` over tensors; weights and their names are the same."""

    def forward(self, input: Tensor, hx: States | None = None) -> tuple[Tensor, States]:  # type: ignore[override]
        """Outputs and states; under autocast in its dtype, even where they are computed in fp32."""
        if not self._needs_fp32(input.device):
            output, states = super().forward(input, hx)
            return output, states
        given = None if hx is None else (hx[0].float(), hx[1].float())
        with torch.autocast("cpu", enabled=False):
            output, (hidden, cell) = super().forward(input.float(), given)
        return output.bfloat16(), (hidden.bfloat16(), cell.bfloat16())

    def _needs_fp32(self, device: torch.device) -> bool:
        return (
            device.type == "cpu"
            and torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") == torch.bfloat16
            and self.all_weights[0][0].dtype == torch.float32  # autocast leaves fp64 as it is
            and not bf16_lstm_works()
        )
