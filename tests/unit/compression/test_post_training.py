"""Post-training quantisation: weights stay, bounds are those of the calibration, more bits are nearer, and refusals name the pass."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.models.speech_model import SpeechModel
from asr.parts import build, plain
from asr.runs.model_folder import LoadedModel
from compression.quantization.activations import LearnedBounds
from distributed.errors import UsageError
from scripts.composition.compose import compose
from tests.model_parts import NO_MODEL
from tests.unit.compression.conftest import SMALL

Make = Callable[..., Any]
FRAMES, TOKENS = [40, 27, 33], [4, 2, 3]


def quantise(model: SpeechModel, make_batch: Make, *overrides: str) -> LoadedModel:
    """The model after the pass of conf/passes that the overrides name, with one batch of utterances."""
    node = compose("compress", ["run=exp/some", *overrides]).passes
    loaded = LoadedModel(model, None, NO_MODEL.tokenizer, NO_MODEL.description, {})
    made: LoadedModel = build(plain(node))(loaded, lambda split: [make_batch(FRAMES, TOKENS)] * (split == "train"))
    return made


def losses_of(model: SpeechModel, make_batch: Make) -> Tensor:
    """The losses of utterances of many lengths, each alone: rounding moves one of them by chance as little as it likes."""
    with torch.inference_mode():
        return torch.stack([model(make_batch([frames], TOKENS[:1])).total for frames in range(24, 80, 4)])


@pytest.mark.parametrize("kind", SMALL)
def test_weights_stay_bounds_are_calibrated_and_more_bits_are_nearer(
    kind: str, small_model: Make, make_batch: Make
) -> None:
    before, exact = small_model(kind).state_dict(), losses_of(small_model(kind), make_batch)
    distances = []
    for word in ("int8", "int4"):
        made = quantise(small_model(kind), make_batch, f"passes={word}")
        state = made.model.state_dict()
        assert all(torch.equal(state[name], value) for name, value in before.items())
        bounds = [each for each in made.model.modules() if isinstance(each, LearnedBounds)]
        assert bounds
        assert all(each.calibrated and not each.upper.requires_grad for each in bounds)
        assert not made.model.training
        assert [node["_target_"] for node in made.description.transforms] == [
            "compression.quantization.transform.Quantize"
        ]
        distances.append((losses_of(made.model, make_batch) - exact).abs())
    assert 0 < distances[0].mean() < distances[1].mean()
    assert (distances[0] < 0.01 * exact).all()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["passes.scheme=[{modules: encodr}]"], r"^pass\.scheme: 'encodr' matches no module that can be treated"),
        (["passes.scheme=[{modules: '*', bits: 9}]"], r"^pass\.scheme\[0\]\.bits=9: must be"),
    ],
)
def test_a_scheme_that_does_not_fit_is_refused_by_the_passs_name(
    overrides: list[str], message: str, small_model: Make, make_batch: Make
) -> None:
    with pytest.raises(UsageError, match=message):
        quantise(small_model("lstm"), make_batch, "passes=int4", *overrides)


def test_without_utterances_nothing_can_be_calibrated(small_model: Make) -> None:
    loaded = LoadedModel(small_model("lstm"), None, NO_MODEL.tokenizer, NO_MODEL.description, {})
    apply = build(plain(compose("compress", ["run=exp/some", "passes=int4"]).passes))
    with pytest.raises(UsageError, match=r"^pass: .* read nothing in calibration"):
        apply(loaded, lambda split: [])
