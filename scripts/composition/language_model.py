"""A trained language model, ready to be used beside a recogniser that writes the same tokens."""

from pathlib import Path

import torch

from asr.data.tokenizer import Tokenizer, load_tokenizer
from asr.models.token_lm import TokenLanguageModel
from asr.runs.checkpoint import Checkpoint
from distributed.errors import UsageError
from scripts.composition.build import build_hooks, build_material, hooked_model
from scripts.composition.run_configuration import load_run_config
from scripts.composition.settings import TrainLmSettings
from scripts.composition.trained import choose_checkpoints


def best_of(folder: Path) -> Checkpoint:
    """The checkpoint of a language model's run that is used, found intact.

    Raises:
        UsageError: there is none.
    """
    (chosen,) = choose_checkpoints(folder / "checkpoints", "best")
    return chosen


def load_token_model(folder: Path, device: torch.device, tokenizer: Tokenizer, key: str = "lm") -> TokenLanguageModel:
    """The best model of a run of scripts/train_lm.py, for evaluation: its parameters take no gradient.

    ``tokenizer`` is the recogniser's, whose tokens the model must read; ``key`` is what errors call the folder.
    No text is looked at, and torch's generator is left as it was.

    Raises:
        UsageError: the folder holds no such run, or it has no intact checkpoint, or reads other tokens.
    """
    config = load_run_config(folder, TrainLmSettings, key)
    own = load_tokenizer(folder / "tokenizer")
    if own.fingerprint != tokenizer.fingerprint:
        raise UsageError(
            f"{key}={folder}: that model reads other tokens ({own.fingerprint}) than the recogniser writes "
            f"({tokenizer.fingerprint}); train it with the recogniser's tokenizer settings"
        )
    chosen = best_of(folder)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, to be replaced
        model = hooked_model(config, build_material(config, folder), build_hooks(config), initialise=False)
    model.load_state_dict(chosen.model_state())
    assert isinstance(model, TokenLanguageModel)
    return model.to(device).eval().requires_grad_(False)
