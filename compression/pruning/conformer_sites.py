"""The sites of a Conformer: what its subsampling, its blocks and its residual stream consist of."""

from collections.abc import Sequence

from torch import Tensor

from asr.models.conformer import Conformer, ConformerBlock
from asr.models.speech_model import SpeechModel
from compression.pruning.units import READERS_OF_STATES, Site, Use, Within, along, existing, layout

WIDTH = "encoder.width"  # the site of the width that all blocks share


def conformer_sites(model: SpeechModel, encoder: Conformer) -> list[Site]:
    """Sites of the subsampling, of each block, the width of all, and the width of each block.

    Where a block has entries of its own already there is no width of all: what would be left of them is no number of units.
    """
    found = subsampling_sites(encoder)
    blocks = [block for block in encoder.blocks if isinstance(block, ConformerBlock)]
    assert len(blocks) == len(encoder.blocks)
    for index, block in enumerate(blocks):
        found += feed_forward_sites(block, index) + attention_sites(block, index) + convolution_sites(block, index)
    if all(block.width_W is None for block in blocks):
        found.append(width_site(model, encoder, blocks))
    return [*found, *(site for index, block in enumerate(blocks) for site in local_width_sites(block, index))]


def subsampling_sites(encoder: Conformer) -> list[Site]:
    """The channels of the first and of the second convolution."""
    where, part = "encoder.subsample", encoder.subsample
    first, second = part.first.out_channels, part.second.out_channels
    bands = part.project.in_features // second
    made = {
        "first": (first, [Use(f"{where}.second.weight", 1, layout(first), scaled=True)]),
        "second": (second, [Use(f"{where}.project.weight", 1, layout(second, times=bands), scaled=True)]),
    }
    return [
        Site(
            f"{where}.{name}", "subsampling", size, ("encoder", "subsampling_channels", place),
            (*along(f"{where}.{name}", 0, layout(size)), *readers),
        )
        for place, (name, (size, readers)) in enumerate(made.items())
    ]  # fmt: skip


def feed_forward_sites(block: ConformerBlock, index: int) -> list[Site]:
    """The hidden widths of both feed-forward modules, where there are any."""
    found = []
    for name in ("feed_forward_in", "feed_forward_out"):
        part = getattr(block, name)
        if part is None:
            continue
        where, size = f"encoder.blocks.{index}.{name}", part.expand.out_features
        uses = (
            *along(f"{where}.expand", 0, layout(size)),
            Use(f"{where}.contract.weight", 1, layout(size), scaled=True),
        )
        setting = ("encoder", "blocks", index, name)
        found.append(
            Site(where, "feed_forward", size, setting, uses, owned=(where,), offsets=(f"{where}.contract.bias",))
        )
    return found


def attention_sites(block: ConformerBlock, index: int) -> list[Site]:
    """The heads, where there is attention."""
    if block.attention is None:
        return []
    where, heads = f"encoder.blocks.{index}.attention", block.attention.heads
    each = block.attention.output.in_features // heads
    uses = (
        *along(f"{where}.query_key_value", 0, layout(heads, each=each, times=3)),
        *(
            Use(f"{where}.{name}", 0, layout(heads, each=each))
            for name in ("position.weight", "content_bias_D", "position_bias_D")
        ),
        Use(f"{where}.output.weight", 1, layout(heads, each=each), scaled=True),
    )
    owned, setting = (where, f"encoder.blocks.{index}.attention_norm"), ("encoder", "blocks", index, "heads")
    return [Site(where, "heads", heads, setting, uses, owned=owned, offsets=(f"{where}.output.bias",))]


def convolution_sites(block: ConformerBlock, index: int) -> list[Site]:
    """The channels, and the module as a whole, where there is a convolution."""
    if block.convolution is None:
        return []
    where, last = f"encoder.blocks.{index}.convolution", block.convolution.pointwise_out
    size, setting = last.in_features, ("encoder", "blocks", index, "channels")
    channels = (
        *along(f"{where}.pointwise_in", 0, layout(size, times=2)),
        Use(f"{where}.depthwise.weight_DK", 0, layout(size)),
        Use(f"{where}.depthwise.bias_D", 0, layout(size)),
        *along(f"{where}.depthwise_norm", 0, layout(size)),
        Use(f"{where}.pointwise_out.weight", 1, layout(size), scaled=True),
    )
    whole = tuple(along(f"{where}.pointwise_out", 0, layout(1, each=last.out_features), scaled=True))
    return [
        Site(
            f"{where}.channels", "channels", size, setting, channels, norms=(f"{where}.depthwise_norm",),
            owned=(where,), offsets=(f"{where}.pointwise_out.bias",),
        ),
        Site(where, "module", 1, setting, whole, owned=(where,)),
    ]  # fmt: skip


def width_site(model: SpeechModel, encoder: Conformer, blocks: Sequence[ConformerBlock]) -> Site:
    """The residual stream of all blocks, with what writes to it and what reads it."""
    size = encoder.dimension
    units = layout(size)
    uses = [*along("encoder.subsample.project", 0, units, scaled=True)]
    norms = []
    for index, block in enumerate(blocks):
        inside, own = branches(block, index, units)
        last = f"encoder.blocks.{index}.norm"
        uses += [*inside, *along(last, 0, units, scaled=True)]
        norms += [*own, last]
    uses += [Use(f"{name}.weight", 1, units) for name in existing(model, READERS_OF_STATES)]
    return Site(WIDTH, "width", size, ("encoder", "dimension"), tuple(uses), norms=tuple(norms))


def local_width_sites(block: ConformerBlock, index: int) -> list[Site]:
    """The entries of the residual stream that the modules of one block read and add to; none where it has no module."""
    uses, norms = branches(block, index, layout(block.width))
    if not uses:
        return []
    where, setting = f"encoder.blocks.{index}.width", ("encoder", "blocks", index, "width")
    entries = layout(block.width) if block.width_W is None else block.width_W.cpu()
    return [
        Site(where, "local_width", block.width, setting, tuple(uses), norms=tuple(norms), within=Within(WIDTH, entries))
    ]


def branches(block: ConformerBlock, index: int, units: Tensor) -> tuple[list[Use], list[str]]:
    """How the units of the residual stream lie in the modules of a block, and the names of the norms that read it there."""
    where = f"encoder.blocks.{index}"
    found = [
        (f"{where}.{name}.norm", f"{where}.{name}.expand", f"{where}.{name}.contract")
        for name in ("feed_forward_in", "feed_forward_out")
        if getattr(block, name) is not None
    ]
    if block.attention is not None:
        found.append((f"{where}.attention_norm", f"{where}.attention.query_key_value", f"{where}.attention.output"))
    if block.convolution is not None:
        inside = f"{where}.convolution"
        found.append((f"{inside}.norm", f"{inside}.pointwise_in", f"{inside}.pointwise_out"))
    uses = [use for norm, first, last in found for use in _branch(norm, first, last, units)]
    return uses, [norm for norm, _, _ in found]


def _branch(norm: str, first: str, last: str, units: Tensor) -> list[Use]:
    """A residual branch: its norm and its first layer read the stream, its last one is added to it."""
    return [*along(norm, 0, units), Use(f"{first}.weight", 1, units), *along(last, 0, units, scaled=True)]
