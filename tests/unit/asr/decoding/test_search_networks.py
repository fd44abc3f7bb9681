"""The networks as a beam search reads them: what is fused gives what the modules give, and only what can be fused is."""

import itertools
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import nn

from asr.data.tokenizer import BLANK
from asr.decoding import beam_state
from asr.decoding.beam import beam_search
from asr.decoding.fusion import FusedTerms
from asr.decoding.search import Hypothesis, Model
from asr.decoding.search_networks import (
    FEW_ROWS,
    FusedTokenModel,
    FusedTransducer,
    Modules,
    networks_of,
    small_products,
    token_model_of,
)
from asr.losses.inputs import Combine
from asr.models.joiner import Joiner
from asr.models.predictor import LstmPredictor, Predictor, StatelessPredictor
from asr.models.token_lm import TokenLanguageModel

CPU, CLASSES = torch.device("cpu"), 7


def transducer(layers: int = 1, combine: Combine = "add", predictor: Predictor | None = None) -> SimpleNamespace:
    torch.manual_seed(layers)
    predictor = predictor or LstmPredictor(
        vocabulary_size=CLASSES, embedding=3, dimension=5, layers=layers, embedding_dropout=0.5, dropout=0.5
    )
    joiner = Joiner(vocabulary_size=CLASSES, encoder_dimension=6, predictor_dimension=5, dimension=8, combine=combine)
    for each in itertools.chain(predictor.parameters(), joiner.parameters()):
        nn.init.normal_(each, std=0.7)
    return SimpleNamespace(predictor=predictor.double().eval(), joiner=joiner.double().eval())


