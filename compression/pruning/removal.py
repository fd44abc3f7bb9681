"""True removal: the tensors of a model without the units that are masked, and the node of a model of these sizes.

A kept unit's value is folded into the weights that read it (compression/pruning/sites.py). What is made is an ordinary model: its
sizes are in its node, and no mask is left.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from asr.models.block_sizes import BlockSizes, head_size
from asr.models.conformer import Conformer, ConformerBlock
from asr.models.lstm import BidirectionalLayer, BidirectionalLstm
from asr.models.speech_model import SpeechModel
from asr.runs.model_folder import Description, LoadedModel
from compression.pruning.sites import sites
from compression.pruning.units import Site, Within
from distributed.errors import UsageError


@dataclass(frozen=True, slots=True)
class Kept:
    """The units of a site that are left."""

    indices: Tensor  # (kept,) int64, ascending
    values: Tensor  # (kept,) what each multiplies the weights that read it by; 1 changes nothing

    @staticmethod
    def of(z: Tensor) -> "Kept":
        """The units whose value is not 0."""
        indices = z.nonzero().squeeze(1)
        return Kept(indices, z[indices])

    @staticmethod
    def unchanged(indices: Sequence[int]) -> "Kept":
        """These units, with the weights they have."""
        return Kept(torch.tensor(sorted(indices), dtype=torch.int64), torch.ones(len(indices)))


def removed(loaded: LoadedModel, kept: Mapping[str, Kept]) -> LoadedModel:
    """A model without the units that are not ``kept``, by the names of sites; sites that are not named stay whole.

    Raises:
        UsageError: there is no site of such a name, or one may not become empty, or transforms have changed the model.
    """
    description = loaded.description
    refuse_transformed(description)
    chosen = named_sites(loaded.model, kept)
    kept = nested(chosen, kept)
    node = resized(description.model, loaded.model, chosen, kept)
    smaller = replace(description, model=node)
    state = sliced(loaded.model.state_dict(), chosen, kept)
    return replace(loaded, model=smaller.with_weights(state), description=smaller, auxiliaries=dict)


def refuse_transformed(description: Description) -> None:
    """Raise UsageError if transforms have changed the model: its tensors are not those whose units are known."""
    if description.transforms:
        raise UsageError(
            f"the model was changed by {description.transforms[0]['_target_']}: prune the model that it was made of"
        )


def named_sites(model: SpeechModel, kept: Mapping[str, Kept]) -> list[Site]:
    """The sites of these names; UsageError where there is none of a name."""
    found = {site.name: site for site in sites(model)}
    unknown = kept.keys() - found.keys()
    if unknown:
        raise UsageError(f"the model has no {', '.join(sorted(unknown))}; it has {', '.join(found)}")
    return [found[name] for name in found if name in kept]


def nested(chosen: Iterable[Site], kept: Mapping[str, Kept]) -> dict[str, Kept]:
    """The same, without units that lie within others that go; UsageError where a site that cannot vanish keeps none."""
    made = {}
    for site in chosen:
        units = kept[site.name]
        if site.within is not None and site.within.site in kept:
            stays = torch.isin(site.within.units[units.indices], kept[site.within.site].indices)
            units = Kept(units.indices[stays], units.values[stays])
        if not len(units.indices) and not site.can_vanish:
            raise UsageError(f"{site.name}: nothing is kept of its {site.size} units; keep one at least")
        made[site.name] = units
    return made


def sliced(state: Mapping[str, Tensor], chosen: Iterable[Site], kept: Mapping[str, Kept]) -> dict[str, Tensor]:
    """The tensors without the units that are not kept; those of modules that have none are left out."""
    made = dict(state)
    staying: dict[tuple[str, int], Tensor] = {}  # positions along a dimension that all sites on it keep
    for site in chosen:
        units = kept[site.name]
        if not len(units.indices):
            made = {name: each for name, each in made.items() if not lies_in(name, site.owned)}
        z = torch.zeros(site.size, dtype=units.values.dtype).index_copy_(0, units.indices, units.values)
        for use in site.uses:
            if use.parameter not in made:
                continue
            if use.scaled:
                made[use.parameter] = scaled(made[use.parameter], use.dim, use.units, z)
            positions = (use.units < 0) | (z != 0)[use.units]
            place = (use.parameter, use.dim)
            staying[place] = positions & staying.get(place, torch.ones_like(positions))
    for (name, dim), positions in staying.items():
        if name in made:
            made[name] = made[name].index_select(dim, positions.nonzero().squeeze(1))
    return made


def scaled(weight: Tensor, dim: int, units: Tensor, z: Tensor) -> Tensor:
    """A tensor whose positions along ``dim`` are multiplied by the values of their units; those of none (-1) by 1."""
    factors = torch.cat([z, z.new_ones(1)])[units].to(weight.dtype)  # -1 is the last: 1
    return weight * factors.view(-1, *[1] * (weight.dim() - 1 - dim))


def lies_in(name: str, modules: Iterable[str]) -> bool:
    """Whether a parameter is of one of the modules."""
    return any(name.startswith(f"{module}.") for module in modules)


# ---------------------------------------------------------------------- sizes


def resized(
    node: Mapping[str, Any], model: SpeechModel, chosen: Iterable[Site], kept: Mapping[str, Kept]
) -> dict[str, Any]:
    """The model's node with the units that are kept; a module that goes as a whole has the last word."""
    made = with_all_sizes(node, model)
    for site in sorted(chosen, key=lambda each: each.kind == "module"):
        size = len(kept[site.name].indices)
        if site.kind == "module" and size:
            continue  # its channels say how large it is
        *path, last = site.setting
        place: Any = made
        for key in path:
            place = place[key]
        place[last] = size if site.within is None else entries_kept(site, site.within, kept)
        if site.within is not None and size == made["encoder"]["dimension"]:
            del place[last]  # an ordinary block, which reads all entries
    return made


