"""Sizes per block and per layer: equal ones are the uniform model, a size of 0 leaves no weights, wrong ones are refused."""

from typing import Any

import pytest
import torch

from asr.models.conformer import Conformer
from asr.models.lstm import BidirectionalLstm
from distributed.errors import UsageError
from scripts.composition.compose import compose

EQUAL: dict[str, Any] = {"feed_forward_in": 24, "heads": 2, "channels": 12, "feed_forward_out": 24}
SETTINGS: dict[str, Any] = {
    "feature_dimension": 6, "layers": 2, "dimension": 12, "heads": 2, "head_dimension": None, "expansion": 2,
    "position_dimension": None, "kernel": 3, "chunk": None, "left_chunks": 0, "subsampling_channels": 2, "dropout": 0.1,
}  # fmt: skip


def conformer(**changes: Any) -> Conformer:
    torch.manual_seed(0)
    return Conformer(**SETTINGS | {"blocks": None} | changes).eval()


def test_blocks_of_equal_sizes_are_the_uniform_model() -> None:
    features, lengths = torch.randn(2, 20, 6), torch.tensor([20, 13])
    uniform, listed = conformer(), conformer(blocks=[EQUAL, EQUAL])
    assert {name: value.shape for name, value in uniform.state_dict().items()} == {
        name: value.shape for name, value in listed.state_dict().items()
    }
    assert torch.equal(uniform(features, lengths)[0], listed(features, lengths)[0])


@pytest.mark.parametrize(
    ("field", "module"),
    [
        ("feed_forward_in", "feed_forward_in."),
        ("heads", "attention"),
        ("channels", "convolution."),
        ("feed_forward_out", "feed_forward_out."),
    ],
)
def test_a_size_of_0_leaves_no_weights_and_adds_nothing(field: str, module: str) -> None:
    encoder = conformer(blocks=[EQUAL | {field: 0}, EQUAL])
    names = [name for name in encoder.state_dict() if name.startswith(f"blocks.0.{module}")]
    assert not names
    silent = conformer()
    silent.load_state_dict(encoder.state_dict(), strict=False)
    last = {
        "feed_forward_in": "feed_forward_in.contract", "heads": "attention.output", "channels": "convolution.pointwise_out",
        "feed_forward_out": "feed_forward_out.contract",
    }[field]  # fmt: skip
    for parameter in silent.blocks[0].get_submodule(last).parameters():
        torch.nn.init.zeros_(parameter)
    features, lengths = torch.randn(2, 20, 6), torch.tensor([20, 13])
    assert torch.equal(encoder(features, lengths)[0], silent(features, lengths)[0])


def test_a_block_without_any_module_normalises() -> None:
    encoder = conformer(layers=1, blocks=[dict.fromkeys(EQUAL, 0)])
    assert [name for name in encoder.state_dict() if name.startswith("blocks")] == [
        "blocks.0.norm.weight",
        "blocks.0.norm.bias",
    ]


def test_a_width_of_all_entries_is_the_whole_block() -> None:
    features, lengths = torch.randn(2, 20, 6), torch.tensor([20, 13])
    whole, listed = conformer(blocks=[EQUAL, EQUAL]), conformer(blocks=[EQUAL, EQUAL | {"width": list(range(12))}])
    assert list(listed.state_dict()) == list(whole.state_dict()), "entries are in the model's node, not in its weights"
    assert torch.equal(whole(features, lengths)[0], listed(features, lengths)[0])


