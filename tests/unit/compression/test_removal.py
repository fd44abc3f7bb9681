"""What is masked and what is removed compute the same; the smaller model is an ordinary one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asr.data.batch import Batch
from asr.foreign.files import ForeignError
from asr.models.conformer import Conformer
from asr.models.speech_model import SpeechModel
from asr.models.streaming import ConformerStream
from asr.models.transducer import Transducer
from asr.runs.checkpoint import AUXILIARIES, mean_of_auxiliaries
from asr.runs.model_folder import LoadedModel, load_model, save_model, write_weights
from compression.pruning.costs import full_sizes, parameters
from compression.pruning.low_rank import LowRank
from compression.pruning.masks import Masks, kept_of
from compression.pruning.removal import Kept, removed
from compression.pruning.sites import sites
from distributed.errors import UsageError
from scripts.composition.trained import _of_folder

Masked = Callable[..., Masks]
Loaded = Callable[..., LoadedModel]
CONFORMER = ["heads", "feed_forward", "channels", "module", "width", "local_width", "subsampling", "predictor", "joint"]
LSTM = ["cells", "predictor", "joint"]
CASES = [
    *(("conformer", [kind]) for kind in CONFORMER),
    *((kind, ["width", "local_width"]) for kind in ("conformer", "chunked")),
    *(("lstm", [kind]) for kind in LSTM),
    ("stateless", ["predictor"]),
    *(
        (kind, None)
        for kind in ("conformer", "chunked", "pruned loss", "lstm", "product", "stateless", "ctc", "acoustic")
    ),
]


def answers(model: SpeechModel, batch: Batch) -> list[Tensor]:
    """What a model computes: its states, its scores, its loss."""
    with torch.no_grad():
        total = model(batch).total
        if not hasattr(model, "encode"):
            return [model.logits(model.states(batch.features, batch.feature_lengths)), total]
        states, _ = model.encode(batch.features, batch.feature_lengths)
        if not isinstance(model, Transducer):
            return [model.ctc_head(states), total]
        predicted = model.joiner.project_predictor(model.predictor(batch.predictor_inputs))
        return [model.joiner.logits(model.joiner.project_encoder(states)[:, :, None], predicted[:, None]), total]


@pytest.mark.parametrize(("kind", "kinds"), CASES, ids=str)
def test_masked_and_removed_models_compute_the_same(
    kind: str, kinds: list[str] | None, loaded_model: Loaded, masked: Masked, make_batch: Callable[..., Batch]
) -> None:
    batch = make_batch([40, 33, 17], [4, 3, 1])
    loaded, names = loaded_model(kind), list(loaded_model(kind).model.state_dict())
    dense = answers(loaded.model, batch)
    masks = masked(loaded.model, kinds)
    ours = answers(loaded.model, batch)
    made = removed(loaded, masks.kept())
    theirs = answers(made.model, batch)
    assert list(loaded.model.state_dict()) == names, "masks are no part of the model"
    for one, other, whole in zip(ours, theirs, dense, strict=True):
        scale = max(1.0, float(one.abs().max()))
        assert float((one - other).abs().max()) / scale < 1e-5
        if one.dim() and one.shape == whole.shape:
            assert float((one - whole).abs().max()) > 1e-3, "masks change what the model computes"
    counted = sum(each.numel() for name, each in made.model.named_parameters() if not name.startswith("loss."))
    found = sites(loaded.model, kinds)
    sizes = {name: torch.tensor(float(len(each.indices))) for name, each in masks.kept().items()}
    cost = parameters(loaded.model, found, "model")
    assert float(cost(sizes)) == counted < float(cost(full_sizes(found)))
    assert {type(each) for each in made.model.modules()} <= {type(each) for each in loaded_model(kind).model.modules()}
    assert not any("mask" in repr(value) for each in made.model.modules() for value in vars(each).values())


def test_a_stream_of_the_masked_encoder_is_one_of_the_removed(loaded_model: Loaded, masked: Masked) -> None:
    loaded = loaded_model("chunked")
    masks = masked(loaded.model, None)
    made = removed(loaded, masks.kept())
    features = torch.randn(2, 45, 12)

    def streamed(model: Any) -> Tensor:
        assert isinstance(model.encoder, Conformer)
        stream = ConformerStream(model.encoder)
        with torch.no_grad():
            return torch.cat([stream.push(each) for each in features.split(stream.chunk_frames, dim=1)], dim=1)

    ours, theirs = streamed(loaded.model), streamed(made.model)
    width = masks.kept()["encoder.width"].indices
    torch.testing.assert_close(ours[..., width], theirs, atol=1e-5, rtol=0)
    whole, _ = made.model.encode(features, torch.tensor([45, 45]))
    torch.testing.assert_close(theirs, whole, atol=1e-5, rtol=0)


def test_modules_without_any_unit_are_absent(
    loaded_model: Loaded, masked: Masked, make_batch: Callable[..., Batch]
) -> None:
    loaded, batch = loaded_model("conformer"), make_batch([40, 33], [4, 3])
    masks = masked(loaded.model, ["heads", "feed_forward", "channels", "module"])
    empty = ["encoder.blocks.0.attention", "encoder.blocks.0.feed_forward_out", "encoder.blocks.1.convolution.channels"]
    z = {site.name: torch.rand(site.size) * (site.name not in empty) for site in masks.sites}
    z["encoder.blocks.0.convolution"] = torch.zeros(1)
    made = removed(loaded, {name: Kept.of(each) for name, each in z.items()})
    first, second = made.model.encoder.blocks
    assert first.attention is first.feed_forward_out is first.convolution is second.convolution is None
    assert second.attention is not None
    masks.value = z.__getitem__
    for one, other in zip(answers(loaded.model, batch), answers(made.model, batch), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_it_is_a_folder_of_its_own_that_can_be_pruned_again(
    loaded_model: Loaded, masked: Masked, make_batch: Callable[..., Batch], tmp_path: Path
) -> None:
    loaded, batch = loaded_model("conformer"), make_batch([40, 33], [4, 3])
    save_model(loaded, tmp_path / "whole")
    made = removed(loaded, masked(loaded.model).kept())
    save_model(made, tmp_path / "small")
    bytes_of = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("small", "whole")]
    assert bytes_of[0] < 0.8 * bytes_of[1]
    read = load_model(tmp_path / "small")
    for one, other in zip(answers(read.model, batch), answers(made.model, batch), strict=True):
        torch.testing.assert_close(one, other)
    assert read.description.model["encoder"]["position_dimension"] == 16
    assert made.auxiliaries() == {}
    masks = masked(made.model)
    again = removed(made, masks.kept())
    for one, other in zip(answers(made.model, batch), answers(again.model, batch), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_units_are_given_by_their_indices_too(loaded_model: Loaded) -> None:
    made = removed(loaded_model("lstm"), {"encoder.layers.0.left_to_right": Kept.unchanged([5, 0, 2])})
    whole = loaded_model("lstm").model.state_dict()
    small = made.model.state_dict()
    cells = torch.tensor([0, 2, 5])
    rows = torch.cat([cells + 8 * gate for gate in range(4)])
    name = "encoder.layers.0.left_to_right.weight_hh_l0"
    assert torch.equal(small[name], whole[name][rows][:, cells])
    read = torch.cat([cells, torch.arange(8, 16)])
    name = "encoder.layers.1.right_to_left.weight_ih_l0"
    assert torch.equal(small[name], whole[name][:, read])
    assert made.description.model["encoder"]["hidden"] == [[3, 8], [8, 8], [8, 8]]


def test_what_cannot_be_removed_is_refused(loaded_model: Loaded, quantized: Callable[..., Any]) -> None:
    loaded = loaded_model("lstm")
    with pytest.raises(UsageError, match=r"^encoder\.layers\.0\.left_to_right: nothing is kept of its 8 units"):
        removed(loaded, {"encoder.layers.0.left_to_right": Kept.unchanged([])})
    with pytest.raises(UsageError, match=r"^the model has no encoder\.width; it has encoder\.layers"):
        removed(loaded, {"encoder.width": Kept.unchanged([1])})
    with pytest.raises(UsageError, match=r"^kinds: this model has no heads, width; it has cells, joint, predictor$"):
        sites(loaded.model, ["width", "cells", "heads"])
    factors = LowRank(ranks={"encoder.layers.0.left_to_right": 2, "joiner.project_encoder": 2})
    with pytest.raises(
        UsageError,
        match=r"^the model has factors of low rank in place of encoder\.layers\.0\.left_to_right, .*; prune the ",
    ):
        sites(factors(loaded_model("lstm").model))
    factors = LowRank(ranks={"encoder.blocks.1.attention.query_key_value": 2})
    with pytest.raises(
        UsageError, match=r"^the model has factors of low rank in place of encoder\.blocks\.1\.attention"
    ):
        sites(factors(loaded_model("conformer").model))
    with pytest.raises(
        UsageError, match=r"^the model is quantised already .*; prune the model that it was made of and "
    ):
        sites(quantized(loaded_model("lstm").model))
    with pytest.raises(UsageError, match=r"^there are no masks beside this model"):
        kept_of({}, None, loaded.model)


def test_removal_counts_in_multiples_but_for_heads(loaded_model: Loaded, masked: Masked) -> None:
    loaded = loaded_model("conformer")
    masks = masked(loaded.model)
    names = {f"auxiliary.pruning.masks.{name}": each for name, each in masks.state_dict().items()}
    as_trained = kept_of(names, None, loaded.model)
    for name, each in masks.kept().items():
        assert torch.equal(as_trained[name].indices, each.indices)
        assert torch.equal(as_trained[name].values, each.values)
    for name, each in kept_of(names, 8, loaded.model).items():
        if not name.endswith(("attention", "convolution")):
            assert len(each.indices) % 8 == 0
    assert any(len(each.indices) % 8 for name, each in as_trained.items() if not name.endswith("attention"))
    made = removed(loaded, kept_of(names, 8, loaded.model))
    assert all(isinstance(each, nn.Module) for each in made.model.modules())


def test_masks_of_another_model_or_damaged_ones_are_refused(loaded_model: Loaded, masked: Masked) -> None:
    loaded = loaded_model("lstm")
    names = {f"auxiliary.pruning.masks.{name}": each for name, each in masked(loaded.model).state_dict().items()}
    where = "auxiliary.pruning.masks.of.joiner"
    damaged = {
        "other size": {f"{where}.log_alpha": torch.zeros(7)},
        "no numbers": {f"{where}.log_alpha": torch.zeros(8, dtype=torch.int64)},
        "several": {f"{where}.least": torch.tensor([1, 2])},
        "too many": {f"{where}.least": torch.tensor(9)},
        "negative": {f"{where}.multiple_of": torch.tensor(-1)},
        "other site": {where.replace("joiner", "encoder/width") + ".log_alpha": torch.zeros(8)},
    }
    for change in damaged.values():
        with pytest.raises(
            UsageError, match=r"is no mask of this model .* has (8|no) units; restore auxiliary\.safetens"
        ):
            kept_of(names | change, None, loaded.model)
    for lost in ("least", "multiple_of"):
        with pytest.raises(UsageError, match=r"^auxiliary\.pruning\.masks\.of\.joiner\.log_alpha \(8,\) is no mask"):
            kept_of({name: each for name, each in names.items() if name != f"{where}.{lost}"}, None, loaded.model)


def test_a_mean_has_come_no_further_than_the_checkpoint_behind(tmp_path: Path) -> None:
    folders = [tmp_path / "new", tmp_path / "old"]
    for folder, value in zip(folders, (1, 0), strict=True):
        folder.mkdir()
        parts = {"auxiliary.x.log_alpha": torch.full((2,), float(value)), "auxiliary.x.reached": torch.tensor(value)}
        write_weights(folder / AUXILIARIES, parts)
    for order in (folders, folders[::-1]):
        mean = mean_of_auxiliaries(order)
        assert mean["auxiliary.x.log_alpha"].tolist() == [0.5, 0.5]
        assert int(mean["auxiliary.x.reached"]) == 0
    assert int(mean_of_auxiliaries(folders[:1])["auxiliary.x.reached"]) == 1
    assert mean_of_auxiliaries([*folders, tmp_path]) == {}


def test_what_trained_with_a_model_is_read_by_who_asks_for_it(loaded_model: Loaded, tmp_path: Path) -> None:
    loaded = loaded_model("lstm")
    save_model(loaded, tmp_path / "model")
    (tmp_path / "model" / AUXILIARIES).write_bytes(b"damaged")
    read = _of_folder(tmp_path / "model")
    with pytest.raises(ForeignError, match=AUXILIARIES):
        read.auxiliaries()
