"""Batched greedy search against a naive search over one utterance at a time, with a small fake model."""

import pytest
import torch
from torch import Tensor, nn

from asr.data.tokenizer import BLANK
from asr.decoding.greedy import WINDOW_FRAMES, Greedy, OnlineGreedy, greedy_decode
from asr.decoding.search import Emitted, Hypothesis
from asr.losses.reference import reference_loss
from asr.models.predictor import State


class FakePredictor(nn.Module):
    """A recurrent network small enough to follow; batch on the first axis of its state."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, width)
        self.cell = nn.GRUCell(width, width)
        self.steps = 0

    def start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return (torch.zeros(batch_size, self.cell.hidden_size, device=device, dtype=dtype),)

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        self.steps += 1
        hidden_BD = self.cell(self.embedding(tokens_B), state[0])
        return hidden_BD, (hidden_BD,)

    def select(self, mask_B: Tensor, new_state: State, old_state: State) -> State:
        return (torch.where(mask_B[:, None], new_state[0], old_state[0]),)


class FakeJoiner(nn.Module):
    def __init__(self, classes: int, width: int, blank_bonus: float) -> None:
        super().__init__()
        self.project_encoder = nn.Linear(width, width)
        self.project_predictor = nn.Linear(width, width)
        self.output = nn.Linear(width, classes)
        self.output.weight.data *= 4
        self.output.bias.data[BLANK] += blank_bonus

    def logits(self, encoder_J: Tensor, predictor_J: Tensor, /) -> Tensor:
        return self.output(torch.tanh(encoder_J + predictor_J))


class FakeModel(nn.Module):
    def __init__(self, seed: int, blank_bonus: float, classes: int = 6, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.predictor = FakePredictor(classes, width)
        self.joiner = FakeJoiner(classes, width, blank_bonus)
        self.double()


@torch.no_grad()
def naive_decode(model: FakeModel, states_TD: Tensor, max_symbols: int) -> Hypothesis:
    """Time-synchronous search over one utterance, as a textbook has it."""
    tokens: list[int] = []
    frames: list[int] = []
    score = 0.0
    start = model.predictor.start(1, states_TD.device, states_TD.dtype)
    output, state = model.predictor.step(torch.tensor([BLANK]), start)
    for frame, encoder in enumerate(model.joiner.project_encoder(states_TD)):
        for emitted in range(max_symbols + 1):
            log_probs = model.joiner.logits(encoder, model.joiner.project_predictor(output[0])).log_softmax(-1)
            token = int(log_probs.argmax()) if emitted < max_symbols else BLANK
            score += float(log_probs[token])
            if token == BLANK:
                break
            tokens.append(token)
            frames.append(frame)
            output, state = model.predictor.step(torch.tensor([token]), state)
    return Hypothesis(tokens, score, frames)


def random_states(lengths: list[int], seed: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    states_BTD = torch.randn(len(lengths), max(lengths), 8, generator=rng, dtype=torch.float64)
    return 2 * states_BTD, torch.tensor(lengths)


LENGTHS = [31, 1, 17, WINDOW_FRAMES, 2 * WINDOW_FRAMES + 1, 9]


@pytest.mark.parametrize("max_symbols", [1, 3])
@pytest.mark.parametrize("blank_bonus", [-2.0, 0.0, 1.5, 2.5])
def test_is_the_naive_search(blank_bonus: float, max_symbols: int) -> None:
    model = FakeModel(int(blank_bonus) + 10, blank_bonus)
    states_BTD, lengths_B = random_states(LENGTHS, seed=max_symbols)
    found = greedy_decode(model, states_BTD, lengths_B, max_symbols=max_symbols)
    assert any(hypothesis.tokens for hypothesis in found)
    for hypothesis, states_TD, length in zip(found, states_BTD, LENGTHS, strict=True):
        expected = naive_decode(model, states_TD[:length], max_symbols)
        assert hypothesis.tokens == expected.tokens
        assert hypothesis.frames == expected.frames
        assert hypothesis.score == pytest.approx(expected.score, rel=1e-9)


def test_an_utterance_does_not_depend_on_its_batch() -> None:
    model = FakeModel(1, 1.0)
    states_BTD, lengths_B = random_states(LENGTHS, seed=4)
    together = greedy_decode(model, states_BTD, lengths_B, max_symbols=5)
    for index, length in enumerate(LENGTHS):
        padded = torch.cat([states_BTD[index : index + 1, :length], torch.full((1, 3, 8), 1e3).double()], 1)
        (alone,) = greedy_decode(model, padded, lengths_B[index : index + 1], max_symbols=5)
        assert (alone.tokens, alone.frames) == (together[index].tokens, together[index].frames)
        assert alone.score == pytest.approx(together[index].score, rel=1e-9)


def test_the_predictor_is_stepped_per_label_not_per_frame() -> None:
    model = FakeModel(2, 4.0)
    states_BTD, lengths_B = random_states([60] * 4, seed=2)
    found = greedy_decode(model, states_BTD, lengths_B, max_symbols=5)
    most = max(len(hypothesis.tokens) for hypothesis in found)
    assert 0 < most < 50
    assert model.predictor.steps <= 1 + most + 60 // WINDOW_FRAMES + 1


def test_a_model_that_never_emits_blank_ends() -> None:
    model = FakeModel(3, -1e4)
    states_BTD, lengths_B = random_states([4, 2], seed=3)
    first, second = greedy_decode(model, states_BTD, lengths_B, max_symbols=3)
    assert first.frames == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert len(second.tokens) == 6


@torch.no_grad()
def test_no_alignment_is_more_probable_than_all_of_them() -> None:
    """The score is the log probability of one alignment, so that it stays below the hypothesis' likelihood."""
    model = FakeModel(4, 1.0)
    states_BTD, lengths_B = random_states([5], seed=5)
    (hypothesis,) = greedy_decode(model, states_BTD, lengths_B, max_symbols=4)
    state = model.predictor.start(1, states_BTD.device, states_BTD.dtype)
    outputs = []
    for token in [BLANK, *hypothesis.tokens]:
        output, state = model.predictor.step(torch.tensor([token]), state)
        outputs.append(output)
    encoder_TJ = model.joiner.project_encoder(states_BTD[0])
    logits_TSV = model.joiner.logits(encoder_TJ[:, None], model.joiner.project_predictor(torch.cat(outputs)))
    likelihood = -float(reference_loss(logits_TSV, torch.tensor(hypothesis.tokens), BLANK))
    assert likelihood - 10 < hypothesis.score <= likelihood + 1e-6


