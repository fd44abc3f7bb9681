"""Forced alignment: which token a trained model puts at which of its states, given the text.

By CTC it is the best path through the CTC lattice (torchaudio's ``forced_align``), where a token may last for several
states. By the transducer it is the best path through its own lattice, where a token is emitted at one state and the
others are blank. The path keeps the model's classes: blank is a class of its own, which also stands for silence.

B utterances   S encoder states   U tokens   V vocabulary size, blank included
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from asr.data.batch import Batch
from asr.data.tokenizer import BLANK, SPACE_SYMBOL
from asr.losses.alignment import Emission, best_paths, lattice_arcs
from asr.losses.ctc import ctc_impossible, ctc_log_probs
from asr.losses.lattice import Arcs
from asr.models.speech_model import Recogniser
from asr.models.transducer import Transducer
from asr.torchaudio_parts import torchaudio_part
from distributed.errors import UsageError

CELLS_TOGETHER = 1 << 21  # of the lattices aligned at a time: some 200 MiB with what the search over them keeps

Method = Literal["auto", "ctc", "transducer"]


def chosen_method(model: Recogniser, method: Method) -> Literal["ctc", "transducer"]:
    """Resolve the method ``auto`` for this model: its CTC head where it has one, otherwise the transducer.

    Raises:
        ValueError: the model does not support the method.
    """
    has_head = getattr(model, "ctc_head", None) is not None
    if method == "auto":
        return "ctc" if has_head else "transducer"
    if method == "ctc" and not has_head:
        raise UsageError("method=ctc needs a model with a CTC head, and this one has none; choose method=transducer")
    if method == "transducer" and not isinstance(model, Transducer):
        raise UsageError("method=transducer needs a transducer, and this model is none; choose method=ctc")
    return method


@torch.no_grad()
def align_batch(model: Recogniser, batch: Batch, method: Method) -> list[Tensor | None]:
    """The token or blank of each state, (S,) int64 per utterance; None where the text needs more states than there are.

    The model must be in evaluation mode.
    """
    if not batch.utterance_ids:
        return []
    return align_states(model, *model.encode(batch.features, batch.feature_lengths), batch, method)


@torch.no_grad()
def align_states(
    model: Recogniser, states_BSD: Tensor, lengths_B: Tensor, batch: Batch, method: Method
) -> list[Tensor | None]:
    """As ``align_batch``, from encoder states that are known; of ``batch`` only the targets are read."""
    targets = [row[:length] for row, length in zip(batch.targets, batch.target_lengths.tolist(), strict=True)]
    if chosen_method(model, method) == "ctc":
        log_probs_BSV = ctc_log_probs(model.ctc_head(states_BSD))  # type: ignore[operator]
        impossible = ctc_impossible(lengths_B, batch.targets, batch.target_lengths).tolist()
        rows = zip(log_probs_BSV, lengths_B.tolist(), targets, impossible, strict=True)
        return [None if lost else ctc_path(row[:states], tokens_U) for row, states, tokens_U, lost in rows]
    assert isinstance(model, Transducer)
    states, found = lengths_B.tolist(), list[Tensor | None]([None] * len(targets))
    possible = [row for row, tokens_U in enumerate(targets) if len(tokens_U) <= states[row]]
    cells = [count * (1 + len(tokens_U)) for count, tokens_U in zip(states, targets, strict=True)]
    for near in rows_together(possible, cells, CELLS_TOGETHER):
        part, lengths_P = rows_of(batch, near), lengths_B[near]
        paths = best_paths(arcs_of_states(model, states_BSD[near, : int(lengths_P.max())], lengths_P, part))
        for row, path in zip(near, paths, strict=True):
            found[row] = emission_path(path, targets[row], states[row])
    return found


def rows_together(rows: Sequence[int], cells: Sequence[int], budget: int) -> list[list[int]]:
    """Rows in parts, from few to many cells: within the budget a part's number times the cells of its largest, or one row."""
    parts: list[list[int]] = []
    for row in sorted(rows, key=cells.__getitem__):
        if parts and (len(parts[-1]) + 1) * cells[row] <= budget:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def rows_of(batch: Batch, rows: list[int]) -> Batch:
    """The targets of some rows of a batch; features are left out."""
    lengths_P = batch.target_lengths[rows]
    targets_PU = batch.targets[rows, : int(lengths_P.max())]
    names = [batch.utterance_ids[row] for row in rows]
    return replace(
        batch, utterance_ids=names, features=batch.features[:0], targets=targets_PU, target_lengths=lengths_P,
        predictor_inputs=targets_PU, weight=float(len(rows)),
    )  # fmt: skip


