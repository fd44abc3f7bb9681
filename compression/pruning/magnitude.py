"""One-shot structured magnitude pruning: the units with the smallest weights go, with the units that learned masks have.

    score of a unit = root mean square of the weights that are removed with it        of matrices; a baseline in arXiv 2305.19549

Biases and norms do not count: their values are of another size. Units go one after the other until the target is met, and
what is left keeps its weights. Pruned by a part, trained on and pruned again, it is iterative magnitude pruning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from asr.runs.model_folder import LoadedModel
from compression.compress import Batches
from compression.pruning.costs import Cost, Scope, counted_sites, full_sizes, parameters
from compression.pruning.masks import NEVER_ROUNDED, least_of
from compression.pruning.removal import Kept, refuse_transformed, removed
from compression.pruning.units import Kind, Site
from distributed.errors import UsageError
from distributed.ranges import Count, Fraction

Across = Literal["sites", "model"]


def magnitudes(weights: Mapping[str, Tensor], site: Site) -> Tensor:
    """(units,): root mean square of each unit's weights, of all matrices along whose dimensions the units lie."""
    squares, numbers = torch.zeros(2, site.size, dtype=torch.float64)
    for use in site.uses:
        weight = weights[use.parameter].double()
        if weight.dim() < 2:
            continue
        own = use.units >= 0
        rows = weight.movedim(use.dim, 0).flatten(1)[own]
        squares.index_add_(0, use.units[own], rows.square().sum(1))
        numbers.index_add_(0, use.units[own], torch.full((len(rows),), float(rows.shape[1]), dtype=torch.float64))
    return (squares / numbers).sqrt()


@dataclass(frozen=True, slots=True)
class Removal:
    """A unit that may go, when those of its site that are smaller are gone."""

    when: tuple[float, float]  # smaller ones go earlier
    site: str
    unit: int


def in_order(
    found: Sequence[Site], scores: Mapping[str, Tensor], least: Mapping[str, int], across: Across
) -> list[Removal]:
    """All removals that leave the ``least`` number of units of every site.

    sites: every site loses the same fraction of its units, as far as whole units allow
    model: the smallest scores of the whole model go first
    """
    order = []
    for site in found:
        values, units = scores[site.name].sort(stable=True)
        for place in range(site.size - least[site.name]):
            score = float(values[place])
            when = ((place + 0.5) / site.size, score) if across == "sites" else (score, 0.0)
            order.append(Removal(when, site.name, int(units[place])))
    return sorted(order, key=lambda each: each.when)


def left(found: Sequence[Site], gone: Sequence[Removal], multiple_of: int) -> dict[str, list[int]]:
    """The units of every site that stay; of numbers that are no multiples the last ones to go stay too."""
    kept: dict[str, list[int]] = {}
    units_gone: dict[str, list[int]] = {site.name: [] for site in found}
    for each in gone:
        units_gone[each.site].append(each.unit)
    for site in found:
        own = units_gone[site.name]
        number = site.size - len(own)
        if site.kind not in NEVER_ROUNDED:
            number = min(site.size, -(-number // multiple_of) * multiple_of)
        going = set(own[: site.size - number])
        kept[site.name] = [unit for unit in range(site.size) if unit not in going]
    return kept


def fewest(
    order: Sequence[Removal], found: Sequence[Site], cost: Cost, goal: float, multiple_of: int
) -> dict[str, list[int]]:
    """The units that stay after as few removals as bring the cost to ``goal`` or below.

    Raises:
        UsageError: all removals together do not.
    """

    def cost_after(number: int) -> float:
        kept = left(found, order[:number], multiple_of)
        return float(cost({name: torch.tensor(float(len(units))) for name, units in kept.items()}))

    if cost_after(len(order)) > goal:
        raise UsageError(
            f"pass.sparsity asks for at most {goal:,.0f} parameters, and {cost_after(len(order)):,.0f} are left at least; "
            "lower it, name more kinds, or lower pass.minimum or pass.multiple_of"
        )
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if cost_after(middle) <= goal else (middle + 1, high)
    return left(found, order[:low], multiple_of)


class MagnitudePruning:
    """The pass.

    Args:
        sparsity: fraction of the parameters in ``scope`` that are removed.
        scope: whose parameters are counted: the encoder's or all.
        kinds: of units that may go; None: all that the scope has, save whole modules and ``local_width``.
        across: what is compared: see ``in_order``.
        minimum: least fraction of a site's units that stays.
        multiple_of: numbers of units are multiples of this, save those of heads and modules.
    """

    def __init__(
        self,
        *,
        sparsity: Fraction,
        scope: Scope,
        kinds: list[Kind] | None,
        across: Across,
        minimum: Fraction,
        multiple_of: Count,
    ) -> None:
        self.sparsity = sparsity
        self.scope: Scope = scope
        self.kinds = kinds
        self.across: Across = across
        self.minimum = minimum
        self.multiple_of = multiple_of

    def __call__(self, loaded: LoadedModel, batches: Batches) -> LoadedModel:
        """Raises UsageError if the model has no such units, was changed by transforms, or cannot be made as small."""
        refuse_transformed(loaded.description)
        if self.kinds and {"width", "local_width"} <= set(self.kinds):
            raise UsageError(
                f"pass.kinds=[{','.join(self.kinds)}]: the smallest entries of all blocks and of one block are not the same, so that few or "
                "none would be left to both; leave width or local_width out, or let masks learn both: hooks=[structured_pruning]"
            )
        # A whole module cannot lose a fraction: it goes only where it is named.
        counted = counted_sites(loaded.model, self.kinds, self.scope)
        found = [site for site in counted if self.kinds or site.kind != "module"]
        weights = loaded.model.state_dict()
        scores = {site.name: magnitudes(weights, site) for site in found}
        least = {site.name: least_of(site, self.minimum) for site in found}
        cost = parameters(loaded.model, found, self.scope)
        whole = float(cost(full_sizes(found)))
        order = in_order(found, scores, least, self.across)
        kept = fewest(order, found, cost, (1 - self.sparsity) * whole, self.multiple_of)
        return removed(loaded, {name: Kept.unchanged(units) for name, units in kept.items()})
