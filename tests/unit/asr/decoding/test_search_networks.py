"""The networks as a beam search reads them: what is fused gives what the modules give, and only what can be fused is."""

import itertools
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import nn

from asr.data.tokenizer import BLANK
from asr.decoding.beam import beam_search
from asr.decoding.fusion import FusedTerms
from asr.decoding.search import Hypothesis, Model
from asr.decoding.search_networks import FEW_ROWS, FusedLstm, Modules, networks_of, small_products
from asr.losses.inputs import Combine
from asr.models.joiner import Joiner
from asr.models.predictor import LstmPredictor, Predictor, StatelessPredictor

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
    assert isinstance(fused, FusedLstm)
    assert (fused.table_VG is not None) == (reads >= CLASSES)
    encoder_1ND = torch.randn(1, 4, 6).double()
    fused_NJ, modules_NJ = fused.project_encoder(encoder_1ND)[0], modules.project_encoder(encoder_1ND)[0]
    fused_state, state = (each.start(4, CPU, torch.float64) for each in (fused, modules))
    for tokens in ([BLANK] * 4, [1, 2, 3, 4], [6, 5, 1, 2], [2, 2, 2, 2]):
        tokens_4 = torch.tensor(tokens)
        fused_state, state = fused.read(tokens_4, fused_state), modules.read(tokens_4, state)
        torch.testing.assert_close(fused.logits(fused_NJ, fused_state), modules.logits(modules_NJ, state))
        order_4 = torch.tensor([2, 0, 0, 3])  # hypotheses are moved and copied
        fused_state, state = (tuple(part[order_4] for part in each) for each in (fused_state, state))


@torch.no_grad()
def test_in_single_precision_they_differ_by_rounding() -> None:
    model = transducer()
    exact = Modules(model)
    state = exact.read(torch.tensor([BLANK]), exact.start(1, CPU, torch.float64))
    encoder_11D = torch.randn(1, 1, 6)
    expected_1V = exact.logits(exact.project_encoder(encoder_11D.double())[0], state)
    model.predictor.float(), model.joiner.float()
    fused = networks_of(model, CLASSES, CPU)
    state = fused.read(torch.tensor([BLANK]), fused.start(1, CPU, torch.float32))
    found_1V = fused.logits(fused.project_encoder(encoder_11D)[0], state)
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
    assert isinstance(networks_of(transducer(), 100, CPU), FusedLstm)
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


def test_the_search_finds_the_same_with_either() -> None:
    model = transducer(2)
    states_BTD, lengths_B = torch.randn(3, 9, 6).double(), torch.tensor([9, 4, 6])

    def found() -> list[Hypothesis]:
        lists = beam_search(
            cast(Model, model),
            states_BTD,
            lengths_B,
            FusedTerms([], 0.0, end_of_text=False),
            beam=4,
            max_labels_B=2 * lengths_B,
            n=4,
        )
        return [each for best in lists for each in best]

    fused = found()
    model.predictor.lstm.register_forward_hook(lambda *_: None)
    modules = found()
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
