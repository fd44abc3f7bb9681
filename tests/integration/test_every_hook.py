"""One table of all hooks: each trains, is saved, and goes on after an interruption to bitwise the same weights."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import DictConfig, OmegaConf

from asr.data.batch import Batch
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.pipeline import unit_loader
from asr.data.tokenizer import load_tokenizer
from asr.parts import find_target
from asr.runs.metrics import read_rows
from asr.training.hook import Hook
from asr.training.trainer import Trainer
from distributed.learners.world import World
from scripts.composition.build import fit_tokenizer
from scripts.composition.compose import CONF, options
from tests.conftest import lone_world
from tests.lists import write_nbest
from tests.models import save_random_model

STEPS = ("trainer.max_steps=6", "trainer.checkpoint_every=2", "evaluation.sets=[]", "model.encoder.dropout=0.2")


@dataclass(frozen=True)
class Row:
    """How a hook is used in a run of six steps."""

    overrides: tuple[str, ...] = ()  # {files}: the folder of noises, rooms, lists, a language model and a teacher
    metric: str | None = None  # what its rows hold, below the hook's name


TABLE = {
    "activation_checkpointing": Row(),
    "additive_noise": Row(("hooks.additive_noise.manifest={files}/noises.jsonl",)),
    "diagnostics": Row(("hooks.diagnostics.probe_batches=1", "evaluation.sets=[dev]", "trainer.evaluate_every=2")),
    "dropconnect": Row(),
    "layerwise_distillation": Row(("hooks.layerwise_distillation.teacher={files}/teacher", "hooks.layerwise_distillation.transducer_weight=0.5")),
    "length_perturbation": Row(metric="length_ratio"),
    "nbest_label_smoothing": Row(
        ("hooks.nbest_label_smoothing.lists={files}/nbest", "hooks.nbest_label_smoothing.epsilon=0.5"), "epsilon"
    ),
    "qat_int4": Row(),
    "quantization_health": Row(("evaluation.sets=[dev]", "trainer.evaluate_every=2")),
    "pruned_warmup": Row(("model/loss=pruned", "hooks.pruned_warmup.steps=5", "trainer.memory_probe=false")),
    "replicas": Row(),
    "reverberation": Row(("hooks.reverberation.manifest={files}/rooms.jsonl",)),
    "scheduled_sampling": Row(
        ("hooks.scheduled_sampling.lm={files}/lm", "hooks.scheduled_sampling.keep_probability=0.5"), "substitution_rate"
    ),
    "selection_diagnostics": Row(("backend=scalecom", "evaluation.sets=[dev]", "trainer.evaluate_every=2")),
    "sequence_noise": Row(metric="mixed"),
    "spec_augment": Row(("hooks.spec_augment.time_width=5",)),
    "speed_perturbation": Row(),
    "structured_pruning": Row(("hooks.structured_pruning.rise=0.5",), "expected_ratio"),
    "switchout": Row(metric="substitution_rate"),
    "tempo_perturbation": Row(),
}  # fmt: skip


def works_on_batches(name: str) -> bool:
    """Whether the hook's class declares a stage of the loader."""
    kind = find_target(str(OmegaConf.load(CONF / "hooks" / f"{name}.yaml")["_target_"]), "hooks")
    return kind.stage is not None


ON_BATCHES = tuple(filter(works_on_batches, TABLE))


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_corpus: Path,
    small_config: Callable[..., DictConfig],
    lm_config: Callable[..., DictConfig],
    finished_run: Callable[..., Path],
) -> Path:
    """What some hooks read: noises, rooms, n-best lists of the tiny corpus, a language model of its texts, a teacher."""
    root, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for name, samples in (("noises", 8000), ("rooms", 800)):
        soundfile.write(root / f"{name}.wav", 0.1 * rng.standard_normal(samples), 8000)
        write_manifest(root / f"{name}.jsonl", [Utterance(name, root / f"{name}.wav", samples / 8000, "")])
    fit_tokenizer(small_config(), root, lone_world())
    tokenizer = load_tokenizer(root / "tokenizer")
    utterances = read_manifest(tiny_corpus / "train.jsonl")
    said = {each.id: tokenizer.encode(each.text) for each in utterances}
    finished_run(lm_config("trainer.max_steps=2", "evaluation.sets=[]"), root / "lm")
    save_random_model(small_config("seed=2"), root, root / "teacher")
    lists = {name: [tokens[1:], tokens[::-1]] for name, tokens in said.items()}
    write_nbest(root / "nbest", lists, tokenizer, utterances)
    return root


