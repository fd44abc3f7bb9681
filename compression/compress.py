"""Compresses a trained model without a training loop: a pass reads one model folder and writes another.

Passes are chained by their folders: prune, then quantise, then pack. Each reads what the one before has written.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from asr.data.batch import Batch
from asr.runs.model_folder import LoadedModel, save_model

Batches = Callable[[str], Iterable[Batch]]
"""``batches(split)``: the utterances of a split of the run's corpus, without augmentation; nothing is read before."""


class Pass(Protocol):
    """One way to make a model smaller; each option of conf/passes builds one."""

    def __call__(self, loaded: LoadedModel, batches: Batches) -> LoadedModel:
        """Return the changed model; ``loaded`` may be changed in place, ``batches`` gives the data that may be read."""


def compress(apply: Pass, loaded: LoadedModel, batches: Batches, folder: Path, name: str) -> LoadedModel:
    """Run a pass and write its result as the model folder ``folder``, whose model.yaml records the source model.

    ``name`` is the name under which model.yaml records the pass.
    """
    origin = dict(loaded.origin)
    made = apply(loaded, batches)
    source = {"pass": name, **origin}
    description = replace(made.description, made_of=[*made.description.made_of, source])
    made = replace(made, description=description)
    save_model(made, folder)
    return made
