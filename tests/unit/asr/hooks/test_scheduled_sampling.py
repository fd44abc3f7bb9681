"""Laws of scheduled sampling: no-op, greedy continuation, rates, independence of the batch, and that targets stay."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from asr.data.batch import RawBatch
from asr.data.pipeline import HookError
from asr.hooks.scheduled_sampling import ScheduledSampling, sample_history
from asr.models.predictor import LstmPredictor
from asr.models.token_lm import TokenLanguageModel
from asr.parts import build
from distributed.learners.world import World

CONF = Path(__file__).parents[4] / "conf" / "hooks" / "scheduled_sampling.yaml"
VOCABULARY = 9


def make_model(vocabulary_size: int = VOCABULARY) -> TokenLanguageModel:
    """A model with opinions: its weights are far from 0."""
    torch.manual_seed(3)
    predictor = LstmPredictor(
        vocabulary_size=vocabulary_size, embedding=8, dimension=16, layers=1, embedding_dropout=0.1, dropout=0.1
    )
    model = TokenLanguageModel(predictor=predictor, vocabulary_size=vocabulary_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return model.eval().requires_grad_(False)


class SomeRun:
    """As much of a run as the hook asks for; the model that ``loading`` gives out stands where its tokenizer would."""

    world = World(0, 1, 0, 1, torch.device("cpu"), None)
    epochs = 1.0

    def __init__(self, model: TokenLanguageModel) -> None:
        self.tokenizer = model


@pytest.fixture(autouse=True)
def loading(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, str]]:
    """What the hook has loaded: folders and what errors call them."""
    asked: list[tuple[Path, str]] = []

    def load(folder: Path, device: torch.device, tokenizer: Any, key: str) -> TokenLanguageModel:
        asked.append((folder, key))
        model: TokenLanguageModel = tokenizer
        return model

    monkeypatch.setattr("asr.hooks.scheduled_sampling.load_token_model", load)
    return asked


def test_it_loads_the_model_that_it_names(loading: list[tuple[Path, str]]) -> None:
    hook()
    assert loading == [(Path("exp/lm"), "hooks.scheduled_sampling.lm")]


def hook(**options: Any) -> ScheduledSampling:
    built = build(OmegaConf.merge(OmegaConf.load(CONF), {"lm": "exp/lm"} | options))
    assert isinstance(built, ScheduledSampling)
    run: Any = SomeRun(make_model())
    built.on_fit_start(run, resumed=False)
    return built


def texts(number: int, longest: int, seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(longest + 1, (number,), generator=generator).tolist()
    return [torch.randint(1, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def raw_batch(given: list[list[int]], ids: list[str] | None = None, **key: Any) -> RawBatch:
    named = ids or [f"u{index}" for index in range(len(given))]
    targets, inputs = [list(text) for text in given], [list(text) for text in given]
    options = {"seed": 1, "epoch": 0, "hook": "a", "vocabulary_size": VOCABULARY} | key
    return RawBatch(
        utterance_ids=named,
        signals=[torch.zeros(3, 2) for _ in given],
        targets=targets,
        predictor_inputs=inputs,
        **options,
    )


def likely(model: TokenLanguageModel, read: list[int], top_k: int) -> list[int]:
    """The most likely tokens after ``read``, by the forward over the whole history."""
    log_probs_V = model.log_probs(torch.tensor([read], dtype=torch.int64))[0, -1]
    return sorted((1 + log_probs_V[1:].topk(top_k).indices).tolist())


def test_a_keep_probability_of_one_changes_nothing() -> None:
    raw = raw_batch(texts(10, 30))
    hook(keep_probability=1.0).on_batch(raw)
    assert raw.predictor_inputs == raw.targets
    assert raw.metrics["a/substitution_rate"] == 0


def test_top_1_with_all_tokens_sampled_is_the_greedy_continuation() -> None:
    given, sampling = texts(6, 25), hook(keep_probability=0.0, top_k=1)
    raw = raw_batch(given)
    sampling.on_batch(raw)
    assert sampling.model is not None
    for text, read in zip(given, raw.predictor_inputs, strict=True):
        greedy: list[int] = []
        for _ in text:
            greedy += likely(sampling.model, greedy, 1)
        assert read == greedy
    assert raw.targets == given
    assert len({tuple(read) for read in raw.predictor_inputs}) > 1


def test_every_token_is_kept_or_likely_after_the_perturbed_history() -> None:
    """Not after the true one: the model's opinion of the two differs, and only the first fits what was read."""
    given, sampling = texts(8, 30), hook(keep_probability=0.5)
    raw = raw_batch(given)
    sampling.on_batch(raw)
    model = sampling.model
    assert model is not None
    outside_after_the_truth = 0
    for text, read in zip(given, raw.predictor_inputs, strict=True):
        for u, token in enumerate(read):
            assert token == text[u] or token in likely(model, read[:u], 3)
            outside_after_the_truth += token != text[u] and token not in likely(model, text[:u], 3)
    assert outside_after_the_truth > 0
    assert all(token != 0 for read in raw.predictor_inputs for token in read), "blank is never sampled"
    assert raw.targets == given


