"""True removal as a pass: what the masks of a checkpoint drop is taken out of the model.

Masks are in the checkpoints of a run with hooks=[structured_pruning], beside the model and not in it. From several
checkpoints their parameters are averaged as weights are, and what is dropped is decided from the mean.
"""

import logging

from asr.foreign.tensors import refuse_non_finite
from asr.runs.model_folder import LoadedModel
from compression.compress import Batches
from compression.pruning.masks import kept_of
from compression.pruning.removal import removed
from compression.scheme import named
from distributed.ranges import Count

log = logging.getLogger(__name__)


class Prune:
    """Removes what is masked; ``multiple_of`` None keeps the numbers of units that evaluation in training had."""

    def __init__(self, *, multiple_of: Count | None) -> None:
        self.multiple_of = multiple_of

    def __call__(self, loaded: LoadedModel, batches: Batches) -> LoadedModel:
        """The smaller model, an ordinary one.

        Raises:
            UsageError: there are no masks beside the model, or those of another, or it was changed by transforms.
        """
        auxiliaries = loaded.auxiliaries()
        refuse_non_finite(auxiliaries, "the masks of this model")
        with named("pass=prune: "):
            kept = kept_of(auxiliaries, self.multiple_of, loaded.model)
            made = removed(loaded, kept)
        if not all(int(each) for name, each in auxiliaries.items() if name.endswith(".reached")):
            log.warning(
                "these masks are from before the sparsity of the run was reached: choose checkpoint=last, or a later one"
            )
        sizes = [sum(each.numel() for each in part.model.parameters()) for part in (loaded, made)]
        log.info("%d of %d parameters are left (%.1f %%)", sizes[1], sizes[0], 100 * sizes[1] / sizes[0])
        return made
