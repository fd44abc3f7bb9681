"""A run that leaves a fold out trains on the others, knows what it has not heard, and is otherwise a run like any other."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from asr.data.header_cache import table_of
from asr.data.manifest import read_manifest
from asr.data.material import Speech
from distributed.errors import UsageError
from distributed.learners.world import World
from scripts.composition.build import build_speech, fit_tokenizer
from scripts.composition.compose import compose
from scripts.composition.run_configuration import load_run_config
from scripts.composition.run_start import check_folder, settings_of
from scripts.composition.trainer_checks import check_fold
from scripts.evaluate import main as evaluate

Run = Callable[..., Path]
BY_SPEAKER = ("fold.of=3", "fold.by=speaker")


def ids(speech: Speech, split: str) -> list[str]:
    return [each.id for each in speech.split(split).utterances]


@pytest.fixture
def speech_of(small_config: Callable[..., DictConfig], tmp_path: Path, alone: World) -> Callable[..., Speech]:
    """The speech of a run with overrides."""

    def speech(*overrides: str) -> Speech:
        config = small_config(*overrides)
        fit_tokenizer(config, tmp_path, alone)
        return build_speech(config, tmp_path)

    return speech


def test_train_and_what_is_left_out_make_the_whole(speech_of: Callable[..., Speech], tiny_corpus: Path) -> None:
    whole = read_manifest(tiny_corpus / "train.jsonl")
    for number in (1, 2, 3):
        speech = speech_of(*BY_SPEAKER, f"fold.leave_out={number}")
        left_out = [each.id for each in whole if each.speaker == f"speaker{number - 1}"]
        assert ids(speech, "left_out") == left_out
        assert ids(speech, "train") == [each.id for each in whole if each.id not in left_out]
        assert ids(speech.undivided, "train") == [each.id for each in whole]
        assert speech.folds(whole) == [index % 3 + 1 for index in range(40)]
        assert len(ids(speech, "dev")) == 6
        assert len(ids(speech, str(tiny_corpus / "train.jsonl"))) == 40, "a file is read as it is"


def test_a_run_without_folds_has_nothing_left_out(speech_of: Callable[..., Speech]) -> None:
    speech = speech_of()
    assert len(ids(speech, "train")) == 40
    with pytest.raises(
        UsageError, match=r"^left_out: no fold is left out of train here \(fold\.leave_out=null\); [^\n]*$"
    ):
        speech.split("left_out")


def test_runs_that_leave_out_others_share_the_table_of_headers(
    speech_of: Callable[..., Speech], tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.data.header_cache.SETTLED_SECONDS", 0.0)
    tables = set()
    for number in (1, 2):
        speech_of(*BY_SPEAKER, f"fold.leave_out={number}").split("train")
        tables.add(table_of(tiny_corpus / "train.jsonl").stat().st_ino)
    assert len(tables) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fold.leave_out=0", r"^fold\.leave_out=0: must be a whole number \S.* or null$"),
        ("fold.leave_out=first", r"^fold\.leave_out=first: must be "),
        ("fold.by=speakers", r"^fold\.by=speakers: must be one of speaker, utterance; did you mean 'speaker'\?$"),
    ],
)
def test_values_that_no_fold_has_are_refused(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compose("train", [override])


def test_what_is_left_out_can_be_evaluated(random_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run = random_run("run", *BY_SPEAKER, "fold.leave_out=1")
    evaluate([f"run={run}", "sets=[left_out]", "decode.max_symbols=2"])
    assert capsys.readouterr().out.splitlines()[1].startswith("[left_out] %WER")
    assert (run / "eval" / "left_out" / "wer-greedy.txt").is_file()


def test_a_run_from_before_there_were_folds_has_left_none_out(
    random_run: Run, small_config: Callable[..., DictConfig]
) -> None:
    run = random_run("run")
    config = OmegaConf.load(run / "config.yaml")
    assert isinstance(config, DictConfig)
    del config["fold"]
    OmegaConf.save(config, run / "config.yaml")
    assert load_run_config(run).fold.leave_out is None
    check_folder(run, small_config("launch.matmul=mkl"))
    assert not [key for key in settings_of(small_config()) if key.startswith("fold")], "its checkpoints know of none"
    assert settings_of(small_config("fold.leave_out=1"))["fold.by"] == "speaker"
    with pytest.raises(UsageError, match=r"it differs in fold\.leave_out: "):
        check_folder(run, small_config("launch.matmul=mkl", "fold.leave_out=1"))


def test_a_run_of_digits_from_before_they_could_have_a_language_goes_on(tmp_path: Path) -> None:
    config = compose("train", ["data=fsdd_connected", "name=run"])
    earlier = OmegaConf.to_container(config)
    assert isinstance(earlier, dict)
    del earlier["data"]["language"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(OmegaConf.to_yaml(earlier))
    assert load_run_config(tmp_path / "run").data.language is None
    check_folder(tmp_path / "run", config)
    assert "data.language" not in settings_of(config), "its checkpoints know of none"
    everyday = compose("train", ["data=fsdd_connected", "name=run", "data.language=everyday"])
    assert settings_of(everyday)["data.language"] == "everyday"
    with pytest.raises(UsageError, match=r"it differs in data\.language: "):
        check_folder(tmp_path / "run", everyday)


def test_a_fold_that_there_is_not_is_refused_before_a_corpus_is_made() -> None:
    with pytest.raises(UsageError, match=r"fold\.leave_out=6: with fold\.of=5"):
        check_fold(compose("train", ["fold.leave_out=6"]))
    check_fold(compose("train_lm", ["texts=[a.txt]"]))
