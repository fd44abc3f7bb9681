"""Words with times and confidence: against the definition, computed token by token."""

from typing import Any

import pytest
import torch

from asr.data.tokenizer import BLANK, CharacterTokenizer
from asr.decoding.ctc import CtcGreedy
from asr.decoding.greedy import Greedy
from asr.decoding.search import Hypothesis
from asr.decoding.timed_words import timed_words, token_confidences
from asr.models.transducer import Transducer
from asr.parts import build
from scripts.composition.compose import compose


@pytest.fixture(params=["lstm_128", "stateless"])
def model(request: pytest.FixtureRequest) -> Transducer:
    overrides = [
        "model=lstm_tiny",
        f"model/predictor={request.param}",
        "model.encoder.layers=1",
        "model.encoder.hidden=8",
    ]
    torch.manual_seed(0)
    made: Transducer = build(compose("train", overrides).model, vocabulary_size=6, feature_dimension=5)
    with torch.no_grad():
        for weight in made.joiner.parameters():
            weight *= 4  # labels that follow the input
    return made.eval()


@torch.no_grad()
def reference(model: Transducer, states_SD: Any, hypothesis: Hypothesis) -> list[float]:
    """p(token) / (1 - p(blank)), the predictor taking one step after the other."""
    output, state = model.predictor.step(
        torch.tensor([BLANK]), model.predictor.start(1, states_SD.device, states_SD.dtype)
    )
    found = []
    for token, frame in zip(hypothesis.tokens, hypothesis.frames, strict=True):
        joiner = model.joiner
        logits = joiner.logits(joiner.project_encoder(states_SD[frame][None]), joiner.project_predictor(output))
        probabilities = logits[0].double().softmax(0)
        found.append(float(probabilities[token] / (1 - probabilities[BLANK])))
        output, state = model.predictor.step(torch.tensor([token]), state)
    return found


@torch.no_grad()
def test_confidences_are_those_of_the_definition_whatever_the_batch(model: Transducer) -> None:
    generator = torch.Generator().manual_seed(3)
    features, lengths = torch.randn(4, 60, 5, generator=generator), torch.tensor([60, 9, 33, 1])
    states_BSD, lengths_B = model.encode(features, lengths)
    found = Greedy(max_symbols=3)(model, states_BSD, lengths_B)
    assert sum(len(each.tokens) for each in found) > 10
    for states_SD, hypothesis, certain in zip(
        states_BSD, found, token_confidences(model, states_BSD, found, by_ctc=False), strict=True
    ):
        assert certain == pytest.approx(reference(model, states_SD, hypothesis), abs=1e-5)


@torch.no_grad()
def test_a_ctc_heads_tokens_are_judged_by_it(model: Transducer) -> None:
    features = torch.randn(1, 60, 5, generator=torch.Generator().manual_seed(3))
    states_BSD, lengths_B = model.encode(features, torch.tensor([60]))
    found = [Hypothesis([1, 4], -1.0, [0, 7])]
    assert CtcGreedy()(model, states_BSD, lengths_B)
    assert model.ctc_head is not None
    probabilities = model.ctc_head(states_BSD)[0].softmax(1)
    expected = [float(probabilities[s, v] / (1 - probabilities[s, BLANK])) for v, s in ((1, 0), (4, 7))]
    assert token_confidences(model, states_BSD, found, by_ctc=True) == [pytest.approx(expected, abs=1e-5)]


def test_nothing_said_has_no_confidence(model: Transducer) -> None:
    assert token_confidences(model, torch.zeros(2, 3, 16), [Hypothesis([], 0.0, [])] * 2, by_ctc=False) == [[], []]


def test_words_have_times_of_the_recording_and_end_within_it() -> None:
    tokenizer = CharacterTokenizer(alphabet=" ab", case="lower")
    hypothesis = Hypothesis([2, 3, 1, 3], -1.0, [1, 1, 2, 9])
    settings: dict[str, float] = {"state_seconds": 0.04, "offset_seconds": 10.0, "length_seconds": 0.39}
    first, last = timed_words(hypothesis, None, [0.5, 0.5, 0.1, 0.9], tokenizer, **settings)
    assert (first.text, last.text) == ("ab", "b")
    assert (first.start, first.end) == pytest.approx((10.04, 10.08))
    assert (last.start, last.end) == pytest.approx((10.36, 10.39)), "no word ends after the audio"
    assert (first.confidence, last.confidence) == pytest.approx((0.25, 0.9)), "a space is of no word"
    path = torch.tensor([0, 2, 2, 3, 3, 1, 0, 0, 3, 3])
    first, last = timed_words(hypothesis, path, [1.0] * 4, tokenizer, **settings)
    assert (first.start, first.end, last.start) == pytest.approx((10.04, 10.2, 10.32))
