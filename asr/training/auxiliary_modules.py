"""Auxiliary modules of hooks, below ``model.auxiliary``: they train with the model and are not part of it.

Backends, optimizers and learners' checkpoints see their parameters as the model's; model folders do not.
"""

from collections.abc import Mapping

from torch import nn

from asr.models.auxiliary import NAME
from asr.models.speech_model import SpeechModel
from asr.training.hook import Hook


def attach_auxiliaries(model: SpeechModel, hooks: Mapping[str, Hook]) -> None:
    """Attach the auxiliary module of every hook that has one, in the model's dtype; without any nothing changes."""
    parts = {name: part for name, hook in hooks.items() if (part := hook.on_auxiliary(model)) is not None}
    if parts:
        model.add_module(NAME, nn.ModuleDict(parts).to(next(model.parameters()).dtype))