def entries_kept(site: Site, within: Within, kept: Mapping[str, Kept]) -> list[int]:
    """The units of another site that a site within it keeps, numbered as they are when the others are gone."""
    entries, outer = within.units[kept[site.name].indices], kept.get(within.site)
    numbered: list[int] = (entries if outer is None else torch.searchsorted(outer.indices, entries)).tolist()
    return numbered


def with_all_sizes(node: Mapping[str, Any], model: SpeechModel) -> dict[str, Any]:
    """The node of a model, in which every size is a number of its own: no default, nor one for all layers."""
    made = copy.deepcopy(dict(node))
    encoder = getattr(model, "encoder", None)
    if isinstance(encoder, Conformer):
        subsample, given = encoder.subsample, made["encoder"]
        made["encoder"] |= {
            "blocks": [node_of_block(block) for block in encoder.blocks],
            "head_dimension": head_size(given["dimension"], given["heads"], given["head_dimension"]),
            "position_dimension": encoder.position_dimension,
            "subsampling_channels": [subsample.first.out_channels, subsample.second.out_channels],
        }
    if isinstance(encoder, BidirectionalLstm):
        made["encoder"]["hidden"] = [cells_of(layer) for layer in encoder.layers]
    return made


def cells_of(layer: torch.nn.Module) -> list[int]:
    """Number of cells of both directions of a layer."""
    assert isinstance(layer, BidirectionalLayer)
    return [layer.left_to_right.hidden_size, layer.right_to_left.hidden_size]


def node_of_block(block: torch.nn.Module) -> dict[str, Any]:
    """The sizes of the modules of a block, 0 for those that are absent, and its entries of the states if it has not all."""
    assert isinstance(block, ConformerBlock)
    first, last = block.feed_forward_in, block.feed_forward_out
    sizes = BlockSizes(
        feed_forward_in=0 if first is None else first.expand.out_features,
        heads=0 if block.attention is None else block.attention.heads,
        channels=0 if block.convolution is None else block.convolution.pointwise_out.in_features,
        feed_forward_out=0 if last is None else last.expand.out_features,
        width=None if block.width_W is None else block.width_W.tolist(),
    )
    return {name: each for name, each in sizes._asdict().items() if each is not None}
