"""Runs of language models: from texts to a trained model, resumed bitwise, and loaded beside a recogniser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from asr.data.pipeline import HookError, unit_loader
from asr.data.tokenizer import CharacterTokenizer, Tokenizer, load_tokenizer
from asr.models.token_lm import TokenLanguageModel
from asr.runs.checkpoint import list_checkpoints
from asr.runs.language_model import load_token_model
from asr.runs.metrics import read_rows
from asr.training.hook import Hook
from asr.training.trainer import Trainer
from distributed.errors import UsageError
from distributed.learners.world import World
from scripts.composition.build import build_material
from scripts.composition.run_configuration import load_run_config

CPU = torch.device("cpu")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    clock = ("time/", "throughput/", "wall_seconds")
    return [
        {key: value for key, value in row.items() if not key.startswith(clock)}
        for row in read_rows(folder / "metrics" / "0.jsonl")
    ]


def test_a_model_learns_the_transcripts_and_is_judged_by_perplexity(lm_run: Callable[..., Path]) -> None:
    folder = lm_run("trainer.epochs=10", "trainer.evaluate_every=5", "schedule=constant", "optimizer.lr=0.02")
    evaluations = [row for row in rows_of(folder) if "eval/dev/perplexity" in row]
    assert evaluations[-1]["eval/dev/perplexity"] < 0.7 * evaluations[0]["eval/dev/perplexity"]
    bits = torch.tensor([row["eval/dev/bits_per_token"] for row in evaluations])
    perplexities = torch.tensor([row["eval/dev/perplexity"] for row in evaluations])
    torch.testing.assert_close(perplexities.log2(), bits)
    assert "throughput/tokens_per_second" in read_rows(folder / "metrics" / "0.jsonl")[0]


def test_a_resumed_run_is_bitwise_like_an_uninterrupted_one(
    lm_run: Callable[..., Path], stop_after: Callable[[int], Hook], tmp_path: Path
) -> None:
    run = ("trainer.checkpoint_every=3", "trainer.evaluate_every=4", "schedule=constant")
    whole = lm_run(*run, "trainer.max_steps=8", name="whole")
    with pytest.raises(KeyboardInterrupt):
        lm_run(*run, "trainer.max_steps=8", name="cut", hooks={"stop": stop_after(5)})
    kept = [each.progress.step for each in list_checkpoints(tmp_path / "cut" / "checkpoints")[0]]
    assert max(kept) < 5, "steps are done again"
    resumed = lm_run(*run, "trainer.max_steps=8", name="cut")
    assert rows_of(whole)[-1] == rows_of(resumed)[-1]
    last = [load_token_model(each, CPU, load_tokenizer(whole / "tokenizer")).state_dict() for each in (whole, resumed)]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


def test_the_best_model_is_loaded_for_use(lm_run: Callable[..., Path]) -> None:
    folder = lm_run("trainer.max_steps=4")
    torch.manual_seed(5)
    generator = torch.get_rng_state()
    model = load_token_model(folder, CPU, load_tokenizer(folder / "tokenizer"))
    assert torch.equal(torch.get_rng_state(), generator), "whoever draws goes on as if nothing was loaded"
    assert isinstance(model, TokenLanguageModel)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_other_tokens_other_runs_and_damage_are_refused_in_one_line(
    lm_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = lm_run("trainer.max_steps=2")
    own = load_tokenizer(folder / "tokenizer")
    refused: list[tuple[Path, Tokenizer, str]] = [
        (
            folder,
            CharacterTokenizer(alphabet=" nogyestp", case="lower"),
            "lm=.*reads other tokens .* than the recogniser",
        ),
        (tmp_path / "none", own, "lm=.*none: no checkpoint there; give the folder of a trained run, or a model folder"),
    ]
    for run, tokenizer, message in refused:
        with pytest.raises(UsageError, match=message) as caught:
            load_token_model(run, CPU, tokenizer)
        assert "\n" not in str(caught.value)
    with pytest.raises(
        UsageError, match=r"run=.*a run of scripts/train_lm.py, where one of scripts/train.py is needed"
    ):
        load_run_config(folder)
    weights = next((folder / "checkpoints").glob("*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"model.safetensors is missing, truncated or altered"):
        load_token_model(folder, CPU, own)


def test_files_alone_need_no_corpus(
    lm_config: Callable[..., DictConfig], lm_run: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("more.txt", "held.txt"):
        (tmp_path / name).write_text("go stop\nyes no\n" * 20)
    files = (
        f"texts=[{tmp_path / 'more.txt'}]",
        f"evaluation.sets=[{tmp_path / 'held.txt'}]",
        "data.train=nothing.jsonl",
    )
    folder = lm_run("transcripts=false", *files, "trainer.max_steps=2")
    assert "eval/held/perplexity" in rows_of(folder)[-1]
    both = build_material(lm_config(f"texts=[{tmp_path / 'more.txt'}]"), folder)
    assert both.amount(both.split("train")).startswith("80 sentences (")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["transcripts=false"], "there is no text to train on: set transcripts=true, or name files"),
        (["transcripts=false", "texts=[FILE]"], r"evaluation.sets=\[dev\]: with transcripts=false no corpus is read"),
        (["evaluation.sets=[nothing]"], "the corpus has no split 'nothing'; it has train, dev"),
        (["evaluation.sets=[dev,FILE,b/some.jsonl]"], r"evaluation.sets: b/some.jsonl would overwrite .* called some;"),
        (
            ["evaluation.sets=[a/dev.txt,dev]"],
            r"evaluation.sets: a/dev.txt would overwrite .* called dev; rename the file",
        ),
        (["evaluation.sets=[a/train.txt]"], r"evaluation.sets: a/train.txt would overwrite .* called train; rename"),
        (["hooks=[switchout]"], r"hooks=\[switchout\]: it changes batches of speech, and a language model has none"),
    ],
)
def test_what_cannot_be_trained_or_judged_on_is_refused(
    lm_run: Callable[..., Path], tmp_path: Path, overrides: list[str], message: str
) -> None:
    file = tmp_path / "some.txt"
    file.write_text("go\n" * 50)
    with pytest.raises(UsageError, match=message):
        lm_run(*(each.replace("FILE", str(file)) for each in overrides))


@pytest.fixture
def sampling_trainer(
    small_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer], tmp_path: Path, alone: World
) -> Callable[..., Trainer]:
    """``sampling_trainer(lm, *overrides)``: of a recogniser with scheduled sampling from the run of a language model."""

    def make(lm: Path, *overrides: str) -> Trainer:
        hook = ("hooks=[scheduled_sampling]", f"hooks.scheduled_sampling.lm={lm}")
        return make_trainer(small_config("backend=single", *hook, *overrides), tmp_path / "run", alone)

    return make


@pytest.mark.usefixtures("forked_loaders")
def test_what_is_sampled_does_not_depend_on_the_loading_processes(
    lm_run: Callable[..., Path], sampling_trainer: Callable[..., Trainer]
) -> None:
    both = ("hooks=[scheduled_sampling,switchout]", "hooks.scheduled_sampling.keep_probability=0.5")
    parts = sampling_trainer(lm_run("trainer.max_steps=2"), *both).parts
    for hook in parts.hooks.values():
        hook.on_fit_start(parts.run, resumed=False)
    units = [unit for batch in parts.plan.epoch(0)[:2] for unit in batch]
    here, there = (list(unit_loader(parts.dataset, units, num_workers=number, prefetch=2)) for number in (0, 2))
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.predictor_inputs, other.predictor_inputs)
        assert not torch.equal(one.predictor_inputs, one.targets)
    parts.recorder.close()


def test_a_resume_refuses_a_language_model_that_was_trained_further(
    lm_run: Callable[..., Path], sampling_trainer: Callable[..., Trainer]
) -> None:
    folder = lm_run("trainer.max_steps=2", "evaluation.sets=[]")
    run = ("evaluation.sets=[]", "trainer.checkpoint_every=2")

    def go_on(steps: int) -> int:
        trainer = sampling_trainer(folder, *run, f"trainer.max_steps={steps}")
        try:
            return trainer.fit(trainer.parts.checkpoints.newest()[0]).step
        finally:
            trainer.parts.recorder.close()

    assert go_on(2) == 2
    assert go_on(4) == 4
    lm_run("trainer.max_steps=4", "evaluation.sets=[]")
    with pytest.raises(
        HookError, match=r"^hooks.scheduled_sampling.lm=.*lm: what is there now is not what this run began"
    ):
        go_on(6)


def test_a_hook_refuses_a_model_of_other_tokens_in_one_line(
    lm_run: Callable[..., Path], sampling_trainer: Callable[..., Trainer]
) -> None:
    trainer = sampling_trainer(lm_run("trainer.max_steps=2", "tokenizer.alphabet=' nogyestp'"))
    with pytest.raises(UsageError, match=r"^hooks.scheduled_sampling.lm=.*reads other tokens"):
        trainer.fit(None)
