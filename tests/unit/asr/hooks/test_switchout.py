"""Laws of SwitchOut: how many tokens are replaced and by what, under both readings, and that targets are left alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from asr.data.batch import RawBatch
from asr.data.pipeline import HookError
from asr.hooks.switchout import SwitchOut, number_probabilities, switch_out
from asr.parts import build

CONF = Path(__file__).parents[4] / "conf" / "hooks" / "switchout.yaml"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hook(**options: Any) -> SwitchOut:
    built = build(OmegaConf.merge(OmegaConf.load(CONF), options))
    assert isinstance(built, SwitchOut)
    return built


def raw_batch(
    texts: list[list[int]], ids: list[str] | None = None, epoch: int = 0, seed: int = 1, name: str = "a", size: int = 29
) -> RawBatch:
    named = ids or [f"u{index}" for index in range(len(texts))]
    signals, targets = [torch.zeros(3, 2) for _ in texts], [list(text) for text in texts]
    inputs = [list(text) for text in texts]
    return RawBatch(seed, epoch, named, signals, targets, inputs, hook=name, vocabulary_size=size)


def expected_number(tokens: int, temperature: float) -> float:
    probabilities = number_probabilities(tokens, temperature, "inverse")
    return float((probabilities * torch.arange(tokens + 1)).sum())


def test_the_number_is_distributed_as_the_papers_figures_ask() -> None:
    probabilities = number_probabilities(50, 0.1, "inverse")
    assert float(probabilities.sum()) == pytest.approx(1.0)
    assert float(probabilities[0]) == pytest.approx(0.0957, abs=1e-4)
    assert expected_number(50, 0.1) == pytest.approx(9.2, abs=0.02)
    assert torch.allclose(probabilities[1:] / probabilities[:-1], torch.tensor(-0.1).exp().double())


def test_a_text_is_unchanged_if_n_is_zero_or_no_token_is_drawn() -> None:
    probabilities = number_probabilities(50, 0.1, "inverse")
    whole = float((probabilities * (1 - torch.arange(51) / 50) ** 50).sum())
    assert whole == pytest.approx(0.142, abs=5e-4)
    raw = raw_batch([[5] * 50] * 3000)
    hook().on_batch(raw)
    found = sum(read == [5] * 50 for read in raw.predictor_inputs) / 3000
    assert found == pytest.approx(whole, abs=0.025), "4 standard deviations"


def test_the_papers_temperature_as_printed_has_no_effect() -> None:
    assert float(number_probabilities(50, 0.1, "printed")[0]) == pytest.approx(0.99995, abs=1e-5)
    assert torch.allclose(number_probabilities(50, 10.0, "printed"), number_probabilities(50, 0.1, "inverse"))
    raw = raw_batch([[1, 2, 3] * 16] * 20)
    hook(reading="printed").on_batch(raw)
    assert raw.predictor_inputs == raw.targets
    assert raw.metrics == {"a/substitution_rate": 0.0}


@pytest.mark.parametrize("tokens", [1, 8, 50])
def test_the_expected_number_of_tokens_is_replaced(tokens: int) -> None:
    raw = raw_batch([[5] * tokens] * 3000)
    hook().on_batch(raw)
    differing = torch.tensor(raw.predictor_inputs) != 5
    expected = expected_number(tokens, 0.1) / tokens
    assert float(differing.double().mean()) == pytest.approx(expected, abs=0.012)
    assert raw.metrics["a/substitution_rate"] == pytest.approx(float(differing.double().mean()))
    assert float(differing.double().mean(0).std(correction=0)) < 0.012, "every place as often"


def test_every_other_token_is_as_likely() -> None:
    always = torch.zeros(1001, dtype=torch.float64)
    always[-1] = 1.0  # n = U: every token is replaced
    drawn = [switch_out(torch.full((1000,), 3), 6, always, generator(seed)) for seed in range(10)]
    counts = torch.bincount(torch.cat(drawn), minlength=6).double()
    assert counts[0] == 0, "blank is never put in"
    assert counts[3] == 0, "nor the token itself"
    others = counts[[1, 2, 4, 5]]
    assert float(((others - 2500) ** 2 / 2500).sum()) < 16.3  # 0.1 % point of 3 degrees of freedom


@given(tokens=st.lists(st.integers(1, 6), max_size=12), seed=st.integers(0, 2**31), temperature=st.floats(0.01, 5))
def test_targets_stay_and_inputs_remain_as_many_tokens(tokens: list[int], seed: int, temperature: float) -> None:
    raw = raw_batch([tokens], seed=seed, size=7)
    hook(temperature=temperature).on_batch(raw)
    assert raw.targets == [tokens]
    assert len(raw.predictor_inputs[0]) == len(tokens)
    assert all(1 <= token <= 6 for token in raw.predictor_inputs[0])


def test_what_is_drawn_depends_on_seed_epoch_utterance_and_the_name_alone() -> None:
    text = [1, 2, 3, 4, 5, 6, 7, 8] * 10
    together, alone = raw_batch([text] * 3, ["a", "b", "c"]), raw_batch([text] * 2, ["c", "b"])
    switching = hook(temperature=0.01)
    switching.on_batch(together)
    switching.on_batch(alone)
    assert together.predictor_inputs[1:] == alone.predictor_inputs[::-1]
    for key in ({"epoch": 1}, {"seed": 2}, {"ids": ["x"]}, {"name": "z"}):
        changed = raw_batch([text], **{"ids": ["b"], **key})
        switching.on_batch(changed)
        assert changed.predictor_inputs[0] != alone.predictor_inputs[1]


@pytest.mark.parametrize(
    ("epoch", "until", "acts"),
    [(0, 5, False), (1, 5, True), (4, 5, True), (5, 5, False), (5, None, True), (1, 0, False)],
)
def test_it_acts_in_its_epochs_alone(epoch: int, until: int | None, acts: bool) -> None:
    raw = raw_batch([[1] * 200], epoch=epoch)
    hook(temperature=0.001, from_epoch=1, until_epoch=until).on_batch(raw)
    assert (raw.predictor_inputs != raw.targets) == acts
    assert bool(raw.metrics) == acts


def test_without_another_token_it_is_refused() -> None:
    with pytest.raises(HookError, match="of 2 tokens, blank included, none is left to put in place of another"):
        hook().on_batch(raw_batch([[1, 1]], size=2))


def test_it_runs_on_tokens_in_training_alone() -> None:
    assert SwitchOut.stage == "targets"
    assert SwitchOut.changes_training
    assert CONF.read_text().startswith("# @package hooks.switchout\n")
