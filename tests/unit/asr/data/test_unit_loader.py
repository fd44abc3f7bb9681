"""Loading units: the same batches with any number of workers, errors of theirs in one line, and no unit claimed early."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from asr.data.audio import BadUtterance
from asr.data.batch import Batch, Stage, Unit
from asr.data.cache import SignalCache
from asr.data.manifest import Utterance
from asr.data.pipeline import BatchHook, UnitDataset, unit_loader
from asr.training.precision import choose_matmul, onednn_usable

Build = Callable[..., UnitDataset]
Noise = Callable[[Stage], BatchHook]
Same = Callable[[Sequence[Batch], Sequence[Batch]], bool]

UNITS = [Unit(epoch, batch, 0, (batch, 3)) for epoch in range(2) for batch in range(3)]


def load(dataset: UnitDataset, num_workers: int) -> list[Batch]:
    return list(unit_loader(dataset, iter(UNITS), num_workers=num_workers, prefetch=2))


@pytest.mark.parametrize("matmul", ["mkl", "onednn"])
def test_the_same_batches_with_any_number_of_workers(
    dataset: Build, same_batches: Same, noise_hook: Noise, matmul: Literal["mkl", "onednn"]
) -> None:
    """Also on the path of matrix products that is not torch's default: loading processes take it over."""
    if matmul == "onednn" and not onednn_usable():
        pytest.skip("this processor has no oneDNN path for fp32 products")
    choose_matmul(matmul)
    noisy = dataset(
        hooks=[("noise", noise_hook("waveform")), ("more", noise_hook("normalised"))], cache=SignalCache(limit_gb=1)
    )
    before = torch.get_rng_state()
    in_process, by_workers = load(noisy, 0), load(noisy, 2)
    assert [batch.unit for batch in in_process] == [unit.name for unit in UNITS]
    assert same_batches(in_process, by_workers)
    assert torch.equal(before, torch.get_rng_state())  # creating an iterator must not consume the global generator


@pytest.mark.usefixtures("forked_loaders")
def test_a_bad_utterance_in_a_worker_is_one_line(dataset: Build, corpus: list[Utterance], tmp_path: Path) -> None:
    broken = dataset(utterances=[*corpus[:3], Utterance("missing", tmp_path / "missing.wav", 1.0, "x")])
    with pytest.raises(BadUtterance) as caught:
        load(broken, 1)
    assert caught.value.utterance_id == "missing"
    assert "\n" not in str(caught.value)


def test_units_are_claimed_one_by_one_in_process(dataset: Build) -> None:
    claimed: list[Unit] = []

    def claims() -> Any:
        for unit in UNITS:
            claimed.append(unit)
            yield unit

    next(unit_loader(dataset(), claims(), num_workers=0, prefetch=2))
    assert claimed == UNITS[:1]
