"""Laws of length perturbation: expected lengths, what is dropped and inserted where, repeatability, short utterances."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from asr.data.batch import RawBatch
from asr.hooks.length_perturbation import LengthPerturbation, draw_spans, drop_spans, insert_blanks
from asr.parts import build

CONF = Path(__file__).parents[4] / "conf" / "hooks" / "length_perturbation.yaml"
ALWAYS = {"drop_probability": 1.0, "insert_probability": 1.0}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hook(**options: Any) -> LengthPerturbation:
    built = build(OmegaConf.merge(OmegaConf.load(CONF), options))
    assert isinstance(built, LengthPerturbation)
    return built


def numbered(frames: int) -> Tensor:
    """(T, 2) whose rows say 1..T, so that no frame is blank."""
    return torch.arange(1.0, frames + 1)[:, None].expand(-1, 2).contiguous()


def raw_batch(ids: list[str], frames: int = 200, epoch: int = 0, seed: int = 1, name: str = "a") -> RawBatch:
    signals = [numbered(frames) for _ in ids]
    return RawBatch(seed, epoch, ids, signals, [[1]] * len(ids), [[1]] * len(ids), hook=name)


spans_of = st.lists(st.tuples(st.integers(0, 19), st.integers(1, 30)), max_size=8, unique_by=lambda span: span[0])


def tensors(spans: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    starts, lengths = zip(*spans, strict=True) if spans else ((), ())
    return torch.tensor(starts, dtype=torch.int64), torch.tensor(lengths, dtype=torch.int64)


@given(spans=spans_of)
def test_dropping_leaves_out_the_frames_of_every_span_and_no_other(spans: list[tuple[int, int]]) -> None:
    dropped = {frame for start, length in spans for frame in range(start, start + length)}
    expected = [frame + 1.0 for frame in range(20) if frame not in dropped]
    assert drop_spans(numbered(20), *tensors(spans))[:, 0].tolist() == expected


@given(spans=spans_of)
def test_inserting_puts_zeros_behind_the_frames_and_changes_no_other(spans: list[tuple[int, int]]) -> None:
    blanks = dict(spans)
    expected = [value for frame in range(20) for value in [frame + 1.0, *[0.0] * blanks.get(frame, 0)]]
    assert insert_blanks(numbered(20), *tensors(spans))[:, 0].tolist() == expected


@pytest.mark.parametrize(
    ("options", "ratio"),
    [
        ({**ALWAYS, "insert_probability": 0.0}, 0.660),  # the product of 1 - r (8 - k) / 7 over k = 1..7
        (ALWAYS, 0.792),
        ({**ALWAYS, "drop_span": 5, "insert_span": 5}, 0.953),
        ({**ALWAYS, "drop_probability": 0.0}, 1.2),
        ({}, 0.3 * 0.3 + 0.7 * 0.3 * (0.660 + 1.2) + 0.7 * 0.7 * 0.792),
    ],
)
def test_expected_lengths_are_those_of_the_paper(options: dict[str, float], ratio: float) -> None:
    perturb = hook(**options).perturb
    lengths = torch.tensor([len(perturb(numbered(400), generator(seed))) / 400.0 for seed in range(1500)])
    assert float(lengths.mean()) == pytest.approx(ratio, abs=0.008)


def test_spans_begin_at_different_frames_and_every_length_is_as_likely() -> None:
    starts, lengths = zip(*(draw_spans(50, 0.2, 4, generator(seed)) for seed in range(2000)), strict=True)
    assert all(len(set(each.tolist())) == 10 for each in starts)
    counts = torch.bincount(torch.cat(starts), minlength=50).float()
    assert float(((counts - 400) ** 2 / 400).sum()) < 85.4  # 0.1 % point of 49 degrees of freedom
    counts = torch.bincount(torch.cat(lengths), minlength=5).float()[1:]
    assert float(((counts - 5000) ** 2 / 5000).sum()) < 16.3  # of 3


@given(
    frames=st.integers(1, 40),
    drop_ratio=st.floats(0, 1),
    drop_span=st.integers(1, 60),
    insert_ratio=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_no_utterance_is_emptied_and_none_gets_longer_than_declared(
    frames: int, drop_ratio: float, drop_span: int, insert_ratio: float, seed: int
) -> None:
    perturbing = hook(**ALWAYS, drop_ratio=drop_ratio, drop_span=drop_span, insert_ratio=insert_ratio)
    given_TF = numbered(frames)
    perturbed_TF = perturbing.perturb(given_TF, generator(seed))
    assert torch.equal(given_TF, numbered(frames)), "the given features are not written to"
    assert 1 <= len(perturbed_TF) <= frames * (1 + perturbing.lengthens)
    spoken = perturbed_TF[perturbed_TF[:, 0] > 0, 0]
    assert len(spoken) >= 1
    assert bool((spoken.diff() > 0).all()), "frames keep their order"


def test_an_utterance_all_of_whose_frames_would_go_loses_none() -> None:
    assert torch.equal(
        hook(drop_probability=1.0, drop_ratio=1.0, insert_probability=0.0).perturb(numbered(9), generator(0)),
        numbered(9),
    )


def test_draws_depend_on_seed_epoch_utterance_and_configured_name_alone() -> None:
    perturbing = hook(**ALWAYS)
    together, alone = raw_batch(["a", "b", "c"]), raw_batch(["c", "b"])
    perturbing.on_batch(together)
    perturbing.on_batch(alone)
    assert torch.equal(together.signals[1], alone.signals[1])
    assert torch.equal(together.signals[2], alone.signals[0])
    for key in ({"epoch": 1}, {"seed": 2}, {"ids": ["x"]}, {"name": "b"}):
        changed = raw_batch(**{"ids": ["b"], **key})
        perturbing.on_batch(changed)
        assert not torch.equal(changed.signals[0], alone.signals[1])


@pytest.mark.parametrize(("epoch", "perturbed"), [(0, False), (1, True), (4, True), (5, False)])
def test_it_acts_in_its_epochs_alone(epoch: int, perturbed: bool) -> None:
    raw = raw_batch(["a"], epoch=epoch)
    hook(**ALWAYS, from_epoch=1, until_epoch=5).on_batch(raw)
    assert (len(raw.signals[0]) != 200) == perturbed
    assert raw.metrics == ({"a/length_ratio": len(raw.signals[0]) / 200} if perturbed else {})
    assert (raw.targets, raw.predictor_inputs) == ([[1]], [[1]])


def test_it_runs_on_normalised_features_and_states_their_lengthening() -> None:
    assert LengthPerturbation.stage == "normalised"
    assert LengthPerturbation.changes_training
    assert hook().lengthens == pytest.approx(0.3)
    assert hook(insert_probability=0.0).lengthens == 0
    assert CONF.read_text().startswith("# @package hooks.length_perturbation\n")
