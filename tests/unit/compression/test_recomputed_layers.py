"""Activation checkpointing: the same gradients to the last bit, with all that draws or measures in a layer; less is kept; what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from asr.data.batch import Batch
from asr.hooks.activation_checkpointing import ActivationCheckpointing
from asr.hooks.dropconnect import DropConnect
from asr.models.speech_model import SpeechModel
from asr.models.taps import Taps, layer_names
from distributed.errors import UsageError
from tests.unit.compression.conftest import SMALL


def gradients(model: SpeechModel, batch: Batch, seed: int = 3) -> dict[str, Tensor]:
    """Of the loss in training mode."""
    model.train()
    torch.manual_seed(seed)
    model(batch).total.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("every", [1, 2])
def test_gradients_are_the_same_to_the_last_bit(
    kind: str, every: int, small_model: Callable[..., SpeechModel], make_batch: Callable[..., Batch]
) -> None:
    batch = make_batch([40, 33], [4, 3])
    plain, other = small_model(kind), small_model(kind)
    ActivationCheckpointing(every=every).on_model(other)
    assert other.encoder.recomputed
    found = gradients(other, batch)
    assert_equal(found, gradients(plain, batch))
    changed = gradients(small_model(kind), batch, seed=4)
    drawn = any(not torch.equal(found[name], changed[name]) for name in found)
    assert drawn == (kind != "acoustic"), "all but this kind have dropout"


def test_gradients_under_autocast_are_the_same(
    small_model: Callable[..., SpeechModel], make_batch: Callable[..., Batch]
) -> None:
    batch, models = make_batch([40, 33], [4, 3]), [small_model("conformer") for _ in range(2)]
    ActivationCheckpointing(every=1).on_model(models[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert_equal(*(gradients(model, batch) for model in models))


def test_connections_that_are_dropped_are_dropped_again(
    small_model: Callable[..., SpeechModel], make_batch: Callable[..., Batch]
) -> None:
    batch, models = make_batch([40, 33], [4, 3]), [small_model("lstm") for _ in range(2)]
    for model in models:
        DropConnect(probability=0.3, modules=["encoder.*"]).on_model(model)
    ActivationCheckpointing(every=1).on_model(models[1])
    assert_equal(*(gradients(model, batch) for model in models))


def test_layers_of_few_bits_are_computed_again(
    small_model: Callable[..., SpeechModel], quantized: Any, make_batch: Callable[..., Batch]
) -> None:
    batch = make_batch([40, 33], [4, 3])
    models = [quantized(small_model("lstm")) for _ in range(2)]
    ActivationCheckpointing(every=1).on_model(models[1])
    assert_equal(*(gradients(model, batch) for model in models))


def test_what_is_tapped_has_its_gradient(
    small_model: Callable[..., SpeechModel], make_batch: Callable[..., Batch]
) -> None:
    """As distillation taps the layers."""
    batch, found = make_batch([40, 33], [4, 3]), []
    for hooks in ([], [ActivationCheckpointing(every=1)]):
        model = small_model("conformer").train()
        for each in hooks:
            each.on_model(model)
        taps = Taps(model, layer_names(model, model.encoder.layers))
        torch.manual_seed(3)
        total = model(batch).total
        (total + sum(output.square().sum() for output in taps.take().values())).backward()
        found.append({name: each.grad for name, each in model.named_parameters() if each.grad is not None})
    assert_equal(*found)


def test_the_inputs_of_layers_are_all_that_is_kept(small_model: Callable[..., SpeechModel]) -> None:
    encoder = small_model("conformer").train().encoder
    features, lengths = torch.randn(2, 80, 12), torch.tensor([80, 61])

    def kept() -> int:
        """Number of elements kept for backward, each storage once."""
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            held = encoder(features, lengths)
        del held
        return sum(storages.values())

    whole = kept()
    encoder.recomputed = frozenset([1])
    half = kept()
    encoder.recomputed = frozenset([0, 1])
    assert kept() < half < whole
    encoder.eval()
    with torch.no_grad():
        assert encoder(features, lengths)[0].grad_fn is None


def test_what_cannot_be_computed_again_is_refused(small_model: Callable[..., SpeechModel]) -> None:
    with pytest.raises(UsageError, match="every=3: the encoder has 2 layers; choose a number that is not above it"):
        ActivationCheckpointing(every=3).on_model(small_model("conformer"))
    with pytest.raises(UsageError, match="this model has no encoder"):
        ActivationCheckpointing(every=1).on_model(nn.Linear(1, 1))
