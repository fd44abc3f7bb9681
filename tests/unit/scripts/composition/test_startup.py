"""How errors end: in one line for those who can mend them, whatever the launcher said."""

import json
import sys
from pathlib import Path

import pytest

from distributed.errors import UsageError
from distributed.learners.environment import LaunchError, place
from distributed.learners.signs import JoinError, Loss
from scripts.composition.startup import REMEDY, line_for_people, run_main

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_errors_are_reported_under_a_partly_set_launcher_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RANK", "0")
    assert line_for_people(UsageError("unknown key 'bakend'")) == "error: unknown key 'bakend'\n"
    with pytest.raises(LaunchError) as caught:
        place()
    line = line_for_people(caught.value)
    assert line == "error: RANK is set but WORLD_SIZE is not; start the learners with torchrun, or unset RANK\n"


@pytest.mark.parametrize(("attempt", "ours", "printed"), [("0", True, True), ("1", True, False), ("1", False, True)])
def test_our_launcher_prints_the_last_line_where_no_restart_follows(
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    attempt: str,
    ours: bool,
    printed: bool,
) -> None:
    file = tmp_path / "error.json"
    told = {"ERROR_FILE": str(file), "RESTART_COUNT": attempt, "MAX_RESTARTS": "1"}
    for name, value in told.items():
        environment.setenv(f"TORCHELASTIC_{name}", value)
    environment.setenv("MURMURATION_LAUNCHER", "1")
    if not ours:
        environment.delenv("MURMURATION_LAUNCHER")

    def fail(arguments: list[str]) -> None:
        raise JoinError(Loss(2, "has not come"))

    with pytest.raises(SystemExit) as ended:
        run_main(fail)
    assert ended.value.code == 1
    line = "error: the learners have not met: learner 2 has not come; see why in its log, then start the run again\n"
    assert capsys.readouterr().err == (line if printed else "")
    message = json.loads(file.read_text())["message"]
    assert message["message"] == line
    assert message["extraInfo"]["own"] is False


def test_a_mistake_that_all_learners_meet_is_reported_once_a_host(environment: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, ("3", "4", "1", "2"), strict=True):
        environment.setenv(name, value)
    assert line_for_people(UsageError("x")) == ""
    assert line_for_people(FileNotFoundError(2, "No such file", "a.wav")) == (
        "error on learner 3: No such file: a.wav\n"
    )
    assert line_for_people(KeyError("ours to mend")) is None
    missing = ModuleNotFoundError("No module named 'soundfile'", name="soundfile")
    assert line_for_people(missing) == ""
    environment.setenv("LOCAL_RANK", "0")
    assert line_for_people(missing) == f"error: {sys.executable} has no package soundfile: {REMEDY}\n"
