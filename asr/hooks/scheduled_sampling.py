"""Scheduled sampling: some inputs of the prediction network are replaced by likely tokens of a language model.

Cui et al. 2021 (arXiv 2108.10803, section 3); Bengio et al. 2015 (arXiv 1506.03099). From the first token of a text to
its last: it is kept with probability p, and otherwise one of the k tokens that the language model finds most likely
after what has been read so far, replacements included. The targets stay the text.

    y~_u = y_u  with probability p,  else uniform on the top k of P(. | y~_1 .. y~_{u-1})

B texts   U tokens   V vocabulary size, blank included   k
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.data.batch import RawBatch
from asr.data.pipeline import HookError
from asr.data.tokenizer import BLANK
from asr.hooks.epochs import Epochs
from asr.hooks.perturbed_history import PerturbedHistory
from asr.hooks.pinned import Pinned
from asr.models.token_lm import TokenLanguageModel
from asr.runs.fingerprint import weights_fingerprint
from asr.runs.language_model import load_token_model
from asr.training.hook import Run
from distributed.ranges import Count, Fraction, Natural

KEY = "hooks.scheduled_sampling"


@torch.no_grad()
def sample_history(
    model: TokenLanguageModel, tokens_BU: Tensor, sampled_BU: Tensor, ranks_BU: Tensor, top_k: int
) -> Tensor:
    """Tokens (B, U), those where ``sampled_BU`` is set replaced by entry ``ranks_BU`` of the ``top_k`` most likely ones.

    These are taken in the order of their numbers, so that rounding decides nothing as long as it leaves them the same ones.
    Nothing is drawn here: no text depends on another one of the batch. Padding is read and changes nothing.
    """
    read_BU = tokens_BU.clone()
    state = model.start(len(tokens_BU), tokens_BU.device, next(model.parameters()).dtype)
    last_B = torch.full((len(tokens_BU),), BLANK)
    for u in range(_steps(sampled_BU)):
        log_probs_BV, state = model.step(last_B, state)
        likely_BK = 1 + log_probs_BV[:, 1:].topk(top_k).indices.sort().values  # without blank, which is the end
        chosen_B = likely_BK.gather(1, ranks_BU[:, u : u + 1]).squeeze(1)
        read_BU[:, u] = last_B = torch.where(sampled_BU[:, u], chosen_B, tokens_BU[:, u])
    return read_BU


def _steps(sampled_BU: Tensor) -> int:
    """Number of steps in which the longest history is read, up to the last sampled token."""
    places = sampled_BU.any(0).nonzero()
    return int(places[-1]) + 1 if len(places) else 0


class ScheduledSampling(PerturbedHistory):
    """Samples in the loader, on the CPU, all texts of a unit together; keyed by (seed, epoch, utterance, name) alone.

    The model stays that of the run's start: when its own run has found a better one since, a resume is refused.

    Args:
        lm: run folder of scripts/train_lm.py, whose tokens are the recogniser's.
        keep_probability: p, the probability that a token stays.
        top_k: k, number of equally likely replacements; the true token may be among them.
        from_epoch: the first epoch in which it acts, counted from 0.
        until_epoch: the first epoch without it again; None: never.
    """

    def __init__(
        self,
        *,
        lm: Path,
        keep_probability: Fraction,
        top_k: Count,
        from_epoch: Natural,
        until_epoch: Natural | None,
    ) -> None:
        super().__init__(Epochs(from_epoch, until_epoch))
        self.lm = Path(lm)
        self.keep_probability = keep_probability
        self.top_k = top_k
        self.model: TokenLanguageModel | None = None  # until training starts: a trained recogniser is used without it
        self.pinned = Pinned(f"{KEY}.lm")

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        """Loads the language model; loading processes get copies of it.

        Raises:
            ValueError: the model cannot be loaded or reads other tokens.
            HookError: it has fewer than ``top_k`` tokens, or differs from the other learners' or the run's first model.
        """
        super().on_fit_start(run, resumed)
        self.model = load_token_model(self.lm, torch.device("cpu"), run.tokenizer, f"{KEY}.lm")
        if self.top_k >= self.model.vocabulary_size:
            raise HookError(
                f"{KEY}.top_k={self.top_k}: the model has {self.model.vocabulary_size - 1} tokens "
                "beside blank; set so many or fewer"
            )
        self.pinned.pin(weights_fingerprint(self.model), self.lm, run.world)

    def state_dict(self) -> dict[str, Any]:
        return self.pinned.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.pinned.take_back(state)

    def perturb(self, raw: RawBatch) -> None:
        assert self.model is not None, "on_fit_start has loaded it"
        started = time.perf_counter()
        draws = [self.draw(len(tokens), raw.generator(i)) for i, tokens in enumerate(raw.predictor_inputs)]
        sampled_BU = pad_sequence([sampled_U for sampled_U, _ in draws], batch_first=True)
        ranks_BU = pad_sequence([ranks_U for _, ranks_U in draws], batch_first=True)
        tokens = [torch.tensor(each, dtype=torch.int64) for each in raw.predictor_inputs]
        tokens_BU = pad_sequence(tokens, batch_first=True, padding_value=BLANK)
        read_BU = sample_history(self.model, tokens_BU, sampled_BU, ranks_BU, self.top_k)
        raw.predictor_inputs[:] = [row[: len(each)] for row, each in zip(read_BU.tolist(), tokens, strict=True)]
        raw.metrics[f"time/{raw.hook}"] = time.perf_counter() - started

    def draw(self, tokens: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """For each token of a text: whether it is sampled, (U,) bool, and the rank of its replacement, (U,) int64."""
        sampled_U = torch.rand(tokens, generator=generator, dtype=torch.float64) >= self.keep_probability
        return sampled_U, torch.randint(self.top_k, (tokens,), generator=generator)
