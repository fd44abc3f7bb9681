"""One table of all passes: each is run, what it made is loaded and decoded, and it passes over its own result."""

from collections.abc import Callable
from pathlib import Path

import pytest

from asr.runs.model_folder import load_model
from scripts.composition.compose import options
from scripts.compress import main as compress
from scripts.evaluate import main as evaluate

TABLE: dict[str, list[str]] = {
    "rewrite": [],
}  # fmt: skip


def test_the_table_has_every_pass() -> None:
    assert TABLE.keys() == set(options("passes"))


@pytest.mark.parametrize("word", TABLE)
def test_a_pass_makes_a_folder_that_loads_decodes_and_is_passed_over_again(
    word: str, random_run: Callable[..., Path]
) -> None:
    run, exported = random_run("run"), Path("export")
    source = run / "checkpoints" / "step-00000001"
    for step, weights in enumerate((source, run / exported / "first")):
        name = ("first", "second")[step]
        compress([f"run={run}", f"pass={word}", *TABLE[word], f"weights={weights}", f"name={name}"])
        folder = run / exported / name
        made_of = load_model(folder).description.made_of
        assert [source["pass"] for source in made_of] == [word] * (step + 1)
        evaluate([f"run={run}", f"weights={folder}", "sets=[dev]"])
        assert (folder / "eval" / "dev" / "wer-greedy.json").is_file()
