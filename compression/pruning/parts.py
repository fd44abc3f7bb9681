"""The parts of an encoder whose time is measured, each alone: what their sizes are, and how a part of given sizes is run."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from asr.models.attention import RelativeAttention, hidden_keys, relative_table
from asr.models.conformer import Conformer, ConformerBlock, ConvolutionModule, FeedForward
from asr.models.encoder import Encoder
from asr.models.lstm import BidirectionalLayer, BidirectionalLstm
from asr.models.recurrence import Lstm
from asr.models.subsampling import FACTOR, ConvSubsampling
from compression.pruning.costs import Extent
from compression.pruning.units import Site
from distributed.errors import UsageError

Step = Callable[[], object]


class Size(NamedTuple):
    """A size of a part: a constant and the units of sites."""

    constant: int
    sites: tuple[tuple[str, int], ...] = ()  # names, with their number of units
    can_vanish: bool = False

    @property
    def full(self) -> int:
        """The size with all units."""
        return self.constant + sum(units for _, units in self.sites)


class Part(NamedTuple):
    """A part of an encoder; ``gate``: a site of one unit, without which it is absent."""

    kind: str
    sizes: tuple[Size, ...]
    gate: str | None = None


def parts_of(encoder: Encoder, found: Sequence[Site]) -> list[Part]:
    """The parts of an encoder, whose sizes may change where there are sites.

    Raises:
        UsageError: of this kind of encoder no parts are known.
    """
    by_name = {site.name: site for site in found}

    def size(name: str, units: int) -> Size:
        site = by_name.get(name)
        return Size(units) if site is None else Size(0, ((name, units),), site.can_vanish)

    if isinstance(encoder, Conformer):
        return conformer_parts(encoder, size)
    if isinstance(encoder, BidirectionalLstm):
        return lstm_parts(encoder, size)
    raise UsageError(f"objective=milliseconds knows no parts of {type(encoder).__name__}; choose parameters or flops")


def conformer_parts(encoder: Conformer, size: Callable[[str, int], Size]) -> list[Part]:
    """The subsampling, and the modules of every block with its last norm."""
    width, part = size("encoder.width", encoder.dimension), encoder.subsample
    channels = [
        size(f"encoder.subsample.{name}", conv.out_channels)
        for name, conv in (("first", part.first), ("second", part.second))
    ]
    found = [Part("subsampling", (*channels, width))]
    for index, block in enumerate(encoder.blocks):
        assert isinstance(block, ConformerBlock)
        where = f"encoder.blocks.{index}"
        for name in ("feed_forward_in", "feed_forward_out"):
            module = getattr(block, name)
            if module is not None:
                found.append(Part("feed_forward", (width, size(f"{where}.{name}", module.expand.out_features))))
        if block.attention is not None:
            found.append(Part("attention", (width, size(f"{where}.attention", block.attention.heads))))
        if block.convolution is not None:
            last = block.convolution.pointwise_out
            sizes = width, size(f"{where}.convolution.channels", last.in_features)
            whole = size(f"{where}.convolution", 1)
            found.append(Part("convolution", sizes, f"{where}.convolution" if whole.sites else None))
        found.append(Part("norm", (width,)))
    return found


def lstm_parts(encoder: BidirectionalLstm, size: Callable[[str, int], Size]) -> list[Part]:
    """Both directions of every layer."""
    found: list[Part] = []
    below: Size | None = None
    for index, layer in enumerate(encoder.layers):
        assert isinstance(layer, BidirectionalLayer)
        below = below or Size(layer.left_to_right.input_size)
        cells = [
            size(f"encoder.layers.{index}.{way}", getattr(layer, way).hidden_size)
            for way in ("left_to_right", "right_to_left")
        ]
        found += [Part("lstm", (below, each)) for each in cells]
        below = Size(sum(each.constant for each in cells), tuple(site for each in cells for site in each.sites))
    return found


# ---------------------------------------------------------------------- how a part is run


def run_subsampling(encoder: Encoder, sizes: Sequence[int], extent: Extent) -> Step:
    """The subsampling, of channels of both convolutions and a width."""
    assert isinstance(encoder, Conformer)
    first, second, width = sizes
    features = FACTOR * (encoder.subsample.project.in_features // encoder.subsample.second.out_channels)
    module = ConvSubsampling(feature_dimension=features, channels=(first, second), dimension=width)
    features_BTF, lengths_B = torch.randn(1, extent.frames, features), torch.tensor([extent.frames])
    return lambda: module(features_BTF, lengths_B)


def run_feed_forward(encoder: Encoder, sizes: Sequence[int], extent: Extent) -> Step:
    """A feed-forward module, added to the residual stream."""
    width, hidden = sizes
    module = FeedForward(dimension=width, width=hidden, dropout=0).eval()
    x_BTD = _states(encoder, extent, width)
    return lambda: torch.add(x_BTD, module(x_BTD), alpha=0.5)


def run_attention(encoder: Encoder, sizes: Sequence[int], extent: Extent) -> Step:
    """Attention with its norm, added to the residual stream."""
    assert isinstance(encoder, Conformer)
    width, heads = sizes
    large = next(each for each in encoder.modules() if isinstance(each, RelativeAttention))
    norm, table_width = nn.LayerNorm(width), encoder.position_dimension
    module = RelativeAttention(
        dimension=width, heads=heads, head_dimension=large.output.in_features // large.heads,
        position_dimension=table_width, dropout=0,
    )  # fmt: skip
    x_BTD = _states(encoder, extent, width)
    table_PR = relative_table(x_BTD.shape[1], table_width, like=x_BTD)
    padding_BT = torch.zeros(1, x_BTD.shape[1], dtype=torch.bool)
    hidden_BTN = hidden_keys(padding_BT, encoder.chunk, encoder.left_chunks)
    return lambda: x_BTD + module.eval()(norm(x_BTD), table_PR, hidden_BTN)


def run_convolution(encoder: Encoder, sizes: Sequence[int], extent: Extent) -> Step:
    """A convolution module, added to the residual stream."""
    assert isinstance(encoder, Conformer)
    width, channels = sizes
    large = next(each for each in encoder.modules() if isinstance(each, ConvolutionModule))
    module = ConvolutionModule(
        dimension=width, channels=channels, kernel=large.depthwise.weight_DK.shape[1],
        causal=encoder.chunk is not None, dropout=0,
    ).eval()  # fmt: skip
    x_BTD = _states(encoder, extent, width)
    padding_BT = torch.zeros(1, x_BTD.shape[1], dtype=torch.bool)
    return lambda: x_BTD + module(x_BTD, padding_BT)


def run_norm(encoder: Encoder, sizes: Sequence[int], extent: Extent) -> Step:
    """A block's last norm."""
    (width,) = sizes
    norm, x_BTD = nn.LayerNorm(width), _states(encoder, extent, width)
    return lambda: norm(x_BTD)


def run_lstm(encoder: Encoder, sizes: Sequence[int], extent: Extent) -> Step:
    """One direction of a layer."""
    inputs, cells = sizes
    lstm, x_BSD = Lstm(inputs, cells, batch_first=True), _states(encoder, extent, inputs)
    return lambda: lstm(x_BSD)


def _states(encoder: Encoder, extent: Extent, width: int) -> torch.Tensor:
    return torch.randn(1, -(-extent.frames // encoder.subsampling), width)


Builder = Callable[[Encoder, Sequence[int], Extent], Step]
BUILDERS: Mapping[str, Builder] = {
    "subsampling": run_subsampling,
    "feed_forward": run_feed_forward,
    "attention": run_attention,
    "convolution": run_convolution,
    "norm": run_norm,
    "lstm": run_lstm,
}
