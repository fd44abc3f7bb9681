"""The parts of an encoder whose time is measured, each alone: what their sizes are, and how a part of given sizes is run."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.models.attention import RelativeAttention, hidden_keys, relative_table
from asr.models.conformer import Conformer, ConformerBlock, ConvolutionModule, FeedForward
from asr.models.encoder import Encoder
from asr.models.lstm import BidirectionalLayer, BidirectionalLstm
from asr.models.recurrence import Lstm
from asr.models.subsampling import FACTOR, ConvSubsampling
from compression.pruning.costs import Extent
from compression.pruning.units import Site
from distributed.errors import UsageError


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
    """The subsampling, and the modules of every block with its last norm; a width of a block's own is a part too."""
    width, part = size("encoder.width", encoder.dimension), encoder.subsample
    channels = [
        size(f"encoder.subsample.{name}", conv.out_channels)
        for name, conv in (("first", part.first), ("second", part.second))
    ]
    found = [Part("subsampling", (*channels, width))]
    for index, block in enumerate(encoder.blocks):
        assert isinstance(block, ConformerBlock)
        where = f"encoder.blocks.{index}"
        own = size(f"{where}.width", block.width)
        if not own.sites and block.width_W is None:
            own = width
        for name in ("feed_forward_in", "feed_forward_out"):
            module = getattr(block, name)
            if module is not None:
                found.append(Part("feed_forward", (own, size(f"{where}.{name}", module.expand.out_features))))
        if block.attention is not None:
            found.append(Part("attention", (own, size(f"{where}.attention", block.attention.heads))))
        if block.convolution is not None:
            last = block.convolution.pointwise_out
            sizes = own, size(f"{where}.convolution.channels", last.in_features)
            whole = size(f"{where}.convolution", 1)
            found.append(Part("convolution", sizes, f"{where}.convolution" if whole.sites else None))
        found.append(Part("norm", (width,)))
        if own is not width:
            found.append(Part("local_width", (width, own)))
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


# ---------------------------------------------------------------------- a part of given sizes


class Runnable(NamedTuple):
    """A part alone, with inputs of one utterance."""

    module: nn.Module
    inputs: tuple[Tensor, ...]


class Added(nn.Module):
    """A part of a block added to the residual stream: x + factor * module(norm(x), ...)."""

    def __init__(self, module: nn.Module, factor: float = 1.0, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.module, self.factor = module, factor
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, x_BTD: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        others = [each for each in (second, third) if each is not None]
        return torch.add(x_BTD, self.module(self.norm(x_BTD), *others), alpha=self.factor)


class Outputs(nn.Module):
    """The outputs of an LSTM, without its states."""

    def __init__(self, lstm: Lstm) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, x_BTI: Tensor) -> Tensor:
        """(B, T, I) to (B, T, H)."""
        outputs: Tensor = self.lstm(x_BTI)[0]
        return outputs


def subsampling(encoder: Encoder, sizes: Sequence[int], extent: Extent) -> Runnable:
    """The subsampling, of channels of both convolutions and a width."""
    assert isinstance(encoder, Conformer)
    first, second, width = sizes
    features = FACTOR * (encoder.subsample.project.in_features // encoder.subsample.second.out_channels)
    module = ConvSubsampling(feature_dimension=features, channels=(first, second), dimension=width)
    return Runnable(module, (torch.randn(1, extent.frames, features), torch.tensor([extent.frames])))


def feed_forward(encoder: Encoder, sizes: Sequence[int], extent: Extent) -> Runnable:
    """A feed-forward module."""
    width, hidden = sizes
    module = FeedForward(dimension=width, width=hidden, dropout=0)
    return Runnable(Added(module, 0.5), (_states(encoder, extent, width),))


def attention(encoder: Encoder, sizes: Sequence[int], extent: Extent) -> Runnable:
    """Attention with its norm."""
    assert isinstance(encoder, Conformer)
    width, heads = sizes
    large = next(each for each in encoder.modules() if isinstance(each, RelativeAttention))
    table_width = encoder.position_dimension
    module = RelativeAttention(
        dimension=width, heads=heads, head_dimension=large.output.in_features // large.heads,
        position_dimension=table_width, dropout=0,
    )  # fmt: skip
    x_BTD = _states(encoder, extent, width)
    table_PR = relative_table(x_BTD.shape[1], table_width, like=x_BTD)
    padding_BT = torch.zeros(1, x_BTD.shape[1], dtype=torch.bool)
    hidden_BTN = hidden_keys(padding_BT, encoder.chunk, encoder.left_chunks)
    return Runnable(Added(module, norm=nn.LayerNorm(width)), (x_BTD, table_PR, hidden_BTN))


def convolution(encoder: Encoder, sizes: Sequence[int], extent: Extent) -> Runnable:
    """A convolution module."""
    assert isinstance(encoder, Conformer)
    width, channels = sizes
    large = next(each for each in encoder.modules() if isinstance(each, ConvolutionModule))
    module = ConvolutionModule(
        dimension=width, channels=channels, kernel=large.depthwise.weight_DK.shape[1],
        causal=encoder.chunk is not None, dropout=0,
    )  # fmt: skip
    x_BTD = _states(encoder, extent, width)
    return Runnable(Added(module), (x_BTD, torch.zeros(1, x_BTD.shape[1], dtype=torch.bool)))


def last_norm(encoder: Encoder, sizes: Sequence[int], extent: Extent) -> Runnable:
    """A block's last norm."""
    (width,) = sizes
    return Runnable(nn.LayerNorm(width), (_states(encoder, extent, width),))


class Exchanged(nn.Module):
    """Takes entries out of the states and puts them back, as a block with a width of its own does beside its modules."""

    width_W: Tensor

    def __init__(self, own: int) -> None:
        super().__init__()
        self.register_buffer("width_W", torch.arange(own))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        return x_BTD.index_copy(-1, self.width_W, x_BTD.index_select(-1, self.width_W))


def local_width(encoder: Encoder, sizes: Sequence[int], extent: Extent) -> Runnable:
    """What a width of its own costs a block; there are no more entries than those of the states."""
    width, own = sizes
    return Runnable(Exchanged(min(own, width)), (_states(encoder, extent, width),))


def lstm(encoder: Encoder, sizes: Sequence[int], extent: Extent) -> Runnable:
    """One direction of a layer."""
    inputs, cells = sizes
    return Runnable(Outputs(Lstm(inputs, cells, batch_first=True)), (_states(encoder, extent, inputs),))


def _states(encoder: Encoder, extent: Extent, width: int) -> Tensor:
    return torch.randn(1, -(-extent.frames // encoder.subsampling), width)


Builder = Callable[[Encoder, Sequence[int], Extent], Runnable]
BUILDERS: Mapping[str, Builder] = {
    "subsampling": subsampling,
    "feed_forward": feed_forward,
    "attention": attention,
    "convolution": convolution,
    "norm": last_norm,
    "local_width": local_width,
    "lstm": lstm,
}
