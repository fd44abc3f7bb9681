"""The pass that packs a quantised model, and the transform by which its folder is read again.

The folder's weights are codes, several to a byte (compression/quantization/codes.py), steps and bounds; what is not quantised stays
as it is. The transform in model.yaml names the encoding. Loading builds the model without memory for its weights and takes
over the packed ones, so that none is ever there in full precision.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from asr.models.joiner import Joiner
from asr.models.speech_model import SpeechModel
from asr.parts import build
from asr.runs.model_folder import LoadedModel
from compression.compress import Batches
from compression.quantization.packed import (
    KnownGrid,
    PackedConv1d,
    PackedConv2d,
    PackedEmbedding,
    PackedLayer,
    PackedLinear,
    PackedLstm,
    PackedMatrix,
    PackedStridedConv2d,
    largest_input,
)
from compression.quantization.squashing import CodedTanh
from compression.quantization.transform import input_rules
from compression.quantization.twins import (
    QuantizedBidirectionalLayer,
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedLstm,
    QuantizedStridedConv2d,
    Twin,
)
from compression.quantization.weights import levels
from distributed.errors import UsageError

ENCODING: Literal["codes"] = "codes"
PACKED: Mapping[type[Twin], type[PackedLayer]] = {
    QuantizedLinear: PackedLinear,
    QuantizedConv1d: PackedConv1d,
    QuantizedConv2d: PackedConv2d,
    QuantizedStridedConv2d: PackedStridedConv2d,
    QuantizedEmbedding: PackedEmbedding,
    QuantizedLstm: PackedLstm,
}


class Packed:
    """The transform: packed layers in the place of quantised twins. ``encoding`` names how the codes lie in the bytes."""

    def __init__(self, *, encoding: Literal["codes"]) -> None:
        self.encoding = encoding

    def __call__(self, model: SpeechModel) -> SpeechModel:
        """Raises UsageError if the model is not quantised, or packed already, or has no codes for what a layer reads."""
        if any(isinstance(each, PackedLayer) for each in model.modules()):
            raise UsageError("the model is packed already; pack the quantised model that it was made of")
        twins = {name: each for name, each in model.named_modules() if isinstance(each, Twin)}
        if not twins:
            raise UsageError(
                "the model is not quantised; run pass=int4 or pass=int8 first, or train with hooks=[qat_int4]"
            )
        grids = grids_read(model, twins)
        for name, twin in twins.items():
            become_packed(twin, grids.get(name))
        return model


class Pack:
    """The pass."""

    def __call__(self, loaded: LoadedModel, batches: Batches) -> LoadedModel:
        """The packed model, whose description names the transform; ``loaded`` is changed."""
        node: dict[str, Any] = {"_target_": "compression.quantization.pack.Packed", "encoding": ENCODING}
        model: SpeechModel = build(node)(loaded.model)
        description = replace(loaded.description, transforms=[*loaded.description.transforms, node])
        return replace(loaded, model=model.eval(), description=description)


def grids_read(model: SpeechModel, twins: Mapping[str, Twin]) -> dict[str, KnownGrid]:
    """The grids of layers without an input quantiser of their own, by their names: those of what makes their input."""
    quantized = {name for name, each in model.named_modules() if isinstance(each, Twin) or is_coded_joiner(each)}
    rules = input_rules(model, quantized)
    return {
        name: _grid_read(name, model, rules[name].source if name in rules else None)
        for name, twin in twins.items()
        if twin.input_quantizer is None and not isinstance(twin, QuantizedEmbedding)
    }


def is_coded_joiner(module: nn.Module) -> bool:
    """Whether a module is a joiner of which the squashing is quantised."""
    return isinstance(module, Joiner) and isinstance(module.squashing, CodedTanh)


def _grid_read(name: str, model: SpeechModel, source: str | None) -> KnownGrid:
    """The grid of a layer's input: of its bidirectional layer, or of what the module ``source`` makes."""
    layer = model.get_submodule(name.rpartition(".")[0])
    if isinstance(layer, QuantizedBidirectionalLayer) and layer.input_quantizer is not None:
        return KnownGrid(layer.input_quantizer.step(), largest_input(layer.input_quantizer))
    assert source is not None, f"{name} has no input quantiser, and nothing that it reads is quantised"
    maker = model.get_submodule(source)
    if isinstance(maker, Joiner):
        assert isinstance(maker.squashing, CodedTanh)
        return KnownGrid(torch.tensor([maker.squashing.step()]), levels(maker.squashing.bits))
    if isinstance(maker, QuantizedLstm):
        return KnownGrid(maker.hidden_step(), levels(maker.hidden_bits))
    assert isinstance(maker, QuantizedEmbedding)
    step_G = maker.steps()["weight"]
    if len(step_G) > 1:
        raise UsageError(
            f"{name} reads {source}, which has a step for each token, and a product of codes has one: "
            f"quantise {source} with groups: tensor"
        )
    return KnownGrid(step_G, levels(maker.weight_quantizer.bits))


def become_packed(twin: Twin, grid: KnownGrid | None) -> PackedLayer:
    """Turn a quantised twin into its packed layer, in place; returns it."""
    steps, bits = twin.steps(), twin.weight_quantizer.bits
    matrices = {name: PackedMatrix(codes, steps[name], bits) for name, codes in twin.codes().items()}
    biases = _merged_biases(twin) if isinstance(twin, QuantizedLstm) else {}
    packed_away = [name for name, _ in twin.named_parameters(recurse=False) if name in matrices or biases]
    for name in packed_away:
        delattr(twin, name)
    if isinstance(twin, QuantizedLstm):
        twin._flat_weights_names, twin._flat_weights, twin._flat_weight_refs = [], [], []
    twin.__dict__.pop("_kept_weights", None)
    del twin.weight_quantizer
    twin.__class__ = PACKED[type(twin)]  # type: ignore[assignment]
    made: nn.Module = twin
    assert isinstance(made, PackedLayer)
    made.packed = nn.ModuleDict(matrices)
    made.compute_with(None)
    if grid is not None:
        made.input_quantizer = grid
    for name, bias in biases.items():
        made.register_parameter(name, nn.Parameter(bias))
    return made


def _merged_biases(lstm: QuantizedLstm) -> dict[str, Tensor]:
    """The sum of both biases of each layer of an LSTM; torch keeps two."""
    if not lstm.bias:
        return {}
    named = dict(lstm.named_parameters(recurse=False))
    return {
        f"bias_l{layer}": (named[f"bias_ih_l{layer}"] + named[f"bias_hh_l{layer}"]).detach()
        for layer in range(lstm.num_layers)
    }
