"""Speed and tempo replicas: every utterance as it is, at other speeds, and at other tempos, one of them in each epoch.

Saon et al. 2021, arXiv 2103.09935, section 3, train on five copies of the corpus: speeds 0.9 and 1.1, tempos 0.9 and
1.1 (separately, not one after the other), and the original. Here an utterance is drawn as one of its copies whenever it
is presented, so that five epochs amount to one of theirs, on average, and no copies are stored.
"""

from torch import Tensor

from asr.hooks.changed_rate import ChangedRate, Factor, Version
from asr.hooks.speed_perturbation import speeds
from asr.hooks.tempo_perturbation import tempos
from distributed.ranges import Count, Positive


class Replicas(ChangedRate):
    """Gives every training utterance one of its copies: the original, a speed or a tempo."""

    def __init__(
        self, *, speed_factors: list[Factor], tempo_factors: list[Factor], sample_rate: Count, window_ms: Positive
    ) -> None:
        original: Version = (1.0, unchanged)
        others = speeds("hooks.replicas.speed_factors", speed_factors) + tempos(tempo_factors, sample_rate, window_ms)
        super().__init__([original, *others])


def unchanged(waveform: Tensor) -> Tensor:
    """Return the samples unchanged."""
    return waveform