@torch.no_grad()
@pytest.mark.parametrize("reads", [CLASSES - 1, CLASSES], ids=["products", "table"])
@pytest.mark.parametrize("combine", ["add", "multiply"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_fused_networks_give_what_the_modules_give(layers: int, combine: Combine, reads: int) -> None:
    model = transducer(layers, combine)
    fused, modules = networks_of(model, reads, CPU), Modules(model)
    assert isinstance(fused, FusedTransducer)
    assert (fused.steps.table_VG is not None) == (reads >= CLASSES)
    encoder_1ND = torch.randn(1, 4, 6).double()
    fused_NJ, modules_NJ = fused.project_encoder(encoder_1ND)[0], modules.project_encoder(encoder_1ND)[0]
    fused_state, state = (each.start(4, CPU, torch.float64) for each in (fused, modules))
    rows_4 = torch.tensor([3, 0, 0, 1])
    for tokens in ([BLANK] * 4, [1, 2, 3, 4], [6, 5, 1, 2], [2, 2, 2, 2]):
        tokens_4 = torch.tensor(tokens)
        fused_state, state = fused.read(tokens_4, fused_state), modules.read(tokens_4, state)
        torch.testing.assert_close(
            fused.logits(fused_NJ.clone(), fused_state, rows_4), modules.logits(modules_NJ, state, rows_4)
        )
        order_4 = torch.tensor([2, 0, 0, 3])  # hypotheses are moved and copied
        fused_state, state = (tuple(part[order_4] for part in each) for each in (fused_state, state))


@torch.no_grad()
def test_in_single_precision_they_differ_by_rounding() -> None:
    model = transducer()
    exact = Modules(model)
    state = exact.read(torch.tensor([BLANK]), exact.start(1, CPU, torch.float64))
    encoder_11D = torch.randn(1, 1, 6)
    expected_1V = exact.logits(exact.project_encoder(encoder_11D.double())[0], state, torch.tensor([0]))
    model.predictor.float(), model.joiner.float()
    fused = networks_of(model, CLASSES, CPU)
    state = fused.read(torch.tensor([BLANK]), fused.start(1, CPU, torch.float32))
    found_1V = fused.logits(fused.project_encoder(encoder_11D)[0], state, torch.tensor([0]))
    torch.testing.assert_close(found_1V.double(), expected_1V, rtol=1e-5, atol=1e-5)


class Other(LstmPredictor):
    """A network that may do anything."""


@torch.no_grad()
def test_what_is_not_plain_is_read_by_its_modules() -> None:
    stateless = StatelessPredictor(vocabulary_size=CLASSES, dimension=5, context=2, dropout=0.0)
    squashed, training, hooked, replaced, thin, silent, biasless, half = (transducer() for _ in range(8))
    squashed.joiner.squashing = torch.relu
    hooked.predictor.lstm.register_forward_hook(lambda *_: None)
    replaced.joiner.output = nn.Sequential(replaced.joiner.output, nn.Identity())
    thin.joiner.project_predictor = nn.Sequential(nn.Linear(5, 2), nn.Linear(2, 8))  # as low rank makes it
    silent.predictor.dropout = nn.Threshold(0.5, 0.0)
    biasless.joiner.output = nn.Linear(8, CLASSES, bias=False)
    half.predictor.half(), half.joiner.half()
    other = Other(vocabulary_size=CLASSES, embedding=3, dimension=5, layers=1, embedding_dropout=0.0, dropout=0.0)
    assert isinstance(networks_of(transducer(), 100, CPU), FusedTransducer)
    for model in (squashed, replaced, thin, silent, biasless, half):
        model.predictor.eval(), model.joiner.eval()
    training.predictor.dropout.train()
    changed = (squashed, training, hooked, replaced, thin, silent, biasless, half)
    for model in (transducer(predictor=stateless), *changed, transducer(predictor=other)):
        assert isinstance(networks_of(model, 100, CPU), Modules)
    with torch.autocast("cpu", torch.bfloat16):
        assert isinstance(networks_of(transducer(), 100, CPU), Modules)
    with torch.enable_grad():
        assert isinstance(networks_of(transducer(), 100, CPU), Modules)


def language_model(layers: int = 1) -> TokenLanguageModel:
    torch.manual_seed(10 + layers)
    predictor = LstmPredictor(
        vocabulary_size=CLASSES, embedding=3, dimension=5, layers=layers, embedding_dropout=0.5, dropout=0.5
    )
    model = TokenLanguageModel(predictor=predictor, vocabulary_size=CLASSES)
    for each in model.parameters():
        nn.init.normal_(each, std=0.7)
    return model.double().eval()


@torch.no_grad()
@pytest.mark.parametrize("reads", [CLASSES - 1, CLASSES], ids=["products", "table"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_fused_language_model_gives_what_its_modules_give(layers: int, reads: int) -> None:
    model = language_model(layers)
    fused = token_model_of(model, reads, CPU)
    assert isinstance(fused, FusedTokenModel)
    fused_state, state = (each.start(4, CPU, torch.float64) for each in (fused, model))
    for tokens in ([BLANK] * 4, [1, 2, 3, 4], [6, 5, 1, 2], [2, 2, 2, 2]):
        (found_4V, fused_state), (expected_4V, state) = (
            each.step(torch.tensor(tokens), before) for each, before in ((fused, fused_state), (model, state))
        )
        torch.testing.assert_close(found_4V, expected_4V)
        order_4 = torch.tensor([2, 0, 0, 3])
        fused_state, state = (tuple(part[order_4] for part in each) for each in (fused_state, state))


@torch.no_grad()
def test_a_language_model_that_is_not_plain_is_read_by_its_modules() -> None:
    hooked, training, replaced, half, inner = (language_model() for _ in range(5))
    hooked.register_forward_hook(lambda *_: None)
    training.train()
    replaced.output = nn.Linear(5, CLASSES, bias=False)
    half.half()
    inner.predictor = StatelessPredictor(vocabulary_size=CLASSES, dimension=5, context=2, dropout=0.0)
    for model in (hooked, training, replaced.eval(), half, inner.eval()):
        assert token_model_of(model, 100, CPU) is model
    with torch.autocast("cpu", torch.bfloat16):
        assert token_model_of(plain := language_model(), 100, CPU) is plain


def lists_of(model: SimpleNamespace, lm: TokenLanguageModel | None = None) -> list[Hypothesis]:
    """All hypotheses of three utterances."""
    torch.manual_seed(3)
    states_BTD, lengths_B = torch.randn(3, 9, 6).double(), torch.tensor([9, 4, 6])
    terms = FusedTerms([] if lm is None else [(0.4, lm)], 0.1, end_of_text=True)
    lists = beam_search(
        cast(Model, model), states_BTD, lengths_B, terms, beam=4, max_labels_B=2 * lengths_B, n=4
    )  # fmt: skip
    return [each for best in lists for each in best]


def test_a_pool_that_is_full_more_often_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, lm, dropped = transducer(), language_model(), list[int]()
    roomy = lists_of(model, lm)
    keep = beam_state.Pool.keep
    monkeypatch.setattr(beam_state, "ROWS_PER_HYPOTHESIS", 2)
    monkeypatch.setattr(beam_state.Pool, "keep", lambda pool, rows: (dropped.append(len(rows)), keep(pool, rows))[1])
    assert lists_of(model, lm) == roomy
    assert len(dropped) > 1
    monkeypatch.setattr(beam_state, "ROWS_PER_HYPOTHESIS", 100)
    dropped.clear()
    assert lists_of(model, lm) == roomy
    assert not dropped


@pytest.mark.parametrize("lm", [None, language_model(2)], ids=["alone", "with a language model"])
def test_the_search_finds_the_same_with_either(lm: TokenLanguageModel | None) -> None:
    model = transducer(2)
    fused = lists_of(model, lm)
    model.predictor.lstm.register_forward_hook(lambda *_: None)
    if lm is not None:
        lm.predictor.register_forward_hook(lambda *_: None)
    modules = lists_of(model, lm)
    assert [(each.tokens, each.frames) for each in fused] == [(each.tokens, each.frames) for each in modules]
    assert [each.score for each in fused] == pytest.approx([each.score for each in modules], rel=1e-9)


@pytest.mark.parametrize("impossible", [2, BLANK])
def test_stateless_networks_and_classes_of_no_probability(impossible: int) -> None:
    """Places without a hypothesis take no part: with three classes of which one never comes there are fewer than the beam."""
    predictor = StatelessPredictor(vocabulary_size=CLASSES, dimension=5, context=2, dropout=0.0)
    model = transducer(predictor=predictor)
    with torch.no_grad():
        model.joiner.output.bias[3:] = -torch.inf
        model.joiner.output.bias[impossible] = -torch.inf
    (found,) = beam_search(
        cast(Model, model), torch.randn(1, 4, 6).double(), torch.tensor([4]), FusedTerms([], 0.0, end_of_text=False), beam=9,
        max_labels_B=torch.tensor([3]), n=9,
    )  # fmt: skip
    if impossible == BLANK:
        assert [(each.tokens, each.score) for each in found] == [([], -torch.inf)]
    else:
        assert sorted(each.tokens for each in found) == [[1] * size for size in range(4)]


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_few_rows_are_multiplied_without_onednn() -> None:
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    try:
        for setting in ("bf16", "ieee"):
            matmul.fp32_precision = setting
            for rows, inside in ((FEW_ROWS, "ieee"), (FEW_ROWS + 1, setting)):
                with small_products(rows, CPU):
                    assert matmul.fp32_precision == inside
                assert matmul.fp32_precision == setting
            with pytest.raises(KeyError), small_products(1, CPU):
                raise KeyError
            assert matmul.fp32_precision == setting
    finally:
        matmul.fp32_precision = before
