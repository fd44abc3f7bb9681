"""Speed perturbation: utterances are spoken faster and slower, so that there are more speakers than were recorded.

Ko et al. 2015, "Audio augmentation for speech recognition" (Interspeech): the signal x(t) becomes x(a t),
which changes tempo and pitch together, as ``sox speed`` and Kaldi's ``perturb_data_dir_speed`` do. It is resampling:
samples at f Hz are taken for such at a x f Hz, and brought back to f. The paper's factors are 0.9, 1.0 and 1.1.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import partial

from torch import Tensor

from asr.data.resampling import resampler
from asr.hooks.changed_rate import ChangedRate, Factor, Version
from distributed.errors import UsageError

PRECISION = 100  # factors are multiples of 1 / PRECISION: the filter has as many phases


def change_speed(waveform: Tensor, factor: float) -> Tensor:
    """x(t) to x(factor t): (samples,) to (ceil(samples / factor),), where a factor above 1 is faster and higher.

    ``factor`` is taken as the nearest multiple of 1 / ``PRECISION``; 1 gives the very same samples.
    """
    ratio = Fraction(round(factor * PRECISION), PRECISION)
    return resampler(ratio.numerator, ratio.denominator)(waveform)


def speeds(key: str, factors: Sequence[float]) -> list[Version]:
    """A version for each factor; raises ValueError, naming the configuration's ``key``, for an impossible factor."""
    if any(abs(factor * PRECISION - round(factor * PRECISION)) > 1e-9 for factor in factors):
        raise UsageError(
            f"{key} must be multiples of {1 / PRECISION:g}, got {list(factors)}; round them, e.g. [0.9, 1.0, 1.1]"
        )
    return [(factor, partial(change_speed, factor=factor)) for factor in factors]


class SpeedPerturbation(ChangedRate):
    """Gives every training utterance one of the speeds."""

    def __init__(self, *, factors: list[Factor]) -> None:
        if not factors:
            raise UsageError("hooks.speed_perturbation.factors is empty; name one or more speeds, e.g. [0.9, 1.0, 1.1]")
        super().__init__(speeds("hooks.speed_perturbation.factors", factors))
