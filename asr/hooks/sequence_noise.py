"""Sequence noise: the attenuated spectrum of another training utterance is added, so that models separate voices.

Saon et al. 2021, arXiv 2103.09935, section 3 (first in Saon et al. 2020, arXiv 2001.07263): with X and Y the mel
energies of the utterance and of another one of similar length,

    log(X + scale Y)        with a probability, anew in every epoch; labels stay those of X

The sum is one of energies, as of two independent sources, in float32 and without leaving the log domain.

Where Y comes from. The paper draws from the whole training set; here it is another utterance of the same unit. Units
hold utterances of similar length, which change in every epoch and are the plan's own, so that the draw depends neither
on the number of learners nor on loading processes, and no utterance is read twice. The price: with units of B
utterances the partner is one of B - 1 neighbours in length, and an utterance that is alone in its unit gets none.

T frames   F mel bins   S frames of the partner
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from asr.data.batch import RawBatch, Stage
from asr.hooks.epochs import Epochs, HookOfEpochs
from distributed.ranges import Fraction, Natural, NonNegative


def add_spectrum(mel_TF: Tensor, partner_SF: Tensor, scale: float) -> Tensor:
    """log(exp(mel) + scale exp(partner)), (T, F), of log-mel energies; a shorter partner begins anew, a longer is cut."""
    if scale == 0:
        return mel_TF
    repeated_TF = partner_SF[torch.arange(len(mel_TF)) % len(partner_SF)]
    return torch.logaddexp(mel_TF, repeated_TF + math.log(scale))


class SequenceNoise(HookOfEpochs):
    """Adds utterances of the unit to each other; the draw depends on (seed, epoch, utterance, the hook's name) alone.

    Partners are used as the earlier stages left them, without this hook's own changes: nothing is added twice over.

    Args:
        probability: probability that an utterance gets the spectrum of another one.
        scale: factor of the other utterance's mel energies, which are powers: 0.4 is 4 dB below.
        from_epoch: the first epoch with noise, counted from 0.
        until_epoch: the first epoch without it again; None: never.
    """

    stage: ClassVar[Stage | None] = "mel"

    def __init__(
        self, *, probability: Fraction, scale: NonNegative, from_epoch: Natural, until_epoch: Natural | None
    ) -> None:
        super().__init__(Epochs(from_epoch, until_epoch))
        self.probability = probability
        self.scale = scale

    def on_batch(self, raw: RawBatch) -> None:
        if raw.epoch not in self.epochs:
            return
        given = list(raw.signals)
        mixed = 0
        for position, mel_TF in enumerate(given):
            partner = self.partner(position, len(given), raw.generator(position))
            if partner is not None:
                raw.signals[position] = add_spectrum(mel_TF, given[partner], self.scale)
                mixed += 1
        raw.metrics[f"{raw.hook}/mixed"] = mixed / len(given)

    def partner(self, position: int, utterances: int, generator: torch.Generator) -> int | None:
        """Draw the utterance that is added to the one at ``position``, all others equally likely; None: none."""
        happens = float(torch.rand((), generator=generator, dtype=torch.float64)) < self.probability
        if not happens or utterances == 1:
            return None
        return (position + int(torch.randint(1, utterances, (), generator=generator))) % utterances
