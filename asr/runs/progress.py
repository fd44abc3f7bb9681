"""Progress of a run: a resume starts from it, and it names checkpoints."""

from dataclasses import dataclass


@dataclass(slots=True)
class Progress:
    """Progress of a run. ``step`` counts this learner's own updates; ``samples`` the utterances of all learners."""

    step: int = 0
    samples: int = 0  # utterances processed by all learners together
    epoch: int = 0
    batch: int = 0  # global batches of this epoch already processed
    global_step: int = 0  # floor(samples / nominal batch): names checkpoints
