"""A stream's states are those of the whole utterance under the same masks, and wait for nothing later."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.models.attention import hidden_keys
from asr.models.conformer import Conformer
from asr.models.streaming import ConformerStream

FEATURES = 7


UNEQUAL: list[dict[str, Any]] = [
    {"feed_forward_in": 5, "heads": 0, "channels": 9, "feed_forward_out": 20},
    {"feed_forward_in": 0, "heads": 3, "channels": 6, "feed_forward_out": 7},
    {"feed_forward_in": 4, "heads": 1, "channels": 0, "feed_forward_out": 0},
]
OWN_WIDTHS = [UNEQUAL[0] | {"width": [7]}, UNEQUAL[1] | {"width": [0, 2, 3]}, UNEQUAL[2]]


def make(chunk: int | None, left_chunks: int, kernel: int = 5, blocks: list[dict[str, Any]] | None = None) -> Conformer:
    torch.manual_seed(0)
    encoder = Conformer(
        feature_dimension=FEATURES,
        layers=3,
        dimension=8,
        heads=2,
        head_dimension=3,
        expansion=2,
        blocks=blocks,
        position_dimension=10,
        kernel=kernel,
        chunk=chunk,
        left_chunks=left_chunks,
        subsampling_channels=2,
        dropout=0.3,
    )
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return encoder.double().eval()


@settings(max_examples=40)
@given(
    frames=st.integers(1, 70),
    chunk=st.integers(1, 4),
    left_chunks=st.integers(0, 3),
    kernel=st.sampled_from([1, 3, 9]),
    blocks=st.sampled_from([None, UNEQUAL, OWN_WIDTHS]),
)
def test_streaming_equals_offline(
    frames: int, chunk: int, left_chunks: int, kernel: int, blocks: list[dict[str, Any]] | None
) -> None:
    encoder = make(chunk, left_chunks, kernel, blocks)
    features = torch.randn(2, frames, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(frames))
    offline, _ = encoder(features, torch.tensor([frames, frames]))
    stream = ConformerStream(encoder)
    pieces = [stream.push(piece) for piece in features.split(stream.chunk_frames, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), offline, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("chunk", "left_chunks"), [(1, 0), (2, 1), (3, 2)])
def test_a_state_sees_its_own_chunk_and_nothing_later(chunk: int, left_chunks: int) -> None:
    encoder, per_chunk = make(chunk, left_chunks), 4 * chunk
    features = torch.randn(1, 50, FEATURES, dtype=torch.float64, requires_grad=True)
    states, _ = encoder(features, torch.tensor([50]))
    for state in range(states.shape[1]):
        (gradient,) = torch.autograd.grad(states[0, state].sum(), features, retain_graph=True)
        start = state // chunk * per_chunk
        assert (gradient[0, start : start + per_chunk] != 0).any(dim=1).all()
        assert not gradient[0, start + per_chunk :].any()


def test_the_mask_of_chunks_and_padding() -> None:
    padding = torch.tensor([[False] * 5, [False, True, True, True, True]])
    seen = ~hidden_keys(padding, 2, 1)
    assert seen[0].int().tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]
    assert seen[1].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    assert torch.equal(hidden_keys(padding, None, 1), padding.unsqueeze(1))


def test_what_cannot_be_streamed() -> None:
    with pytest.raises(ValueError, match=r"^model\.encoder\.chunk=null: this Conformer sees whole utterances"):
        ConformerStream(make(None, 0))
    with pytest.raises(ValueError, match="evaluation mode"):
        ConformerStream(make(2, 1).train())
    stream = ConformerStream(make(2, 1))
    with pytest.raises(ValueError, match="a chunk of 9 frames cannot be pushed: from 1 to 8 frames fit"):
        stream.push(torch.zeros(1, 9, FEATURES, dtype=torch.float64))
    stream.push(torch.zeros(1, 3, FEATURES, dtype=torch.float64))
    with pytest.raises(ValueError, match="nothing follows a shorter chunk"):
        stream.push(torch.zeros(1, 8, FEATURES, dtype=torch.float64))
