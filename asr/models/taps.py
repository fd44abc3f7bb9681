"""What modules inside a model give out, for those who compare a model with a teacher or measure its activations."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import nn

from distributed.errors import UsageError


class Taps:
    """Keeps what named modules gave out in their newest forward, with its gradient.

    Args:
        names: of modules, as in ``model.named_modules()``; those of an encoder's layers are what ``layer_names`` gives.

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

    def take(self) -> dict[str, Any]:
        """The outputs since the last call, by name; they are forgotten, so that no graph outlives its step."""
        outputs, self._outputs = self._outputs, {}
        return outputs

    def remove(self) -> None:
        """Listen no longer."""
        for handle in self._handles:
            handle.remove()
        self._outputs = {}

    def _keep(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self._outputs[name] = output


def layer_names(model: nn.Module, layers: nn.ModuleList) -> list[str]:
    """The names that the layers of an encoder have in a model, in order."""
    own = {id(layer) for layer in layers}
    return [name for name, module in model.named_modules() if id(module) in own]
