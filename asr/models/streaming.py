"""A chunk-wise causal Conformer run while somebody speaks: states come out chunk by chunk, the same as offline.

    stream = ConformerStream(encoder)
    for features_BTF in chunks:                 # stream.chunk_frames frames each, fewer only at the end
        states_BSD = stream.push(features_BTF)

Only the keys and values of the chunks that attention still sees are computed again. The subsampling reads no frame
beyond its chunk, so that a state is available as soon as its chunk has been spoken.

B streams of equal length   T feature frames   F feature dimension   S = ceil(T / 4) states   D dimension
"""

import torch
from torch import Tensor

from asr.models.attention import relative_table
from asr.models.conformer import Conformer, Memory
from asr.models.encoder import Encoder
from asr.models.subsampling import FACTOR
from distributed.errors import UsageError


def chunked(encoder: Encoder) -> Conformer:
    """The encoder, if it can be run chunk by chunk.

    Raises:
        UsageError: it needs whole utterances.
    """
    if not isinstance(encoder, Conformer):
        raise UsageError(
            f"model.encoder: a {type(encoder).__name__} reads utterances from both ends, a stream has one; train a Conformer "
            "with model.encoder.chunk=16 features.normalise=none"
        )
    if encoder.chunk is None:
        raise UsageError(
            "model.encoder.chunk=null: this Conformer sees whole utterances, a stream needs chunks; train with "
            "model.encoder.chunk=16 features.normalise=none"
        )
    return encoder


class ConformerStream:
    """One utterance per row, from its start to its end; a new utterance is a new stream. The encoder is in eval mode."""

    def __init__(self, encoder: Conformer) -> None:
        if encoder.training:
            raise ValueError("a stream needs the encoder in evaluation mode: call encoder.eval() first")
        self.encoder = chunked(encoder)
        self.chunk_frames = FACTOR * (encoder.chunk or 0)
        self.memories = [Memory() for _ in encoder.blocks]
        self.past_BTF: Tensor | None = None  # the last FACTOR frames: what the first state of a chunk sees before it
        self.past_states = 0  # number of past states that attention still sees
        self.ended = False

    def push(self, features_BTF: Tensor) -> Tensor:
        """States (B, S, D) of the next chunk; one of fewer than ``chunk_frames`` frames ends the stream."""
        frames = features_BTF.shape[1]
        if self.ended or not 0 < frames <= self.chunk_frames:
            limit = "nothing follows a shorter chunk" if self.ended else f"from 1 to {self.chunk_frames} frames fit"
            raise ValueError(f"a chunk of {frames} frames cannot be pushed: {limit}")
        self.ended = frames < self.chunk_frames
        x_BSD = self._subsample(features_BTF)
        batch, states, _ = x_BSD.shape
        table_PR = relative_table(states, self.encoder.position_dimension, like=x_BSD, past=self.past_states)
        padding_BS = x_BSD.new_zeros(batch, states, dtype=torch.bool)
        hidden_B1N = x_BSD.new_zeros(batch, 1, self.past_states + states, dtype=torch.bool)
        for block, memory in zip(self.encoder.blocks, self.memories, strict=True):
            x_BSD = block(x_BSD, table_PR, padding_BS, hidden_B1N, memory)
        self.past_states = min(self.past_states + states, self.encoder.left_chunks * (self.encoder.chunk or 0))
        return x_BSD

    def _subsample(self, features_BTF: Tensor) -> Tensor:
        """Subsample the frames of the chunk; the frames before it only influence its first state."""
        before = 0 if self.past_BTF is None else 1
        if self.past_BTF is not None:
            features_BTF = torch.cat([self.past_BTF, features_BTF], dim=1)
        self.past_BTF = features_BTF[:, -FACTOR:]
        lengths_B = torch.full((len(features_BTF),), features_BTF.shape[1], device=features_BTF.device)
        x_BSD, _ = self.encoder.subsample(features_BTF, lengths_B)
        return x_BSD[:, before:]
