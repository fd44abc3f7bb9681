"""Greedy search over a batch: at every frame of every utterance the most probable class.

Label looping (Bataev et al. 2024, arXiv 2406.06220): while an utterance emits blanks its prediction does not change, so
that all utterances look for their next label together, each at its own frame and over a window of frames at once; the
prediction network then advances by one step wherever a label was found. The number of turns follows the number of
labels, not that of frames, and no utterance can influence another.

B utterances   T encoder frames   W frames of the window   D dimension   J joint dimension   V classes with blank
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from asr.data.tokenizer import BLANK
from asr.decoding.ctc import OnlineCtc, confidence, ctc_greedy_decode
from asr.decoding.search import CtcModel, Emitted, Hypothesis, Model, OnlineSearch, Scorer
from asr.models.predictor import State
from distributed.ranges import Count

WINDOW_FRAMES = 8  # joint evaluations per turn against number of turns; has no influence on the result


class Greedy:
    """Greedy search as an option of the configuration; models without a prediction network are searched by CTC."""

    name = "greedy"

    def __init__(self, *, max_symbols: Count) -> None:
        self.max_symbols = max_symbols

    def check(self, model: object) -> None:
        """Accept every model: all that write text have a prediction network or a CTC head."""

    def __call__(self, model: Model | CtcModel, encoder_states_BTD: Tensor, lengths_B: Tensor) -> list[Hypothesis]:
        """One hypothesis for each utterance."""
        if not hasattr(model, "predictor"):
            return ctc_greedy_decode(model.ctc_head(encoder_states_BTD), lengths_B)
        return greedy_decode(cast(Model, model), encoder_states_BTD, lengths_B, max_symbols=self.max_symbols)

    def online(self, model: Model | CtcModel) -> OnlineSearch:
        """The search of one recording while it is heard."""
        if not hasattr(model, "predictor"):
            return OnlineCtc(cast(CtcModel, model))
        return OnlineGreedy(cast(Model, model), self.max_symbols)


@torch.no_grad()
def greedy_decode(
    model: Model, encoder_states_BTD: Tensor, lengths_B: Tensor, *, max_symbols: Count
) -> list[Hypothesis]:
    """The alignment that takes the most probable arc everywhere, for each utterance.

    After ``max_symbols`` labels in one frame blank is taken, whatever its probability: a model that never wants to go
    on cannot hang the search. An utterance of no frames has the empty hypothesis.
    """
    encoder_BTJ = model.joiner.project_encoder(encoder_states_BTD)
    read = _Read.start(model, len(encoder_BTJ), encoder_BTJ)
    _, turns, score_B = _search(model, read, encoder_BTJ, lengths_B.to(encoder_BTJ.device), max_symbols)
    rows = zip(score_B.tolist(), *_columns(turns, len(score_B)), strict=True)
    return [
        Hypothesis(tokens[found].tolist(), score, frames[found].tolist()) for score, tokens, frames, _, found in rows
    ]


class OnlineGreedy:
    """``greedy_decode`` of one recording, whose states come in pieces."""

    def __init__(self, model: Model, max_symbols: Count) -> None:
        self.model = model
        self.max_symbols = max_symbols
        self.frame = 0
        self._read: _Read | None = None

    @torch.no_grad()
    def push(self, encoder_states_SD: Tensor) -> list[Emitted]:
        """The tokens of the next states."""
        encoder_1SJ = self.model.joiner.project_encoder(encoder_states_SD[None])
        read = _Read.start(self.model, 1, encoder_1SJ) if self._read is None else self._read
        length_1 = torch.tensor([encoder_1SJ.shape[1]], device=encoder_1SJ.device)
        self._read, turns, _ = _search(self.model, read, encoder_1SJ, length_1, self.max_symbols)
        tokens, frames, certain, found = (column[0] for column in _columns(turns, 1))
        rows = zip(tokens[found].tolist(), frames[found].tolist(), certain[found].tolist(), strict=True)
        before, self.frame = self.frame, self.frame + encoder_1SJ.shape[1]
        return [Emitted(token, before + frame, confident) for token, frame, confident in rows]


@dataclass(slots=True)
class _Read:
    """What the prediction network has read."""

    prediction_B1J: Tensor  # projected output
    state: State

    @staticmethod
    def start(model: Model, batch: int, like: Tensor) -> "_Read":
        blank_B = torch.full((batch,), BLANK, device=like.device)
        output_BD, state = model.predictor.step(blank_B, model.predictor.start(batch, like.device, like.dtype))
        return _Read(model.joiner.project_predictor(output_BD[:, None]), state)

    def after(self, model: Model, tokens_B: Tensor, found_B: Tensor) -> "_Read":
        """The same after one more label each, where one was found."""
        output_BD, advanced = model.predictor.step(tokens_B, self.state)
        projected_B1J = model.joiner.project_predictor(output_BD[:, None])
        prediction_B1J = torch.where(found_B[:, None, None], projected_B1J, self.prediction_B1J)
        return _Read(prediction_B1J, model.predictor.select(found_B, advanced, self.state))


_Turn = tuple[Tensor, Tensor, Tensor, Tensor]  # each (B,): label, its frame, its confidence, whether there is one


def _search(
    model: Model, read: _Read, encoder_BTJ: Tensor, lengths_B: Tensor, max_symbols: int
) -> tuple[_Read, list[_Turn], Tensor]:
    """Search frames after what was read: what then has been read, the turns, and log probabilities (B,)."""
    cursor = _Cursor.start(lengths_B)
    turns: list[_Turn] = []
    while bool((cursor.frame_B < lengths_B).any()):
        tokens_B, certain_B, found_B, cursor = _next_label(
            model.joiner, encoder_BTJ, read.prediction_B1J, lengths_B, cursor, max_symbols
        )
        turns.append((tokens_B, cursor.frame_B, certain_B, found_B))
        read = read.after(model, tokens_B, found_B)
    return read, turns, cursor.score_B


@dataclass(slots=True)
class _Cursor:
    """The position of each utterance in the search."""

    frame_B: Tensor  # encoder frame
    symbols_B: Tensor  # labels already emitted in this frame
    score_B: Tensor  # log probability of the arcs taken, float64

    @staticmethod
    def start(lengths_B: Tensor) -> "_Cursor":
        zeros_B = torch.zeros_like(lengths_B)
        return _Cursor(zeros_B, zeros_B, zeros_B.double())


def _next_label(
    joiner: Scorer, encoder_BTJ: Tensor, predictor_B1J: Tensor, lengths_B: Tensor, cursor: _Cursor, max_symbols: int
) -> tuple[Tensor, Tensor, Tensor, _Cursor]:
    """Skip the blanks of each window: returns the next label, its confidence, whether there is one, the new position."""
    offsets_W = torch.arange(WINDOW_FRAMES, device=encoder_BTJ.device)
    frames_BW = cursor.frame_B[:, None] + offsets_W
    inside_BW = frames_BW < lengths_B[:, None]
    rows_B1 = torch.arange(len(encoder_BTJ), device=encoder_BTJ.device)[:, None]
    window_BWJ = encoder_BTJ[rows_B1, frames_BW.clamp(max=encoder_BTJ.shape[1] - 1)]
    logits_BWV = joiner.logits(window_BWJ, predictor_B1J)
    log_probs_BWV = logits_BWV.log_softmax(-1, dtype=torch.promote_types(logits_BWV.dtype, torch.float32))
    best_BW, classes_BW = log_probs_BWV.max(-1)

    label_BW = inside_BW & (classes_BW != BLANK)
    label_BW[:, 0] &= cursor.symbols_B < max_symbols
    found_B = label_BW.any(1)
    skipped_B = torch.where(found_B, label_BW.int().argmax(1), WINDOW_FRAMES).minimum(lengths_B - cursor.frame_B)
    blanks_BW = log_probs_BWV[..., BLANK].where(offsets_W < skipped_B[:, None], 0.0)
    # summed in double precision, so that the sum does not depend on the windows' boundaries
    score_B = cursor.score_B + blanks_BW.double().sum(1)

    chosen_B1 = skipped_B.clamp(max=WINDOW_FRAMES - 1)[:, None]
    best_B = best_BW.gather(1, chosen_B1).squeeze(1)
    score_B += best_B.where(found_B, 0.0)
    certain_B = confidence(best_B, log_probs_BWV[..., BLANK].gather(1, chosen_B1).squeeze(1))
    tokens_B = classes_BW.gather(1, chosen_B1).squeeze(1).where(found_B, BLANK)
    symbols_B = cursor.symbols_B.where(skipped_B == 0, 0) + found_B
    return tokens_B, certain_B, found_B, _Cursor(cursor.frame_B + skipped_B, symbols_B, score_B)


def _columns(turns: list[_Turn], batch: int) -> list[Tensor]:
    """The turns side by side on the CPU: labels, frames, confidences and whether there is one, each (B, N)."""
    if not turns:
        empty_B0 = torch.zeros(batch, 0)
        return [empty_B0.long(), empty_B0.long(), empty_B0, empty_B0.bool()]
    return [torch.stack(column, 1).cpu() for column in zip(*turns, strict=True)]
