"""SwitchOut: tokens that the prediction network reads are replaced by random ones, so that it learns to go on after errors.

Cui et al. 2021, "Reducing exposure bias in training recurrent neural network transducers" (arXiv 2108.10803, section
3); Wang et al. 2018 (arXiv 1808.07512). For a text y of U tokens a number n is drawn from p(n) ~ exp(-n / tau), n =
0..U; every token is then replaced with probability n / U by another one, each as likely. The targets stay y. The
papers' temperatures imply exp(-tau n): with the printed formula 0.1 would change one text in twenty thousand. Both
forms can be chosen.

U tokens   V vocabulary size, blank included
"""

from typing import Literal

import torch
from torch import Tensor

from asr.data.batch import RawBatch
from asr.data.pipeline import HookError
from asr.hooks.epochs import Epochs
from asr.hooks.perturbed_history import PerturbedHistory
from distributed.ranges import Natural, Positive

Reading = Literal["inverse", "printed"]


def number_probabilities(tokens: int, temperature: float, reading: Reading) -> Tensor:
    """p(n) for n = 0..tokens, (tokens + 1,) float64: exp(-temperature n) if ``inverse``, else exp(-n / temperature)."""
    rate = temperature if reading == "inverse" else 1.0 / temperature
    return torch.softmax(-rate * torch.arange(tokens + 1, dtype=torch.float64), dim=0)


def switch_out(tokens_U: Tensor, vocabulary_size: int, probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """A copy of tokens (U,), each replaced with probability n / U by one of the V - 2 others that are not blank.

    ``probabilities`` (U + 1,) are the probabilities of n.
    """
    number = int(torch.multinomial(probabilities, 1, generator=generator))
    switched_U = torch.rand(len(tokens_U), generator=generator, dtype=torch.float64) * len(tokens_U) < number
    others_U = torch.randint(1, vocabulary_size - 1, (len(tokens_U),), generator=generator)
    others_U += others_U >= tokens_U  # 1..V-1 without the token itself
    return torch.where(switched_U, others_U, tokens_U)


class SwitchOut(PerturbedHistory):
    """Switches tokens of every training utterance; the draws depend on (seed, epoch, utterance, name) alone.

    Args:
        temperature: temperature of the distribution of n, the number of replacements.
        reading: ``inverse``: p(n) ~ exp(-temperature n), which the papers' numbers imply; ``printed``: their formula.
        from_epoch: the first epoch in which it acts, counted from 0.
        until_epoch: the first epoch without it again; None: never.
    """

    def __init__(
        self, *, temperature: Positive, reading: Reading, from_epoch: Natural, until_epoch: Natural | None
    ) -> None:
        super().__init__(Epochs(from_epoch, until_epoch))
        self.temperature = temperature
        self.reading: Reading = reading

    def perturb(self, raw: RawBatch) -> None:
        if raw.vocabulary_size < 3:
            raise HookError(
                f"hooks={raw.hook}: of {raw.vocabulary_size} tokens, blank included, none is left to put in place of "
                "another: leave the hook out"
            )
        for position, tokens in enumerate(raw.predictor_inputs):
            probabilities = number_probabilities(len(tokens), self.temperature, self.reading)
            read_U = switch_out(
                torch.tensor(tokens, dtype=torch.int64), raw.vocabulary_size, probabilities, raw.generator(position)
            )
            raw.predictor_inputs[position] = read_U.tolist()
