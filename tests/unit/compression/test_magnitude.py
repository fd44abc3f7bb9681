"""Structured magnitude pruning: which units go, how many, and that what is left computes what it computed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from asr.models.speech_model import SpeechModel
from asr.parts import build, plain
from asr.runs.model_folder import Description, LoadedModel
from compression.pruning.costs import parameters
from compression.pruning.magnitude import MagnitudePruning, in_order, left, magnitudes
from compression.pruning.sites import sites
from distributed.errors import UsageError
from scripts.composition.compose import compose
from tests.unit.compression.conftest import SIZES, SMALL

Make = Callable[..., Any]
DEFAULTS: dict[str, Any] = {
    "sparsity": 0.5, "scope": "encoder", "kinds": None, "across": "sites", "minimum": 0.1, "multiple_of": 1
}  # fmt: skip


def loaded(kind: str, model: SpeechModel) -> LoadedModel:
    tokenizer: Any = None
    node = plain(compose("train", SMALL[kind]).model) | SIZES
    return LoadedModel(model, None, tokenizer, Description(model=node, features=None, tokenizer=""), {})


def pruned(kind: str, model: SpeechModel, **settings: Any) -> SpeechModel:
    return MagnitudePruning(**DEFAULTS | settings)(loaded(kind, model), lambda split: []).model


def count(model: SpeechModel) -> int:
    return sum(each.numel() for each in model.encoder.parameters())


def test_a_units_magnitude_is_that_of_the_weights_that_go_with_it(small_model: Make) -> None:
    model = small_model("conformer")
    found = {site.name: site for site in sites(model)}
    state = model.state_dict()
    name = "encoder.blocks.1.feed_forward_in"
    own = torch.cat([state[f"{name}.expand.weight"][3], state[f"{name}.contract.weight"][:, 3]])
    score = magnitudes(state, found[name])[3]
    torch.testing.assert_close(score.float(), own.square().mean().sqrt())
    lstm = small_model("lstm")
    state = lstm.state_dict()
    name = "encoder.layers.0.right_to_left"
    rows = [gate * 8 + 5 for gate in range(4)]
    readers = [f"encoder.layers.1.{way}.weight_ih_l0" for way in ("left_to_right", "right_to_left")]
    own = torch.cat(
        [state[f"{name}.weight_ih_l0"][rows].flatten(), state[f"{name}.weight_hh_l0"][rows].flatten()]
        + [state[f"{name}.weight_hh_l0"][:, 5]]
        + [state[reader][:, 8 + 5] for reader in readers]
    )
    (site,) = [site for site in sites(lstm) if site.name == name]
    torch.testing.assert_close(magnitudes(state, site)[5].float(), own.square().mean().sqrt())


@pytest.mark.parametrize(
    ("kind", "sparsity", "across"),
    [
        ("conformer", 0.2, "sites"),
        ("conformer", 0.7, "sites"),
        ("conformer", 0.5, "model"),
        ("lstm", 0.5, "sites"),
        ("lstm", 0.7, "model"),
    ],
)
def test_as_many_units_go_as_the_target_asks_for_and_no_more(
    kind: str, sparsity: float, across: str, small_model: Make
) -> None:
    model = small_model(kind)
    found = [site for site in sites(model) if site.name.startswith("encoder.")]
    cost, before = parameters(model, found, "encoder"), count(model)
    sizes = {site.name: torch.tensor(float(site.size)) for site in found}
    largest = max(before - float(cost(sizes | {site.name: sizes[site.name] - 1})) for site in found)
    goal = (1 - sparsity) * before
    after = count(pruned(kind, model, sparsity=sparsity, across=across, minimum=0))
    assert goal - largest <= after <= goal


def test_across_sites_every_site_keeps_the_same_fraction(small_model: Make) -> None:
    model = small_model("lstm")
    small = pruned("lstm", model)
    kept = [
        getattr(layer, way).hidden_size for layer in small.encoder.layers for way in ("left_to_right", "right_to_left")
    ]
    assert max(kept) - min(kept) <= 1
    assert max(kept) < 8


@pytest.mark.parametrize("across", ["sites", "model"])
def test_units_of_no_weight_go_first_and_nothing_changes(across: str, small_model: Make, make_batch: Make) -> None:
    model, batch = small_model("conformer"), make_batch([40, 33], [4, 3])
    useless = range(1, 64, 2)
    with torch.no_grad():
        for block in model.encoder.blocks:
            for part in (block.feed_forward_in, block.feed_forward_out):
                part.expand.weight[useless], part.contract.weight[:, useless] = 0, 0
    before, size = model(batch).total, count(model)
    own = 4 * len(useless) * (2 * 16 + 1)
    small = pruned("conformer", model, kinds=["feed_forward"], across=across, sparsity=own / size)
    assert count(small) == size - own
    assert [block.feed_forward_in.expand.out_features for block in small.encoder.blocks] == [32, 32]
    torch.testing.assert_close(small(batch).total, before, rtol=1e-6, atol=1e-6)


def test_smaller_units_of_a_site_go_before_larger_ones(small_model: Make) -> None:
    found = sites(small_model("conformer"), ["heads", "channels"])
    scores = {site.name: torch.randperm(site.size).double() for site in found}
    least = {site.name: 1 for site in found}
    for across in ("sites", "model"):
        order = in_order(found, scores, least, across)
        assert len(order) == sum(site.size - 1 for site in found)
        for site in found:
            gone = [scores[site.name][each.unit] for each in order if each.site == site.name]
            assert gone == sorted(gone)
        kept = left(found, order, 1)
        assert all(scores[name][units[0]] == len(scores[name]) - 1 for name, units in kept.items())


def test_numbers_of_units_are_multiples_save_those_of_heads(small_model: Make) -> None:
    small = pruned("conformer", small_model("conformer"), multiple_of=4, sparsity=0.4)
    sizes = [small.encoder.dimension] + [
        each.out_features for block in small.encoder.blocks for each in (block.feed_forward_in.expand, block.feed_forward_out.expand)
    ]  # fmt: skip
    assert all(size % 4 == 0 for size in sizes)
    assert sizes[0] < 16


def test_a_target_that_cannot_be_met_is_refused(small_model: Make, lm_config: Make) -> None:
    with pytest.raises(UsageError, match=r"^pass\.sparsity asks for at most .* are left at least; lower it, "):
        pruned("conformer", small_model("conformer"), kinds=["heads"], sparsity=0.9)
    changed = loaded("lstm", small_model("lstm"))
    node = {"_target_": "compression.pruning.low_rank.LowRank", "ranks": {}}
    changed = replace(changed, description=replace(changed.description, transforms=[node]))
    with pytest.raises(
        UsageError, match=r"^the model was changed by compression\.pruning\.low_rank\.LowRank: prune the"
    ):
        MagnitudePruning(**DEFAULTS)(changed, lambda split: [])
    with pytest.raises(
        UsageError, match=r"^kinds: joint, predictor cost nothing with scope=encoder; leave them out, or "
    ):
        pruned("lstm", small_model("lstm"), kinds=["cells", "joint", "predictor"])
    texts = loaded("lstm", build(lm_config().model, vocabulary_size=11))
    for scope in ("encoder", "model"):
        with pytest.raises(UsageError, match=r"^this model has nothing that can be pruned$"):
            MagnitudePruning(**DEFAULTS | {"scope": scope})(texts, lambda split: [])
    with pytest.raises(UsageError, match=r"^kinds: this model has no heads; it has cells, "):
        pruned("lstm", small_model("lstm"), kinds=["heads"])
