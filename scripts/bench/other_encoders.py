"""Encoders of other toolkits behind the project's interface, for a benchmark that trains them: their modules, in the sizes of ours.

B utterances   T feature frames   F feature dimension   S = ceil(T / 4) or T // 4 states   D state dimension
"""

import importlib
import importlib.util
from dataclasses import dataclass

from torch import Tensor, nn

from asr.models.encoder import Encoder, ceil_divide, padding_mask
from asr.models.subsampling import FACTOR, ConvSubsampling
from asr.torchaudio_parts import torchaudio_part


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a Conformer."""

    features: int
    layers: int
    dimension: int
    heads: int
    width: int  # of the feed-forward layers
    kernel: int
    channels: int  # of the subsampling
    dropout: float


class OtherEncoder(Encoder):
    """What they share."""

    subsampling = FACTOR

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.dimension = sizes.dimension


class TorchaudioEncoder(OtherEncoder):
    """``torchaudio.models.Conformer`` after our subsampling of two convolutions, which here are torch's own."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        channels = sizes.channels
        self.subsample = ConvSubsampling(feature_dimension=sizes.features, channels=channels, dimension=sizes.dimension)
        self.subsample.first = nn.Conv2d(1, channels, kernel_size=3, stride=2, padding=1)  # type: ignore[assignment]
        self.subsample.second = nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1)  # type: ignore[assignment]
        self.conformer = torchaudio_conformer(sizes)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, S, D) and their lengths."""
        states_BSD, lengths_B = self.subsample(features_BTF, lengths_B)
        states_BSD, _ = self.conformer(states_BSD, lengths_B)
        return states_BSD, lengths_B


class TorchaudioRecipe(OtherEncoder):
    """The encoder of torchaudio's LibriSpeech recipe: four frames are one, a linear layer, its Conformer, which has no positions."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.project = nn.Linear(FACTOR * sizes.features, sizes.dimension)
        self.conformer = torchaudio_conformer(sizes)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, S, D) and their lengths, for S of whole groups of four frames alone."""
        whole, lengths_B = features_BTF.shape[1] // FACTOR * FACTOR, lengths_B // FACTOR
        states_BSD, _ = self.conformer(
            self.project(features_BTF[:, :whole].unflatten(1, (-1, FACTOR)).flatten(2)), lengths_B
        )
        return states_BSD, lengths_B


def torchaudio_conformer(sizes: Sizes) -> nn.Module:
    """torchaudio's Conformer, with its default normalisation over the batch."""
    conformer: nn.Module = torchaudio_part("models").Conformer(
        sizes.dimension, sizes.heads, sizes.width, sizes.layers, sizes.kernel, dropout=sizes.dropout
    )
    return conformer


class SpeechBrainEncoder(OtherEncoder):
    """SpeechBrain's Conformer with relative positions, after the convolutions of its small Conformer recipes (64 and 32 channels)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        convolution = importlib.import_module("speechbrain.lobes.models.convolution")
        conformer = importlib.import_module("speechbrain.lobes.models.transformer.Conformer")
        attention = importlib.import_module("speechbrain.nnet.attention")
        self.front = convolution.ConvolutionFrontEnd(
            input_shape=(8, 10, sizes.features), num_blocks=2, num_layers_per_block=1, out_channels=(64, 32),
            kernel_sizes=(3, 3), strides=(2, 2), residuals=(False, False),
        )  # fmt: skip
        self.project = nn.Linear(32 * -(-sizes.features // FACTOR), sizes.dimension)
        self.dropout = nn.Dropout(sizes.dropout)
        self.positions = attention.RelPosEncXL(sizes.dimension)
        self.conformer = conformer.ConformerEncoder(
            sizes.layers, sizes.dimension, sizes.width, sizes.heads, kernel_size=sizes.kernel, dropout=sizes.dropout
        )

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, S, D) and their lengths."""
        states_BSD = self.dropout(self.project(self.front(features_BTF).flatten(2)))
        lengths_B = ceil_divide(lengths_B, FACTOR)
        padding_BS = padding_mask(lengths_B, states_BSD.shape[1])
        states_BSD, _ = self.conformer(states_BSD, src_key_padding_mask=padding_BS, pos_embs=self.positions(states_BSD))
        return states_BSD, lengths_B


def has_speechbrain() -> bool:
    """Whether SpeechBrain is installed, which the project does not need."""
    return importlib.util.find_spec("speechbrain") is not None
