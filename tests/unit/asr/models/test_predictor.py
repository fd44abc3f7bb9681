"""Prediction networks: reading token by token gives what reading the sequence gives."""

from collections.abc import Callable

import pytest
import torch

from asr.data.tokenizer import BLANK
from asr.models.predictor import LstmPredictor, Predictor, StatelessPredictor

VOCABULARY = 11
MAKERS: dict[str, Callable[[], Predictor]] = {
    "lstm": lambda: LstmPredictor(
        vocabulary_size=VOCABULARY, embedding=6, dimension=8, layers=1, embedding_dropout=0.2, dropout=0.2
    ),
    "lstm-2": lambda: LstmPredictor(
        vocabulary_size=VOCABULARY, embedding=6, dimension=8, layers=2, embedding_dropout=0.2, dropout=0.2
    ),
    "stateless-1": lambda: StatelessPredictor(vocabulary_size=VOCABULARY, dimension=8, context=1, dropout=0.2),
    "stateless-2": lambda: StatelessPredictor(vocabulary_size=VOCABULARY, dimension=8, context=2, dropout=0.2),
    "stateless-4": lambda: StatelessPredictor(vocabulary_size=VOCABULARY, dimension=8, context=4, dropout=0.2),
}
every_predictor = pytest.mark.parametrize("name", MAKERS)


def make(name: str) -> Predictor:
    torch.manual_seed(0)
    return MAKERS[name]().double().eval()


def read(predictor: Predictor, tokens_BU: torch.Tensor) -> torch.Tensor:
    state = predictor.start(len(tokens_BU), tokens_BU.device, torch.float64)
    outputs = []
    for column in [torch.full_like(tokens_BU[:, 0], BLANK), *tokens_BU.T]:
        output, state = predictor.step(column, state)
        outputs.append(output)
    return torch.stack(outputs, dim=1)


@every_predictor
def test_stepping_equals_forward(name: str) -> None:
    predictor = make(name)
    tokens_BU = torch.randint(1, VOCABULARY, (3, 7))
    expected = predictor(tokens_BU)
    assert expected.shape == (3, 8, predictor.dimension)
    torch.testing.assert_close(read(predictor, tokens_BU), expected, rtol=1e-12, atol=1e-12)


@every_predictor
def test_no_tokens_leave_the_start_symbol(name: str) -> None:
    predictor = make(name)
    assert predictor(torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 1, predictor.dimension)


@every_predictor
def test_outputs_depend_on_the_past_alone(name: str) -> None:
    predictor = make(name)
    tokens = torch.randint(1, VOCABULARY, (1, 7))
    changed = tokens.clone()
    changed[0, 4] = changed[0, 4] % (VOCABULARY - 1) + 1
    difference = (predictor(tokens) - predictor(changed)).abs().sum(-1)[0]
    assert (difference[:5] == 0).all()
    assert difference[5] > 0


def test_stateless_forgets_what_lies_before_its_context() -> None:
    predictor = make("stateless-2")
    tokens = torch.tensor([[3, 4, 5, 6]])
    changed = torch.tensor([[9, 4, 5, 6]])
    difference = (predictor(tokens) - predictor(changed)).abs().sum(-1)[0]
    assert (difference > 0).tolist() == [False, True, True, False, False]


@every_predictor
def test_select_takes_each_hypothesis_from_its_side(name: str) -> None:
    predictor = make(name)
    start = predictor.start(3, torch.device("cpu"), torch.float64)
    _, old = predictor.step(torch.tensor([1, 2, 3]), start)
    _, new = predictor.step(torch.tensor([4, 5, 6]), old)
    mixed = predictor.select(torch.tensor([True, False, True]), new, old)
    follow = torch.tensor([7, 7, 7])
    output = predictor.step(follow, mixed)[0]
    from_new, from_old = predictor.step(follow, new)[0], predictor.step(follow, old)[0]
    torch.testing.assert_close(output, torch.stack([from_new[0], from_old[1], from_new[2]]), rtol=1e-12, atol=1e-12)
