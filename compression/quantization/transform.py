"""The transform that puts quantised twins in the place of a model's layers, by a scheme of patterns.

Layers are LSTMs, linear, pointwise and two-dimensional convolutions, embeddings, and the joiner, whose squashing is quantised.
Every value is quantised once. What reads a quantised hidden state, an embedded token or a quantised squashing, also through
dropout, which scales codes, gets no quantiser of its input (``readers_of_codes``).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from asr.models.acoustic import AcousticModel
from asr.models.ctc import CtcModel
from asr.models.joiner import Joiner
from asr.models.lstm import BidirectionalLayer, BidirectionalLstm
from asr.models.predictor import LstmPredictor
from asr.models.speech_model import SpeechModel
from asr.models.token_lm import TokenLanguageModel
from asr.models.transducer import Transducer
from compression.quantization.activations import ActivationKind, FixedBound, HiddenKind, LearnedBounds
from compression.quantization.packed import PackedLayer
from compression.quantization.squashing import CodedTanh
from compression.quantization.twins import (
    TWINS,
    InputQuantizer,
    QuantizedBidirectionalLayer,
    QuantizedLstm,
    Twin,
    become,
)
from compression.quantization.weights import GATES, Grouping, WeightKind, WeightQuantizer
from compression.scheme import treated, treatments
from distributed.errors import UsageError
from distributed.ranges import Bits

LOSS = "loss."  # layers of the loss belong to training alone


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a layer is quantised; ``bits`` None leaves it in full precision."""

    bits: Bits | None
    weights: WeightKind
    groups: Grouping
    inputs: ActivationKind
    hidden: HiddenKind


class Quantize:
    """The transform; ``scheme`` gives each pattern all settings of ``Quantization``."""

    def __init__(self, *, scheme: list[dict[str, Any]]) -> None:
        self.patterns = treatments(scheme, Quantization, {}, "scheme")

    def __call__(self, model: SpeechModel) -> SpeechModel:
        """Raises UsageError if a pattern matches no layer, or the model is quantised already."""
        layers = {name: module for name, module in model.named_modules() if can_be_quantized(name, module)}
        refuse_quantized(model)
        chosen = treated(self.patterns, list(layers), "scheme")
        quantized = {name: each for name, each in chosen.items() if each.bits is not None}
        if "joiner.output" in quantized and "joiner" not in quantized:
            raise UsageError(
                "scheme: joiner.output needs joiner, whose tanh it reads; give joiner bits as well, or "
                "joiner.output bits: null"
            )
        inputs = input_rules(model, quantized)
        for name, settings in quantized.items():
            _quantize(layers[name], settings, inputs.get(name))
        for layer in [each for each in model.modules() if isinstance(each, BidirectionalLayer)]:
            _share(layer)
        return model


def refuse_quantized(model: SpeechModel, remedy: str = "quantise the model that it was made of") -> None:
    """Raise UsageError, which ends in the ``remedy``, if a layer of the model is quantised."""
    already = next((name for name, module in model.named_modules() if isinstance(module, Twin | PackedLayer)), None)
    if already is not None:
        raise UsageError(f"the model is quantised already ({already}); {remedy}")


def transform_node(
    scheme: Sequence[Mapping[str, Any]],
    key: str,
    *,
    bits: Bits,
    weights: WeightKind,
    groups: Grouping,
    inputs: ActivationKind,
    hidden: HiddenKind,
) -> dict[str, Any]:
    """The transform as model folders name it: the scheme, called ``key`` in errors, over the other settings.

    Raises:
        UsageError: a setting of the scheme is not allowed.
    """
    defaults = {"bits": bits, "weights": weights, "groups": groups, "inputs": inputs, "hidden": hidden}
    patterns = treatments(scheme, Quantization, defaults, key)
    settings = [{"modules": pattern, **asdict(each)} for pattern, each in patterns]
    return {"_target_": f"{Quantize.__module__}.{Quantize.__name__}", "scheme": settings}


def can_be_quantized(name: str, module: nn.Module) -> bool:
    """Whether there is a twin of this module; of one-dimensional convolutions only of pointwise ones."""
    if name.startswith(LOSS):
        return False
    if type(module) is nn.Conv1d:
        return module.kernel_size == (1,) and module.groups == 1
    return type(module) in TWINS or isinstance(module, Joiner)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a layer's input: codes already, or values within a bound."""

    bound: float | None  # None: codes
    source: str | None = None  # the module that makes the codes


