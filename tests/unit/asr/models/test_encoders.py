"""Encoders: lengths, independence of padding and of batch mates, precision."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.models.block_sizes import head_size
from asr.models.conformer import Conformer, DepthwiseConv
from asr.models.encoder import Encoder
from asr.models.lstm import BidirectionalLstm, reversal

FEATURES = 10
UNEQUAL = [
    {"feed_forward_in": 5, "heads": 0, "channels": 9, "feed_forward_out": 20},
    {"feed_forward_in": 0, "heads": 3, "channels": 0, "feed_forward_out": 7},
]


def conformer(chunk: int | None, left_chunks: int, blocks: list[dict[str, int]] | None = None) -> Conformer:
    return Conformer(
        feature_dimension=FEATURES,
        layers=2,
        dimension=16,
        heads=2,
        head_dimension=None,
        expansion=2,
        blocks=blocks,
        position_dimension=None,
        kernel=7,
        chunk=chunk,
        left_chunks=left_chunks,
        subsampling_channels=3,
        dropout=0.2,
    )


MAKERS: dict[str, Callable[[], Encoder]] = {
    "conformer": lambda: conformer(None, 0),
    "lstm": lambda: BidirectionalLstm(feature_dimension=FEATURES, stack=3, layers=2, hidden=8, dropout=0.2),
    "chunked": lambda: conformer(2, 1),
    "unequal blocks": lambda: conformer(None, 0, UNEQUAL),
    "unequal layers": lambda: BidirectionalLstm(
        feature_dimension=FEATURES, stack=3, layers=3, hidden=[(5, 7), (3, 2), (4, 6)], dropout=0.2
    ),
}
every_encoder = pytest.mark.parametrize("name", MAKERS)


def make(name: str) -> Encoder:
    torch.manual_seed(0)
    encoder = MAKERS[name]().double().eval()
    for parameter in encoder.parameters():  # biases too, so that padding cannot pass for zeros
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


@every_encoder
@given(frames=st.lists(st.integers(1, 40), min_size=1, max_size=4), extra=st.integers(0, 9), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_states_do_not_depend_on_padding_or_batch_mates(name: str, frames: list[int], extra: int, seed: int) -> None:
    encoder = make(name)
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(frames)
    garbage = torch.full((len(frames), max(frames) + extra, FEATURES), math.nan, dtype=torch.float64)
    utterances = [torch.randn(count, FEATURES, generator=generator, dtype=torch.float64) for count in frames]
    for row, utterance in enumerate(utterances):
        garbage[row, : len(utterance)] = utterance
    states, state_lengths = encoder(garbage, lengths)
    assert states.shape == (len(frames), -(-garbage.shape[1] // encoder.subsampling), encoder.dimension)
    for row, utterance in enumerate(utterances):
        alone, alone_length = encoder(utterance[None], lengths[row : row + 1])
        count = -(-frames[row] // encoder.subsampling)
        assert alone.shape[1] == alone_length.item() == state_lengths[row].item() == count
        torch.testing.assert_close(states[row, :count], alone[0], rtol=1e-10, atol=1e-10)
        assert (states[row, count:] == 0).all()


@every_encoder
def test_padding_gets_no_gradient(name: str) -> None:
    encoder = make(name)
    features = torch.randn(2, 20, FEATURES, dtype=torch.float64, requires_grad=True)
    states, _ = encoder(features, torch.tensor([20, 9]))
    (gradient,) = torch.autograd.grad(states.square().sum(), features)
    assert (gradient[1, 9:] == 0).all()
    assert (gradient[1, :9] != 0).any(dim=1).all()


@pytest.mark.parametrize("name", ["conformer", "lstm"])
def test_every_state_sees_the_whole_utterance(name: str) -> None:
    encoder = make(name)
    features = torch.randn(1, 24, FEATURES, dtype=torch.float64, requires_grad=True)
    states, _ = encoder(features, torch.tensor([24]))
    for state in (0, states.shape[1] - 1):
        (gradient,) = torch.autograd.grad(states[0, state].sum(), features, retain_graph=True)
        assert (gradient[0] != 0).any(dim=1).all()


@every_encoder
def test_dropout_works_in_training_only(name: str) -> None:
    encoder = make(name)
    features, lengths = torch.randn(1, 30, FEATURES, dtype=torch.float64), torch.tensor([30])
    assert torch.equal(encoder(features, lengths)[0], encoder(features, lengths)[0])
    encoder.train()
    assert not torch.equal(encoder(features, lengths)[0], encoder(features, lengths)[0])


def test_reversal_mirrors_each_utterance_and_is_its_own_inverse() -> None:
    order = reversal(torch.tensor([3, 1, 4]), 4)
    assert order.tolist() == [2, 1, 0, 3, 4, 5, 6, 7, 11, 10, 9, 8]
    assert order[order].tolist() == list(range(12))


def test_depthwise_convolution_is_conv1d() -> None:
    module = DepthwiseConv(dimension=6, kernel=5, causal=False).double()
    x_BTD = torch.randn(2, 9, 6, dtype=torch.float64)
    expected = torch.nn.functional.conv1d(
        x_BTD.transpose(1, 2), module.weight_DK.unsqueeze(1), module.bias_D, padding=2, groups=6
    )
    torch.testing.assert_close(module(x_BTD), expected.transpose(1, 2))


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.encoder\.kernel must be odd.* got 4"):
        DepthwiseConv(dimension=6, kernel=4, causal=False)
    with pytest.raises(ValueError, match=r"model\.encoder\.heads must divide.* = 6, got 4"):
        head_size(6, 4, None)
