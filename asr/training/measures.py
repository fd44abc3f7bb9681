"""Measures of a model's errors in an evaluation: the metric eval/<set>/<name>, which chooses the best checkpoint.

    figure = sum of errors / sum of what they are errors of        over all utterances of all learners; lower is better

Of a language model the errors are nats, and the figure is the exponential of their mean, the perplexity.

B utterances   S encoder states   D state dimension
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol

from torch import Tensor

from asr.data.batch import Batch
from asr.data.tokenizer import Tokenizer
from asr.decoding.search import Hypothesis
from asr.decoding.wer import score
from asr.models.speech_model import LossOutput, Recogniser, SpeechModel
from asr.models.token_lm import TokenLanguageModel

Texts = dict[str, str]  # by utterance id

LARGEST_EXPONENT = 700.0  # largest exponent without overflow in float64; a model beyond it has diverged


class Decode(Protocol):
    """A search: from encoder states to one hypothesis per utterance."""

    name: str

    def check(self, model: Recogniser) -> None:
        """Raise SearchError unless the model has what this search reads; called before the long work."""

    def __call__(self, model: Recogniser, encoder_states: Tensor, lengths: Tensor) -> list[Hypothesis]:
        """Decode a batch of encoder states (B, S, D) with their lengths (B,)."""


class Measure(ABC):
    """A way of counting errors."""

    name: ClassVar[str]
    """Name of the metric that chooses the best checkpoint, one of those of ``figures``."""

    @abstractmethod
    def count(self, model: SpeechModel, batch: Batch, output: LossOutput) -> tuple[float, float]:
        """Errors in one batch, and the number of items they are counted against; ``output``: the model's output."""

    def figures(self, errors: float, total: float) -> dict[str, float]:
        """The metrics of a whole set, by name; an empty set has 0 errors."""
        return {self.name: errors / max(total, 1.0)}


class WordErrors(Measure):
    """Word errors of a search, per reference word."""

    name = "wer"

    def __init__(self, decode: Decode, tokenizer: Tokenizer) -> None:
        self.decode = decode
        self.tokenizer = tokenizer

    def count(self, model: SpeechModel, batch: Batch, output: LossOutput) -> tuple[float, float]:
        """Edit distance of hypotheses and references, and the references' words."""
        assert isinstance(model, Recogniser)
        counts = score(*texts(batch, hypotheses(model, batch, output, self.decode), self.tokenizer))
        return counts.errors, counts.reference_words


class FrameErrors(Measure):
    """Frames classified wrongly, per frame that has a target: the terms ``frame_errors`` and ``frames`` of a loss."""

    name = "frame_error"

    def count(self, model: SpeechModel, batch: Batch, output: LossOutput) -> tuple[float, float]:
        """The counts among the terms of the model's loss; 0 for an emptied batch."""
        if output.encoder_states is None:
            return 0.0, 0.0
        return float(output.terms["frame_errors"]), float(output.terms["frames"])


class Perplexity(Measure):
    """exp of the mean -log P of a token, where the end of a text is one more token."""

    name = "perplexity"

    def count(self, model: SpeechModel, batch: Batch, output: LossOutput) -> tuple[float, float]:
        """Nats of the whole batch, and its tokens and ends."""
        return output.total.item(), float((batch.target_lengths + 1).sum())

    def figures(self, errors: float, total: float) -> dict[str, float]:
        """The perplexity, and its logarithm in bits."""
        nats = errors / max(total, 1.0)
        return {"perplexity": math.exp(min(nats, LARGEST_EXPONENT)), "bits_per_token": nats / math.log(2)}


def measure_of(model: SpeechModel, decode: Decode | None, tokenizer: Tokenizer) -> Measure:
    """The measure for ``model``: word errors if it writes text, perplexity if it reads text, else frame errors.

    ``decode`` is needed where the model writes text.

    Raises:
        SearchError: the model writes text, but not by this search.
    """
    if isinstance(model, TokenLanguageModel):
        return Perplexity()
    if not isinstance(model, Recogniser):
        return FrameErrors()
    assert decode is not None
    decode.check(model)
    return WordErrors(decode, tokenizer)


def hypotheses(model: Recogniser, batch: Batch, output: LossOutput, decode: Decode) -> list[Hypothesis]:
    """Hypotheses of a search over the encoder states that the loss has computed; none for an emptied batch."""
    if output.encoder_states is None:
        return []
    return decode(model, output.encoder_states, model.encoder.state_lengths(batch.feature_lengths))


def texts(batch: Batch, found: Sequence[Hypothesis], tokenizer: Tokenizer) -> tuple[Texts, Texts]:
    """References and hypotheses of a batch as texts."""
    targets = zip(batch.targets.tolist(), batch.target_lengths.tolist(), strict=True)
    references = [tokenizer.decode(tokens[:length]) for tokens, length in targets]
    written = [tokenizer.decode(hypothesis.tokens) for hypothesis in found]
    ids = batch.utterance_ids
    return dict(zip(ids, references, strict=True)), dict(zip(ids, written, strict=True))