def test_the_table_has_every_hook() -> None:
    assert TABLE.keys() == set(options("hooks"))


def same(one: Batch, other: Batch) -> bool:
    """Whether a model would see no difference."""
    names = ("features", "feature_lengths", "targets", "target_lengths", "predictor_inputs")
    return all(torch.equal(getattr(one, each), getattr(other, each)) for each in names)


@pytest.fixture
def started(
    files: Path,
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    alone: World,
    tmp_path: Path,
) -> Iterator[Callable[..., Trainer]]:
    """``started(*names)``: a trainer with these hooks, which have read what they need; its evaluation set is ``train``."""
    trainers: list[Trainer] = []

    def start(*names: str) -> Trainer:
        overrides = [each.format(files=files) for name in names for each in TABLE[name].overrides]
        run = ["backend=single", *STEPS, f"hooks=[{','.join(names)}]", *overrides, "evaluation.sets=[train]"]
        trainer = make_trainer(small_config(*run), tmp_path / f"started{len(trainers)}", alone)
        trainers.append(trainer)
        for hook in trainer.parts.hooks.values():
            hook.on_fit_start(trainer.parts.run, resumed=False)
        return trainer

    yield start
    for each in trainers:
        each.parts.recorder.close()


@pytest.mark.parametrize("name", TABLE)
def test_it_changes_batches_in_training_alone(name: str, started: Callable[..., Trainer]) -> None:
    with_hook, without = started(name).parts, started().parts
    (evaluated,), (plain,) = with_hook.evaluator.sets, without.evaluator.sets
    units = evaluated.units
    assert all(same(evaluated.dataset[unit], plain.dataset[unit]) for unit in units)
    changed = any(not same(with_hook.dataset[unit], without.dataset[unit]) for unit in units)
    assert changed == (name in ON_BATCHES), "in training, the same units"


@pytest.mark.usefixtures("forked_loaders")
def test_batches_do_not_depend_on_the_loading_processes(started: Callable[..., Trainer]) -> None:
    parts = started(*ON_BATCHES).parts
    units = [unit for batch in parts.plan.epoch(0)[:3] for unit in batch]
    here, there = (list(unit_loader(parts.dataset, units, num_workers=number, prefetch=2)) for number in (0, 2))
    assert all(same(one, other) for one, other in zip(here, there, strict=True))


@pytest.mark.parametrize("name", TABLE)
def test_it_trains_saves_and_resumes_bitwise(
    name: str,
    files: Path,
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[Mapping[str, torch.Tensor]]],
    stop_after: Callable[[int], Hook],
    tmp_path: Path,
) -> None:
    row = TABLE[name]
    overrides = [each.format(files=files) for each in row.overrides]
    config = small_config("backend=single", *STEPS, f"hooks=[{name}]", *overrides)

    def weights(folder: Path, *stops: int) -> Mapping[str, torch.Tensor]:
        """After runs of so many steps one after the other; one learner, whose backend may want a group."""

        def learner(world: World) -> dict[str, torch.Tensor]:
            for stop in stops:
                trainer = make_trainer(config, folder, world, {"stop": stop_after(stop)})
                try:
                    trainer.fit(trainer.parts.checkpoints.newest()[0])
                except KeyboardInterrupt:
                    pass
                finally:
                    trainer.parts.recorder.close()
            return {key: value.clone() for key, value in trainer.parts.run.model.state_dict().items()}

        (found,) = run_learners(1, learner)
        return found

    whole = weights(tmp_path / "whole", 99)
    resumed = weights(tmp_path / "resumed", 3, 99)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    rows = [read_rows(tmp_path / folder / "metrics" / "0.jsonl") for folder in ("whole", "resumed")]
    losses = [{each["step"]: each["train/loss"] for each in found if "train/loss" in each} for found in rows]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6
    if row.metric is not None:
        assert all(f"{name}/{row.metric}" in each for each in rows[0] if "train/loss" in each)
