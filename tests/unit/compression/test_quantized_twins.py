"""Quantised twins in whole models: what stays the same, what is on which grid, and that padding and batches do not matter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asr.data.batch import Batch
from asr.hooks.dropconnect import DropConnect
from asr.losses.reference import reference_loss
from asr.models.recurrence import Lstm
from asr.models.speech_model import SpeechModel
from asr.models.streaming import ConformerStream
from asr.models.transducer import Transducer
from asr.training.inference import Inference
from compression.quantization.activations import LearnedBounds
from compression.quantization.calibration import calibrate
from compression.quantization.transform import Quantization, Quantize, can_be_quantized
from compression.quantization.twins import QuantizedLstm, Twin, become
from compression.quantization.weights import WeightQuantizer, from_codes, levels
from distributed.sparse.uses import count_uses
from tests.unit.compression.conftest import SMALL

Make = Callable[..., Any]
FRAMES, TOKENS = [40, 27, 33], [4, 2, 3]


@pytest.mark.parametrize("kind", SMALL)
def test_names_shapes_and_values_of_the_state_stay(kind: str, small_model: Make, quantized: Make) -> None:
    plain, twin = small_model(kind), quantized(small_model(kind))
    before, after = plain.state_dict(), twin.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(name.rpartition(".")[2] in ("upper", "lower") for name in after.keys() - before.keys())
    assert all(name in after for name in before)
    assert [n for n, m in twin.named_modules() if can_be_quantized(n, m)] == (
        ["joiner"] if isinstance(plain, Transducer) else []
    )
    layers = [name for name, each in plain.named_modules() if can_be_quantized(name, each) and name != "joiner"]
    assert layers
    assert [name for name, each in twin.named_modules() if isinstance(each, Twin)] == layers


@pytest.mark.parametrize("kind", SMALL)
def test_with_many_bits_losses_and_gradients_are_those_without(kind: str, small_model: Make, make_batch: Make) -> None:
    batch, plain, twin = make_batch(FRAMES, TOKENS), small_model(kind), small_model(kind)
    transform = Quantize(scheme=[])
    transform.patterns = [("*", Quantization(bits=24, weights="max", groups="row", inputs="max", hidden="fixed"))]
    transform(twin)
    calibrate(Inference(twin, torch.device("cpu"), "fp32"), [batch], 1)
    for each in twin.modules():
        if isinstance(each, LearnedBounds):  # the largest value itself has a gradient, wherever rounding puts it
            each.set_bounds(*(1.1 * float(bound) * sign for bound, sign in zip(each.bounds(), (-1, 1), strict=True)))
    losses = [model(batch).total for model in (plain, twin)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-4)
    for loss in losses:
        loss.backward()
    of_twin = dict(twin.named_parameters())
    for name, parameter in plain.named_parameters():
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(of_twin[name].grad, parameter.grad, rtol=1e-3, atol=2e-3 * scale, msg=name)


@pytest.mark.parametrize("kind", SMALL)
def test_every_parameter_gets_a_gradient_and_few_bits_change_the_loss(
    kind: str, small_model: Make, quantized: Make, make_batch: Make
) -> None:
    batch, twin = make_batch(FRAMES, TOKENS), quantized(small_model(kind)).train()
    torch.manual_seed(0)
    loss = twin(batch).total
    loss.backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in twin.parameters())
    unmoved = [name for name, each in twin.named_parameters() if not each.grad.any() and name.endswith("upper")]
    assert not unmoved, "bounds learn"
    with torch.no_grad():
        assert abs(small_model(kind)(batch).total - quantized(small_model(kind))(batch).total) > 1e-3


@pytest.mark.parametrize("kind", SMALL)
def test_weights_are_used_as_often_as_without(kind: str, small_model: Make, quantized: Make, make_batch: Make) -> None:
    """What automatic rates of compressed gradients go by."""
    plain, twin, batch = small_model(kind), quantized(small_model(kind)), make_batch([40], [4])
    uses = count_uses(plain, lambda: plain(batch))
    found = count_uses(twin, lambda: twin(batch))
    assert {name: found[name] for name in uses} == pytest.approx(uses)
    assert any(uses.values())


@pytest.mark.parametrize("kind", ["conformer", "lstm", "stateless"])
def test_it_trains_under_autocast(kind: str, small_model: Make, quantized: Make, make_batch: Make) -> None:
    batch, twin = make_batch(FRAMES, TOKENS), quantized(small_model(kind))
    with torch.autocast("cpu", torch.bfloat16):
        loss = twin(batch).total
    loss.backward()
    torch.testing.assert_close(loss, twin(batch).total, rtol=0.02, atol=0)
    assert all(each.grad is not None and each.grad.isfinite().all() for each in twin.parameters())


@pytest.mark.parametrize("kind", SMALL)
def test_codes_and_steps_of_every_quantised_tensor_can_be_read_off(
    kind: str, small_model: Make, quantized: Make
) -> None:
    twin = quantized(
        small_model(kind),
        [{"modules": "*.position", "bits": None}, {"modules": "*"}]
        if "position" in str(small_model(kind))
        else [{"modules": "*"}],
    )
    for layer in (each for each in twin.modules() if isinstance(each, Twin)):
        codes, steps = layer.codes(), layer.steps()
        assert codes.keys() == steps.keys() == set(layer.quantized_names())
        for name, value in codes.items():
            assert value.dtype == torch.int8
            assert value.abs().max() <= levels(4)
            with torch.no_grad():
                used = layer._quantized(name, layer.get_parameter(name))
            assert torch.equal(from_codes(value.float(), steps[name]), used)


def inputs_of(model: SpeechModel, batch: Batch) -> dict[str, Tensor]:
    """What the layers with twins read, by name, after their quantisers."""
    found: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: Twin, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].is_floating_point():
                found[name] = module.quantized_input(inputs[0]).detach()

        return hook

    handles = [m.register_forward_pre_hook(note(n)) for n, m in model.named_modules() if isinstance(m, Twin)]
    model(batch)
    for handle in handles:
        handle.remove()
    return found


def test_every_input_has_fifteen_levels_in_evaluation_and_dropout_scales_them(
    small_model: Make, quantized: Make, make_batch: Make
) -> None:
    """Also those of layers without a quantiser of their own: they read codes that another layer has made."""
    batch = make_batch(FRAMES, TOKENS)
    for kind in SMALL:
        twin = quantized(small_model(kind))
        for mode in (False, True):
            found = inputs_of(twin.train(mode), batch)
            assert found
            for name, values in found.items():
                distinct = (values / values.abs().max()).mul(1e4).round().unique()
                assert len(distinct) <= 15, f"{kind} {name} {len(distinct)} values"


def test_a_layer_above_one_in_full_precision_has_the_bound_of_dropout(small_model: Make, quantized: Make) -> None:
    scheme = [{"modules": "encoder.layers.0.*", "bits": None}, {"modules": "*"}]
    twin = quantized(small_model("lstm"), scheme)
    assert not isinstance(twin.encoder.layers[0].left_to_right, Twin)
    assert twin.encoder.layers[1].input_quantizer.bound == pytest.approx(1 / 0.9)
    assert twin.encoder.layers[2].input_quantizer is None
    assert [n for n, m in twin.named_modules() if isinstance(m, LearnedBounds)] == [], (
        "bound-aware clipping learns none"
    )


def test_both_directions_share_a_learned_bound_of_their_hidden_states(small_model: Make, quantized: Make) -> None:
    twin = quantized(small_model("lstm"), hidden="pact_symmetric")
    for layer in twin.encoder.layers:
        assert layer.left_to_right.hidden_quantizer is layer.right_to_left.hidden_quantizer
    hidden = twin.encoder.layers[0].left_to_right.hidden_quantizer
    assert hidden.bounds()[1] == 1, "where it begins"
    fixed = quantized(small_model("lstm"))
    x = torch.randn(2, 6, 48)
    order = torch.arange(12)
    torch.testing.assert_close(twin.encoder.layers[0](x, order), fixed.encoder.layers[0](x, order))


@pytest.mark.parametrize("kind", ["lstm", "conformer", "ctc"])
def test_an_utterances_states_depend_neither_on_padding_nor_on_its_batch(
    kind: str, small_model: Make, quantized: Make, make_batch: Make
) -> None:
    twin, batch = quantized(small_model(kind)), make_batch(FRAMES, TOKENS)
    with torch.no_grad():
        together, lengths = twin.encode(batch.features, batch.feature_lengths)
        for row, length in enumerate(lengths.tolist()):
            part = batch.part(row, row + 1)
            alone, _ = twin.encode(part.features, part.feature_lengths)
            off = (alone[0] - together[row, :length]).abs() > 1e-4
            assert off.float().mean() < 0.01, "but for codes that rounding of sums has moved"


def test_a_stream_of_chunks_gives_the_states_of_the_whole(small_model: Make, quantized: Make, make_batch: Make) -> None:
    model = quantized(small_model("chunked"))
    features, length = make_batch([40], [3]).features, torch.tensor([40])
    with torch.no_grad():
        whole, _ = model.encoder(features, length)
        stream = ConformerStream(model.encoder)
        chunks = torch.cat([stream.push(part) for part in features.split(stream.chunk_frames, dim=1)], dim=1)
    assert ((chunks - whole).abs() > 1e-4).float().mean() < 0.01, "but for codes that rounding of sums has moved"


def test_the_fused_loss_is_that_of_the_joiner_that_decodes(
    small_model: Make, quantized: Make, make_batch: Make
) -> None:
    twin, batch = quantized(small_model("lstm")), make_batch([28], [3])
    assert isinstance(twin, Transducer)
    states_BSD, lengths_B = twin.encode(batch.features, batch.feature_lengths)
    given = twin.loss_inputs(states_BSD, lengths_B, batch)
    logits_TSV = twin.joiner.logits(given.encoder_BTJ[0, :, None], given.predictor_BSJ[0, None])
    expected = reference_loss(logits_TSV, batch.targets[0], given.blank).float()
    leaves = [
        twin.joiner.output.weight,
        twin.joiner.project_encoder.weight,
        twin.encoder.layers[0].left_to_right.weight_hh_l0,
    ]
    torch.testing.assert_close(twin.loss(given).sum(), expected, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(twin.loss(given).sum(), leaves, retain_graph=True)
    for one, other in zip(found, torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["lstm", "stateless"])
def test_the_prediction_network_steps_as_it_reads_whole_texts(kind: str, small_model: Make, quantized: Make) -> None:
    predictor, tokens_BU = quantized(small_model(kind)).predictor, torch.randint(1, 11, (3, 6))
    with torch.no_grad():
        whole = predictor(tokens_BU)
        state = predictor.start(3, torch.device("cpu"), torch.float32)
        for place, tokens_B in enumerate(torch.cat([torch.zeros(3, 1, dtype=torch.int64), tokens_BU], 1).unbind(1)):
            output_BD, state = predictor.step(tokens_B, state)
            torch.testing.assert_close(output_BD, whole[:, place])


def test_an_lstm_of_several_layers_is_torchs_with_many_bits() -> None:
    torch.manual_seed(0)
    plain, twin = Lstm(5, 4, 3, batch_first=True), Lstm(5, 4, 3, batch_first=True)
    twin.load_state_dict(plain.state_dict())
    become(twin, WeightQuantizer("max", 24, "row"), None)
    assert isinstance(twin, QuantizedLstm)
    twin.hidden_bits, twin.hidden_quantizer = 24, None
    x_BTK, states = torch.randn(2, 6, 5), (0.3 * torch.randn(3, 2, 4), torch.randn(3, 2, 4))
    for given in (None, states):
        torch.testing.assert_close(twin(x_BTK, given), plain(x_BTK, given), rtol=0, atol=5e-6)
    assert set(twin.codes()) == {f"weight_{kind}_l{layer}" for kind in ("ih", "hh") for layer in range(3)}


def exchange(layer: nn.Linear, weight: Tensor) -> None:
    """As a backend does that lays weights out anew: the parameter stays, and does not count a change."""
    layer.weight.data = weight


def reload(layer: nn.Linear, weight: Tensor) -> None:
    layer.load_state_dict({**layer.state_dict(), "weight": weight})


@pytest.mark.parametrize("change", [lambda layer, weight: layer.weight.data.copy_(weight), reload, exchange])
def test_evaluation_follows_the_weights(change: Callable[..., Any], small_model: Make, quantized: Make) -> None:
    layer = quantized(small_model("lstm")).joiner.output
    x, other = torch.randn(2, 8), torch.randn_like(layer.weight)
    with torch.inference_mode():
        before = layer(x)
        assert torch.equal(layer(x), before)
    change(layer, other)
    layer.eval()  # as whoever evaluates does
    with torch.inference_mode():
        after = layer(x)
    assert not torch.equal(after, before)
    torch.testing.assert_close(
        after, nn.functional.linear(layer.quantized_input(x), layer.weight_quantizer(other), layer.bias)
    )


def test_dropconnect_drops_connections_of_a_quantised_lstm(small_model: Make, quantized: Make) -> None:
    model = quantized(small_model("lstm"))
    lstm = model.encoder.layers[1].left_to_right
    DropConnect(probability=0.5, modules=["encoder.*"]).on_model(model)
    x = torch.randint(-7, 8, (2, 5, 16)) / 7
    once, again = lstm.train()(x)[0], lstm(x)[0]
    assert not torch.equal(once, again)
    assert torch.equal(lstm.eval()(x)[0], lstm(x)[0])
