"""A trained language model, ready to be used beside a recogniser that writes the same tokens."""

from pathlib import Path
from typing import Any

import torch

from asr.data.tokenizer import Tokenizer
from asr.foreign.tensors import refuse_non_finite
from asr.models.token_lm import TokenLanguageModel
from asr.runs.checkpoint import model_folder_of
from asr.runs.model_folder import load_model, read_description
from distributed.errors import UsageError


def origin_of_language_model(folder: Path, key: str) -> dict[str, Any]:
    """Identifies the language model in ``folder`` (a model folder or a run) in results: a name and SHA-256 digests."""
    chosen = model_folder_of(folder, key)
    return {"checkpoint": chosen.name, "weights_sha256": [read_description(chosen, key)[1]]}


def load_token_model(folder: Path, device: torch.device, tokenizer: Tokenizer, key: str = "lm") -> TokenLanguageModel:
    """Load a language model for evaluation, without gradients: a model folder, or a run of train_lm.py (its best one).

    ``tokenizer`` is the recogniser's, whose tokens the model must read; ``key`` is what errors call the folder.
    No text is read, and torch's generator is left as it was.

    Raises:
        UsageError: the folder holds no such model, or none that is intact, or it reads other tokens.
    """
    chosen = model_folder_of(folder, key)
    description, _ = read_description(chosen, key)
    if description.tokenizer != tokenizer.fingerprint:
        raise UsageError(
            f"{key}={folder}: that model reads other tokens ({description.tokenizer}) than the recogniser writes "
            f"({tokenizer.fingerprint}); train it with the recogniser's tokenizer settings"
        )
    model = load_model(chosen, key).model
    if not isinstance(model, TokenLanguageModel):
        raise UsageError(
            f"{key}={folder}: its model reads speech, where a language model of scripts/train_lm.py is needed"
        )
    refuse_non_finite(model.state_dict(), f"{key}={folder}")
    return model.to(device).requires_grad_(False)
