"""The masks of a model as a module that trains beside it: their values, what is expected to be kept, what removal keeps.

In training masks are drawn anew in every forward of the model; everywhere else they are deterministic. How the model computes
with them is in compression/pruning/masked_forward.py.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asr.models.auxiliary import NAME
from asr.models.speech_model import SpeechModel
from compression.pruning.hard_concrete import deterministic, initial_log_alpha, least_kept, probability_kept, sample
from compression.pruning.removal import Kept
from compression.pruning.sites import sites
from compression.pruning.units import Site
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
        self._seen: tuple[Tensor, Tensor | None, Tensor] | None = None  # log_alpha, units to choose from, mask

    def evaluation(self, among: Tensor | None = None) -> Tensor:
        """The deterministic mask, of units ``among`` these (None: all); made anew where anything of it has changed."""
        if self._seen is None or not (_same(self._seen[0], self.log_alpha) and _same(self._seen[1], among)):
            with torch.inference_mode(False), torch.no_grad():
                mask = deterministic(self.log_alpha, int(self.least), max(1, int(self.multiple_of)), among=among)
                self._seen = self.log_alpha.detach().clone(), among, mask
        return self._seen[2]


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
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
        self.by_name = {site.name: site for site in found}
        self.owners = torch.arange(len(found)).repeat_interleave(torch.tensor([site.size for site in found]))
        self.outer = _outer_units(found)
        self.drawn: dict[str, Tensor] | None = None  # of the forward that goes on

    def mask(self, site: str) -> SiteMask:
        """The mask of a site."""
        found = self.of[key_of(site)]
        assert isinstance(found, SiteMask)
        return found

    def value(self, site: str) -> Tensor:
        """The mask (units,) to be used now: that of the forward that goes on, or else the deterministic one."""
        return self._evaluation(site) if self.drawn is None else self.drawn[site]

    def _evaluation(self, site: str) -> Tensor:
        """The deterministic mask (units,) of a site."""
        within = self.by_name[site].within
        outer = (
            {} if within is None or within.site not in self.by_name else {within.site: self._evaluation(within.site)}
        )
        return self.mask(site).evaluation(self.by_name[site].among(outer))

    def log_alphas(self) -> Tensor:
        """The parameters of all masks, one site after the other."""
        return torch.cat([self.mask(site.name).log_alpha for site in self.sites])

    def expected_sizes(self) -> dict[str, Tensor]:
        """Number of units of every site that is expected to be kept; scalars of double precision, with gradient.

        Where fewer are expected than are kept in any case, it is the latter number, so that others have to go. A unit
        within another is kept where both are, which are drawn independently.
        """
        own_U = probability_kept(self.log_alphas().double())
        kept_U = own_U * torch.cat([own_U, own_U.new_ones(1)])[self.outer.to(own_U.device)]
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
        return {site.name: Kept.of(self._evaluation(site.name)) for site in self.sites}

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


def _outer_units(found: Sequence[Site]) -> Tensor:
    """(U,) int64: for each unit of all sites the one that it lies within, of all of them too; -1 where there is none."""
    starts, total = {}, 0
    for site in found:
        starts[site.name] = total
        total += site.size
    return torch.cat(
        [
            starts[within.site] + within.units
            if (within := site.within) is not None and within.site in starts
            else torch.full((site.size,), -1)
            for site in found
        ]
    )


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
    by_name, own = {site.name: site for site in sites(model)}, {}
    for name in names:
        where = name.rpartition(".")[0]
        site = where.rpartition(".")[2].replace("/", ".")
        log_alpha, size = auxiliaries[name], by_name[site].size if site in by_name else None
        least, multiple = auxiliaries.get(f"{where}.least"), auxiliaries.get(f"{where}.multiple_of")
        if least is None or multiple is None or not _fits(log_alpha, least, multiple, size):
            raise UsageError(
                f"{name} {tuple(log_alpha.shape)} is no mask of this model with least and multiple_of beside it: {site} has "
                f"{'no' if size is None else size} units; restore {NAME}.safetensors, or give the run that it was trained in"
            )
        chosen = multiple_of if multiple_of is not None and int(multiple) else int(multiple)
        own[site] = log_alpha, int(least), max(1, chosen)
    z: dict[str, Tensor] = {}
    for each in by_name.values():
        if each.name in own:
            z[each.name] = deterministic(*own[each.name], shift, each.among(z))
    return {name: Kept.of(values) for name, values in z.items()}


def _fits(log_alpha: Tensor, least: Tensor, multiple_of: Tensor, size: int | None) -> bool:
    """Whether tensors of a file are those of a ``SiteMask`` of this many units."""
    if size is None or log_alpha.shape != (size,):
        return False
    whole = all(each.dim() == 0 and not each.is_floating_point() for each in (least, multiple_of))
    return log_alpha.is_floating_point() and whole and 0 <= int(least) <= size and int(multiple_of) >= 0
