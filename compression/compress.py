"""What makes another model of a trained one without a training loop: a pass from a model folder to a model folder.

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
    """One way to make a model small: an option of conf/passes."""

    def __call__(self, loaded: LoadedModel, batches: Batches) -> LoadedModel:
        """Another model of a trained one, which it may overwrite; ``batches`` is what it may look at."""


def compress(apply: Pass, loaded: LoadedModel, batches: Batches, folder: Path, name: str) -> LoadedModel:
    """Run a pass and write what it makes as the model folder ``folder``, which says what it is made of.

    ``name`` is what the pass is called there.
    """
    origin = dict(loaded.origin)
    made = apply(loaded, batches)
    source = {"pass": name, **origin}
    description = replace(made.description, made_of=[*made.description.made_of, source])
    made = replace(made, description=description)
    save_model(made, folder)
    return made