def test_tokens_are_sampled_as_often_and_as_evenly_as_they_should_be() -> None:
    sampling = hook(keep_probability=0.8)
    drawn = [sampling.draw(100, torch.Generator().manual_seed(seed)) for seed in range(200)]
    sampled, ranks = (torch.cat(list(each)) for each in zip(*drawn, strict=True))
    assert float(sampled.double().mean()) == pytest.approx(0.2, abs=0.01)
    counts = torch.bincount(ranks, minlength=3).double()
    assert float(((counts - 20000 / 3) ** 2 / (20000 / 3)).sum()) < 13.8  # 0.1 % point of 2 degrees of freedom


def test_the_substitution_rate_is_that_of_tokens_that_differ() -> None:
    """A sampled token stays with probability 1/k where the model finds the true one likely: below 1 - p, and counted."""
    given, sampling = texts(300, 30), hook(keep_probability=0.7)
    raw = raw_batch(given)
    sampling.on_batch(raw)
    model = sampling.model
    assert model is not None
    pairs = list(zip(given, raw.predictor_inputs, strict=True))
    tokens = [(text[u], likely(model, read[:u], 3)) for text, read in pairs[:60] for u in range(len(text))]
    expected = 0.3 * (1 - sum(true in found for true, found in tokens) / len(tokens) / 3)
    assert raw.metrics["a/substitution_rate"] == pytest.approx(expected, abs=0.02)
    differing = sum(one != other for text, read in pairs for one, other in zip(text, read, strict=True))
    assert raw.metrics["a/substitution_rate"] == differing / sum(map(len, given))
    assert raw.metrics["time/a"] > 0


def test_a_history_does_not_depend_on_batch_mates_or_process() -> None:
    given, ids = texts(7, 40), [f"t{index}" for index in range(7)]
    sampling = hook(keep_probability=0.5)
    together = raw_batch(given, ids)
    sampling.on_batch(together)
    for index, text in enumerate(given):
        alone = raw_batch([text], [ids[index]])
        sampling.on_batch(alone)
        assert alone.predictor_inputs[0] == together.predictor_inputs[index]
    copied = raw_batch(given, ids)
    pickle.loads(pickle.dumps(sampling)).on_batch(copied)
    assert copied.predictor_inputs == together.predictor_inputs
    for key in ({"epoch": 1}, {"seed": 2}, {"hook": "b"}):
        changed = raw_batch(given, ids, **key)
        sampling.on_batch(changed)
        assert changed.predictor_inputs != together.predictor_inputs


def test_a_step_is_taken_only_as_far_as_something_is_sampled() -> None:
    class Counting(TokenLanguageModel):
        steps = 0

        def step(self, tokens_B: Tensor, state: Any) -> Any:
            self.steps += 1
            return super().step(tokens_B, state)

    given = make_model()
    model = Counting(predictor=given.predictor, vocabulary_size=VOCABULARY).eval()
    tokens_BU, sampled_BU = torch.ones(2, 9, dtype=torch.int64), torch.zeros(2, 9, dtype=torch.bool)
    ranks_BU = torch.zeros(2, 9, dtype=torch.int64)
    assert torch.equal(sample_history(model, tokens_BU, sampled_BU, ranks_BU, 3), tokens_BU)
    assert model.steps == 0
    sampled_BU[1, 3] = True
    sample_history(model, tokens_BU, sampled_BU, ranks_BU, 3)
    assert model.steps == 4


def test_texts_without_tokens_stay_empty() -> None:
    raw = raw_batch([[], []])
    hook(keep_probability=0.0).on_batch(raw)
    assert raw.predictor_inputs == [[], []]


@pytest.mark.parametrize(("epoch", "acts"), [(0, False), (1, True), (4, True), (5, False)])
def test_it_acts_in_its_epochs_alone(epoch: int, acts: bool) -> None:
    raw = raw_batch([[1, 2, 3] * 20], epoch=epoch)
    hook(keep_probability=0.0, from_epoch=1, until_epoch=5).on_batch(raw)
    assert (raw.predictor_inputs != raw.targets) == acts
    assert bool(raw.metrics) == acts


def test_more_likely_tokens_than_there_are_is_refused() -> None:
    assert hook(top_k=VOCABULARY - 1)
    with pytest.raises(HookError, match=r"top_k=9: the model has 8 tokens beside blank"):
        hook(top_k=VOCABULARY)


def test_another_model_after_a_resume_is_refused_in_one_line() -> None:
    model, resumed = make_model(), build(OmegaConf.merge(OmegaConf.load(CONF), {"lm": "exp/lm"}))
    run: Any = SomeRun(model)
    resumed.load_state_dict(hook().state_dict())
    resumed.on_fit_start(run, resumed=True)
    with torch.no_grad():
        model.output.bias[1] += 1e-3
    with pytest.raises(
        HookError, match=r"^hooks.scheduled_sampling.lm=exp/lm: .* not what this run began with; .*name=$"
    ):
        resumed.on_fit_start(run, resumed=True)


def test_it_runs_on_tokens_in_training_alone() -> None:
    assert ScheduledSampling.stage == "targets"
    assert ScheduledSampling.changes_training
    assert CONF.read_text().startswith("# @package hooks.scheduled_sampling\n")


def test_after_another_hook_the_rate_is_that_of_its_own_changes() -> None:
    raw = raw_batch([[1] * 40])
    raw.predictor_inputs[0] = [2] * 40
    hook(keep_probability=1.0).on_batch(raw)
    assert raw.predictor_inputs == [[2] * 40]
    assert raw.metrics["a/substitution_rate"] == 0
