"""``init_from``: the weights of another run, or of some of its modules, before training.

init_from=exp/ctc-run init_modules=[encoder]       # the encoder of a CTC model, everything else drawn anew
init_from=exp/lm init_modules=[predictor]          # the prediction network of a language model over the same tokens
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from asr.data.tokenizer import Tokenizer, load_tokenizer
from asr.runs.checkpoint import Checkpoint, best_checkpoint, list_checkpoints
from distributed.errors import UsageError
from scripts.composition.compose import differing_keys

log = logging.getLogger(__name__)

WITHOUT_TOKENS = "encoder"  # the module whose weights mean the same whatever the tokens; it alone hears the features
DIMENSIONS = ("num_mels", "deltas", "stack")  # of the features' settings, those that a weight's shape depends on


def load_initial_weights(model: nn.Module, config: DictConfig, tokenizer: Tokenizer) -> None:
    """Overwrite ``model``, or its modules ``init_modules``, with the best weights of the run ``init_from``, if it is set.

    Raises:
        UsageError: that run has no intact checkpoint, writes other tokens, or has other parameters; or modules are
            named without a run, or none of it.
    """
    modules = config.init_modules
    if modules is not None and (config.init_from is None or not modules):
        remedy = "null takes the whole model" if config.init_from else "add init_from=exp/... to take them from"
        raise UsageError(f"init_modules=[{','.join(modules)}] loads nothing; {remedy}")
    if config.init_from is None:
        return
    run = Path(config.init_from)
    best = _best(run)
    if not _tokenless(modules) and load_tokenizer(run / "tokenizer").fingerprint != tokenizer.fingerprint:
        raise UsageError(
            f"init_from={run}: that run writes other tokens; use its tokenizer settings, train anew, "
            f"or take over what knows no tokens: init_modules=[{WITHOUT_TOKENS}]"
        )
    differing = _differing_features(run, config)
    try:
        loaded = select(best.model_state(), model.state_dict(), modules, f"init_from={run}")
    except UsageError as error:
        needed = " ".join(f"features.{key}={differing[key]}" for key in DIMENSIONS if key in differing)
        if needed and _hears(modules):
            raise UsageError(
                f"init_from={run}: that run's model hears features of another size; set {needed}"
            ) from error
        raise
    model.load_state_dict(loaded, strict=False)
    if differing:
        log.warning("init_from=%s: that run hears other features: %s differ", run, ", ".join(differing))
    what = "all weights" if modules is None else f"weights of {', '.join(modules)}"
    log.info("%s (%d tensors) of %s", what, len(loaded), best.folder)


def _best(run: Path) -> Checkpoint:
    checkpoints, _ = list_checkpoints(run / "checkpoints")
    best = best_checkpoint(checkpoints)
    if best is None:
        raise UsageError(f"init_from={run}: no checkpoint there; give the folder of a trained run")
    damaged = best.damaged_file()
    if damaged is not None:
        raise UsageError(f"init_from={run}: {damaged} is missing, truncated or altered (SHA-256 differs)")
    return best


def _differing_features(run: Path, config: DictConfig) -> dict[str, Any]:
    """The settings in which a run hears other features than ``config``, as they are there; none where one hears nothing.

    The whole configuration of that run is not asked for: it may be one of an earlier version.
    """
    earlier = OmegaConf.load(run / "config.yaml")
    assert isinstance(earlier, DictConfig)
    heard, hears = earlier.get("features"), config.get("features")
    if heard is None or hears is None:
        return {}
    return {key: heard.get(key) for key in differing_keys(heard, hears)}


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
        for state, owner in ((own, "this model"), (theirs, "that run's model")):
            if not any(_within(name, module) for name in state):
                known = ", ".join(dict.fromkeys(name.partition(".")[0] for name in state))
                raise UsageError(f"{where} init_modules=[{module}]: {owner} has no such weights; it has {known}")
    inner = {name for name in (*own, *theirs) if modules is None or any(_within(name, each) for each in modules)}
    for name in sorted(inner):
        ours, found = (tuple(state[name].shape) if name in state else None for state in (own, theirs))
        if ours != found:
            raise UsageError(
                f"{where}: {name} is {_shown(found)} in that run and {_shown(ours)} here; use its settings of the "
                "model, features and tokens, or name the modules that agree: init_modules=[...]"
            )
    return {name: tensor for name, tensor in theirs.items() if name in inner}


def _shown(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {shape}"