def input_rules(model: SpeechModel, quantized: Collection[str]) -> dict[str, Known]:
    """What is known of the inputs of layers, by their names; inputs of other layers need bounds that are learned."""
    rules: dict[str, Known] = {}
    encoder = getattr(model, "encoder", None)
    if isinstance(encoder, BidirectionalLstm):
        for index in range(1, len(encoder.layers)):
            below, bound = _directions(index - 1)[0], 1 / (1 - encoder.dropout.probability)
            known = Known(None, below) if _both(index - 1, quantized) else Known(bound)
            rules |= dict.fromkeys(_directions(index), known)
        last = len(encoder.layers) - 1
        if _both(last, quantized):
            rules |= dict.fromkeys(_readers_of_states(model), Known(None, _directions(last)[0]))
    predictor = getattr(model, "predictor", None)
    if isinstance(predictor, LstmPredictor):
        if "predictor.embedding" in quantized:
            rules["predictor.lstm"] = Known(None, "predictor.embedding")
        if "predictor.lstm" in quantized:
            reader = "output" if isinstance(model, TokenLanguageModel) else "joiner.project_predictor"
            rules[reader] = Known(None, "predictor.lstm")
    if "joiner" in quantized:
        rules["joiner.output"] = Known(None, "joiner")
    return rules


def _directions(index: int) -> list[str]:
    return [f"encoder.layers.{index}.{way}" for way in ("left_to_right", "right_to_left")]


def _both(index: int, quantized: Collection[str]) -> bool:
    return all(name in quantized for name in _directions(index))


def _readers_of_states(model: SpeechModel) -> list[str]:
    """The layers that read the encoder's states."""
    if isinstance(model, Transducer):
        return ["joiner.project_encoder", "ctc_head"]
    return {CtcModel: ["ctc_head"], AcousticModel: ["bottleneck"]}.get(type(model), [])


def _quantize(module: nn.Module, settings: Quantization, known: Known | None) -> None:
    assert settings.bits is not None
    if isinstance(module, Joiner):
        module.squashing = CodedTanh(bits=settings.bits)
        return
    gates = GATES if isinstance(module, nn.LSTM) else 1
    weights = WeightQuantizer(settings.weights, settings.bits, settings.groups, gates)
    twin = become(module, weights, _input_quantizer(module, settings, known))
    if isinstance(twin, QuantizedLstm):
        twin.hidden_bits, twin.hidden_quantizer = settings.bits, None
        if settings.hidden != "fixed":
            twin.hidden_quantizer = _learned(module, settings.bits, settings.hidden)
            twin.hidden_quantizer.set_bounds(-1.0, 1.0)  # a hidden state lies between them


def _input_quantizer(module: nn.Module, settings: Quantization, known: Known | None) -> InputQuantizer | None:
    assert settings.bits is not None
    if isinstance(module, nn.Embedding) or (known is not None and known.bound is None):
        return None
    if known is not None and known.bound is not None:
        return FixedBound(bits=settings.bits, bound=known.bound)
    return _learned(module, settings.bits, settings.inputs)


def _learned(module: nn.Module, bits: int, kind: ActivationKind) -> LearnedBounds:
    first = next(module.parameters())
    return LearnedBounds(bits=bits, kind=kind, device=first.device, dtype=first.dtype)


def _share(layer: BidirectionalLayer) -> None:
    """Let both directions read one quantised input and write with one step: an integer product has one scale of its input."""
    right, left = layer.left_to_right, layer.right_to_left
    if not (isinstance(right, QuantizedLstm) and isinstance(left, QuantizedLstm)):
        return
    shared = [(each.hidden_bits, repr(each.input_quantizer), repr(each.hidden_quantizer)) for each in (right, left)]
    if shared[0] != shared[1]:
        raise UsageError(
            "scheme: the directions of a bidirectional layer read one input and write one output, got "
            f"{shared[0]} and {shared[1]}; give both the same bits, inputs and hidden"
        )
    layer.__class__ = QuantizedBidirectionalLayer
    assert isinstance(layer, QuantizedBidirectionalLayer)
    layer.input_quantizer = right.input_quantizer
    right.input_quantizer = left.input_quantizer = None
    left.hidden_quantizer = right.hidden_quantizer
