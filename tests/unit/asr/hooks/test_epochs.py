"""Epochs of a hook, and the line about settings that leave none."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from asr.hooks.epochs import Epochs
from asr.training.trainer import Trainer
from distributed.launch import World


@pytest.mark.parametrize(
    ("first", "until", "epochs", "contradictory"),
    [(0, None, [0, 1, 2, 3], False), (1, 3, [1, 2], False), (2, 2, [], True), (3, 1, [], True), (2, 0, [], False)],
)
def test_epochs_are_counted_from_0_up_to_but_without_the_end(
    first: int, until: int | None, epochs: list[int], contradictory: bool
) -> None:
    chosen = Epochs(first, until)
    assert [epoch for epoch in range(4) if epoch in chosen] == epochs
    assert chosen.contradictory == contradictory


@pytest.mark.parametrize("hook", ["length_perturbation", "sequence_noise", "switchout"])
@pytest.mark.parametrize(("until", "said"), [("25", 1), ("0", 0), ("null", 0)])
def test_a_hook_that_can_never_act_says_so_when_training_starts(
    hook: str, until: str, said: int, small_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer],
    tmp_path: Path, alone: World, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    epochs = (f"hooks.{hook}.from_epoch=75", f"hooks.{hook}.until_epoch={until}")
    trainer = make_trainer(
        small_config(f"hooks=[{hook}]", *epochs, "evaluation.sets=[]", "backend=single"), tmp_path, alone
    )
    trainer.parts.hooks[hook].on_fit_start(trainer.parts.run, resumed=False)
    trainer.parts.recorder.close()
    assert caplog.text.count("from_epoch=75 and until_epoch=25 leave no epoch") == said
