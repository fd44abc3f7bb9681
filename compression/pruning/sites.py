"""What can be pruned: groups of equal units of a model (heads, channels, cells, ...), and where each lies in its tensors.

A site is one such group. A unit's value z multiplies the weights that read the unit (``Use.scaled``), so that z = 0 is a model
without the unit, and any other value can be folded into these weights. Where a layer norm reads units, its statistics
are those of the units that are kept (compression/pruning/norms.py).

heads           columns of the attention's output projection
feed_forward    columns of the second linear layer, of both feed-forward modules
channels        columns of the convolution module's last layer; the norm over channels
module          the whole convolution module: rows of its last layer
width           rows of what is added to the residual stream, which all blocks share; every norm over it
local_width     the same inside one block, of what its modules add and of the norms they read it by
subsampling     channels of either convolution of the subsampling: what reads them
cells           columns that read an LSTM direction's outputs: its own recurrence, the next layer, the readers of states
predictor       cells and embedding of the prediction network
joint           rows of the joiner's projections
"""

from collections.abc import Collection

from asr.models.conformer import Conformer
from asr.models.joiner import Joiner
from asr.models.lstm import BidirectionalLstm
from asr.models.predictor import LstmPredictor, StatelessPredictor
from asr.models.speech_model import SpeechModel
from compression.pruning.conformer_sites import conformer_sites
from compression.pruning.units import READERS_OF_STATES, Factorised, Site, Use, along, existing, layout
from compression.quantization.transform import refuse_quantized
from compression.quantization.weights import GATES
from distributed.errors import UsageError


def sites(model: SpeechModel, kinds: Collection[str] | None = None) -> list[Site]:
    """The sites of a model of these kinds (None: of all), those of its encoder first; one within another comes after it.

    Raises:
        UsageError: there are no sites of one of the kinds, or the model is quantised or has factors of low rank.
    """
    refuse_quantized(model, "prune the model that it was made of and quantise what is left")
    refuse_factorised(model)
    found: list[Site] = []
    encoder = getattr(model, "encoder", None)
    if isinstance(encoder, Conformer):
        found += conformer_sites(model, encoder)
    if isinstance(encoder, BidirectionalLstm):
        found += lstm_sites(model, encoder)
    found += predictor_sites(model) + joint_sites(model)
    present = {site.kind for site in found}
    absent = set(kinds or ()) - present
    if absent:
        raise UsageError(
            f"kinds: this model has no {', '.join(sorted(absent))}; it has {', '.join(sorted(present)) or 'none of them'}"
        )
    return [site for site in found if kinds is None or site.kind in kinds]


def refuse_factorised(model: SpeechModel) -> None:
    """Raise UsageError if a layer of the model consists of factors."""
    already = next((name for name, module in model.named_modules() if isinstance(module, Factorised)), None)
    if already is not None:
        raise UsageError(
            f"the model has factors of low rank in place of {already}, in which no units are known; prune the model that it "
            "was made of"
        )


def lstm_sites(model: SpeechModel, encoder: BidirectionalLstm) -> list[Site]:
    """The cells of every layer and direction."""
    found, last = [], len(encoder.layers) - 1
    for index, layer in enumerate(encoder.layers):
        ways = ("left_to_right", "right_to_left")
        cells = [int(getattr(layer, way).hidden_size) for way in ways]
        readers = (
            [f"encoder.layers.{index + 1}.{way}.weight_ih_l0" for way in ways]
            if index < last
            else [f"{name}.weight" for name in existing(model, READERS_OF_STATES)]
        )
        for place, (way, size) in enumerate(zip(ways, cells, strict=True)):
            before, after = sum(cells[:place]), sum(cells[place + 1 :])
            read = layout(size, before=before, after=after)
            where = f"encoder.layers.{index}.{way}"
            uses = (*recurrence(where, size, 1), *(Use(name, 1, read, scaled=True) for name in readers))
            found.append(Site(where, "cells", size, ("encoder", "hidden", index, place), uses))
    return found


def recurrence(where: str, cells: int, layers: int) -> list[Use]:
    """The tensors of an LSTM along its cells: rows of four gates, and the columns that read the layer's own outputs."""
    rows, found = layout(cells, times=GATES), []
    for layer in range(layers):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        found += [Use(f"{where}.{name}_l{layer}", 0, rows) for name in names]
        found.append(Use(f"{where}.weight_hh_l{layer}", 1, layout(cells), scaled=True))
        if layer > 0:
            found.append(Use(f"{where}.weight_ih_l{layer}", 1, layout(cells), scaled=True))
    return found


def predictor_sites(model: SpeechModel) -> list[Site]:
    """The cells, which all layers of the LSTM share, and the width of the embedding."""
    predictor, table = getattr(model, "predictor", None), "predictor.embedding"
    reader = [f"{name}.weight" for name in existing(model, ("joiner.project_predictor",))]
    if not reader:
        return []
    if isinstance(predictor, StatelessPredictor):
        units = layout(predictor.dimension)
        uses = (
            Use(f"{table}.weight", 1, units),
            Use("predictor.mix.weight", 0, units),
            Use(reader[0], 1, units, scaled=True),
        )
        return [Site(table, "predictor", predictor.dimension, ("predictor", "dimension"), uses)]
    if not isinstance(predictor, LstmPredictor):
        return []
    cells, width = predictor.lstm.hidden_size, predictor.lstm.input_size
    read = Use(reader[0], 1, layout(cells), scaled=True)
    embedded = (
        Use(f"{table}.weight", 1, layout(width)),
        Use("predictor.lstm.weight_ih_l0", 1, layout(width), scaled=True),
    )
    inside = recurrence("predictor.lstm", cells, predictor.lstm.num_layers)
    return [
        Site(table, "predictor", width, ("predictor", "embedding"), embedded),
        Site("predictor.lstm", "predictor", cells, ("predictor", "dimension"), (*inside, read)),
    ]


def joint_sites(model: SpeechModel) -> list[Site]:
    """The joint space, in which a factor (or both summands) of a unit is multiplied: the squashing keeps 0."""
    joiner = getattr(model, "joiner", None)
    if not isinstance(joiner, Joiner):
        return []
    units = layout(joiner.dimension)
    uses = (
        *along("joiner.project_encoder", 0, units, scaled=True),
        *along("joiner.project_predictor", 0, units, scaled=joiner.combine == "add"),
        Use("joiner.output.weight", 1, units),
        *(Use(f"{name}.weight", 1, units) for name in existing(model, ("loss.acoustic", "loss.language"))),
    )
    return [Site("joiner", "joint", joiner.dimension, ("joiner", "dimension"), uses)]
