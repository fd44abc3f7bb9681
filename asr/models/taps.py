"""Taps on the outputs of modules inside a model, for distillation from a teacher and for measuring activations."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import nn

from distributed.errors import UsageError


class Taps:
    """Keeps the outputs of named modules in their latest forward, which autograd can follow.

    They are dropped when ``take`` gives them out, or when the model begins another forward: after one that broke off for
    want of memory they would hold what the next one needs.

    Args:
        names: names of modules, as in ``model.named_modules()``; ``layer_names`` gives those of an encoder's layers.

    Raises:
        UsageError: the model has no module of such a name.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self._outputs: dict[str, Any] = {}
        modules, names = dict(model.named_modules()), list(names)
        unknown = [name for name in names if name not in modules]
        if unknown:
            raise UsageError(
                f"the model has no modules {', '.join(unknown)}; it has {', '.join(filter(None, modules))}"
            )
        self._handles = [modules[name].register_forward_hook(partial(self._keep, name)) for name in names]
        self._handles.append(model.register_forward_pre_hook(self._drop))

    def take(self) -> dict[str, Any]:
        """Return the outputs since the last call, by name, and drop them, so that no graph outlives its step."""
        outputs, self._outputs = self._outputs, {}
        return outputs

    def remove(self) -> None:
        """Remove the forward hooks."""
        for handle in self._handles:
            handle.remove()
        self._outputs = {}

    def _drop(self, model: nn.Module, inputs: Any) -> None:
        self._outputs = {}

    def _keep(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self._outputs[name] = output


def layer_names(model: nn.Module, layers: nn.ModuleList) -> list[str]:
    """The module names of an encoder's layers in a model, in order."""
    own = {id(layer) for layer in layers}
    return [name for name, module in model.named_modules() if id(module) in own]
