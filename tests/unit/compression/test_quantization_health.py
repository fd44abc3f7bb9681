"""The health of numbers: outlier ratios are those of the definition, losses those of quantised copies, warnings name the layer."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from asr.models.speech_model import SpeechModel
from asr.parts import build, plain
from asr.runs.progress import Progress
from asr.training.auxiliary_modules import attach_auxiliaries
from asr.training.inference import Inference
from compression.quantization.health import (
    QuantizationHealth,
    bare_copy,
    input_outliers,
    mean_loss,
    outlier_ratio,
    weight_outliers,
)
from distributed.errors import UsageError
from scripts.composition.compose import compose
from tests.unit.compression.conftest import SMALL

Make = Callable[..., Any]
CPU = torch.device("cpu")


def made_hook(*overrides: str) -> QuantizationHealth:
    config = compose(
        "train", ["hooks=[quantization_health]", *(f"hooks.quantization_health.{each}" for each in overrides)]
    )
    hook: QuantizationHealth = build(plain(config.hooks.quantization_health))
    return hook


def run_of(model: SpeechModel, make_batch: Make) -> Any:
    """What the hook reads of a run."""
    batches = {"train": [make_batch([40, 33], [4, 3])], "dev": [make_batch([36, 30], [3, 4]), make_batch([25], [2])]}
    return SimpleNamespace(
        model=model, precision="fp32", seed=1, world=SimpleNamespace(device=CPU, rank=0), batches=lambda split, seed: batches[split]
    )  # fmt: skip


def test_the_ratio_is_that_of_the_definition() -> None:
    assert outlier_ratio(torch.tensor([1.0, -1.0, 1.0, -1.0])) == 1
    assert outlier_ratio(torch.tensor([0.0, 0.0, 0.0, -8.0])) == 2
    assert outlier_ratio(torch.zeros(3)) == 0
    drawn = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    assert outlier_ratio(drawn) == pytest.approx(math.sqrt(2 * math.log(100_000)), rel=0.15)


@pytest.mark.parametrize("kind", SMALL)
def test_every_layer_has_a_ratio_and_padding_counts_for_none(kind: str, small_model: Make, make_batch: Make) -> None:
    model = small_model(kind)
    inference = Inference(model, CPU, "fp32")
    batch = make_batch([40, 23], [4, 3])
    together = input_outliers(inference, [batch])
    alone = input_outliers(inference, [batch.part(0, 1), batch.part(1, 2)])
    assert together == alone
    assert together
    weights = weight_outliers(model)
    assert {name.rpartition(".")[0] for name in weights} >= together.keys()
    assert all(ratio >= 1 for ratio in [*weights.values(), *together.values()])
    assert not any(each._forward_pre_hooks for each in model.modules())


@pytest.mark.parametrize("kind", SMALL)
def test_losses_are_those_of_the_model_and_of_quantised_copies(
    kind: str, small_model: Make, make_batch: Make, quantized: Make
) -> None:
    model = small_model(kind).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run, hook = run_of(model, make_batch), made_hook()
    hook.on_fit_start(run, resumed=False)
    metrics: dict[str, float] = {}
    hook.on_evaluation(Progress(), metrics)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def loss(of: SpeechModel) -> float:
        with torch.inference_mode():
            sums = [float(of(each).total) for each in run.batches("dev", 1)]
        return sum(sums) / 3

    found = {name: metrics[f"quantization_health/{name}_loss"] for name in ("fp32", "int8", "int4")}
    assert found["fp32"] == pytest.approx(loss(small_model(kind)), rel=1e-6)
    for name, bits, weights in (("int8", 8, "max"), ("int4", 4, "sawb")):
        reference = quantized(small_model(kind), bits=bits, weights=weights, inputs="max")
        assert found[name] == pytest.approx(loss(reference), rel=1e-6)
    assert 0 < abs(found["int8"] - found["fp32"]) < abs(found["int4"] - found["fp32"])


def test_a_copy_has_the_weights_and_nothing_that_a_run_attached(small_model: Make, make_batch: Make) -> None:
    model = small_model("lstm")
    exact = mean_loss(Inference(model, CPU, "fp32"), [make_batch([30], [3])])

    def refuse(*_: Any) -> None:
        raise AssertionError("a hook of the run was called")

    model.encoder.layers[0].left_to_right.register_forward_pre_hook(refuse)
    model.joiner.register_forward_hook(refuse)
    model.add_module("auxiliary", torch.nn.ModuleDict({"teacher": torch.nn.Linear(2, 2)}))
    made = bare_copy(model)
    assert mean_loss(Inference(made, CPU, "fp32"), [make_batch([30], [3])]) == exact
    assert not any(name.startswith("auxiliary") for name in made.state_dict())
    storages = {each.untyped_storage().data_ptr() for each in model.parameters()}
    assert not storages & {each.untyped_storage().data_ptr() for each in made.parameters()}


def test_a_warning_is_given_once_and_names_the_layer(
    small_model: Make, make_batch: Make, caplog: pytest.LogCaptureFixture
) -> None:
    model = small_model("lstm").train()
    batch = make_batch([40, 33], [4, 3])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(25):  # so that the weights matter
        optimizer.zero_grad()
        model(batch).total.backward()
        optimizer.step()
    name = "joiner.project_encoder.weight"
    with torch.no_grad():
        model.get_parameter(name)[0, 0] = 10 * model.get_parameter(name).abs().max()
    two_bits = "schemes.int4=[{modules: '*', bits: 2, weights: max}]"
    run, hook = run_of(model, make_batch), made_hook("warn_at=0.3", "worst=1", two_bits)
    run.batches = lambda split, seed: [batch]
    hook.on_fit_start(run, resumed=False)

    def warnings() -> list[str]:
        caplog.clear()
        hook.on_evaluation(Progress(), {})
        return [each.getMessage() for each in caplog.records]

    (warned,) = warnings()
    assert "under int4" in warned, "8 bits do it no harm"
    assert f"weights of {name} " in warned
    assert not warnings(), "once"
    resumed = made_hook()
    resumed.load_state_dict(hook.state_dict())
    assert resumed.above == {"int4"}
    hook.warn_at = 1e9
    assert not warnings()
    hook.warn_at = 0.3
    assert len(warnings()) == 1, "again, after it was below the limit"


def test_a_loss_that_is_not_finite_is_reported_and_nothing_is_quantised(small_model: Make, make_batch: Make) -> None:
    model = small_model("lstm")
    run, hook = run_of(model, make_batch), made_hook()
    hook.on_fit_start(run, resumed=False)
    with torch.no_grad():
        model.joiner.output.bias.fill_(math.nan)
    metrics: dict[str, float] = {}
    hook.on_evaluation(Progress(), metrics)
    assert list(metrics) == ["quantization_health/fp32_loss"]
    assert math.isnan(metrics["quantization_health/fp32_loss"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "schemes.int8=[{modules: encodr}]",
            r"^hooks\.quantization_health\.schemes\.int8: scheme: 'encodr' matches no",
        ),
        ("+schemes.fp32=[{modules: '*'}]", r"schemes\.fp32: is the name of what is not quantised"),
        ("schemes.int4=[{modules: '*', bits: 9}]", r"^hooks\.quantization_health\.schemes\.int4\[0\]\.bits=9: must be"),
    ],
)
def test_a_scheme_that_does_not_fit_is_refused(
    override: str, message: str, small_model: Make, make_batch: Make
) -> None:
    prefix = "+" if override.startswith("+") else ""
    config = ["hooks=[quantization_health]", f"{prefix}hooks.quantization_health.{override.removeprefix('+')}"]
    with pytest.raises(UsageError, match=message):
        build(plain(compose("train", config).hooks.quantization_health)).on_fit_start(
            run_of(small_model("lstm"), make_batch), resumed=False
        )


def test_a_model_that_is_quantised_already_is_refused(small_model: Make, make_batch: Make, quantized: Make) -> None:
    run = run_of(quantized(small_model("lstm")), make_batch)
    with pytest.raises(UsageError, match=r"^hooks\.quantization_health: the model is quantised already"):
        made_hook().on_fit_start(run, resumed=False)


def test_a_model_that_is_masked_is_refused(small_model: Make, make_batch: Make) -> None:
    model = small_model("conformer")
    node = compose("train", ["hooks=[structured_pruning]", "hooks.structured_pruning.kinds=[width]"]).hooks
    attach_auxiliaries(model, {"structured_pruning": build(plain(node.structured_pruning))})
    with pytest.raises(
        UsageError, match=r"^hooks\.quantization_health: structured_pruning masks this model, .* leave one "
    ):
        made_hook().on_fit_start(run_of(model, make_batch), resumed=False)
    made_hook().on_fit_start(run_of(small_model("conformer"), make_batch), resumed=False)
