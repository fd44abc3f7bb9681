"""Epochs of a hook, and the line about settings that leave none."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from asr.hooks.epochs import Epochs
from asr.training.trainer import Trainer
from distributed.learners.world import World


@pytest.mark.parametrize(
    ("first", "until", "epochs", "fault"),
    [
        (0, None, [0, 1, 2, 3], None),
        (1, 3, [1, 2], None),
        (1, 4, [1, 2, 3], None),
        (2, 2, [], "from_epoch=2 and until_epoch=2 leave no epoch"),
        (3, 1, [], "from_epoch=3 and until_epoch=1 leave no epoch"),
        (2, 0, [], None),
        (4, None, [], "never acts: from_epoch=4, and the run ends after 4 epochs"),
        (1, 5, [1, 2, 3], "never lifted: until_epoch=5, and the run ends after 4 epochs"),
    ],
)
def test_epochs_are_counted_from_0_up_to_but_without_the_end(
    first: int, until: int | None, epochs: list[int], fault: str | None
) -> None:
    chosen = Epochs(first, until)
    assert [epoch for epoch in range(4) if epoch in chosen] == epochs
    found = chosen.fault(4)
    assert found is None if fault is None else fault in str(found)


@pytest.mark.parametrize("hook", ["length_perturbation", "sequence_noise", "switchout"])
@pytest.mark.parametrize(
    ("until", "said"),
    [
        ("25", "from_epoch=75 and until_epoch=25 leave no epoch"),
        ("0", ""),
        ("null", "from_epoch=75, and the run ends after 2 epochs"),
    ],
)
def test_a_hook_that_can_never_act_says_so_when_training_starts(
    hook: str, until: str, said: str, small_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer],
    tmp_path: Path, alone: World, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    epochs = (f"hooks.{hook}.from_epoch=75", f"hooks.{hook}.until_epoch={until}")
    run = ("trainer.epochs=2", "trainer.max_steps=null", "evaluation.sets=[]", "backend=single")
    trainer = make_trainer(small_config(f"hooks=[{hook}]", *epochs, *run), tmp_path, alone)
    trainer.parts.hooks[hook].on_fit_start(trainer.parts.run, resumed=False)
    trainer.parts.recorder.close()
    assert caplog.text.count("never acts") == bool(said)
    assert said in caplog.text
