"""The pass prune with a sparsity: what is removed meets a cost that the masks have missed, and units have the values of training."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.runs.model_folder import LoadedModel
from compression.pruning.costs import Cost, Extent, full_sizes
from compression.pruning.hard_concrete import BETA, SOFTNESS
from compression.pruning.masks import Masks, kept_of
from compression.pruning.objectives import Counted, Objective
from compression.pruning.prune import Prune
from distributed.errors import UsageError

Masked = Callable[..., Masks]
Loaded = Callable[..., LoadedModel]


def beside(masks: Masks) -> dict[str, Tensor]:
    """The masks' tensors as a checkpoint has them."""
    return {f"auxiliary.pruning.masks.{name}": each for name, each in masks.state_dict().items()}


def pruned(loaded: LoadedModel, masks: Masks, **settings: Any) -> LoadedModel:
    """What the pass makes of a model with masks beside it."""
    named = beside(masks)
    chosen = {
        "multiple_of": None,
        "sparsity": None,
        "objective": "parameters",
        "scope": "encoder",
        "latency": None,
        "frames": 200,
    }
    return Prune(**(chosen | settings))(replace(loaded, auxiliaries=lambda: named), lambda *_: iter(()))


@pytest.mark.parametrize("kind", ["conformer", "lstm"])
@pytest.mark.parametrize("objective", ["parameters", "flops"])
def test_what_is_removed_meets_a_sparsity_that_the_masks_have_missed(
    kind: str, objective: Objective, loaded_model: Loaded, masked: Masked, caplog: pytest.LogCaptureFixture
) -> None:
    """By one number that is added to all log-odds; a little more would keep too much."""
    caplog.set_level("INFO")
    loaded = loaded_model(kind)
    chosen = ["heads", "feed_forward", "channels", "width", "local_width"] if kind == "conformer" else ["cells"]
    masks = masked(loaded.model, chosen)
    names = beside(masks)
    counted = Counted(objective, "encoder", None, Extent(200), "")
    cost = counted.cost(loaded.model, masks.sites)
    full = float(cost(full_sizes(masks.sites)))
    for sparsity in (0.2, 0.4, 0.6):
        made = pruned(loaded, masks, sparsity=sparsity, objective=objective)
        (shift,) = re.findall(r"log-odds with (-?\d+\.\d+) more", caplog.text)
        caplog.clear()
        left = float(counted.cost(made.model, [])({}))
        assert left <= (1 - sparsity) * full
        assert left == pytest.approx(cost_at(cost, names, loaded, float(shift) - 1e-5))
        assert cost_at(cost, names, loaded, float(shift) + 0.02) > (1 - sparsity) * full
        for name, each in kept_of(names, None, loaded.model, float(shift)).items():
            trained = masks.mask(name).log_alpha.detach().mul(SOFTNESS / BETA).sigmoid()
            torch.testing.assert_close(each.values, trained[each.indices])  # as training evaluated them


def cost_at(cost: Cost, names: dict[str, Tensor], loaded: LoadedModel, shift: float) -> float:
    kept = kept_of(names, None, loaded.model, shift)
    return float(cost({name: torch.tensor(float(len(each.indices))) for name, each in kept.items()}))


def test_a_sparsity_beyond_what_masks_may_drop_is_refused(loaded_model: Loaded, masked: Masked) -> None:
    loaded = loaded_model("conformer")
    with pytest.raises(
        UsageError, match=r"^pass=prune: pass\.sparsity=0\.9: the units that the masks keep in any case"
    ):
        pruned(loaded, masked(loaded.model, ["heads"]), sparsity=0.9)
    with pytest.raises(UsageError, match=r"^pass=prune: there are masks of joint, predictor, which cost nothing with"):
        pruned(loaded, masked(loaded.model), sparsity=0.5)
    with pytest.raises(UsageError, match=r"^pass\.objective=flops, pass\.scope=encoder: nothing reads them without"):
        pruned(loaded, masked(loaded.model), objective="flops")
    with pytest.raises(UsageError, match=r"^pass\.objective=milliseconds counts the encoder and needs"):
        pruned(loaded, masked(loaded.model), sparsity=0.5, objective="milliseconds")
