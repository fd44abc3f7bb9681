"""How errors end: in one line for those who can mend them, whatever the launcher said."""

import pytest

from distributed.errors import UsageError
from distributed.learners.environment import LaunchError, place
from scripts.composition.startup import line_for_people

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_errors_are_reported_where_the_launcher_is_half_said(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RANK", "0")
    assert line_for_people(UsageError("unknown key 'bakend'")) == "error: unknown key 'bakend'\n"
    with pytest.raises(LaunchError) as caught:
        place()
    line = line_for_people(caught.value)
    assert line == "error: RANK is set but WORLD_SIZE is not; start the learners with torchrun, or unset RANK\n"


def test_a_mistake_that_all_learners_meet_is_reported_once_a_host(environment: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, ("3", "4", "1", "2"), strict=True):
        environment.setenv(name, value)
    assert line_for_people(UsageError("x")) == ""
    assert line_for_people(FileNotFoundError(2, "No such file", "a.wav")) == (
        "error on learner 3: No such file: a.wav\n"
    )
    assert line_for_people(KeyError("ours to mend")) is None
