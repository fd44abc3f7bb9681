"""Greedy CTC search against a walk over one utterance at a time, and what it refuses."""

import itertools

import pytest
import torch
from torch import nn

from asr.data.tokenizer import BLANK
from asr.decoding.ctc import CtcGreedy, OnlineCtc, ctc_greedy_decode
from asr.decoding.greedy import Greedy
from asr.decoding.search import Hypothesis


def naive_decode(logits_SV: torch.Tensor) -> Hypothesis:
    """Classes, groups of equal ones, then those that are not blank."""
    log_probs_SV = logits_SV.log_softmax(-1)
    classes = log_probs_SV.argmax(-1).tolist()
    runs = [
        (token, [frame for frame, _ in run]) for token, run in itertools.groupby(enumerate(classes), lambda x: x[1])
    ]
    written = [(token, frames[0]) for token, frames in runs if token != BLANK]
    score = sum(log_probs_SV[frame, token].item() for frame, token in enumerate(classes))
    return Hypothesis([token for token, _ in written], score, [frame for _, frame in written])


def test_greedy_ctc_equals_the_naive_walk_for_any_padding() -> None:
    logits_BSV = 3 * torch.randn(6, 23, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths = torch.tensor([23, 9, 1, 0, 17, 22])
    found = ctc_greedy_decode(logits_BSV, lengths)
    for row, hypothesis in enumerate(found):
        expected = naive_decode(logits_BSV[row, : lengths[row]])
        assert (hypothesis.tokens, hypothesis.frames) == (expected.tokens, expected.frames)
        assert hypothesis.score == pytest.approx(expected.score)
    assert any(a == b for each in found for a, b in itertools.pairwise(each.tokens)), "a token twice, blank between"


class Headed(nn.Module):
    def __init__(self, head: nn.Module | None) -> None:
        super().__init__()
        self.ctc_head = head


def test_both_searches_read_a_ctc_model_and_a_missing_head_is_named() -> None:
    states, lengths = torch.randn(2, 7, 3), torch.tensor([7, 5])
    model = Headed(nn.Linear(3, 5))
    greedy, ctc = Greedy(max_symbols=10)(model, states, lengths), CtcGreedy()(model, states, lengths)
    assert greedy == ctc
    with pytest.raises(ValueError, match=r"needs a model with a CTC head; .* choose decode=greedy"):
        CtcGreedy()(Headed(None), states, lengths)


@pytest.mark.parametrize("size", [1, 4, 60])
def test_a_search_in_pieces_is_that_of_the_whole(size: int) -> None:
    logits_1SV = 3 * torch.randn(1, 60, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (whole,) = ctc_greedy_decode(logits_1SV, torch.tensor([60]))
    search = OnlineCtc(Headed(nn.Identity()))
    found = [each for start in range(0, 60, size) for each in search.push(logits_1SV[0, start : start + size])]
    assert [(each.token, each.frame) for each in found] == list(zip(whole.tokens, whole.frames, strict=True))
    for each in found:
        labels_V = logits_1SV[0, each.frame].index_fill(0, torch.tensor([BLANK]), -torch.inf).softmax(0)
        assert each.confidence == pytest.approx(float(labels_V[each.token]), rel=1e-6)
