"""``init_from``: the weights of another model, or of some of its modules, before training.

init_from=exp/ctc-run init_modules=[encoder]       # the encoder of a CTC model, everything else drawn anew
init_from=exp/lm init_modules=[predictor]          # the prediction network of a language model over the same tokens
init_from=exp/run/export/small model_of=exp/run/export/small    # go on from a model whose sizes no option of model= has
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from asr.data.tokenizer import SPACE_SYMBOL, Tokenizer, load_tokenizer
from asr.foreign.tensors import refuse_non_finite
from asr.parts import plain, typed
from asr.runs.checkpoint import model_folder_of
from asr.runs.model_folder import TOKENIZER, Description, check_sizes, read_description, read_weights
from distributed.errors import UsageError
from scripts.composition.compose import differing_keys

log = logging.getLogger(__name__)

WITHOUT_TOKENS = "encoder"  # the module whose weights do not depend on the tokens; only it reads the features
BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a token of sentencepiece that stands for a byte, and so for no letter
DIMENSIONS = ("num_mels", "deltas", "stack")  # settings of the features that determine the shape of weights


@dataclass(frozen=True, slots=True)
class InitialWeights:
    """The weights that ``init_from`` names, found and checked before the model is built."""

    folder: Path
    weights: Mapping[str, Tensor]
    modules: Sequence[str] | None  # modules to load; None: all
    transforms: int  # number of this run's transforms that the source model has gone through as well
    differing: Mapping[str, Any]  # the source model's feature settings that differ from this run's
    where: str  # name of the source in error messages

    def load_into(self, model: nn.Module) -> None:
        """Overwrite the weights of ``model``, or of ``modules``; UsageError if names or shapes differ."""
        try:
            loaded = select(self.weights, model.state_dict(), self.modules, self.where)
        except UsageError as error:
            needed = " ".join(
                f"features.{key}={typed(self.differing[key])}" for key in DIMENSIONS if key in self.differing
            )
            if needed and _hears(self.modules):
                raise UsageError(f"{self.where}: that model hears features of another size; set {needed}") from error
            raise
        model.load_state_dict(loaded, strict=False)
        if self.differing:
            log.warning("%s: that model hears other features: %s differ", self.where, ", ".join(self.differing))
        what = "all weights" if self.modules is None else f"weights of {', '.join(self.modules)}"
        log.info("%s (%d tensors) of %s", what, len(loaded), self.folder)


def find_initial_weights(
    config: DictConfig, tokenizer: Tokenizer, transforms: Sequence[Mapping[str, Any]]
) -> InitialWeights | None:
    """The weights that ``init_from`` names, None if it is not set: a model folder's, or the best ones of a run.

    Args:
        transforms: this run's, of which that model must have gone through the first ones, or none, unless those modules
            that are taken were left as they were.

    Raises:
        UsageError: there are none that are intact, or they are of another vocabulary or a model that was changed in
            another way; or modules are named without a run.
    """
    modules = config.init_modules
    if modules is not None and (config.init_from is None or not modules):
        remedy = "null takes the whole model" if config.init_from else "add init_from=exp/... to take them from"
        raise UsageError(f"init_modules=[{','.join(modules)}] loads nothing; {remedy}")
    if config.init_from is None:
        return None
    where = f"init_from={config.init_from}"
    folder = model_folder_of(Path(config.init_from), "init_from")
    description, digest = read_description(folder, "init_from")
    if not _tokenless(modules) and description.tokenizer != tokenizer.fingerprint:
        apart = _letters_apart(load_tokenizer(folder / TOKENIZER), tokenizer)
        raise UsageError(
            f"{where}: that model writes other tokens{apart}; use its tokenizer settings, train anew, "
            f"or take over what knows no tokens: init_modules=[{WITHOUT_TOKENS}]"
        )
    check_sizes(folder, description)
    applied = len(description.transforms)
    if modules is not None and not any(description.is_changed(module) for module in modules):
        applied = 0
    elif description.transforms != list(transforms)[:applied]:
        names = ", ".join(str(node["_target_"]).rpartition(".")[2] for node in description.transforms)
        raise UsageError(
            f"{where}: that model was changed by {names}, which this run does not do; choose the same hooks=, "
            f"or model_of={config.init_from}, or modules that were not changed: init_modules=[...]"
        )
    if _hears(modules) and _widths(description.model) != _widths(plain(config.model)):
        raise UsageError(
            f"{where}: blocks of its encoder read other entries of the states than this run's (model.encoder.blocks, width), "
            f"which its weights would be mixed up by; add model_of={config.init_from}"
        )
    differing = _differing_features(description, config)
    weights = read_weights(folder, digest)
    refuse_non_finite(weights, where)
    return InitialWeights(folder, weights, modules, applied, differing, where)


def made_of(config: DictConfig) -> list[dict[str, Any]]:
    """The entry ``made_of`` of a run's model folders: the folder that ``init_from`` names and its weights' SHA-256."""
    if config.init_from is None:
        return []
    folder = model_folder_of(Path(config.init_from), "init_from")
    _, digest = read_description(folder, "init_from")
    modules = None if config.init_modules is None else [str(name) for name in config.init_modules]
    return [{"init_from": str(folder), "modules": modules, "weights_sha256": digest}]


def _differing_features(description: Description, config: DictConfig) -> dict[str, Any]:
    """A model's feature settings that differ from those of ``config``; empty where either has no features."""
    heard, hears = description.features, config.get("features")
    if heard is None or hears is None:
        return {}
    return {key: heard.get(key) for key in differing_keys(OmegaConf.create(heard), OmegaConf.create(plain(hears)))}


