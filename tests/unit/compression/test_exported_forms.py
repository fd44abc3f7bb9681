"""Layers of few bits in their forms for export: both compute what the packed model does, and what they hold is what they say."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asr.export.lstm import ExportedLstm
from asr.models.predictor import LstmPredictor
from compression.quantization.exported import ProductOfCodes, ProductOfValues, in_form
from compression.quantization.pack import Packed
from compression.quantization.packed import PackedLayer
from compression.quantization.twins import Twin
from distributed.errors import UsageError

Make = Callable[..., Any]
TRANSDUCERS = ("conformer", "lstm", "stateless", "chunked", "product")
SCHEMES: dict[str, list[dict[str, Any]]] = {
    "2": [{"modules": "*", "bits": 2, "inputs": "pact_symmetric", "hidden": "pact_plus_symmetric"}],
    "4": [{"modules": "joiner*", "bits": None}, {"modules": "*", "bits": 4}],
    "8": [{"modules": "*", "bits": 8, "weights": "max", "inputs": "max"}],
}


def near(found: Tensor, expected: Tensor) -> bool:
    """Equal but for few values: a code at the edge of two may become its neighbour by another order of sums."""
    apart = (found - expected).abs() > 1e-5
    return bool(apart.float().mean() < 0.02)


@torch.no_grad()
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("kind", TRANSDUCERS)
def test_both_forms_compute_what_the_packed_model_does(
    kind: str, scheme: list[dict[str, Any]], small_model: Make, quantized: Make, make_batch: Make
) -> None:
    twin, packed = (quantized(small_model(kind), scheme) for _ in range(2))
    packed = Packed(encoding="codes")(packed).eval()
    batch = make_batch([40, 27, 33], [4, 2, 3])
    states, _ = packed.encode(batch.features, batch.feature_lengths)
    joint = packed.joiner.project_encoder(states)
    for source in (twin, packed):
        for form in ("values", "codes"):
            made = in_form(source, form)
            assert not any(isinstance(each, Twin | PackedLayer) for each in made.modules())
            found, _ = made.encode(batch.features, batch.feature_lengths)
            assert near(found, states)
            assert near(made.joiner.project_encoder(states), joint)
            assert near(made.joiner.logits(joint, joint), packed.joiner.logits(joint, joint))
            tokens = batch.predictor_inputs[:, :3]
            written = packed.joiner.project_predictor(packed.predictor(tokens)[:, -1])
            assert near(made.joiner.project_predictor(after(made.predictor, tokens)), written)
    assert any(isinstance(each, Twin) for each in twin.modules()), "the model itself is as it was"


def after(predictor: nn.Module, tokens: Tensor) -> Tensor:
    """The output after the last of the tokens, as an exported decoder computes it."""
    if not isinstance(predictor, LstmPredictor):
        output: Tensor = predictor(tokens)[:, -1]
        return output
    lstm = predictor.lstm
    assert isinstance(lstm, ExportedLstm)
    rows, count = tokens.shape
    later = torch.nn.functional.pad(tokens, (1, 3))  # the start symbol before, and steps that are not computed after
    return lstm.last(predictor.embedding(later), torch.full((rows,), count + 1))


def test_products_are_of_codes_where_no_sum_can_saturate(small_model: Make, quantized: Make) -> None:
    for bits, kind, other in ((4, ProductOfCodes, ProductOfValues), (8, ProductOfValues, ProductOfCodes)):
        modules = list(in_form(quantized(small_model("lstm"), bits=bits), "codes").modules())
        assert any(isinstance(each, kind) for each in modules)
        assert not any(isinstance(each, other) for each in modules)


def test_codes_are_what_the_int8_form_holds(small_model: Make, quantized: Make) -> None:
    model = quantized(small_model("lstm"))
    wide = [each for each in in_form(model, "codes").buffers() if each.is_floating_point() and each.dim() > 1]
    assert wide == []
    assert all(each.is_floating_point() for each in in_form(model, "values").buffers())


def test_a_model_without_few_bits_is_itself(small_model: Make) -> None:
    model = small_model("conformer")
    assert in_form(model, "values") is model


def test_what_has_no_codes_to_read_is_refused_with_the_remedy(small_model: Make, quantized: Make) -> None:
    model = quantized(small_model("lstm"), groups="row")
    with pytest.raises(UsageError, match=r"^predictor\.lstm reads predictor\.embedding, .* with groups: tensor$"):
        in_form(model, "values")
