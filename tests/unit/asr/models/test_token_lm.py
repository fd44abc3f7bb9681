"""Token language models: probabilities of texts, stepping, and what a trained one knows of a source."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.data.batch import Batch
from asr.data.tokenizer import BLANK
from asr.models.predictor import LstmPredictor, Predictor, StatelessPredictor
from asr.models.token_lm import TokenLanguageModel
from asr.parts import build
from asr.training.measures import Perplexity
from scripts.composition.compose import compose, options

VOCABULARY = 5
PREDICTORS: dict[str, Callable[..., Predictor]] = {
    "lstm": lambda size: LstmPredictor(
        vocabulary_size=size, embedding=8, dimension=24, layers=2, embedding_dropout=0.0, dropout=0.0
    ),
    "stateless": lambda size: StatelessPredictor(vocabulary_size=size, dimension=24, context=1, dropout=0.0),
}
every_predictor = pytest.mark.parametrize("name", PREDICTORS)


def make(name: str, size: int = VOCABULARY) -> TokenLanguageModel:
    torch.manual_seed(0)
    return TokenLanguageModel(predictor=PREDICTORS[name](size), vocabulary_size=size).double()


def batch_of(texts: list[list[int]]) -> Batch:
    tokens_BU = pad_sequence([torch.tensor(text, dtype=torch.int64) for text in texts], batch_first=True)
    lengths_B = torch.tensor([len(text) for text in texts])
    silence = torch.zeros(len(texts), int(lengths_B.max()) + 1, 0, dtype=torch.float64)
    ids = [f"t{index}" for index in range(len(texts))]
    return Batch(ids, silence, lengths_B + 1, tokens_BU, lengths_B, tokens_BU, weight=float(len(texts)))


@torch.no_grad()
def stepped(model: TokenLanguageModel, tokens_BU: Tensor) -> Tensor:
    """log P (B, U+1, V), token by token."""
    state = model.start(len(tokens_BU), tokens_BU.device, torch.float64)
    found = []
    for tokens_B in [torch.full((len(tokens_BU),), BLANK), *tokens_BU.T]:
        log_probs_BV, state = model.step(tokens_B, state)
        found.append(log_probs_BV)
    assert all(len(part) == len(tokens_BU) for part in state), "the state's first axis is the batch"
    return torch.stack(found, dim=1)


@every_predictor
def test_stepping_gives_the_probabilities_of_reading_the_text(name: str) -> None:
    model, tokens_BU = make(name).eval(), torch.randint(1, VOCABULARY, (3, 7))
    log_probs_BUV = model.log_probs(tokens_BU)
    torch.testing.assert_close(stepped(model, tokens_BU), log_probs_BUV.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_probs_BUV.exp().sum(-1), torch.ones(3, 8, dtype=torch.float64))


@torch.no_grad()
@every_predictor
def test_the_probabilities_of_all_texts_and_of_longer_ones_sum_to_one(name: str) -> None:
    """P(empty) + sum over a of P(a) + ... + sum over ab of P(begins with ab) = 1, by products of the steps."""
    model = make(name).eval()
    first_V = model.log_probs(torch.zeros(1, 0, dtype=torch.int64))[0, 0].exp()
    singles_UV = model.log_probs(torch.arange(1, VOCABULARY).unsqueeze(1))[:, 1].exp()
    ended = first_V[BLANK] + (first_V[1:] * singles_UV[:, BLANK]).sum()
    longer = (first_V[1:, None] * singles_UV[:, 1:]).sum()
    assert float(ended + longer) == pytest.approx(1.0, abs=1e-12)


@torch.no_grad()
@every_predictor
def test_the_loss_is_the_sum_of_what_each_text_has_whatever_its_padding(name: str) -> None:
    model = make(name).eval()
    texts = [[1, 2, 3, 4, 1, 1], [], [2], [3, 3, 1]]
    output = model(batch_of(texts))
    expected = []
    for text in texts:
        log_probs_UV = model.log_probs(torch.tensor([text], dtype=torch.int64))[0]
        expected.append(-log_probs_UV[torch.arange(len(text) + 1), [*text, BLANK]].sum())
    assert float(output.total) == pytest.approx(float(sum(expected)), rel=1e-12)
    assert output.weight == 4
    nats, tokens = Perplexity().count(model, batch_of(texts), output)
    assert (nats, tokens) == (float(output.total), 6 + 0 + 1 + 3 + 4)


@every_predictor
def test_parts_of_a_unit_sum_to_it_and_every_parameter_gets_a_gradient(name: str) -> None:
    model, batch = make(name), batch_of([[1, 2, 3], [4], [2, 2]])
    total = model(batch).total
    total.backward()
    assert all(float(each.grad.abs().sum()) > 0 for each in model.parameters())
    parts = [model(batch.part(0, 1)).total.item(), model(batch.part(1, 3)).total.item()]
    assert sum(parts) == pytest.approx(total.item(), rel=1e-12)


@every_predictor
def test_an_emptied_unit_has_no_loss_and_gradients_of_zero(name: str) -> None:
    model, none = make(name), torch.zeros(0, 0, dtype=torch.int64)
    empty = Batch([], torch.zeros(0, 0, 0), none[:, 0:0].sum(1), none, none.sum(1), none, weight=0.0)
    output = model(empty)
    output.total.backward()
    assert output.total.item() == 0
    assert all(each.grad is not None and not each.grad.any() for each in model.parameters())


def markov_texts(number: int, transitions_VV: Tensor, seed: int) -> list[list[int]]:
    """Texts of a source whose next token, 0 the end, depends on the last one; row 0 begins."""
    generator = torch.Generator().manual_seed(seed)
    texts = []
    for _ in range(number):
        text: list[int] = []
        while token := int(torch.multinomial(transitions_VV[text[-1] if text else 0], 1, generator=generator)):
            text.append(token)
        texts.append(text)
    return texts


def markov_nats(texts: list[list[int]], transitions_VV: Tensor) -> float:
    """What the source itself needs for its texts: its entropy, as they show it."""
    pairs = [pair for text in texts for pair in zip([0, *text], [*text, 0], strict=True)]
    return -sum(float(transitions_VV[pair].log()) for pair in pairs)


def test_a_trained_model_comes_near_the_entropy_of_a_markov_source() -> None:
    transitions_VV = torch.tensor(
        [
            [0.02, 0.90, 0.05, 0.03, 0.00],
            [0.05, 0.05, 0.80, 0.05, 0.05],
            [0.10, 0.10, 0.05, 0.65, 0.10],
            [0.20, 0.05, 0.05, 0.10, 0.60],
            [0.30, 0.40, 0.10, 0.10, 0.10],
        ]
    )
    training, held_out = markov_texts(600, transitions_VV, 1), markov_texts(300, transitions_VV, 2)
    entropy = Perplexity().figures(markov_nats(held_out, transitions_VV), sum(len(each) + 1 for each in held_out))
    for name in PREDICTORS:
        model = make(name)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        units = [batch_of(training[start : start + 100]) for start in range(0, 600, 100)]
        for unit in units * 12:
            optimizer.zero_grad()
            output = model(unit)
            (output.total / output.weight).backward()
            optimizer.step()
        unit = batch_of(held_out)
        found = Perplexity().figures(*Perplexity().count(model, unit, model(unit)))
        assert found["perplexity"] == pytest.approx(entropy["perplexity"], rel=0.03)
        assert 2 ** found["bits_per_token"] == pytest.approx(found["perplexity"])
        assert found["perplexity"] > 0.995 * entropy["perplexity"], "below the entropy only by chance"
    uniform = len(transitions_VV)
    assert entropy["perplexity"] < 0.7 * uniform, "the source can be told from noise"


@pytest.mark.parametrize("option", options("language_model"))
def test_every_option_builds(option: str) -> None:
    config = compose("train_lm", [f"language_model={option}"])
    with torch.device("meta"):
        model = build(config.model, vocabulary_size=29)
    assert isinstance(model, TokenLanguageModel)
    assert sum(parameter.numel() for parameter in model.parameters()) > 1e5
