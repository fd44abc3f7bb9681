"""DropConnect on the recurrent weights of LSTMs: in every unit of work some connections from state to state are missing.

Wan et al. 2013, "Regularization of neural networks using DropConnect" (ICML), on hidden-to-hidden matrices as in Merity
et al. 2018, arXiv 1708.02182, section 2, and Saon et al. 2021, arXiv 2103.09935, section 3: for each gate

    h_t = f(W x_t + (M o U) h_{t-1})        M elements 0 with probability p, else 1 / (1 - p)

M is drawn once per forward and LSTM, for all time steps of all sequences in it: of a unit, or of a part of one that
memory splits. Parameters stay what and where they were: checkpoints, flat buffers of backends and optimizers see U;
only the module's list of operands is exchanged during a forward.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from asr.models.dropout import dropout
from asr.models.speech_model import SpeechModel
from asr.training.hook import Hook
from distributed.parameters.patterns import settings_by_pattern
from distributed.ranges import Probability


class DroppedConnections:
    """Drops connections of one LSTM in training mode, by the global generator, which training seeds per unit of work.

    cuDNN is handed operands that do not lie in one piece of memory and copies them, as it does anyway under a backend,
    whose buffers are laid out differently.
    """

    def __init__(self, lstm: nn.LSTM, probability: float) -> None:
        self.probability = probability
        lstm.register_forward_pre_hook(self.drop)
        lstm.register_forward_hook(self.put_back, always_call=True)  # also after a forward that ran out of memory
        self.kept: list[Any] = []

    def drop(self, lstm: nn.Module, inputs: Any) -> None:
        """Replace the LSTM's operands before a forward: recurrent weights are masked."""
        if not lstm.training:
            return
        assert isinstance(lstm, nn.LSTM)
        lstm._update_flat_weights()  # needed if the parameters were exchanged, for example by torch.func
        self.kept = lstm._flat_weights
        named = zip(lstm._flat_weights_names, lstm._flat_weights, strict=True)
        lstm._flat_weights = [self.masked(weight) if "weight_hh" in name else weight for name, weight in named]

    def masked(self, weight: Any) -> Any:
        """Apply a new mask to a weight matrix: M o U."""
        assert isinstance(weight, Tensor)
        return dropout(weight, self.probability, training=True)

    def put_back(self, lstm: nn.Module, inputs: Any, output: Any) -> None:
        """Restore the parameters as the LSTM's operands after a forward."""
        if self.kept:
            assert isinstance(lstm, nn.LSTM)
            lstm._flat_weights, self.kept = self.kept, []


def matching_lstms(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.LSTM]:
    """The LSTMs of a model whose names match one of the shell-like ``patterns``.

    Raises:
        ValueError: a pattern matches none.
    """
    lstms = {name: module for name, module in model.named_modules() if isinstance(module, nn.LSTM)}
    named = {name: [name] for name in lstms}
    found = settings_by_pattern(
        [(each, True) for each in patterns], named, key="hooks.dropconnect.modules", kind="LSTM"
    )
    return {name: lstms[name] for name in found}


class DropConnect(Hook):
    """Drops recurrent connections of the model's LSTMs while it trains."""

    def __init__(self, *, probability: Probability, modules: list[str]) -> None:
        self.probability = probability
        self.modules = list(modules)

    def on_model(self, model: SpeechModel) -> SpeechModel:
        """Raises ValueError if ``modules`` names LSTMs that the model does not have."""
        for lstm in matching_lstms(model, self.modules).values():
            DroppedConnections(lstm, self.probability)
        return model