def test_a_block_reads_and_changes_the_entries_of_its_width_alone() -> None:
    own, others = [0, 3, 4, 7, 11], [1, 2, 5, 6, 8, 9, 10]
    encoder = conformer(blocks=[EQUAL, EQUAL | {"width": own}])
    first, block = encoder.blocks
    assert isinstance(block.norm, torch.nn.LayerNorm)
    sizes = {name: each.shape for name, each in block.named_parameters()}
    assert sizes["attention.query_key_value.weight"] == (36, 5)
    assert sizes["feed_forward_out.contract.weight"] == (5, 24)
    assert sizes["norm.weight"] == (12,)
    assert sum(each.numel() for each in block.parameters()) < 0.6 * sum(each.numel() for each in first.parameters())
    seen: list[torch.Tensor] = []
    block.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    inputs = torch.zeros(1, 9, 12), torch.zeros(1, 9, dtype=torch.bool), torch.zeros(1, 1, 9, dtype=torch.bool)
    table = torch.zeros(18, 12)
    states = torch.randn(1, 9, 12)
    for changed in (states, states.index_fill(-1, torch.tensor(others), 3.0), states + inputs[0].index_fill(-1, torch.tensor(own), 1.0)):  # fmt: skip
        block(changed, table, *inputs[1:])
        assert torch.equal(seen[-1][..., others], changed[..., others])
    assert torch.equal(seen[1][..., own], seen[0][..., own]), "others are not read"
    assert not torch.equal(seen[2][..., own], seen[0][..., own])
    assert not torch.equal(seen[0][..., own], states[..., own])


def test_lstm_layers_of_equal_sizes_are_the_uniform_model() -> None:
    features, lengths = torch.randn(2, 9, 4), torch.tensor([9, 5])
    states = []
    for hidden in (5, [(5, 5), (5, 5)]):
        torch.manual_seed(0)
        encoder = BidirectionalLstm(feature_dimension=4, stack=2, layers=2, hidden=hidden, dropout=0.0)
        states.append(encoder(features, lengths)[0])
    assert torch.equal(*states)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": [EQUAL]}, r"model\.encoder\.blocks has 1 entries and model\.encoder\.layers=2"),
        ({"blocks": [EQUAL, {"heads": 1}]}, r"blocks\[1\] has heads; it must have feed_forward_in, heads, channels"),
        ({"blocks": [EQUAL, EQUAL | {"wide": 3}]}, r"wide; it must .*module, and may have width"),
        ({"blocks": [EQUAL, EQUAL | {"heads": [2]}]}, r"blocks\[1\]\.heads=\[2\]: must be a whole number; only width"),
        *(
            (
                {"blocks": [EQUAL | {"width": wrong}, EQUAL]},
                r"blocks\[0\]\.width=.*: must be a list .*, from 0 to 11 .*; leave",
            )
            for wrong in ([], [3, 3], [4, 2], [0, 12], [-1, 2], 5)
        ),
        (
            {"dimension": 7, "head_dimension": 3},
            r"dimension must be even .*, got 7, or set model\.encoder\.position_dimension",
        ),
        ({"position_dimension": 9}, r"position_dimension must be even .*, got 9"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conformer(**changes)


def test_a_list_of_cells_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.encoder\.hidden has 1 entries and model\.encoder\.layers=2"):
        BidirectionalLstm(feature_dimension=4, stack=1, layers=2, hidden=[(3, 3)], dropout=0.0)


@pytest.mark.parametrize(
    "override",
    [
        "model.encoder.blocks=[{heads: -1}]",
        "model.encoder.blocks=[3]",
        "model.encoder.blocks=[{width: [0.5]}]",
        "model.encoder.position_dimension=0",
    ],
)
def test_wrong_values_are_refused_before_anything_is_built(override: str) -> None:
    with pytest.raises(UsageError, match=override.partition("=")[0].replace(".", r"\.")):
        compose("train", ["model=conformer_tiny", override])


def test_cells_may_be_given_per_layer() -> None:
    config = compose("train", ["model=lstm_tiny", "model.encoder.hidden=[[8,6],[4,2]]"])
    assert config.model.encoder.hidden == [[8, 6], [4, 2]]
    with pytest.raises(UsageError, match=r"model\.encoder\.hidden=\[\[8\]\]"):
        compose("train", ["model=lstm_tiny", "model.encoder.hidden=[[8]]"])
