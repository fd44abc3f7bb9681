"""Modules of hooks that train with a model and are no part of it: they lie below ``model.auxiliary``.

Backends, optimizers and learners' checkpoints see their parameters as the model's; model folders do not.
"""

from collections.abc import Mapping

from torch import nn

from asr.models.auxiliary import NAME
from asr.models.speech_model import SpeechModel
from asr.training.hook import Hook


def attach_auxiliaries(model: SpeechModel, hooks: Mapping[str, Hook]) -> None:
    """Ask every hook for its module, in the model's dtype; a model none of whose hooks has one stays as it is."""
    parts = {name: part for name, hook in hooks.items() if (part := hook.on_auxiliary(model)) is not None}
    if parts:
        model.add_module(NAME, nn.ModuleDict(parts).to(next(model.parameters()).dtype))
