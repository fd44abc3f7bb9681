"""Runs with the hook structured_pruning: under every backend, and what the pass prune makes of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from asr.foreign.tensors import read_tensors
from asr.runs.checkpoint import AUXILIARIES, Checkpoint, model_folder_of
from asr.runs.metrics import read_rows
from asr.runs.model_folder import load_model
from asr.training.trainer import Trainer
from compression.pruning.hook import Pruning
from distributed.errors import UsageError
from distributed.learners.world import World
from scripts.composition.build import count_parameters
from scripts.compress import main as compress
from scripts.evaluate import main as evaluate
from tests.schemes import SCHEMES, words

STEPS = ("trainer.max_steps=3", "trainer.checkpoint_every=3", "trainer.evaluate_every=3", "evaluation.sets=[dev]", "trainer.memory_probe=false")  # fmt: skip
RUN = (*STEPS, "hooks=[structured_pruning]", "hooks.structured_pruning.rise=0.4", "hooks.structured_pruning.mask_lr=1.0",
       "hooks.structured_pruning.multiplier_lr=1.0")  # fmt: skip
LOCAL_WIDTHS = (
    "model=conformer_tiny", "model.encoder.layers=2", "model.encoder.dimension=16", "model.encoder.heads=2",
    "model.predictor.dimension=16", "model.joiner.dimension=16",
    "hooks.structured_pruning.kinds=[width,local_width,feed_forward,heads]",
)  # fmt: skip


def pruning_of(trainer: Trainer) -> dict[str, Tensor]:
    """The state of masks and multipliers."""
    part = trainer.parts.run.model.auxiliary["structured_pruning"]
    assert isinstance(part, Pruning)
    return {name: each.detach().clone() for name, each in part.state_dict().items()}


def newest(trainer: Trainer) -> Checkpoint:
    """The newest checkpoint of a run."""
    found, _ = trainer.parts.checkpoints.newest()
    assert found is not None
    return found


@pytest.mark.parametrize("word", words(lambda each: True))
def test_masks_are_the_learners_own_or_equal_as_their_weights_are(
    word: str,
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[Any]],
    tmp_path: Path,
) -> None:
    size = 2 if SCHEMES[word].several else 1
    config = small_config(*SCHEMES[word].overrides(size), *RUN)

    def learner(world: World) -> Mapping[str, Tensor]:
        trainer = make_trainer(config, tmp_path, world)
        begun = pruning_of(trainer)
        trainer.fit(None)
        trainer.parts.recorder.close()
        ended = pruning_of(trainer)
        learnt = {name for name in begun if not torch.equal(begun[name], ended[name])}
        assert {name for name in begun if name.endswith("log_alpha")} <= learnt
        if SCHEMES[word].lockstep:  # otherwise a learner may have taken the first step alone, when all may be kept
            assert ended["multipliers.linear"] < 0 < ended["multipliers.quadratic"], (
                "they ascend while too much is kept"
            )
        return ended

    every = run_learners(size, learner)
    if SCHEMES[word].synchronous:
        assert all(torch.equal(every[0][name], each[name]) for each in every for name in each)
    (folder,) = (tmp_path / "checkpoints").glob("step-*")
    saved = read_tensors(folder / AUXILIARIES)
    for name, first in every[0].items():
        value = saved[f"auxiliary.structured_pruning.{name}"]
        if not first.is_floating_point():
            assert torch.equal(value, first)
            continue
        torch.testing.assert_close(value, torch.stack([each[name] for each in every]).mean(0), rtol=1e-5, atol=1e-6)
    assert not [name for name in load_model(folder).model.state_dict() if "pruning" in name]
    of_learners = [read_rows(each) for each in sorted((tmp_path / "metrics").glob("*.jsonl"))]
    of_steps = [[row for row in rows if "structured_pruning/expected_ratio" in row] for rows in of_learners]
    assert any(of_steps), "and of an asynchronous learner there are none where another has taken all"
    for rows in of_steps:
        targets = [row["structured_pruning/target_ratio"] for row in rows]
        assert targets == sorted(targets, reverse=True)
        assert not SCHEMES[word].lockstep or targets[-1] == 0.5
    (evaluated,) = [row for row in of_learners[0] if "structured_pruning/kept_ratio" in row]
    assert 0 < evaluated["structured_pruning/kept_ratio"] <= 1
    assert any(name.startswith("structured_pruning/kept/encoder.") for name in evaluated)


def test_masks_descend_and_multipliers_ascend_at_rates_of_their_own(
    small_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer], alone: World, tmp_path: Path
) -> None:
    trainer = make_trainer(small_config("backend=single", *STEPS, "hooks=[structured_pruning]"), tmp_path, alone)
    groups = {each["name"]: each for each in trainer.parts.optimizer.param_groups}
    masks, multipliers = groups["structured_pruning-0"], groups["structured_pruning-1"]
    assert multipliers["maximize"]
    assert not masks["maximize"]
    for group in (masks, multipliers):
        assert [group[flag] for flag in ("clip", "scale_lr", "compress", "schedule")] == [False] * 4
        assert group["weight_decay"] == 0
        assert group["lr"] == 0.02
    model = trainer.parts.run.model
    assert count_parameters(model) < sum(each.numel() for each in model.parameters()), "masks are no parameters"
    trainer.parts.recorder.close()


@pytest.mark.parametrize("overrides", [(), LOCAL_WIDTHS], ids=["lstm", "local widths"])
def test_a_trained_model_is_pruned_quantised_packed_and_gone_on_with(
    overrides: tuple[str, ...],
    small_config: Callable[..., DictConfig],
    finished_run: Callable[..., Path],
    make_trainer: Callable[..., Trainer],
    alone: World,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = [each for each in overrides if each.startswith("model")]
    whole = finished_run(small_config("backend=single", *STEPS, *model), tmp_path / "whole")
    config = small_config(
        "backend=single", *RUN, *overrides, "hooks.structured_pruning.mask_lr=4.0", f"init_from={whole}"
    )
    run = finished_run(config, tmp_path / "masked")
    compress([f"run={run}", "pass=prune", "checkpoint=last"])
    assert "from before" not in caplog.text
    folder = run / "export" / "prune"
    small, large = load_model(folder), load_model(model_folder_of(run, "run"))
    sizes = [sum(each.numel() for each in made.model.parameters()) for made in (small, large)]
    assert sizes[0] < 0.95 * sizes[1]
    (masked,) = [row for row in read_rows(run / "metrics" / "0.jsonl") if "structured_pruning/kept_ratio" in row]
    assert ("have not met their target" in caplog.text) == (abs(masked["structured_pruning/kept_ratio"] - 0.5) > 0.02)
    encoder = [sum(each.numel() for each in made.model.encoder.parameters()) for made in (small, large)]
    assert encoder[0] / encoder[1] == pytest.approx(masked["structured_pruning/kept_ratio"], rel=1e-5)
    resumed = make_trainer(config, run, alone)
    resumed.saver.load(newest(resumed))
    (batch,) = list(resumed.parts.run.batches("dev", 0))[:1]
    with torch.no_grad():
        losses = [float(each.eval()(batch).total) for each in (resumed.parts.run.model, small.model, large.model)]
    resumed.parts.recorder.close()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-4), "masks change what the whole model computes"
    evaluate([f"run={run}", f"weights={folder}", "sets=[dev]"])
    for made, source in (("int4", folder), ("pack", run / "export" / "int4")):
        compress([f"run={run}", f"pass={made}", f"weights={source}"])
        evaluate([f"run={run}", f"weights={run / 'export' / made}", "sets=[dev]"])
    go_on = ("backend=single", *STEPS, f"init_from={folder}", f"model_of={folder}")
    again = make_trainer(small_config(*go_on), tmp_path / "again", alone)
    started = again.parts.run.model.state_dict()
    assert all(torch.equal(started[name], value) for name, value in small.model.state_dict().items())
    again.parts.recorder.close()
    quantised = load_model(
        model_folder_of(finished_run(small_config(*go_on, "hooks=[qat_int4]"), tmp_path / "quantised"), "run")
    )
    assert quantised.description.transforms
    nodes = [made.description.model["encoder"] for made in (quantised, small)]
    assert nodes[0] == nodes[1], "few bits are learned in the sizes that are left"
    own = [len(block["width"]) for block in nodes[1].get("blocks") or [] if "width" in block]
    assert bool(own) == bool(overrides)
    assert all(0 < width < nodes[1]["dimension"] for width in own)


def test_masks_of_before_the_target_are_named_and_models_without_masks_refused(
    small_config: Callable[..., DictConfig],
    finished_run: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    early = "hooks.structured_pruning.rise=1.0"
    run = finished_run(small_config("backend=single", *RUN, early, "evaluation.sets=[]"), tmp_path / "early")
    assert "the masks have not met their target; train longer" in caplog.text
    compress([f"run={run}", "pass=prune", "checkpoint=last", "pass.multiple_of=4"])
    assert "these masks are from before the sparsity of the run was reached" in caplog.text
    with pytest.raises(UsageError, match=r"^pass=prune: there are no masks beside this model: give a checkpoint"):
        compress([f"run={run}", "pass=prune", f"weights={run / 'export' / 'prune'}"])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["hooks.structured_pruning.objective=milliseconds"], r"needs what was measured on a processor"),
        (
            ["hooks.structured_pruning.initial_dropped=0"],
            r"^hooks\.structured_pruning\.initial_dropped must be above 0",
        ),
        (["hooks.structured_pruning.kinds=[width,cells]", "model=lstm_tiny"], r"^hooks\.structured_pruning: kinds: "),
        (["hooks=[structured_pruning,dropconnect]", "model=lstm_tiny"], "dropconnect"),
        (
            ["hooks=[activation_checkpointing,structured_pruning]"],
            "activation_checkpointing would compute layers again",
        ),
        (["hooks=[qat_int4,structured_pruning]"], r"^hooks\.structured_pruning: the model is quantised already"),
        (["hooks.structured_pruning.kinds=[joint]"], r"kinds: joint cost nothing with scope=encoder"),
    ],
)
def test_what_does_not_go_together_is_refused(
    overrides: list[str],
    expected: str,
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    alone: World,
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match=expected):
        make_trainer(small_config("backend=single", *RUN, *overrides), tmp_path, alone)
