"""A trained recogniser from its folder, with its features and tokenizer and no configuration of Hydra's."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from asr.data.features import LogMel
from asr.data.tokenizer import Tokenizer
from asr.foreign.files import ForeignError
from asr.foreign.tensors import refuse_non_finite
from asr.foreign.yaml_text import read_yaml
from asr.models.speech_model import Recogniser
from asr.runs.choice import choose_checkpoints, mean_model
from asr.runs.model_folder import LoadedModel, is_model_folder, load_model
from asr.runs.run_folder import RunFolder
from asr.training.arithmetic import precision_for_decoding
from asr.training.inference import Inference
from asr.training.precision import Precision
from distributed.errors import UsageError


@dataclass(frozen=True, slots=True)
class TrainedRecogniser:
    """A model on its device, what it hears and what it writes."""

    inference: Inference[Recogniser]
    features: LogMel
    tokenizer: Tokenizer


def load_recogniser(folder: Path, checkpoint: str, device: torch.device) -> TrainedRecogniser:
    """The model of a run's ``checkpoint``, or of a model folder.

    Raises:
        UsageError: the folder holds no model that can be used, or none that writes text.
    """
    precision: Precision
    if is_model_folder(folder):
        loaded = load_model(folder, "folder")
        precision = "fp64" if loaded.description.dtype == "float64" else "fp32"
    else:
        loaded = mean_model(choose_checkpoints(RunFolder(folder).checkpoints, checkpoint))
        precision = precision_for_decoding(_trained_in(folder), loaded.model, folder, device)
    refuse_non_finite(loaded.model.state_dict(), str(folder))
    recogniser, features = _recogniser(loaded, folder)
    return TrainedRecogniser(Inference(recogniser.to(device), device, precision), features, loaded.tokenizer)


def _recogniser(loaded: LoadedModel, folder: Path) -> tuple[Recogniser, LogMel]:
    """The model, which writes texts, and what it hears."""
    if not isinstance(loaded.model, Recogniser) or loaded.features is None:
        raise UsageError(f"{folder}: its model writes no text ({loaded.description.model['_target_']})")
    return loaded.model, loaded.features


def _trained_in(run: Path) -> Precision:
    """The precision of a run's configuration."""
    path = RunFolder(run).config
    content = read_yaml(path)
    trainer = content.get("trainer") if isinstance(content, dict) else None
    precision = trainer.get("precision") if isinstance(trainer, dict) else None
    allowed: tuple[Precision, ...] = get_args(Precision)
    found = next((each for each in allowed if each == precision), None)
    if found is None:
        raise ForeignError(path, f"trainer.precision is {str(precision)[:80]!r}, one of {allowed} is needed")
    return found
