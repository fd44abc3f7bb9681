"""Where a run stands: what a resume begins from, and what names a checkpoint."""

from dataclasses import dataclass


@dataclass(slots=True)
class Progress:
    """Where a run stands. ``step`` counts this learner's own updates; ``samples`` those of all learners."""

    step: int = 0
    samples: int = 0  # utterances processed by all learners together
    epoch: int = 0
    batch: int = 0  # global batches of this epoch already processed
    global_step: int = 0  # floor(samples / nominal batch): names checkpoints
