"""The measurement of one's own speech: who is trained on and tested, and what its figures are of."""

from collections.abc import Callable
from pathlib import Path

import pytest

from asr.data.manifest import Utterance, read_manifest
from distributed.errors import UsageError
from scripts.bench.own_speech import SETS, measured, new_speakers, report, tokenizer_of
from scripts.composition.compose import compose
from scripts.composition.run_configuration import load_run_config
from scripts.composition.settings import TrainSettings


def utterances_of(speaker: str, count: int) -> list[Utterance]:
    return [Utterance(f"{speaker}-{place}", Path("a.wav"), 10.0, "text", speaker) for place in range(count)]


def test_speakers_are_whole_until_there_is_enough_and_nothing_is_in_two_sets() -> None:
    everyone = [each for name in ("c", "a", "b", "d") for each in utterances_of(name, 6)]
    sets = new_speakers(everyone, 50.0)
    assert [each.id for each in sets["train"]] == ["a-0", "a-1", "a-2", "b-0", "b-1", "b-2"]
    assert [each.id for each in sets["dev"]] == ["a-3", "b-3"]
    assert [each.id for each in sets["own"]] == ["a-4", "a-5", "b-4", "b-5"]
    ids = [each.id for some in sets.values() for each in some]
    assert len(ids) == len(set(ids))
    with pytest.raises(UsageError, match=r"^--minutes=60: the corpus has less to train on"):
        new_speakers(everyone, 3600.0)


def test_a_speaker_of_few_utterances_is_tested_and_not_trained_on() -> None:
    sets = new_speakers([*utterances_of("a", 2), *utterances_of("b", 4)], 10.0)
    assert {name: [each.id for each in some] for name, some in sets.items()} == {
        "train": ["b-0"], "dev": ["b-1"], "own": ["a-0", "a-1", "b-2", "b-3"],
    }  # fmt: skip


def test_figures_are_those_of_a_run_on_recordings_of_any_rate(
    random_run: Callable[..., Path], tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, utterances = random_run("run"), read_manifest(tiny_corpus / "dev.jsonl")
    row = measured(run, utterances)
    assert (row["utterances"], row["left_out"]) == (len(utterances), 0)
    report([{"model": "after", "set": name} | row for name in reversed(SETS)])
    titles = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert titles == [f"| {title}" for title in SETS.values()]
    assert tokenizer_of(run, load_run_config(run, TrainSettings)) == []


def test_the_recipe_takes_the_model_of_a_run(random_model_folder: Path) -> None:
    settings = [f"{key}={random_model_folder}" for key in ("init_from", "model_of")]
    config = compose(
        "train", ["experiment=own_speech", "data.train=a.jsonl", "data.dev=b.jsonl", *settings, "name=own"]
    )
    assert config.model.encoder.hidden == 16
    assert config.optimizer.lr == 0.0003
