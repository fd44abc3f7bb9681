"""What the assembly refuses before anything is trained."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from asr.training.trainer import Trainer
from distributed.launch import World
from scripts.startup import UsageError


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