def _widths(model: Mapping[str, Any]) -> list[Any]:
    """The widths that blocks of an encoder have for themselves, by block; empty where none has: shapes do not tell them apart."""
    encoder = model.get("encoder")
    blocks = (encoder.get("blocks") if isinstance(encoder, Mapping) else None) or []
    own = [block.get("width") for block in blocks]
    return own if any(own) else []


def _letters_apart(theirs: Tokenizer, ours: Tokenizer) -> str:
    """What the alphabets of two tokenizers differ in; empty where only their tokens do."""
    their_letters, our_letters = (
        {
            letter
            for token in each.symbols[1:]
            if not BYTE.fullmatch(token)
            for letter in token.replace(SPACE_SYMBOL, " ")
        }
        for each in (theirs, ours)
    )
    sides = (("it has no ", our_letters - their_letters), ("this run has no ", their_letters - our_letters))
    lacking = [side + ", ".join(map(repr, sorted(letters))) for side, letters in sides if letters]
    return f" of another alphabet ({'; '.join(lacking)})" if lacking else ""


def _hears(modules: Sequence[str] | None) -> bool:
    return modules is None or any(_within(f"{name}.", WITHOUT_TOKENS) for name in modules)


def _tokenless(modules: Sequence[str] | None) -> bool:
    return modules is not None and all(_within(f"{name}.", WITHOUT_TOKENS) for name in modules)


def _within(parameter: str, module: str) -> bool:
    return parameter.startswith(f"{module}.")


def select(
    theirs: Mapping[str, Tensor], own: Mapping[str, Tensor], modules: Sequence[str] | None, where: str
) -> dict[str, Tensor]:
    """The tensors of ``theirs`` that lie in ``modules`` (None: all), which must be those of ``own``.

    Raises:
        UsageError: a module is missing on either side, or a parameter's name or shape differs; names the first one.
    """
    for module in modules or ():
        for state, owner in ((own, "this model"), (theirs, "that model")):
            if not any(_within(name, module) for name in state):
                known = ", ".join(dict.fromkeys(name.partition(".")[0] for name in state))
                raise UsageError(f"{where} init_modules=[{module}]: {owner} has no such weights; it has {known}")
    inner = {name for name in (*own, *theirs) if modules is None or any(_within(name, each) for each in modules)}
    for name in sorted(inner):
        ours, found = _shape_in(own, name), _shape_in(theirs, name)
        if ours != found:
            raise UsageError(
                f"{where}: {name} is {_shown(found)} in that model and {_shown(ours)} here; use its settings of the "
                "model, features and tokens, or name the modules that agree: init_modules=[...]"
            )
    return {name: tensor for name, tensor in theirs.items() if name in inner}


def _shape_in(state: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None


def _shown(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {shape}"