@pytest.mark.parametrize("lengths", [[0, 3], [0, 0]])
def test_no_frames_give_the_empty_hypothesis(lengths: list[int]) -> None:
    model = FakeModel(5, 0.0)
    states_BTD, _ = random_states([3, 3], seed=6)
    first, _ = greedy_decode(model, states_BTD, torch.tensor(lengths), max_symbols=2)
    assert first == Hypothesis([], 0.0, [])


def test_the_option_of_the_configuration() -> None:
    model = FakeModel(6, 0.0)
    states_BTD, lengths_B = random_states([7, 4], seed=7)
    decode = Greedy(max_symbols=2)
    assert decode.name == "greedy"
    assert decode(model, states_BTD, lengths_B) == greedy_decode(model, states_BTD, lengths_B, max_symbols=2)


@pytest.mark.parametrize("max_symbols", [1, 3])
@pytest.mark.parametrize("sizes", [(1,), (3, 1, 7), (40,)])
def test_a_search_in_pieces_is_that_of_the_whole(max_symbols: int, sizes: tuple[int, ...]) -> None:
    model = FakeModel(6, 0.5)
    states_BTD, lengths_B = random_states([61], seed=6)
    (whole,) = greedy_decode(model, states_BTD, lengths_B, max_symbols=max_symbols)
    search, found, start = OnlineGreedy(model, max_symbols), [], 0
    while start < 61:
        size = sizes[start % len(sizes)]
        found += search.push(states_BTD[0, start : start + size])
        start += size
    assert [(each.token, each.frame) for each in found] == list(zip(whole.tokens, whole.frames, strict=True))
    assert len({each.token for each in found}) > 2
    expected = label_probabilities(model, states_BTD[0], found)
    assert [each.confidence for each in found] == pytest.approx(expected, rel=1e-6)


@torch.no_grad()
def label_probabilities(model: FakeModel, states_SD: Tensor, found: list[Emitted]) -> list[float]:
    """The probability of each label among the labels, where it was emitted and after those before it."""
    joiner, probabilities = model.joiner, []
    output, state = model.predictor.step(
        torch.tensor([BLANK]), model.predictor.start(1, states_SD.device, states_SD.dtype)
    )
    for each in found:
        logits_V = joiner.logits(joiner.project_encoder(states_SD[each.frame]), joiner.project_predictor(output[0]))
        logits_V[BLANK] = -torch.inf
        probabilities.append(float(logits_V.softmax(-1)[each.token]))
        output, state = model.predictor.step(torch.tensor([each.token]), state)
    return probabilities
