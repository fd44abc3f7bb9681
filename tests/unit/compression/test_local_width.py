"""Widths of single blocks: masks inside those of the width of all, blocks of their own entries after removal, and what both cost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.data.batch import Batch
from asr.models.conformer import ConformerBlock
from asr.models.speech_model import Recogniser, SpeechModel
from asr.runs.model_folder import LoadedModel, load_model, save_model
from compression.pruning.costs import Cost, Extent, counted_sites, full_sizes, operations, parameters
from compression.pruning.hard_concrete import deterministic, probability_kept
from compression.pruning.latency import Latency, measure
from compression.pruning.magnitude import MagnitudePruning
from compression.pruning.masks import Masks, kept_of
from compression.pruning.parts import Size, parts_of
from compression.pruning.removal import Kept, removed
from compression.pruning.sites import sites
from distributed.errors import UsageError

Masked = Callable[..., Masks]
Loaded = Callable[..., LoadedModel]
WIDTHS = ["width", "local_width"]
LOCAL = ["encoder.blocks.0.width", "encoder.blocks.1.width"]


def blocks_of(model: SpeechModel) -> list[ConformerBlock]:
    """The blocks of a Conformer."""
    assert isinstance(model, Recogniser)
    return [block for block in model.encoder.layers if isinstance(block, ConformerBlock)]


def states_of(model: SpeechModel, batch: Batch) -> Tensor:
    """The states of a batch in evaluation."""
    assert isinstance(model, Recogniser)
    with torch.no_grad():
        return model.encode(batch.features, batch.feature_lengths)[0]


def test_evaluation_keeps_entries_of_a_block_among_those_of_all(loaded_model: Loaded, masked: Masked) -> None:
    masks = masked(loaded_model("conformer").model, WIDTHS)
    kept = masks.kept()
    whole = kept["encoder.width"].indices
    assert len(whole) < 16
    for name in LOCAL:
        log_alpha = masks.mask(name).log_alpha.detach()
        inside = log_alpha[whole]
        expected = round(float(probability_kept(inside).sum()))
        assert set(kept[name].indices.tolist()) == set(whole[inside.argsort(descending=True)[:expected]].tolist())
        assert not torch.equal(kept[name].indices, deterministic(log_alpha, 2).nonzero().squeeze(1)), "alone it differs"
    with torch.no_grad():
        masks.mask("encoder.width").log_alpha[whole[0]] = -9.0
    assert all(whole[0] not in units.indices for units in masks.kept().values()), "a block follows what all keep"


def test_as_many_entries_are_expected_as_both_masks_keep_when_drawn(
    small_model: Callable[..., SpeechModel], masked: Masked
) -> None:
    model = small_model("conformer")
    masks = masked(model, WIDTHS)
    expected = {name: float(size.detach()) for name, size in masks.expected_sizes().items()}
    alone = float(probability_kept(masks.mask(LOCAL[0]).log_alpha.detach()).sum())
    assert expected[LOCAL[0]] < 0.9 * alone, "not those of its own mask"
    torch.manual_seed(0)
    model.train()
    numbers = torch.zeros(len(LOCAL))
    for _ in range(2000):
        masks.draw(model, None)
        both = [(masks.value(name) > 0) & (masks.value("encoder.width") > 0) for name in LOCAL]
        numbers += torch.tensor([float(each.sum()) for each in both]) / 2000
    assert numbers.tolist() == pytest.approx([expected[name] for name in LOCAL], rel=0.02)


def test_what_is_left_is_a_block_of_its_own_entries(
    loaded_model: Loaded, masked: Masked, make_batch: Callable[..., Batch], tmp_path: Path
) -> None:
    loaded, batch = loaded_model("conformer"), make_batch([40, 33], [4, 3])
    masks = masked(loaded.model, WIDTHS)
    kept, whole = masks.kept(), masks.kept()["encoder.width"].indices
    made = removed(loaded, kept)
    for index, block in enumerate(blocks_of(made.model)):
        entries = made.description.model["encoder"]["blocks"][index]["width"]
        assert torch.equal(whole[torch.tensor(entries)], kept[LOCAL[index]].indices), "numbered as what is left"
        assert block.width == len(entries) < len(block.norm.weight) == len(whole)
        assert block.attention is not None
        assert block.attention.query_key_value.weight.shape[1] == len(block.attention.output.weight) == block.width
    assert made.model.state_dict().keys() == loaded.model.state_dict().keys()
    save_model(loaded, tmp_path / "whole")
    save_model(made, tmp_path / "small")
    bytes_of = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "small")]
    saved = [sum(each.numel() for each in part.model.state_dict().values()) for part in (loaded, made)]
    assert bytes_of[0] - bytes_of[1] == pytest.approx(4 * (saved[0] - saved[1]), abs=500), "but for the file's head"
    encoder = [sum(each.numel() for each in part.model.encoder.parameters()) for part in (loaded, made)]
    assert encoder[1] < 0.8 * encoder[0]
    read = load_model(tmp_path / "small").model
    assert torch.equal(states_of(read, batch), states_of(made.model, batch))


def test_blocks_that_keep_all_that_there_is_are_ordinary_ones(loaded_model: Loaded) -> None:
    loaded = loaded_model("conformer")
    kept = {"encoder.width": Kept.unchanged([1, 5, 6, 7]), LOCAL[0]: Kept.unchanged([1, 5, 6, 7])}
    made = removed(loaded, kept | {LOCAL[1]: Kept.unchanged([0, 5, 6])})
    assert ["width" in each for each in made.description.model["encoder"]["blocks"]] == [False, True]
    assert [block.width for block in blocks_of(made.model)] == [4, 2], "entry 0 goes with that of all"
    assert made.description.model["encoder"]["blocks"][1]["width"] == [1, 2]
    with pytest.raises(UsageError, match=r"^encoder\.blocks\.1\.width: nothing is kept of its 16 units; keep one"):
        removed(loaded, kept | {LOCAL[1]: Kept.unchanged([0, 4])})


def test_a_model_of_own_widths_is_pruned_again_but_for_the_width_of_all(
    loaded_model: Loaded, masked: Masked, make_batch: Callable[..., Batch]
) -> None:
    batch, first = make_batch([40, 33], [4, 3]), loaded_model("conformer")
    small = removed(first, masked(first.model, WIDTHS).kept())
    with pytest.raises(UsageError, match=r"^kinds: this model has no width; it has channels, .*local_width"):
        sites(small.model, ["width"])
    masks = masked(small.model)
    ours = states_of(small.model, batch)
    again = removed(small, masks.kept())
    torch.testing.assert_close(states_of(again.model, batch), ours, atol=1e-5, rtol=0)
    before, after = (made.description.model["encoder"]["blocks"] for made in (small, again))
    for index, name in enumerate(LOCAL):
        own = masks.kept()[name].indices
        assert after[index]["width"] == torch.tensor(before[index]["width"])[own].tolist()
        assert len(own) < len(before[index]["width"])
    plain = removed(small, {"encoder.blocks.0.feed_forward_in": Kept.unchanged([3, 4])})
    assert plain.description.model["encoder"]["blocks"][1]["width"] == before[1]["width"], "what is not pruned stays"


def test_what_blocks_and_their_entries_cost_is_the_papers_product(small_model: Callable[..., SpeechModel]) -> None:
    """The terms |z_hid-l| |z_head| and |z_hid-l| |z_ffn| of arXiv 2305.19549, section 2; the width of all is in neither."""
    model = small_model("conformer")
    found = sites(model)
    ones = {site.name: torch.tensor(1.0) for site in found}
    extent = Extent(40)
    costs: dict[str, Cost] = {
        "parameters": parameters(model, found, "encoder"),
        "flops": operations(model, found, "encoder", extent),
    }
    feed_forward, heads = "encoder.blocks.0.feed_forward_in", "encoder.blocks.0.attention"
    states, head_size = 10, 4

    def mixed(cost: Cost, one: str, other: str) -> float:
        """The coefficient of the product of two sizes."""

        def at(first: float, second: float) -> float:
            return float(cost(ones | {one: torch.tensor(first), other: torch.tensor(second)}))

        return at(2, 2) - at(2, 1) - at(1, 2) + at(1, 1)

    for objective, times in (("parameters", 1), ("flops", 2 * states)):
        cost = costs[objective]
        assert mixed(cost, LOCAL[0], feed_forward) == 2 * times
        assert mixed(cost, LOCAL[0], heads) == 4 * head_size * times
        assert mixed(cost, LOCAL[1], feed_forward) == mixed(cost, "encoder.width", feed_forward) == 0
        assert mixed(cost, "encoder.width", LOCAL[0]) == 0


def test_parts_that_are_timed_have_the_sizes_of_what_is_left(loaded_model: Loaded, masked: Masked) -> None:
    loaded = loaded_model("conformer")
    kept = masked(loaded.model, [*WIDTHS, "heads", "feed_forward"]).kept()
    assert isinstance(loaded.model, Recogniser)
    found = [site for site in sites(loaded.model) if site.name in kept]
    made = removed(loaded, kept).model
    assert isinstance(made, Recogniser)

    def size(part_size: Size) -> int:
        return part_size.constant + sum(len(kept[name].indices) for name, _ in part_size.sites)

    masked_parts = [(each.kind, tuple(map(size, each.sizes))) for each in parts_of(loaded.model.encoder, found)]
    left = [(each.kind, tuple(one.full for one in each.sizes)) for each in parts_of(made.encoder, [])]
    assert masked_parts == left
    assert [kind for kind, _ in left].count("local_width") == len(LOCAL)


def test_one_table_is_for_masks_with_and_without_widths_of_blocks(small_model: Callable[..., SpeechModel]) -> None:
    model = small_model("conformer")
    assert isinstance(model, Recogniser)
    tables = measure(model.encoder, sites(model), Extent(40), rounds=1)
    alone, both = ({site.name: site for site in sites(model, kinds)} for kinds in (["width"], WIDTHS))
    costs = [Latency(parts_of(model.encoder, list(each.values())), tables) for each in (alone, both)]
    full = full_sizes(list(both.values()))
    exchange = float(tables["local_width"].milliseconds[-1, -1])
    assert float(costs[1](full)) == pytest.approx(float(costs[0](full)) + len(LOCAL) * exchange)
    narrow = full | dict.fromkeys(LOCAL, torch.tensor(2.0))
    assert 0 < float(costs[1](narrow)) <= float(costs[1](full))
    with pytest.raises(UsageError, match=r"^the latency table has no local_width, this model one of 16 x 16: "):
        Latency(parts_of(model.encoder, list(both.values())), {k: t for k, t in tables.items() if k != "local_width"})


def test_it_is_pruned_where_it_is_named_and_where_it_means_something(loaded_model: Loaded) -> None:
    conformer, lstm = loaded_model("conformer"), loaded_model("lstm")
    assert {site.kind for site in counted_sites(conformer.model, None, "encoder")} >= {"width", "heads"}
    assert not [site for site in counted_sites(conformer.model, None, "encoder") if site.kind == "local_width"]
    assert [site.name for site in counted_sites(conformer.model, ["local_width"], "encoder")] == LOCAL
    with pytest.raises(UsageError, match=r"^kinds: this model has no local_width; it has cells, joint, predictor$"):
        counted_sites(lstm.model, ["local_width"], "encoder")


def test_magnitudes_choose_entries_of_blocks_or_of_all(loaded_model: Loaded, make_batch: Callable[..., Batch]) -> None:
    def pruned(*kinds: str) -> Any:
        settings: dict[str, Any] = {"scope": "encoder", "across": "sites", "minimum": 0.1, "multiple_of": 1}
        pass_ = MagnitudePruning(sparsity=0.2, kinds=list(kinds), **settings)
        return pass_(loaded_model("conformer"), lambda *_: iter(()))

    made = pruned("local_width").model
    assert [block.width for block in blocks_of(made)] != [16, 16]
    assert made.encoder.dimension == 16
    assert bool(states_of(made, make_batch([40, 33], [4, 3])).isfinite().all())
    with pytest.raises(
        UsageError,
        match=r"^pass\.kinds=\[feed_forward,width,local_width\]: .*; leave width or local_width out, or let masks learn",
    ):
        pruned("feed_forward", *WIDTHS)


def test_masks_of_widths_are_read_from_a_checkpoint_as_training_evaluated_them(
    loaded_model: Loaded, masked: Masked
) -> None:
    loaded = loaded_model("conformer")
    masks = masked(loaded.model, WIDTHS)
    names = {f"auxiliary.pruning.masks.{name}": each for name, each in masks.state_dict().items()}
    found = kept_of(dict(reversed(names.items())), None, loaded.model)  # also where a block's comes first
    for name, units in masks.kept().items():
        assert torch.equal(found[name].indices, units.indices)
        assert torch.equal(found[name].values, units.values)
    for name, units in kept_of(names, 4, loaded.model).items():
        assert len(units.indices) % 4 == 0, name
    more = kept_of(names, None, loaded.model, shift=1.0)
    assert all(len(more[name].indices) > len(units.indices) for name, units in masks.kept().items())
    assert all(set(more[name].indices.tolist()) <= set(more["encoder.width"].indices.tolist()) for name in LOCAL)
