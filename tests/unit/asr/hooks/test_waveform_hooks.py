"""All hooks on waveforms together: the same batches from loading processes, and room for them in a run's plan."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from asr.data.batch import Unit
from asr.data.cache import SignalCache
from asr.data.manifest import read_manifest
from asr.data.pipeline import unit_loader
from asr.parts import build
from asr.training.trainer import Trainer
from distributed.learners.world import World
from scripts.composition.build import build_hooks, build_speech, fit_tokenizer

Write = Callable[..., Path]
WAVEFORM_HOOKS = "hooks=[speed_perturbation,reverberation,additive_noise]"


@pytest.fixture
def augmented(small_config: Callable[..., DictConfig], write_recordings: Write) -> Callable[..., DictConfig]:
    """A run with every hook on waveforms, noises and rooms at another rate than the corpus."""
    rng = np.random.default_rng(0)
    noises = write_recordings(*(0.1 * rng.standard_normal(16000 * n) for n in (1, 2, 31)), name="noises")
    rooms = write_recordings(
        *(rng.standard_normal(3000) * np.exp(-np.arange(3000) / 400) for _ in range(3)), name="rooms"
    )
    return lambda *overrides: small_config(
        WAVEFORM_HOOKS,
        f"hooks.additive_noise.manifest={noises}",
        f"hooks.reverberation.manifest={rooms}",
        *overrides,
    )


@pytest.mark.usefixtures("forked_loaders")
@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
def test_batches_are_bitwise_the_same_whatever_the_number_of_workers(
    augmented: Callable[..., DictConfig], tiny_corpus: Path, tmp_path: Path, alone: World, cache_gb: float
) -> None:
    config = augmented()
    fit_tokenizer(config, tmp_path, alone)
    speech = build_speech(config, tmp_path)
    units = [Unit(epoch, 0, 0, (0, 5, 7)) for epoch in range(3)]

    def batches(num_workers: int) -> list[Any]:
        hooks = list(build_hooks(config).items())
        dataset = speech.dataset(speech.split("train"), hooks, 1, SignalCache(cache_gb))
        return list(unit_loader(dataset, units, num_workers=num_workers, prefetch=2))

    here, there = batches(0), batches(2)
    assert all(torch.equal(one.features, other.features) for one, other in zip(here, there, strict=True))
    assert len({tuple(batch.feature_lengths.tolist()) for batch in here}) > 1, "speeds differ between epochs"
    assert len(read_manifest(tiny_corpus / "train.jsonl")) == 40


def test_a_run_with_them_trains_within_its_budget(
    augmented: Callable[..., DictConfig], make_trainer: Callable[..., Trainer], tmp_path: Path, alone: World
) -> None:
    """Every batch of an epoch, slowed down as it may be, stays within max_frames, which is as tight as it can be."""
    config = augmented("backend=single", "batch.max_frames=120", "trainer.max_steps=2", "evaluation.sets=[]")
    trainer = make_trainer(config, tmp_path / "run", alone)
    plan, dataset = trainer.parts.plan, trainer.parts.dataset
    assert (plan.planned_frames > plan.frames).all()
    sizes = [dataset[unit].features.shape[:2].numel() for batch in plan.epoch(0) for unit in batch]
    assert max(sizes) <= 120
    assert trainer.fit(None).step == 2
    trainer.parts.recorder.close()


def test_a_margin_that_is_too_small_is_refused(
    augmented: Callable[..., DictConfig], make_trainer: Callable[..., Trainer], tmp_path: Path, alone: World
) -> None:
    with pytest.raises(ValueError, match=r"batch\.frame_margin=0\.05 leaves less room than the hooks need"):
        make_trainer(augmented("batch.frame_margin=0.05"), tmp_path / "run", alone)


def test_hooks_are_built_without_their_recordings(augmented: Callable[..., DictConfig]) -> None:
    """A trained model is used where the noises are not."""
    config = augmented("hooks.additive_noise.manifest=none.jsonl", "hooks.reverberation.manifest=none.jsonl")
    assert all(build(node) is not None for node in config.hooks.values())
