"""What the assembly refuses before anything is trained."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from asr.training.trainer import Trainer
from distributed.errors import UsageError
from distributed.learners.world import World
from scripts.composition.build import build_backend
from scripts.composition.trainer_checks import warn_if_alone
from tests.schemes import SCHEMES, words


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (
            "switchout,nbest_label_smoothing",
            "nbest_label_smoothing must come before switchout; list them in that order",
        ),
        ("spec_augment,length_perturbation", "length_perturbation must come before spec_augment"),
        ("spec_augment,dropconnect,length_perturbation", "length_perturbation must come before spec_augment"),
    ],
)
def test_hooks_that_undo_what_others_did_come_before_them(
    listed: str, message: str, small_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer],
    tmp_path: Path, alone: World,
) -> None:  # fmt: skip
    lists = ["hooks.nbest_label_smoothing.lists=lists"] if "nbest" in listed else []
    config = small_config("backend=single", f"hooks=[{listed}]", *lists)
    with pytest.raises(UsageError, match=message):
        make_trainer(config, tmp_path, alone)


@pytest.mark.parametrize(
    "hook", [("hooks=[switchout]",), ("hooks=[scheduled_sampling]", "hooks.scheduled_sampling.lm=lm")]
)
def test_a_history_is_perturbed_for_a_model_that_reads_one(
    hook: tuple[str, ...],
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    tmp_path: Path,
    alone: World,
) -> None:
    config = small_config("backend=single", "model=ctc_conformer_tiny", *hook)
    with pytest.raises(
        ValueError, match="changes what a prediction network reads, and the model has none: take the hook"
    ):
        make_trainer(config, tmp_path, alone)


def test_one_learner_under_gossip_is_warned_of(
    small_config: Callable[..., DictConfig], alone: World, caplog: pytest.LogCaptureFixture
) -> None:
    warned = set()
    for word in SCHEMES:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            config = small_config(f"backend={word}")
            warn_if_alone(build_backend(config, alone), 1, config)
        warned |= {
            word
            for line in caplog.messages
            if "trains as under backend=single; " in line and "scripts/train.py" in line
        }
    assert warned == set(words(lambda each: each.gossip))


def test_the_warning_names_the_script_of_a_language_model(
    lm_config: Callable[..., DictConfig], alone: World, caplog: pytest.LogCaptureFixture
) -> None:
    config = lm_config("backend=dpsgd")
    with caplog.at_level(logging.WARNING):
        warn_if_alone(build_backend(config, alone), 1, config)
    assert "--nproc-per-node 2 scripts/train_lm.py ..." in caplog.text
