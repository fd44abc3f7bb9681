"""The masks of a model as a module that trains beside it, and their place in the model's forward.

The model's parameters stay what and where they are. During a forward each module that reads a masked unit computes with
weights that the unit's value multiplies, and norms over masked units take their statistics from those that are kept.
In training masks are drawn anew in every forward of the model; everywhere else they are deterministic.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from asr.models.auxiliary import NAME
from asr.models.speech_model import SpeechModel
from compression.pruning.hard_concrete import deterministic, initial_log_alpha, least_kept, probability_kept, sample
from compression.pruning.norms import masked_layer_norm
from compression.pruning.removal import Kept, scaled
from compression.pruning.sites import sites
from compression.pruning.units import Site, Use
from distributed.errors import UsageError

NEVER_ROUNDED = ("heads", "module")  # kinds whose numbers of units are no multiples of anything
ROUNDING = 1e-9  # of the product of a fraction and a number of units
MAY_BE_EMPTY = ("feed_forward", "module")


class SiteMask(nn.Module):
    """The mask of one site. ``least`` and ``multiple_of`` (0: never rounded) are in checkpoints, where removal finds them."""

    least: Tensor
    multiple_of: Tensor

    def __init__(self, size: int, *, dropped: float, least: int, multiple_of: int) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((size,), initial_log_alpha(dropped)))
        self.register_buffer("least", torch.tensor(least))
        self.register_buffer("multiple_of", torch.tensor(multiple_of))
        self._seen: tuple[Tensor, Tensor] | None = None  # a log_alpha with its mask of evaluation

    def evaluation(self) -> Tensor:
        """The deterministic mask; made anew where ``log_alpha`` has changed, by whatever wrote it."""
        if self._seen is None or not _same(self._seen[0], self.log_alpha):
            with torch.inference_mode(False), torch.no_grad():
                mask = deterministic(self.log_alpha, int(self.least), max(1, int(self.multiple_of)))
                self._seen = self.log_alpha.detach().clone(), mask
        return self._seen[1]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)


class Masks(nn.Module):
    """The masks of sites, by their names, in which ``/`` stands for a point. S sites, U units of all of them.

    Args:
        dropped: probability of a unit's being dropped at first.
        minimum: least fraction of a site's units that is kept, and at least one, save of feed-forward modules and modules.
        multiple_of: numbers of units are multiples of this, save those of heads and modules.
    """

    def __init__(self, found: Sequence[Site], *, dropped: float, minimum: float, multiple_of: int) -> None:
        super().__init__()
        self.sites = list(found)
        self.of = nn.ModuleDict(
            {
                key_of(site.name): SiteMask(
                    site.size,
                    dropped=dropped,
                    least=least_of(site, minimum),
                    multiple_of=0 if site.kind in NEVER_ROUNDED else multiple_of,
                )
                for site in found
            }
        )
        self.owners = torch.arange(len(found)).repeat_interleave(torch.tensor([site.size for site in found]))
        self.drawn: dict[str, Tensor] | None = None  # of the forward that goes on

    def mask(self, site: str) -> SiteMask:
        """The mask of a site."""
        found = self.of[key_of(site)]
        assert isinstance(found, SiteMask)
        return found

    def value(self, site: str) -> Tensor:
        """The mask (units,) to be used now: that of the forward that goes on, or else the deterministic one."""
        return self.mask(site).evaluation() if self.drawn is None else self.drawn[site]

    def log_alphas(self) -> Tensor:
        """The parameters of all masks, one site after the other."""
        return torch.cat([self.mask(site.name).log_alpha for site in self.sites])

    def expected_sizes(self) -> dict[str, Tensor]:
        """Number of units of every site that is expected to be kept; scalars of double precision, with gradient.

        Where fewer are expected than are kept in any case, it is the latter number, so that others have to go.
        """
        kept_U = probability_kept(self.log_alphas().double())
        counts_S = kept_U.new_zeros(len(self.sites)).index_add(0, self.owners.to(kept_U.device), kept_U)
        least_S = torch.stack([self.mask(site.name).least for site in self.sites])
        sizes = counts_S.maximum(least_S.to(counts_S)).unbind()
        return dict(zip([site.name for site in self.sites], sizes, strict=True))

    def least_sizes(self) -> dict[str, Tensor]:
        """Number of units of every site that evaluation keeps in any case."""
        found = {site.name: (site.size, self.mask(site.name)) for site in self.sites}
        return {
            name: torch.tensor(least_kept(size, int(mask.least), max(1, int(mask.multiple_of))), dtype=torch.float64)
            for name, (size, mask) in found.items()
        }

    def kept(self) -> dict[str, Kept]:
        """The units of every site that evaluation keeps, with their values."""
        return {site.name: Kept.of(self.mask(site.name).evaluation()) for site in self.sites}

    def draw(self, model: nn.Module, inputs: Any) -> None:
        """Before a forward of the model: draw masks, in training mode."""
        if not model.training:
            self.drawn = None
            return
        masks = sample(self.log_alphas()).split([site.size for site in self.sites])
        self.drawn = dict(zip([site.name for site in self.sites], masks, strict=True))

    def forget(self, model: nn.Module, inputs: Any, output: Any) -> None:
        """After a forward of the model, also one that failed."""
        self.drawn = None


def key_of(site: str) -> str:
    """Name of a site's mask: names of modules have no points."""
    return site.replace(".", "/")


