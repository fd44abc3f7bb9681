"""Small transducers for searches: real prediction networks and joiners, with weights large enough to have opinions."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from asr.data.tokenizer import BLANK
from asr.models.joiner import Joiner
from asr.models.predictor import LstmPredictor

WIDTH = 6  # of encoder states


@pytest.fixture
def toy_transducer() -> Callable[..., SimpleNamespace]:
    """A predictor and a joiner in double precision, of ``classes`` with blank, whose logit gets ``blank_bonus``."""

    def make(seed: int, classes: int, blank_bonus: float = 1.0) -> SimpleNamespace:
        torch.manual_seed(seed)
        predictor = LstmPredictor(
            vocabulary_size=classes, embedding=4, dimension=WIDTH, layers=2, embedding_dropout=0.0, dropout=0.0
        )
        joiner = Joiner(
            vocabulary_size=classes, encoder_dimension=WIDTH, predictor_dimension=WIDTH, dimension=8, combine="add"
        )
        with torch.no_grad():
            predictor.embedding.weight *= 2
            joiner.project_predictor.weight *= 6
            joiner.output.weight *= 5
            joiner.output.bias[BLANK] += blank_bonus
        return SimpleNamespace(predictor=predictor.double(), joiner=joiner.double())

    return make
