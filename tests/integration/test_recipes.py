"""The recipes of the papers train on trees in the layouts of their corpora, with models small enough for a test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from omegaconf import DictConfig

from asr.data.tokenizer import load_tokenizer
from asr.training.metrics import read_rows
from asr.training.schedule import Horizon
from asr.training.trainer import Trainer
from distributed.launch import World
from scripts.build import build, fit_tokenizer
from scripts.configuration import compose, options

STEPS = 20
TINY = (
    "model.encoder.layers=1", "model.encoder.hidden=16", "model.predictor.dimension=16", "model.predictor.embedding=4",
    "model.joiner.dimension=16", f"trainer.max_steps={STEPS}", "trainer.log_every=1", "evaluation.sets=[]",
    "backend=single", "batch.unit_utterances=2", "logger=[]",
)  # fmt: skip
NEEDS_LISTS = ("nbest", "combined")
WORDS = ("yeah", "uh-huh", "i mean", "okay", "that's right", "a lot of")
RATE = 8000


@pytest.fixture
def switchboard(tmp_path: Path) -> Path:
    """Two conversations, each a file of two channels, cut into 40 + 4 + 4 segments of noise as a Kaldi recipe does."""
    rng, root = np.random.default_rng(0), tmp_path / "swbd"
    (root / "wav").mkdir(parents=True)
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


def lists_for(
    config: DictConfig, folder: Path, alone: World, utterances: list[str], write_lists: Callable[..., Path]
) -> Path:
    """N-best lists of the training utterances, in the tokens of the run."""
    fit_tokenizer(config, folder, alone)
    tokenizer = load_tokenizer(folder / "tokenizer")
    return write_lists({name: [tokenizer.encode("oh"), tokenizer.encode("ok")] for name in utterances}, tokenizer)


@pytest.mark.parametrize("recipe", [name for name in options("experiment") if name.startswith("swb300_")])
def test_a_recipe_for_switchboard_trains(
    recipe: str,
    switchboard: Path,
    make_trainer: Callable[..., Trainer],
    write_lists: Callable[..., Path],
    tmp_path: Path,
    alone: World,
) -> None:
    overrides = [*TINY, f"data.root={switchboard}", f"data.cache={tmp_path / 'cache'}"]
    if recipe.endswith(NEEDS_LISTS):
        names = [line.split()[0] for line in (switchboard / "data/train_nodup/text").read_text().splitlines()]
        plain = compose("train", ["experiment=swb300_baseline", *overrides])
        lists = lists_for(plain, tmp_path, alone, names, write_lists)
        overrides.append(f"hooks.nbest_label_smoothing.lists={lists}")
    trainer = make_trainer(compose("train", [f"experiment={recipe}", *overrides]), tmp_path / "run", alone)
    assert trainer.fit(None).step == STEPS
    trainer.parts.recorder.close()
    losses = [row["train/loss"] for row in read_rows(tmp_path / "run" / "metrics" / "0.jsonl") if "train/loss" in row]
    assert len(losses) == STEPS
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("recipe", [name for name in options("experiment") if name.startswith("swb300_")])
def test_a_recipe_has_a_small_twin_with_the_same_hooks(recipe: str) -> None:
    twin = recipe.replace("swb300_", "fsdd_quarter_")
    needed = ["hooks.nbest_label_smoothing.lists=lists"] if recipe.endswith(NEEDS_LISTS) else []
    large, small = (compose("train", [f"experiment={name}", *needed]) for name in (recipe, twin))
    assert list(large.hooks) == list(small.hooks)
    assert small.data.train_strings == 1000
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
    assert rates[17] == pytest.approx(rates[16] / 2**0.5)
    assert rates[30] == pytest.approx(2**0.5 * rates[29])