def ctc_path(log_probs_SV: Tensor, tokens_U: Tensor) -> Tensor:
    """The most probable of all alignments that collapse to ``tokens_U``: a class per state, (S,) int64."""
    if len(tokens_U) == 0:  # forced_align does not accept empty targets
        return torch.full((len(log_probs_SV),), BLANK, device=log_probs_SV.device)
    forced_align = torchaudio_part("functional").forced_align
    path_1S, _ = forced_align(log_probs_SV[None], tokens_U[None].to(torch.int32), blank=BLANK)
    return path_1S[0].long()


def emission_path(path: Sequence[Emission], tokens_U: Tensor, states: int) -> Tensor | None:
    """Tokens where a transducer's path emits them, blank elsewhere, (states,) int64.

    A state can hold one token only: if several are emitted at one state, the others move to free states after it, as
    far as later tokens leave room, otherwise before it. None if there are more tokens than states.
    """
    count = len(tokens_U)
    if count > states:
        return None
    frames_U = torch.tensor([emission.frame for emission in path], dtype=torch.int64)
    ranks_U = torch.arange(count)
    # States are strictly increasing, late enough for all tokens before and early enough for all tokens after.
    frames_U = torch.cummax(frames_U - ranks_U, 0).values + ranks_U if count else frames_U
    frames_U = frames_U.minimum(states - count + ranks_U)
    classes_S = torch.full((states,), BLANK)
    classes_S[frames_U] = tokens_U.cpu()
    return classes_S


def word_spans(path_S: Tensor, tokens_U: Sequence[int], symbols: Sequence[str]) -> list[tuple[int, int]]:
    """First and last state of each word on an aligned path: (W,) pairs.

    Args:
        tokens_U: the tokens of the text, which the path contains; a symbol that begins with ▁ begins a word.
        symbols: the tokenizer's symbols.

    Raises:
        ValueError: the path belongs to another text.
    """
    runs = _token_runs(path_S, len(tokens_U))
    if [token for token, _, _ in runs] != list(tokens_U):
        raise ValueError(f"the alignment has tokens {[token for token, _, _ in runs]}, the text {list(tokens_U)}")
    return [(runs[first][1], runs[last - 1][2]) for first, last in word_ranges(tokens_U, symbols)]


def word_ranges(tokens_U: Sequence[int], symbols: Sequence[str]) -> list[tuple[int, int]]:
    """First token of each word and the one after its last: (W,) pairs. A space alone belongs to no word."""
    ranges: list[tuple[int, int]] = []
    begins = True
    for place, token in enumerate(tokens_U):
        symbol = symbols[token]
        begins = begins or symbol.startswith(SPACE_SYMBOL)
        if symbol == SPACE_SYMBOL:  # no sound of either word
            continue
        ranges = [*ranges, (place, place + 1)] if begins else [*ranges[:-1], (ranges[-1][0], place + 1)]
        begins = False
    return ranges


def _token_runs(path_S: Tensor, tokens: int) -> list[tuple[int, int, int]]:
    """Token, first and last state of each token on a path: by CTC it may last, by the transducer it has one state."""
    places = [(token, state) for state, token in enumerate(path_S.tolist()) if token != BLANK]
    if len(places) == tokens:
        return [(token, state, state) for token, state in places]
    runs: list[tuple[int, int, int]] = []
    for token, state in places:
        if runs and runs[-1][0] == token and runs[-1][2] == state - 1:
            runs[-1] = (token, runs[-1][1], state)
        else:
            runs.append((token, state, state))
    return runs


def transducer_arcs(model: Transducer, batch: Batch) -> Arcs:
    """Arcs of the utterances' lattices, as the loss scores them, for the true transcripts."""
    return arcs_of_states(model, *model.encode(batch.features, batch.feature_lengths), batch)


def arcs_of_states(model: Transducer, states_BSD: Tensor, lengths_B: Tensor, batch: Batch) -> Arcs:
    """As ``transducer_arcs``, from encoder states that are known; of ``batch`` only the targets are read."""
    true = replace(batch, predictor_inputs=batch.targets)
    return lattice_arcs(model.loss_inputs(states_BSD, lengths_B, true))
