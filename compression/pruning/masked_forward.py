"""The place of masks in a model's forward: what computes with them, while the model's parameters stay what and where they are.

During a forward each module that reads a masked unit computes with weights that the unit's value multiplies, and norms over
masked units take their statistics from those that are kept.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from asr.models.speech_model import SpeechModel
from compression.pruning.masks import Masks
from compression.pruning.norms import masked_layer_norm
from compression.pruning.removal import scaled
from compression.pruning.units import Use


def attach(model: SpeechModel, masks: Masks) -> None:
    """Let a model compute with its masks from now on; its parameters and their names stay as they are."""
    model.register_forward_pre_hook(masks.draw)
    model.register_forward_hook(masks.forget, always_call=True)
    modules = dict(model.named_modules())
    changed: dict[str, list[tuple[str, Factor]]] = {}
    for site in masks.sites:
        for use in site.uses:
            if use.scaled:
                module, _, name = use.parameter.rpartition(".")
                changed.setdefault(module, []).append((name, Factor(masks, site.name, use)))
        for bias in site.offsets:
            module, _, name = bias.rpartition(".")
            changed.setdefault(module, []).append((name, Factor(masks, site.name, None)))
    for module, factors in changed.items():
        exchange = ExchangedOperands if isinstance(modules[module], nn.LSTM) else ExchangedParameters
        exchange(modules[module], factors)
    norms: dict[str, list[str]] = {}
    for site in masks.sites:
        for name in site.norms:
            norms.setdefault(name, []).append(site.name)
    for name, names in norms.items():
        norm = modules[name]
        assert isinstance(norm, nn.LayerNorm)
        norm.forward = MaskedNorm(norm, masks, names)  # type: ignore[method-assign]


class Factor:
    """What a site multiplies a parameter by; ``use`` None: by whether any unit is kept."""

    def __init__(self, masks: Masks, site: str, use: Use | None) -> None:
        self.masks, self.site, self.use = masks, site, use

    def __call__(self, weight: Tensor) -> Tensor:
        """The parameter, multiplied."""
        z = self.masks.value(self.site)
        if self.use is None:
            return weight * (z > 0).any()
        if self.use.units.device != z.device:
            self.use = replace(self.use, units=self.use.units.to(z.device))
        return scaled(weight, self.use.dim, self.use.units, z)


class MaskedNorm:
    """The forward of a layer norm over the units of sites, unit by unit the same entries: what all of them keep is kept."""

    def __init__(self, norm: nn.LayerNorm, masks: Masks, names: Sequence[str]) -> None:
        self.norm, self.masks, self.names = norm, masks, names

    def __call__(self, input: Tensor) -> Tensor:
        """The normalised input, 0 for units that are not kept."""
        kept = torch.stack([self.masks.value(name) > 0 for name in self.names]).all(0)
        return masked_layer_norm(input, kept, self.norm.weight, self.norm.bias, self.norm.eps)


class ExchangedParameters:
    """Exchanges parameters of a module during its forward, as torch.func does, by products with masks."""

    def __init__(self, module: nn.Module, factors: Iterable[tuple[str, Factor]]) -> None:
        self.factors = list(factors)
        self.own: dict[str, nn.Parameter | None] = {}
        module.register_forward_pre_hook(self.exchange)
        module.register_forward_hook(self.put_back, always_call=True, prepend=True)

    def exchange(self, module: nn.Module, inputs: Any) -> None:
        """Before the forward."""
        self.own = {name: module._parameters[name] for name, _ in self.factors}
        made: dict[str, Any] = dict(self.own)
        for name, factor in self.factors:
            made[name] = factor(made[name])
        module._parameters.update(made)

    def put_back(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """After the forward, also after one that failed."""
        module._parameters.update(self.own)
        self.own = {}


class ExchangedOperands:
    """The same for an LSTM, whose forward reads a list of operands; those that another hook has exchanged stay so."""

    def __init__(self, module: nn.Module, factors: Iterable[tuple[str, Factor]]) -> None:
        self.factors = list(factors)
        self.own: list[Any] = []
        module.register_forward_pre_hook(self.exchange)
        module.register_forward_hook(self.put_back, always_call=True, prepend=True)

    def exchange(self, lstm: nn.Module, inputs: Any) -> None:
        """Before the forward. Parameters are looked up by name: torch.func may have exchanged them."""
        assert isinstance(lstm, nn.LSTM)
        names, self.own = lstm._flat_weights_names, lstm._flat_weights
        made = {
            name: getattr(lstm, name) if isinstance(each, nn.Parameter) else each
            for name, each in zip(names, self.own, strict=True)
        }
        for name, factor in self.factors:
            made[name] = factor(made[name])
        lstm._flat_weights = [made[name] for name in names]

    def put_back(self, lstm: nn.Module, inputs: Any, output: Any) -> None:
        """After the forward, also after one that failed."""
        if self.own:
            assert isinstance(lstm, nn.LSTM)
            lstm._flat_weights, self.own = self.own, []
