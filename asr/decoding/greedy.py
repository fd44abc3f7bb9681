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
from asr.decoding.ctc import ctc_greedy_decode
from asr.decoding.search import CtcModel, Hypothesis, Model, Scorer
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


@torch.no_grad()
def greedy_decode(
    model: Model, encoder_states_BTD: Tensor, lengths_B: Tensor, *, max_symbols: Count
) -> list[Hypothesis]:
    """The alignment that takes the most probable arc everywhere, for each utterance.

    After ``max_symbols`` labels in one frame blank is taken, whatever its probability: a model that never wants to go
    on cannot hang the search. An utterance of no frames has the empty hypothesis.
    """
    device, lengths_B = encoder_states_BTD.device, lengths_B.to(encoder_states_BTD.device)
    encoder_BTJ = model.joiner.project_encoder(encoder_states_BTD)
    batch = len(encoder_BTJ)
    tokens_B = torch.full((batch,), BLANK, device=device)
    output_BD, state = model.predictor.step(tokens_B, model.predictor.start(batch, device, encoder_BTJ.dtype))
    predictor_B1J = model.joiner.project_predictor(output_BD[:, None])
    cursor = _Cursor.start(lengths_B)
    turns: list[tuple[Tensor, Tensor, Tensor]] = []
    while bool((cursor.frame_B < lengths_B).any()):
        tokens_B, found_B, cursor = _next_label(
            model.joiner, encoder_BTJ, predictor_B1J, lengths_B, cursor, max_symbols
        )
        turns.append((tokens_B, cursor.frame_B, found_B))
        output_BD, advanced = model.predictor.step(tokens_B, state)
        state = model.predictor.select(found_B, advanced, state)
        projected_B1J = model.joiner.project_predictor(output_BD[:, None])
        predictor_B1J = torch.where(found_B[:, None, None], projected_B1J, predictor_B1J)
    return _hypotheses(turns, cursor.score_B)


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
) -> tuple[Tensor, Tensor, _Cursor]:
    """Skip the blanks of each window: returns the next label, whether there is one, and the new position."""
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
    score_B += best_BW.gather(1, chosen_B1).squeeze(1).where(found_B, 0.0)
    tokens_B = classes_BW.gather(1, chosen_B1).squeeze(1).where(found_B, BLANK)
    symbols_B = cursor.symbols_B.where(skipped_B == 0, 0) + found_B
    return tokens_B, found_B, _Cursor(cursor.frame_B + skipped_B, symbols_B, score_B)


def _hypotheses(turns: list[tuple[Tensor, Tensor, Tensor]], score_B: Tensor) -> list[Hypothesis]:
    """Collect the labels that each utterance found in all turns."""
    if not turns:
        return [Hypothesis([], 0.0, []) for _ in score_B]
    tokens_BN, frames_BN, found_BN = (torch.stack(column, 1).cpu() for column in zip(*turns, strict=True))
    rows = zip(score_B.tolist(), tokens_BN, frames_BN, found_BN, strict=True)
    return [Hypothesis(tokens[found].tolist(), score, frames[found].tolist()) for score, tokens, frames, found in rows]
