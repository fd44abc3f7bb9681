"""Fused scores against their formula, computed text by text, with language models small enough to be tables."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from asr.data.tokenizer import BLANK
from asr.decoding.beam import BeamSearch
from asr.decoding.fusion import Fusion, text_scores
from asr.decoding.search import Hypothesis, SearchError
from asr.losses.reference import joiner_logits, reference_loss
from asr.models.predictor import State

CLASSES, LIMIT = 4, 3
TEXTS = [each for size in range(LIMIT + 1) for each in itertools.product(range(1, CLASSES), repeat=size)]


class Bigrams:
    """Log probabilities by the last token; its state counts the tokens read, to be carried along correctly."""

    def __init__(self, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.table = (2 * torch.randn(CLASSES, CLASSES, generator=rng).double()).log_softmax(-1)
        self.read = 0

    def start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return torch.zeros(batch_size).double(), torch.full((batch_size, 1), BLANK)

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        self.read += len(tokens_B)
        count_B, _ = state
        return self.table[tokens_B] * (1 + 0.1 * count_B[:, None]), (count_B + 1, tokens_B[:, None])

    def score(self, tokens: tuple[int, ...], end_of_text: bool) -> float:
        ends = [*tokens, BLANK] if end_of_text else tokens
        steps = enumerate(zip([BLANK, *tokens], ends, strict=False))
        return sum(float(self.table[last, token]) * (1 + 0.1 * count) for count, (last, token) in steps)


EXTERNAL, SOURCE = Bigrams(1), Bigrams(2)
RATIO = Fusion(
    external=Path("external"), source=Path("source"), external_weight=0.7, source_weight=0.4, label_bonus=0.3,
    end_of_text=False,
)  # fmt: skip


def states(lengths: list[int]) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    return 2 * torch.randn(len(lengths), max(lengths), 6, generator=rng).double(), torch.tensor(lengths)


def search(model: SimpleNamespace, fusion: Fusion, beam: int, lengths: list[int]) -> list[list[Hypothesis]]:
    decode = BeamSearch(beam=beam, max_labels_per_frame=1.0, n_best=len(TEXTS), fusion=fusion)
    loaded = decode.with_models(fusion.external and EXTERNAL, fusion.source and SOURCE)
    return loaded.n_best(model, *states(lengths))


@torch.no_grad()
def fused_score(model: SimpleNamespace, states_TD: Tensor, tokens: tuple[int, ...], fusion: Fusion) -> float:
    targets_U = torch.tensor(tokens, dtype=torch.int64)
    joiner = model.joiner
    logits_TSV = joiner_logits(
        joiner.project_encoder(states_TD), joiner.project_predictor(model.predictor(targets_U[None])[0]),
        joiner.output.weight, joiner.output.bias,
    )  # fmt: skip
    score = fusion.label_bonus * len(tokens) - float(reference_loss(logits_TSV, targets_U, BLANK))
    if fusion.external:
        score += fusion.external_weight * EXTERNAL.score(tokens, fusion.end_of_text)
    if fusion.source:
        score -= fusion.source_weight * SOURCE.score(tokens, fusion.end_of_text)
    return score


@pytest.mark.parametrize("end_of_text", [False, True])
@pytest.mark.parametrize(
    "fusion",
    [
        RATIO,
        replace(RATIO, source=None),
        replace(RATIO, source=None, label_bonus=-0.5),
        replace(RATIO, external=None),
        replace(RATIO, external=None, source=None, label_bonus=0.9),
    ],
    ids=["ratio", "shallow", "penalty", "source", "bonus"],
)
def test_scores_are_those_of_the_formula(
    toy_transducer: Callable[..., SimpleNamespace], fusion: Fusion, end_of_text: bool
) -> None:
    """All texts of up to three labels for three frames, in a beam that holds them all."""
    model, fusion = toy_transducer(3, CLASSES), replace(fusion, end_of_text=end_of_text)
    found = search(model, fusion, beam=len(TEXTS), lengths=[3, 3])
    for hypotheses, states_TD in zip(found, states([3, 3])[0], strict=True):
        expected = {tokens: fused_score(model, states_TD, tokens, fusion) for tokens in TEXTS}
        best_first = sorted(expected.items(), key=lambda item: -item[1])
        assert [tuple(each.tokens) for each in hypotheses] == [tokens for tokens, _ in best_first]
        assert [each.score for each in hypotheses] == pytest.approx([score for _, score in best_first], rel=1e-6)


@pytest.mark.parametrize("fusion", [replace(RATIO, source=None), RATIO, replace(RATIO, source=None, label_bonus=-1.0)])
def test_the_best_is_that_of_the_full_list(toy_transducer: Callable[..., SimpleNamespace], fusion: Fusion) -> None:
    """Which the search for one hypothesis ends before it is complete."""
    model = toy_transducer(5, CLASSES, 2.0)
    lengths = [9, 3, 0, 6]
    decode = BeamSearch(beam=5, max_labels_per_frame=1.0, n_best=100, fusion=fusion)
    decode = decode.with_models(EXTERNAL, fusion.source and SOURCE)
    lists = decode.n_best(model, *states(lengths))
    assert decode(model, *states(lengths)) == [each[0] for each in lists]


def test_language_models_read_labels_and_no_blanks(toy_transducer: Callable[..., SimpleNamespace]) -> None:
    external = Bigrams(1)
    decode = BeamSearch(beam=2, max_labels_per_frame=1.0, n_best=1, fusion=replace(RATIO, source=None))
    decode.with_models(external, None)(toy_transducer(5, CLASSES, 20.0), *states([30]))
    blank_only = external.read
    assert blank_only < 2 + 30, "a step for each hypothesis and frame would be 60"


def test_a_model_of_weight_zero_is_not_read(toy_transducer: Callable[..., SimpleNamespace]) -> None:
    fusion = replace(RATIO, external_weight=0.0, source_weight=0.0, label_bonus=0.0)
    model, external = toy_transducer(3, CLASSES), Bigrams(1)
    decode = BeamSearch(beam=4, max_labels_per_frame=1.0, n_best=3, fusion=fusion).with_models(external, external)
    plain = BeamSearch(beam=4, max_labels_per_frame=1.0, n_best=3, fusion=replace(fusion, external=None, source=None))
    assert decode.n_best(model, *states([5, 2])) == plain.n_best(model, *states([5, 2]))
    assert external.read == 0


def test_the_bound_of_a_label_covers_every_term() -> None:
    for fusion in (RATIO, replace(RATIO, source=None), replace(RATIO, source=None, label_bonus=-1.0)):
        terms = fusion.terms(EXTERNAL, fusion.source and SOURCE)
        values, end, _ = terms.step(torch.arange(CLASSES), terms.start(CLASSES, torch.device("cpu"), torch.float64))
        assert values.max() <= terms.max_gain
        assert end.max() <= 0
    assert RATIO.terms(EXTERNAL, SOURCE).max_gain == math.inf
    assert replace(RATIO, source_weight=0.0).terms(EXTERNAL, SOURCE).max_gain == 0.3


def test_results_have_a_name_of_their_own() -> None:
    def name(fusion: Fusion) -> str:
        return BeamSearch(beam=8, max_labels_per_frame=1.0, n_best=1, fusion=fusion).name

    shallow, none = replace(RATIO, source=None), replace(RATIO, external=None, source=None)
    names = [name(each) for each in (RATIO, shallow, none, replace(none, label_bonus=0.0))]
    assert names == ["beam8-density-ratio", "beam8-lm", "beam8-bonus", "beam8"]


def test_models_that_were_not_loaded_are_not_left_out(toy_transducer: Callable[..., SimpleNamespace]) -> None:
    decode = BeamSearch(beam=2, max_labels_per_frame=1.0, n_best=1, fusion=RATIO)
    with pytest.raises(SearchError, match="names language models"):
        decode(toy_transducer(3, CLASSES), *states([3]))
    with pytest.raises(SearchError, match="names language models"):
        decode.check(toy_transducer(3, CLASSES))


@pytest.mark.parametrize("end_of_text", [False, True])
def test_texts_are_scored_side_by_side(end_of_text: bool) -> None:
    texts = [[1, 2, 3], [], [3], [2, 2]]
    found = text_scores(EXTERNAL, texts, end_of_text, torch.device("cpu"), torch.float64)
    assert found.tolist() == pytest.approx([EXTERNAL.score(tuple(text), end_of_text) for text in texts])
