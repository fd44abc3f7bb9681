"""Relative attention against the equation of Transformer-XL, one pair of states at a time."""

import math

import pytest
import torch

from asr.models.attention import RelativeAttention, relative_table
from asr.models.relative_attention import relative_shift


def sinusoid(distance: int, dimension: int) -> torch.Tensor:
    """R_r of Dai et al. 2019: sines, then cosines, of one signed distance."""
    rates = [10000 ** (-2 * i / dimension) for i in range(dimension // 2)]
    values = [math.sin(distance * rate) for rate in rates] + [math.cos(distance * rate) for rate in rates]
    return torch.tensor(values, dtype=torch.float64)


def attention(
    dimension: int, heads: int, head_dimension: int, position_dimension: int | None = None
) -> RelativeAttention:
    return RelativeAttention(
        dimension=dimension, heads=heads, head_dimension=head_dimension,
        position_dimension=position_dimension or dimension, dropout=0.0,
    ).double()  # fmt: skip


def attend_pair_by_pair(module: RelativeAttention, x_TD: torch.Tensor) -> torch.Tensor:
    frames = len(x_TD)
    size = len(module.content_bias_D) // module.heads
    query_TD, key_TD, value_TD = module.query_key_value(x_TD).chunk(3, dim=-1)
    heads = []
    for head in range(module.heads):
        part = slice(head * size, (head + 1) * size)
        u, v = module.content_bias_D[part], module.position_bias_D[part]
        rows = []
        for i in range(frames):
            scores = []
            for j in range(frames):
                position = module.position.weight[part] @ sinusoid(i - j, module.position.in_features)
                query = query_TD[i, part]
                scores.append(((query + u) @ key_TD[j, part] + (query + v) @ position) / math.sqrt(size))
            rows.append(torch.stack(scores).softmax(0) @ value_TD[:, part])
        heads.append(torch.stack(rows))
    return module.output(torch.cat(heads, dim=-1))


@pytest.mark.parametrize("head_dimension", [4, 3])
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_equals_the_equation(frames: int, head_dimension: int) -> None:
    torch.manual_seed(0)
    module = attention(12, 3, head_dimension)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x_BTD = torch.randn(2, frames, 12, dtype=torch.float64)
    table = relative_table(frames, 12, like=x_BTD)
    hidden = torch.zeros(2, 1, frames, dtype=torch.bool)
    expected = torch.stack([attend_pair_by_pair(module, x_TD) for x_TD in x_BTD])
    torch.testing.assert_close(module(x_BTD, table, hidden), expected, rtol=1e-10, atol=1e-10)


def test_the_table_of_positions_may_be_wider_than_the_states() -> None:
    """As in a model whose width was reduced: the frequencies stay those of the table's own width."""
    torch.manual_seed(0)
    module = attention(6, 2, 4, position_dimension=10)
    x_BTD = torch.randn(2, 5, 6, dtype=torch.float64)
    expected = torch.stack([attend_pair_by_pair(module, x_TD) for x_TD in x_BTD])
    found = module(x_BTD, relative_table(5, 10, like=x_BTD), torch.zeros(2, 1, 5, dtype=torch.bool))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_shift_puts_each_distance_at_its_key(frames: int) -> None:
    distances = torch.arange(frames - 1, -frames - 1, -1)
    shifted = relative_shift(distances.expand(2, 3, frames, 2 * frames).contiguous())
    keys = torch.arange(frames)
    assert torch.equal(shifted[1, 2], keys.unsqueeze(1) - keys)


@pytest.mark.parametrize("past", [0, 1, 4])
@pytest.mark.parametrize("frames", [1, 3])
def test_queries_after_a_past_get_what_they_get_among_all(frames: int, past: int) -> None:
    torch.manual_seed(0)
    module = attention(8, 2, 4)
    x_BND = torch.randn(2, past + frames, 8, dtype=torch.float64)
    hidden = torch.zeros(2, 1, past + frames, dtype=torch.bool)
    everything = module(x_BND, relative_table(past + frames, 8, like=x_BND), hidden)
    last = module(x_BND, relative_table(frames, 8, like=x_BND, past=past), hidden)
    torch.testing.assert_close(last, everything[:, past:], rtol=1e-10, atol=1e-10)


def test_only_distances_count() -> None:
    torch.manual_seed(0)
    module = attention(8, 2, 4)
    x_BTD = torch.randn(1, 6, 8, dtype=torch.float64)
    alone = module(x_BTD, relative_table(6, 8, like=x_BTD), torch.zeros(1, 1, 6, dtype=torch.bool))
    later = torch.cat([torch.randn(1, 3, 8, dtype=torch.float64), x_BTD], dim=1)
    padding = torch.tensor([[[True] * 3 + [False] * 6]])
    moved = module(later, relative_table(9, 8, like=later), padding)
    torch.testing.assert_close(moved[:, 3:], alone, rtol=1e-10, atol=1e-10)
