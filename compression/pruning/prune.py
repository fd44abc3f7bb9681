"""True removal as a pass: what the masks of a checkpoint drop is taken out of the model.

Masks are in the checkpoints of a run with hooks=[structured_pruning], beside the model and not in it. From several
checkpoints their parameters are averaged as weights are, and what is dropped is decided from the mean.

Masks that have missed a target, in a run that was short, still say which units matter: with ``sparsity`` the numbers that are
kept are those of masks to whose log-odds one number is added, the same for all units, such that what is kept costs 1 - sparsity.
The values of units stay as trained, near 0 for those that come back: what training evaluated changes as little as it can.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from asr.foreign.tensors import refuse_non_finite
from asr.models.speech_model import SpeechModel
from asr.runs.model_folder import LoadedModel
from compression.compress import Batches
from compression.pruning.costs import Extent, Scope, full_sizes, in_encoder
from compression.pruning.masks import kept_of
from compression.pruning.objectives import Counted, Objective
from compression.pruning.removal import Kept, removed
from compression.pruning.sites import sites
from compression.scheme import named
from distributed.errors import UsageError
from distributed.ranges import Count, Probability

FARTHEST, NEAREST = 100.0, 1e-6  # of what is added to log-odds: beyond what masks come to, and the search's precision

log = logging.getLogger(__name__)


class Prune:
    """Removes what is masked.

    Args:
        multiple_of: None keeps the numbers of units that evaluation in training had.
        sparsity: None removes what evaluation in training masked; else the fraction of the cost that goes.
        objective, scope, latency, frames: the cost, as of the hook ``structured_pruning``; with ``sparsity``.
    """

    def __init__(
        self,
        *,
        multiple_of: Count | None,
        sparsity: Probability | None,
        objective: Objective,
        scope: Scope,
        latency: Path | None,
        frames: Count,
    ) -> None:
        self.multiple_of, self.sparsity = multiple_of, sparsity
        self.counted = Counted(objective, scope, latency, Extent(frames), "pass.")
        if sparsity is None and (objective, scope) != ("parameters", "encoder"):
            raise UsageError(
                f"pass.objective={objective}, pass.scope={scope}: nothing reads them without pass.sparsity, the fraction of this "
                "cost that goes; set it, or leave them out"
            )

    def __call__(self, loaded: LoadedModel, batches: Batches) -> LoadedModel:
        """The smaller model, an ordinary one.

        Raises:
            UsageError: there are no masks beside the model, or those of another, or it was changed by transforms, or its masks
                keep units in any case that cost more than ``sparsity`` leaves.
        """
        auxiliaries = loaded.auxiliaries()
        refuse_non_finite(auxiliaries, "the masks of this model")
        with named("pass=prune: "):
            kept = self._kept(auxiliaries, loaded.model)
            made = removed(loaded, kept)
        if self.sparsity is None and not all(
            int(each) for name, each in auxiliaries.items() if name.endswith(".reached")
        ):
            log.warning(
                "these masks are from before the sparsity of the run was reached: choose checkpoint=last, or a later one"
            )
        sizes = [sum(each.numel() for each in part.model.parameters()) for part in (loaded, made)]
        log.info("%d of %d parameters are left (%.1f %%)", sizes[1], sizes[0], 100 * sizes[1] / sizes[0])
        return made

    def _kept(self, auxiliaries: Mapping[str, Tensor], model: SpeechModel) -> dict[str, Kept]:
        """The units that stay: of all shifts the one that keeps the most and meets the cost."""
        if self.sparsity is None:
            return kept_of(auxiliaries, self.multiple_of, model)

        def kept_at(shift: float) -> dict[str, Kept]:
            return kept_of(auxiliaries, self.multiple_of, model, shift)

        masked = kept_at(0.0).keys()
        found = [site for site in sites(model) if site.name in masked]
        if self.counted.scope == "encoder" and (others := {site.kind for site in found if not in_encoder(site)}):
            raise UsageError(
                f"there are masks of {', '.join(sorted(others))}, which cost nothing with pass.scope=encoder; set pass.scope=model"
            )
        cost = self.counted.cost(model, found)
        limit = (1 - self.sparsity) * float(cost(full_sizes(found)))

        def too_dear(shift: float) -> bool:
            kept = kept_at(shift)
            return float(cost({name: torch.tensor(float(len(each.indices))) for name, each in kept.items()})) > limit

        if too_dear(-FARTHEST):
            raise UsageError(
                f"pass.sparsity={self.sparsity:g}: the units that the masks keep in any case cost more of the "
                f"{self.counted.objective} than that leaves; lower it, or train masks of more kinds or a lower minimum"
            )
        low, high = -FARTHEST, FARTHEST
        while high - low > NEAREST:
            middle = (low + high) / 2
            low, high = (low, middle) if too_dear(middle) else (middle, high)
        log.info("numbers of units are those of log-odds with %.5f more", low)
        return kept_at(low)