def least_of(site: Site, minimum: float) -> int:
    """The least number of units that is kept of a site."""
    if site.kind == "module":
        return 0
    return max(0 if site.kind in MAY_BE_EMPTY else 1, math.ceil(minimum * site.size - ROUNDING))


def names_of_masks(auxiliaries: Mapping[str, Tensor]) -> list[str]:
    """Those of the tensors beside a checkpoint's model that are parameters of masks."""
    return [name for name in auxiliaries if name.startswith(f"{NAME}.") and name.endswith(".log_alpha")]


def kept_of(
    auxiliaries: Mapping[str, Tensor], multiple_of: int | None, model: SpeechModel, shift: float = 0.0
) -> dict[str, Kept]:
    """What the masks among the ``auxiliaries`` of a model's checkpoint keep; ``multiple_of`` None: as in training.

    ``shift`` is added to the log-odds of all units for the numbers that are kept, and not for their values.

    Raises:
        UsageError: there are none, or they are not those of the model's sites.
    """
    names = names_of_masks(auxiliaries)
    if not names:
        raise UsageError(
            "there are no masks beside this model: give a checkpoint of a run with hooks=[structured_pruning]"
        )
    sizes, found = {site.name: site.size for site in sites(model)}, {}
    for name in names:
        where = name.rpartition(".")[0]
        site = where.rpartition(".")[2].replace("/", ".")
        log_alpha = auxiliaries[name]
        least, multiple = auxiliaries.get(f"{where}.least"), auxiliaries.get(f"{where}.multiple_of")
        if least is None or multiple is None or not _fits(log_alpha, least, multiple, sizes.get(site)):
            raise UsageError(
                f"{name} {tuple(log_alpha.shape)} is no mask of this model with least and multiple_of beside it: {site} has "
                f"{sizes.get(site, 'no')} units; restore {NAME}.safetensors, or give the run that it was trained in"
            )
        chosen = multiple_of if multiple_of is not None and int(multiple) else int(multiple)
        found[site] = Kept.of(deterministic(log_alpha, int(least), max(1, chosen), shift))
    return found


def _fits(log_alpha: Tensor, least: Tensor, multiple_of: Tensor, size: int | None) -> bool:
    """Whether tensors of a file are those of a ``SiteMask`` of this many units."""
    if size is None or log_alpha.shape != (size,):
        return False
    whole = all(each.dim() == 0 and not each.is_floating_point() for each in (least, multiple_of))
    return log_alpha.is_floating_point() and whole and 0 <= int(least) <= size and int(multiple_of) >= 0


# ---------------------------------------------------------------------- in the model's forward


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
    for site in masks.sites:
        for name in site.norms:
            norm = modules[name]
            assert isinstance(norm, nn.LayerNorm)
            norm.forward = MaskedNorm(norm, masks, site.name)  # type: ignore[method-assign]


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
    """The forward of a layer norm over the units of a site."""

    def __init__(self, norm: nn.LayerNorm, masks: Masks, site: str) -> None:
        self.norm, self.masks, self.site = norm, masks, site

    def __call__(self, input: Tensor) -> Tensor:
        """The normalised input, 0 for units that are not kept."""
        kept = self.masks.value(self.site) > 0
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
