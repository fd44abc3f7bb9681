"""The recipes of the papers train on trees in the layouts of their corpora, with models small enough for a test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from omegaconf import DictConfig

from asr.parts import build
from asr.runs.metrics import read_rows
from asr.training.schedule import Horizon
from asr.training.trainer import Trainer
from distributed.learners.world import World
from scripts.composition.build import build_speech, fit_tokenizer
from scripts.composition.compose import compose, options

STEPS = 20
TINY = (
    "model.encoder.layers=1", "model.encoder.hidden=16", "model.predictor.dimension=16", "model.predictor.embedding=4",
    "model.joiner.dimension=16", f"trainer.max_steps={STEPS}", "trainer.log_every=1", "evaluation.sets=[]",
    "backend=single", "batch.unit_utterances=2", "logger=[]",
)  # fmt: skip
NEEDS_LISTS = ("nbest", "combined")
PAPERS = ("2203_", "2108_")  # whose baselines are of their own; that of the twins is one
LENGTH, SMOOTHING = "length_perturbation/length_ratio", "nbest_label_smoothing/epsilon"
SWITCHED, SAMPLED = "switchout/substitution_rate", "scheduled_sampling/substitution_rate"
PHASES: dict[str, tuple[list[str], dict[str, set[int]]]] = {  # epochs for a test, and those in which a figure is there
    "length_perturbation": (["hooks.length_perturbation.until_epoch=2"], {LENGTH: {0, 1}}),
    "switchout": ([], {SWITCHED: set(range(STEPS))}),
    "scheduled_sampling": ([], {SAMPLED: set(range(STEPS))}),
    "nbest": (["hooks.nbest_label_smoothing.until_epoch=2"], {SMOOTHING: {0, 1}}),
    "combined": (
        [
            "hooks.nbest_label_smoothing.until_epoch=1", "hooks.length_perturbation.from_epoch=1",
            "hooks.length_perturbation.until_epoch=2", "schedule.raised_from=2",
        ],
        {SMOOTHING: {0}, LENGTH: {1}},
    ),
}  # fmt: skip
WORDS = ("yeah", "uh-huh", "i mean", "okay", "that's right", "a lot of")
RATE = 8000


@pytest.fixture(scope="module")
def switchboard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two conversations, each a file of two channels, cut into 40 + 4 + 4 segments of noise as a Kaldi recipe does."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("swbd")
    (root / "wav").mkdir()
    for number, (split, size) in enumerate((("train_nodup", 40), ("train_dev", 4), ("eval2000", 4))):
        conversation, folder = f"sw0200{number}", root / "data" / split
        folder.mkdir(parents=True)
        soundfile.write(root / f"wav/{conversation}.wav", 0.1 * rng.standard_normal((size * RATE, 2)), RATE)
        tables: dict[str, list[str]] = {"segments": [], "text": [], "utt2spk": []}
        for index in range(size):
            side = "AB"[index % 2]
            name = f"{conversation}-{side}_{100 * index:06d}-{100 * index + 70:06d}"
            tables["segments"].append(f"{name} {conversation}-{side} {index}.00 {index}.70")
            tables["text"].append(f"{name} {WORDS[index % len(WORDS)]} [laughter]")
            tables["utt2spk"].append(f"{name} {conversation}-{side}")
        recordings = [f"{conversation}-{side} wav/{conversation}.wav" for side in "AB"]
        for table, lines in (tables | {"wav.scp": recordings}).items():
            (folder / table).write_text("".join(f"{line}\n" for line in sorted(lines)))
    return root


def lists_for(config: DictConfig, folder: Path, alone: World, write_lists: Callable[..., Path]) -> Path:
    """N-best lists of the training utterances, in the tokens of the run."""
    fit_tokenizer(config, folder, alone)
    speech = build_speech(config, folder)
    utterances, encode = speech.split("train").utterances, speech.tokenizer.encode
    found = {each.id: [encode("oh"), encode("ok")] for each in utterances}
    return write_lists(found, speech.tokenizer, utterances)


@pytest.mark.parametrize("recipe", [name for name in options("experiment") if name.startswith("swb300_")])
def test_a_recipe_for_switchboard_trains(
    recipe: str,
    switchboard: Path,
    make_trainer: Callable[..., Trainer],
    write_lists: Callable[..., Path],
    lm_run: Callable[..., Path],
    tmp_path: Path,
    alone: World,
) -> None:
    changes, figures = PHASES.get(recipe.removeprefix("swb300_"), ([], {}))
    overrides = [*TINY, f"data.root={switchboard}", f"data.cache={tmp_path / 'cache'}"]
    if recipe.endswith(NEEDS_LISTS):
        plain = compose("train", ["experiment=swb300_baseline", *overrides])
        lists = lists_for(plain, tmp_path, alone, write_lists)
        overrides.append(f"hooks.nbest_label_smoothing.lists={lists}")
    if recipe.endswith("scheduled_sampling"):
        alphabet = compose("train", ["experiment=swb300_baseline", *overrides]).tokenizer.alphabet
        lm = lm_run(f'tokenizer.alphabet="{alphabet}"', "trainer.max_steps=2", "evaluation.sets=[]")
        overrides.append(f"hooks.scheduled_sampling.lm={lm}")
    trainer = make_trainer(compose("train", [f"experiment={recipe}", *overrides, *changes]), tmp_path / "run", alone)
    assert trainer.fit(None).step == STEPS
    trainer.parts.recorder.close()
    rows = [row for row in read_rows(tmp_path / "run" / "metrics" / "0.jsonl") if "train/loss" in row]
    assert len(rows) == STEPS
    assert np.isfinite([row["train/loss"] for row in rows]).all()
    plan = trainer.parts.run.plan
    epochs = [epoch for epoch in range(STEPS) for _ in plan.epoch(epoch)][:STEPS]
    assert epochs[-1] >= 2, "a phase was not reached"
    for figure in (LENGTH, SMOOTHING, SWITCHED, SAMPLED):
        there = [figure in row for row in rows]
        assert there == [epoch in figures.get(figure, ()) for epoch in epochs]


@pytest.mark.parametrize("corpus", ["fsdd_quarter", "speechocean762"])
@pytest.mark.parametrize("recipe", [name for name in options("experiment") if name.startswith("swb300_")])
def test_a_recipe_has_small_twins_with_the_same_hooks(recipe: str, corpus: str) -> None:
    method = recipe.removeprefix("swb300_")
    for paper in PAPERS:
        method = method.removeprefix(paper)
    needed = {"lists": ["hooks.nbest_label_smoothing.lists=lists"], "lm": ["hooks.scheduled_sampling.lm=lm"]}
    overrides = needed["lists"] if recipe.endswith(NEEDS_LISTS) else needed["lm"] if "scheduled" in recipe else []
    large, small = (compose("train", [f"experiment={name}", *overrides]) for name in (recipe, f"{corpus}_{method}"))
    assert list(large.hooks) == list(small.hooks)
    for name, hook in large.hooks.items():
        lifted = hook.get("until_epoch")
        assert (lifted is None) == (small.hooks[name].get("until_epoch") is None)
        assert lifted is None or lifted < large.trainer.epochs
        assert lifted is None or small.hooks[name].until_epoch < small.trainer.epochs


def test_the_rates_of_the_combined_recipe_are_those_of_the_paper() -> None:
    """An epoch of the paper is five passes: 1e-4, 1e-3 in the 11th to 16th, less from the 17th, twice as much in the 31st."""
    config = compose("train", ["experiment=swb300_combined", "hooks.nbest_label_smoothing.lists=lists"])
    schedule = build(config.schedule, horizon=Horizon(175, 1, 1))
    rates = [config.optimizer.lr * schedule.factor(5 * epoch) for epoch in range(35)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[10:16] == pytest.approx([1e-3] * 6)
    assert rates[16] == pytest.approx(7.0711e-4, rel=1e-4)
    assert rates[25] == pytest.approx(3.125e-5)
    assert rates[30] == pytest.approx(2**0.5 * rates[29])
    passes = [config.optimizer.lr * schedule.factor(each) for each in range(80, 130)]
    assert passes[:5] == pytest.approx([7.0711e-4] * 5, rel=1e-4), "all five passes of the 17th"
    assert passes[45:] == pytest.approx([3.125e-5] * 5), "and of the 26th"


def test_the_settings_against_exposure_bias_are_those_of_the_paper() -> None:
    """2e-4, 2e-3 in the 11th to 16th of its epochs, then annealed; 250 utterances; its best without i-vectors."""
    switched, sampled = (
        compose("train", [f"experiment=swb300_{name}", *lm])
        for name, lm in (("switchout", []), ("scheduled_sampling", ["hooks.scheduled_sampling.lm=lm"]))
    )
    for config in (switched, sampled):
        schedule = build(config.schedule, horizon=Horizon(150, 1, 1))
        rates = [config.optimizer.lr * schedule.factor(5 * epoch) for epoch in range(30)]
        assert rates[0] == pytest.approx(2e-4)
        assert rates[10:17] == pytest.approx([2e-3] * 6 + [2e-3 / 2**0.5], rel=1e-4)
        assert config.batch.units * config.batch.unit_utterances == 250
        assert config.model.predictor.dimension == 1024
    assert (switched.hooks.switchout.temperature, switched.hooks.switchout.reading) == (0.1, "inverse")
    assert (sampled.hooks.scheduled_sampling.keep_probability, sampled.hooks.scheduled_sampling.top_k) == (0.9, 3)


@pytest.mark.parametrize(
    ("paper", "recipe", "method", "needed"),
    [
        ("2203", "length_perturbation", "length_perturbation", []),
        ("2203", "nbest", "nbest_label_smoothing", ["hooks.nbest_label_smoothing.lists=lists"]),
        ("2108", "switchout", "switchout", []),
        ("2108", "scheduled_sampling", "scheduled_sampling", ["hooks.scheduled_sampling.lm=lm"]),
    ],
)
def test_recipes_of_a_paper_differ_from_its_baseline_in_their_hooks_alone(
    paper: str, recipe: str, method: str, needed: list[str]
) -> None:
    baseline = compose("train", [f"experiment=swb300_{paper}_baseline"])
    with_method = compose("train", [f"experiment=swb300_{recipe}", *needed])
    assert with_method.hooks.keys() - baseline.hooks.keys() == {method}
    assert all(with_method.hooks[name] == hook for name, hook in baseline.hooks.items())
    assert all(with_method[key] == value for key, value in baseline.items() if key != "hooks")
