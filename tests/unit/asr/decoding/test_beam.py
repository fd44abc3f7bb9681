"""The batched beam search: against enumeration of all label sequences, and against the paper's loop in plain Python."""

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from asr.data.tokenizer import BLANK
from asr.decoding.beam import BeamSearch, beam_search
from asr.decoding.fusion import FusedTerms, Fusion
from asr.decoding.search import Hypothesis, SearchError
from asr.losses.reference import reference_loss

Make = Callable[..., SimpleNamespace]
Found = list[list[Hypothesis]]
ALONE = Fusion(external=None, source=None, external_weight=1.0, source_weight=1.0, label_bonus=0.0, end_of_text=False)


def random_states(lengths: list[int], seed: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(len(lengths), max(lengths), 6, generator=rng).double(), torch.tensor(lengths)


def search(model: SimpleNamespace, states: Tensor, lengths: Tensor, *, beam: int, limit: int | Tensor, n: int) -> Found:
    limit_B = limit if isinstance(limit, Tensor) else torch.full_like(lengths, limit)
    return beam_search(model, states, lengths, ALONE.terms(None, None), beam=beam, max_labels_B=limit_B, n=n)


@torch.no_grad()
def logits(model: SimpleNamespace, states_TD: Tensor, tokens: tuple[int, ...]) -> Tensor:
    """(T, U + 1, V) by the training-time forward of the prediction network."""
    predictor_1SD = model.predictor(torch.tensor([tokens], dtype=torch.int64))
    encoder_TJ = model.joiner.project_encoder(states_TD)
    return model.joiner.logits(encoder_TJ[:, None], model.joiner.project_predictor(predictor_1SD))


def likelihood(model: SimpleNamespace, states_TD: Tensor, tokens: tuple[int, ...]) -> float:
    return -float(reference_loss(logits(model, states_TD, tokens), torch.tensor(tokens, dtype=torch.int64), BLANK))


def naive_search(model: SimpleNamespace, states_TD: Tensor, beam: int, limit: int) -> dict[tuple[int, ...], float]:
    """All complete hypotheses: merged, then pruned."""
    return _naive_search(model, states_TD, beam, limit)[0]


def _naive_search(
    model: SimpleNamespace, states_TD: Tensor, beam: int, limit: int
) -> tuple[dict[tuple[int, ...], float], int]:
    """Also how often a text came back into the beam while a longer one that begins with it was there."""
    front, complete, returned = {(): 0.0}, {}, 0
    for length in range(len(states_TD) + limit):
        extended: dict[tuple[int, ...], float] = {}
        for tokens, score in front.items():
            frame = length - len(tokens)
            log_probs = logits(model, states_TD[frame : frame + 1], tokens)[0, -1].log_softmax(-1).tolist()
            if frame == len(states_TD) - 1:
                complete[tokens] = score + log_probs[BLANK]
            else:
                extended[tokens] = log_sum(extended.get(tokens, -math.inf), score + log_probs[BLANK])
            for token, log_prob in enumerate(log_probs):
                if token != BLANK and len(tokens) < limit:
                    longer = (*tokens, token)
                    extended[longer] = log_sum(extended.get(longer, -math.inf), score + log_prob)
        kept = dict(sorted(extended.items(), key=lambda item: -item[1])[:beam])
        parents = {tokens[:-1] for tokens in front if tokens}
        returned += len((kept.keys() - front.keys()) & parents)
        front = kept
    return complete, returned


def log_sum(one: float, other: float) -> float:
    high, low = max(one, other), min(one, other)
    return high + math.log1p(math.exp(low - high)) if low > -math.inf else high


def best_first(scores: dict[tuple[int, ...], float], n: int) -> list[tuple[tuple[int, ...], float]]:
    return sorted(scores.items(), key=lambda item: -item[1])[:n]


def assert_same(found: list[Hypothesis], expected: list[tuple[tuple[int, ...], float]]) -> None:
    assert [tuple(each.tokens) for each in found] == [tokens for tokens, _ in expected]
    assert [each.score for each in found] == pytest.approx([score for _, score in expected], rel=1e-9)


@pytest.mark.parametrize(("classes", "limit", "sequences"), [(3, 4, 31), (4, 3, 40), (2, 6, 7)])
@pytest.mark.parametrize("blank_bonus", [-1.0, 2.0])
def test_a_wide_beam_is_the_exhaustive_search(
    toy_transducer: Make, classes: int, limit: int, sequences: int, blank_bonus: float
) -> None:
    model = toy_transducer(classes, classes, blank_bonus)
    states_BTD, lengths_B = random_states([4, 1, 3], seed=limit)
    found = search(model, states_BTD, lengths_B, beam=sequences, limit=limit, n=sequences)
    texts = [each for size in range(limit + 1) for each in itertools.product(range(1, classes), repeat=size)]
    assert len(texts) == sequences
    for hypotheses, states_TD, length in zip(found, states_BTD, lengths_B.tolist(), strict=True):
        scores = {tokens: likelihood(model, states_TD[:length], tokens) for tokens in texts}
        assert_same(hypotheses, best_first(scores, sequences))


LENGTHS = [9, 1, 5, 0, 12, 7]


@pytest.mark.parametrize("beam", [1, 2, 3, 5])
@pytest.mark.parametrize("blank_bonus", [-1.0, 1.0, 3.0])
def test_a_narrow_beam_is_the_naive_search(toy_transducer: Make, beam: int, blank_bonus: float) -> None:
    model = toy_transducer(beam, 6, blank_bonus)
    states_BTD, lengths_B = random_states(LENGTHS, seed=beam)
    limit_B = torch.tensor([8, 3, 1, 5, 6, 10])
    found = search(model, states_BTD, lengths_B, beam=beam, limit=limit_B, n=4)
    for row, length in enumerate(LENGTHS):
        expected = naive_search(model, states_BTD[row, :length], beam, int(limit_B[row])) if length else {(): 0.0}
        assert_same(found[row], best_first(expected, 4))


def test_merging_sums_the_alignments(toy_transducer: Make) -> None:
    """Two labels on two frames, text (1): the paths that emit it in the first and in the second frame."""
    model = toy_transducer(3, 3)
    states_BTD, lengths_B = random_states([2], seed=1)
    log_probs_TSV = logits(model, states_BTD[0], (1,)).log_softmax(-1)
    first = log_probs_TSV[0, 0, 1] + log_probs_TSV[0, 1, BLANK] + log_probs_TSV[1, 1, BLANK]
    second = log_probs_TSV[0, 0, BLANK] + log_probs_TSV[1, 0, 1] + log_probs_TSV[1, 1, BLANK]
    (found,) = search(model, states_BTD, lengths_B, beam=7, limit=2, n=7)
    (hypothesis,) = (each for each in found if each.tokens == [1])
    assert hypothesis.score == pytest.approx(float(first.logaddexp(second)), rel=1e-12)
    assert hypothesis.frames == ([0] if first > second else [1])


def test_frames_are_those_of_an_alignment(toy_transducer: Make) -> None:
    model = toy_transducer(7, 5, 1.0)
    states_BTD, lengths_B = random_states([11, 6], seed=3)
    for hypotheses, length in zip(search(model, states_BTD, lengths_B, beam=4, limit=9, n=4), [11, 6], strict=True):
        for each in hypotheses:
            assert len(each.frames) == len(each.tokens)
            assert each.frames == sorted(each.frames)
            assert all(0 <= frame < length for frame in each.frames)


def test_lists_are_distinct_and_best_first_and_begin_with_the_result(toy_transducer: Make) -> None:
    model = toy_transducer(2, 6)
    states_BTD, lengths_B = random_states(LENGTHS, seed=8)
    decode = BeamSearch(beam=4, max_labels_per_frame=0.5, n_best=6, fusion=ALONE)
    found = decode.n_best(model, states_BTD, lengths_B)
    assert {len(each) for each in found} == {1, 4, 5}, "no frames have one hypothesis"
    for each, length in zip(found, LENGTHS, strict=True):
        assert len({tuple(hypothesis.tokens) for hypothesis in each}) == len(each)
        assert [hypothesis.score for hypothesis in each] == sorted((h.score for h in each), reverse=True)
        assert max(len(hypothesis.tokens) for hypothesis in each) <= max(1, length // 2)
    assert decode(model, states_BTD, lengths_B) == [each[0] for each in found]


def test_ending_early_changes_nothing(toy_transducer: Make) -> None:
    class Unbounded(FusedTerms):
        @property
        def max_gain(self) -> float:
            return math.inf

    model = toy_transducer(4, 5, 2.0)
    states_BTD, lengths_B = random_states(LENGTHS, seed=5)
    limit_B = torch.full_like(lengths_B, 30)
    early, late = (
        beam_search(model, states_BTD, lengths_B, terms, beam=4, max_labels_B=limit_B, n=3)
        for terms in (ALONE.terms(None, None), Unbounded([], 0.0, end_of_text=False))
    )
    assert early == late


def test_an_utterance_does_not_depend_on_its_batch(toy_transducer: Make) -> None:
    model = toy_transducer(1, 6)
    states_BTD, lengths_B = random_states(LENGTHS, seed=4)
    decode = BeamSearch(beam=4, max_labels_per_frame=1.5, n_best=3, fusion=ALONE)
    together = decode.n_best(model, states_BTD, lengths_B)
    order = [4, 0, 3, 5, 2, 1]
    permuted = decode.n_best(model, states_BTD[order], lengths_B[order])
    for index, length in enumerate(LENGTHS):
        padded = torch.cat([states_BTD[index : index + 1, :length], torch.full((1, 3, 6), 1e3).double()], 1)
        (alone,) = decode.n_best(model, padded, lengths_B[index : index + 1])
        for other in (alone, permuted[order.index(index)]):
            assert [(each.tokens, each.frames) for each in other] == [
                (each.tokens, each.frames) for each in together[index]
            ]
            scores = [each.score for each in together[index]]
            assert [each.score for each in other] == pytest.approx(scores, rel=1e-9)


@pytest.mark.parametrize(
    ("seed", "blank_bonus", "beam"), [(13, 1.0, 6), (25, 1.0, 6), (31, 1.0, 6), (9, 0.0, 8), (17, 0.0, 8)]
)
def test_a_prefix_that_left_the_beam_and_comes_back_merges_again(
    toy_transducer: Make, seed: int, blank_bonus: float, beam: int
) -> None:
    """Identity by where a hypothesis was made would miss these."""
    model = toy_transducer(seed, 3, blank_bonus)
    states_BTD, lengths_B = random_states([10], seed)
    expected, returned = _naive_search(model, states_BTD[0], beam, 6)
    assert returned > 0, "nothing came back: choose another model"
    (found,) = search(model, states_BTD, lengths_B, beam=beam, limit=6, n=6)
    assert_same(found, best_first(expected, 6))


def test_a_model_that_never_emits_blank_ends(toy_transducer: Make) -> None:
    states_BTD, lengths_B = random_states([3, 2], seed=3)
    found = search(toy_transducer(3, 4, -1e4), states_BTD, lengths_B, beam=2, limit=4, n=1)
    assert [len(best.tokens) for (best,) in found] == [4, 4]


def test_a_model_of_nans_says_nothing(toy_transducer: Make) -> None:
    model = toy_transducer(3, 4)
    states_BTD, lengths_B = random_states([3, 2], seed=3)
    (bad,), (good,) = search(model, states_BTD, lengths_B, beam=2, limit=4, n=1)
    states_BTD[0, 1] = math.nan
    found = search(model, states_BTD, lengths_B, beam=2, limit=4, n=1)
    assert found == [[Hypothesis([], -math.inf, [])], [good]]
    assert bad.score > -math.inf


def test_single_precision_finds_the_same(toy_transducer: Make) -> None:
    model = toy_transducer(9, 6)
    states_BTD, lengths_B = random_states(LENGTHS, seed=2)
    exact = search(model, states_BTD, lengths_B, beam=4, limit=8, n=1)
    model.predictor.float(), model.joiner.float()
    for (one,), (other,) in zip(exact, search(model, states_BTD.float(), lengths_B, beam=4, limit=8, n=1), strict=True):
        assert one.tokens == other.tokens
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_ctc_models_are_refused() -> None:
    with pytest.raises(SearchError, match="choose decode=greedy"):
        BeamSearch(beam=2, max_labels_per_frame=1.0, n_best=1, fusion=ALONE).check(SimpleNamespace(ctc_head=None))


def test_results_are_named_by_the_width() -> None:
    assert BeamSearch(beam=8, max_labels_per_frame=1.0, n_best=1, fusion=ALONE).name == "beam8"


def test_runs_under_autocast(toy_transducer: Make) -> None:
    model = toy_transducer(9, 6)
    model.predictor.float(), model.joiner.float()
    states_BTD, lengths_B = random_states(LENGTHS, seed=2)
    exact = search(model, states_BTD.float(), lengths_B, beam=4, limit=8, n=1)
    with torch.autocast("cpu", torch.bfloat16):
        rough = search(model, states_BTD.float(), lengths_B, beam=4, limit=8, n=1)
    assert [each.score for (each,) in rough] == pytest.approx([each.score for (each,) in exact], abs=0.5)
