"""N-best label smoothing: how often and to what labels change, what is left out, repeatability, and refusals."""

import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from asr.data.batch import RawBatch
from asr.data.nbest import NBestError, read_header, read_nbest
from asr.data.pipeline import HookError, unit_loader
from asr.data.tokenizer import CharacterTokenizer, load_tokenizer
from asr.hooks.nbest_label_smoothing import NBestLabelSmoothing, usable
from asr.parts import build
from asr.training.trainer import Trainer
from distributed.learners.world import World
from scripts.composition.compose import CONF

LETTERS = CharacterTokenizer(alphabet="abcdefgh", case="lower")
TRUTH = [1, 2, 3, 4]
IDS = [f"u{index}" for index in range(200)]
LISTS = {name: [[5, 6, 7, 8], [5], TRUTH, [5, 6]] for name in IDS}
Write = Callable[..., Path]


def make(folder: Path, **changes: Any) -> NBestLabelSmoothing:
    node = OmegaConf.load(CONF / "hooks" / "nbest_label_smoothing.yaml")
    built: NBestLabelSmoothing = build(OmegaConf.merge(node, {"lists": str(folder), **changes}))
    if (folder / "header.json").is_file() and read_header(folder).tokenizer == LETTERS.fingerprint:
        _, built.nbest = read_nbest(folder, LETTERS)
    return built


def raw_batch(ids: list[str], *, epoch: int = 0, seed: int = 1, hook: str = "smooth") -> RawBatch:
    targets = [list(TRUTH) for _ in ids]
    return RawBatch(
        seed, epoch, list(ids), [torch.ones(9, 2)] * len(ids), targets, [list(TRUTH) for _ in ids], hook=hook
    )


def test_hypotheses_that_are_empty_or_too_long_are_left_out() -> None:
    assert usable([3, 0, 5, 6, 1], longest=5) == [0, 2, 4]


def test_labels_are_replaced_with_probability_epsilon_by_equal_chances(write_lists: Write) -> None:
    hook, seen = make(write_lists(LISTS, LETTERS), epsilon=0.4), Counter[tuple[int, ...]]()
    differing = 0.0
    for epoch in range(50):
        raw = raw_batch(IDS, epoch=epoch)
        hook.on_batch(raw)
        assert raw.predictor_inputs == raw.targets, "the whole label sequence"
        assert all(one is not other for one, other in zip(raw.targets, raw.predictor_inputs, strict=True))
        differing += raw.metrics["smooth/epsilon"] / 50
        seen.update(map(tuple, raw.targets))
    assert seen.keys() == {tuple(each) for each in LISTS["u0"]}
    expected = {tuple(each): 1000.0 for each in LISTS["u0"]} | {tuple(TRUTH): 7000.0}
    assert sum((seen[each] - count) ** 2 / count for each, count in expected.items()) < 16.3  # 0.1 % point of 3
    assert differing == pytest.approx(0.3, abs=0.015), "a hypothesis that is the truth changes nothing"


@pytest.mark.parametrize(
    ("changes", "possible"),
    [
        ({}, {(5,), (5, 6, 7, 8, 1)}),  # ceil(1.25 x 4) tokens
        ({"max_lengthening": 0.0}, {(5,)}),
        ({"max_lengthening": 0.5}, {(5,), (5, 6, 7, 8, 1), (5, 6, 7, 8, 1, 2)}),
        ({"hypotheses": 2}, {(5, 6, 7, 8, 1)}),
        ({"hypotheses": 2, "max_lengthening": 0.0}, {tuple(TRUTH)}),
        ({"epsilon": 0.0}, {tuple(TRUTH)}),
        ({"from_epoch": 1}, {tuple(TRUTH)}),
    ],
)
def test_what_labels_can_become(write_lists: Write, changes: dict[str, Any], possible: set[tuple[int, ...]]) -> None:
    lists = {name: [[], [5, 6, 7, 8, 1], [5, 6, 7, 8, 1, 2], [5]] for name in IDS}
    hook = make(write_lists(lists, LETTERS), **({"epsilon": 1.0} | changes))
    raw = raw_batch(IDS)
    hook.on_batch(raw)
    assert {tuple(each) for each in raw.targets} == possible
    assert all(len(each) <= len(TRUTH) * (1 + hook.lengthens_targets) for each in raw.targets)


def test_what_is_drawn_depends_on_seed_epoch_utterance_and_name_alone(write_lists: Write) -> None:
    hook = make(write_lists(LISTS, LETTERS), epsilon=0.5)
    together = raw_batch(IDS)
    hook.on_batch(together)
    for other in (hook, pickle.loads(pickle.dumps(hook))):
        backwards = raw_batch(IDS[::-1])
        other.on_batch(backwards)
        assert backwards.targets[::-1] == together.targets
    for key in ({"epoch": 1}, {"seed": 2}, {"hook": "other"}):
        changed = raw_batch(IDS, **key)
        hook.on_batch(changed)
        assert changed.targets != together.targets


