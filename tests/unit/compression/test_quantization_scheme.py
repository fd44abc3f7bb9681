"""Which layers a scheme quantises, what it refuses, and the calibration of their bounds."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from asr.data.batch import Batch
from asr.models.speech_model import SpeechModel
from asr.training.inference import Inference
from compression.quantization.calibration import calibrate
from compression.quantization.transform import Quantize
from compression.quantization.twins import Twin
from distributed.errors import UsageError

Make = Callable[..., Any]
FRAMES, TOKENS = [40, 27, 33], [4, 2, 3]


@pytest.mark.parametrize(
    ("scheme", "defaults", "message"),
    [
        ([{"modules": "encodr.*"}], {}, r"^scheme: 'encodr\.\*' matches no module that can be treated"),
        ([{"modules": "*", "bit": 4}], {}, r"^scheme\[0\]: unknown setting bit; it may have bits, weights, groups, inputs, hidden"),
        ([{"bits": 4}], {}, r"^scheme\[0\]: names no modules"),
        ([{"modules": "*"}, {"modules": "*", "bits": 9}], {}, r"^scheme\[1\]\.bits=9: must be .* at least 2 and at most 8 or null"),
        ([{"modules": "*", "weights": "sawb+"}], {}, r"^scheme\[0\]\.weights=sawb\+: must be one of max, sawb, sawb_plus"),
        (
            [{"modules": "*.left_to_right", "bits": 3}, {"modules": "*"}], {},
            r"^scheme: the directions of a bidirectional layer read one input",
        ),
    ],
)  # fmt: skip
def test_a_scheme_that_does_not_fit_is_refused(
    scheme: list[dict[str, Any]], defaults: dict[str, Any], message: str, small_model: Make, quantized: Make
) -> None:
    with pytest.raises(UsageError, match=message):
        quantized(small_model("lstm"), scheme, **defaults)


def test_the_first_pattern_decides_and_a_model_is_quantised_once(small_model: Make, quantized: Make) -> None:
    scheme = [
        {"modules": "joiner.output", "bits": 8, "groups": "row"},
        {"modules": "joiner*"},
        {"modules": "ctc_head", "bits": None},
    ]
    twin = quantized(small_model("lstm"), scheme)
    bits = {name: each.weight_quantizer.bits for name, each in twin.named_modules() if isinstance(each, Twin)}
    assert bits == {"joiner.output": 8, "joiner.project_encoder": 4, "joiner.project_predictor": 4}
    assert twin.joiner.output.steps()["weight"].shape == (11,)
    with pytest.raises(UsageError, match=r"^the model is quantised already"):
        quantized(twin)


def test_a_joiners_output_without_its_joiner_is_refused(small_model: Make, quantized: Make) -> None:
    with pytest.raises(UsageError, match=r"^scheme: joiner.output needs joiner, whose tanh it reads; give"):
        quantized(small_model("lstm"), [{"modules": "joiner", "bits": None}, {"modules": "*"}])


def test_calibration_sees_no_padding_and_leaves_calibrated_bounds(
    small_model: Make, quantized: Make, make_batch: Make
) -> None:
    def bounds(model: SpeechModel) -> dict[str, float]:
        return {
            name: float(each.detach()) for name, each in model.named_parameters() if name.endswith(("upper", "lower"))
        }

    def calibrated(*batches: Batch) -> SpeechModel:
        model = Quantize(
            scheme=[
                {"modules": "*", "bits": 4, "weights": "max", "groups": "tensor", "inputs": "pact", "hidden": "fixed"}
            ]
        )(small_model("conformer"))
        calibrate(Inference(model, torch.device("cpu"), "fp32"), batches, 9)
        return model

    batch = make_batch(FRAMES, TOKENS)
    padded = replace(batch, features=nn.functional.pad(batch.features, (0, 0, 0, 50), value=1e6))
    together = calibrated(padded)
    apart = calibrated(*(batch.part(row, row + 1) for row in range(3)))
    assert bounds(together) == pytest.approx(bounds(apart))
    assert all(value > 0 for name, value in bounds(together).items() if name.endswith("upper"))
    kept = bounds(together)
    calibrate(Inference(together, torch.device("cpu"), "fp32"), [make_batch([9], [1])], 1)
    assert bounds(together) == kept
    assert not together.training
    with pytest.raises(UsageError, match=r"^encoder.* read nothing in calibration"):
        calibrated()
