"""Words of a hypothesis, with times and confidence.

A word lasts from its first token's first state to its last token's last state. The confidence of a token is its
probability among all tokens, blank aside, where it was emitted and after the tokens before it,

    c_u = p(y_u | t_u, y_1 .. y_{u-1}) / (1 - p(blank | t_u, y_1 .. y_{u-1}))

and that of a word is the product of its tokens'. It is not calibrated: a model that is wrong is often sure of it.

B utterances   S encoder states   U tokens   D state dimension   V vocabulary size, blank included
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from asr.data.tokenizer import BLANK, Tokenizer
from asr.decoding.forced_alignment import word_ranges, word_spans
from asr.decoding.search import Hypothesis
from asr.models.speech_model import Recogniser
from asr.models.transducer import Transducer


@dataclass(frozen=True, slots=True)
class Word:
    """A recognised word; times in seconds from the start of the recording."""

    text: str
    start: float
    end: float
    confidence: float  # 0 to 1


@torch.no_grad()
def token_confidences(
    model: Recogniser, states_BSD: Tensor, found: Sequence[Hypothesis], *, by_ctc: bool
) -> list[list[float]]:
    """The confidence of every token of each hypothesis; ``by_ctc``: it was searched by the CTC head."""
    if not any(each.tokens for each in found):
        return [[] for _ in found]
    tokens_BU = padded_tokens(found).to(states_BSD.device)
    frames = [torch.tensor(each.frames, dtype=torch.int64) for each in found]
    frames_BU = pad_sequence(frames, batch_first=True).to(states_BSD.device)
    emitting_BUD = states_BSD[torch.arange(len(found), device=states_BSD.device)[:, None], frames_BU]
    if by_ctc:
        head = model.ctc_head
        assert isinstance(head, nn.Module), "the search has asked for it"
        logits_BUV = head(emitting_BUD)
    else:
        assert isinstance(model, Transducer)
        outputs_BUD = model.predictor(tokens_BU)[:, :-1]
        joiner = model.joiner
        logits_BUV = joiner.logits(joiner.project_encoder(emitting_BUD), joiner.project_predictor(outputs_BUD))
    logits_BUV = logits_BUV.float().index_fill(2, torch.tensor([BLANK], device=logits_BUV.device), -math.inf)
    chosen_BU = logits_BUV.softmax(2).gather(2, tokens_BU[..., None]).squeeze(2)
    return [row[: len(each.tokens)] for row, each in zip(chosen_BU.tolist(), found, strict=True)]


def padded_tokens(found: Sequence[Hypothesis]) -> Tensor:
    """The tokens of hypotheses, (B, U) int64, padded with blank."""
    rows = [torch.tensor(each.tokens, dtype=torch.int64) for each in found]
    return pad_sequence(rows, batch_first=True, padding_value=BLANK)


def timed_words(
    hypothesis: Hypothesis,
    path_S: Tensor | None,
    confidences: Sequence[float],
    tokenizer: Tokenizer,
    *,
    state_seconds: float,
    offset_seconds: float,
    length_seconds: float,
) -> list[Word]:
    """The words of one hypothesis.

    Args:
        path_S: its alignment, a class per state; None: the states at which the search emitted its tokens.
        confidences: of each token.
        state_seconds: duration of an encoder state.
        offset_seconds: where the audio begins in its recording.
        length_seconds: of the audio; no word ends later.
    """
    tokens, symbols = hypothesis.tokens, tokenizer.symbols
    ranges = word_ranges(tokens, symbols)
    if path_S is None:
        spans = [(hypothesis.frames[first], hypothesis.frames[end - 1]) for first, end in ranges]
    else:
        spans = word_spans(path_S, tokens, symbols)
    return [
        Word(
            text=tokenizer.decode(tokens[first:end]).strip(),
            start=offset_seconds + min(from_state * state_seconds, length_seconds),
            end=offset_seconds + min((to_state + 1) * state_seconds, length_seconds),
            confidence=math.prod(confidences[first:end]),
        )
        for (first, end), (from_state, to_state) in zip(ranges, spans, strict=True)
    ]