@pytest.mark.usefixtures("forked_loaders")
def test_a_run_leaves_room_and_loads_the_same_in_other_processes(
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    write_lists: Write,
    tmp_path: Path,
    alone: World,
) -> None:
    fitted = make_trainer(small_config("evaluation.sets=[]", "backend=single"), tmp_path / "plain", alone)
    ids, tokenizer = fitted.parts.plan.utterance_ids, load_tokenizer(tmp_path / "plain" / "tokenizer")
    truths = {each.id: tokenizer.encode(each.text) for each in fitted.parts.dataset.utterances}
    folder = write_lists(
        {name: [[*truth, 1], [2]] for name, truth in truths.items()}, tokenizer, fitted.parts.run.utterances
    )
    config = small_config(
        "hooks=[nbest_label_smoothing]", f"hooks.nbest_label_smoothing.lists={folder}", "evaluation.sets=[]",
        "hooks.nbest_label_smoothing.epsilon=0.5", "backend=single", "trainer.max_steps=2", "batch.max_cells=300",
    )  # fmt: skip
    trainer = make_trainer(config, tmp_path / "run", alone)
    plan, dataset = trainer.parts.plan, trainer.parts.dataset
    assert (plan.planned_targets > plan.target_lengths).all()
    assert trainer.fit(None).step == 2
    trainer.parts.recorder.close()
    units = [unit for batch in plan.epoch(0) for unit in batch]
    here = list(unit_loader(dataset, units, num_workers=0, prefetch=2))
    there = list(unit_loader(dataset, units, num_workers=2, prefetch=2))
    assert all(torch.equal(one.targets, other.targets) for one, other in zip(here, there, strict=True))
    assert any(batch.metrics["nbest_label_smoothing/epsilon"] > 0 for batch in here)
    cells = [len(each.targets) * -(-each.features.shape[1] // 4) * (each.targets.shape[1] + 1) for each in here]
    assert max(cells) <= 300
    assert len(ids) == 40


def test_lists_that_do_not_fit_the_run_are_refused(
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    write_lists: Write,
    tmp_path: Path,
    alone: World,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = small_config(
        "hooks=[nbest_label_smoothing]", f"hooks.nbest_label_smoothing.lists={tmp_path / 'nbest'}",
        "evaluation.sets=[]", "backend=single",
    )  # fmt: skip
    trainer = make_trainer(config, tmp_path / "run", alone)
    run, hook = trainer.parts.run, trainer.parts.hooks["nbest_label_smoothing"]
    assert isinstance(hook, NBestLabelSmoothing)
    tokenizer = load_tokenizer(tmp_path / "run" / "tokenizer")
    with pytest.raises(NBestError, match=r"no n-best lists that can be read"):
        hook.on_fit_start(run, resumed=False)
    write_lists({}, LETTERS)
    with pytest.raises(NBestError, match="tokens of another tokenizer"):
        hook.on_fit_start(run, resumed=False)
    write_lists({"train-0": [[1]]}, tokenizer, hypotheses=10)
    with pytest.raises(NBestError, match=r"hypotheses=20: .* keeps 10 of each utterance; set 10 or less"):
        hook.on_fit_start(run, resumed=False)
    others = [replace(each, text="no") for each in run.utterances]
    write_lists({"train-0": [[1]], "train-1": [[1]]}, tokenizer, others)
    with pytest.raises(NBestError, match=r"^[^\n]*its list of train-[01] is of another utterance of that name[^\n]*$"):
        hook.on_fit_start(run, resumed=False)
    write_lists({"train-0": [[1]]}, tokenizer, run.utterances)
    with pytest.raises(NBestError, match=r"no list for 39 of 40 training utterances, train-1 first; .*missing=keep"):
        hook.on_fit_start(run, resumed=False)
    hook.missing = "keep"
    caplog.set_level("INFO")
    hook.on_fit_start(run, resumed=False)
    assert "39 without one keep their labels" in caplog.text
    resumed = make(hook.lists, missing="keep")
    resumed.load_state_dict(hook.state_dict())
    resumed.on_fit_start(run, resumed=True)
    write_lists({"train-0": [[2]]}, tokenizer, run.utterances)
    with pytest.raises(
        HookError, match=r"^hooks.nbest_label_smoothing.lists=.* not what this run began with; .*name=$"
    ):
        resumed.on_fit_start(run, resumed=True)
    trainer.parts.recorder.close()
