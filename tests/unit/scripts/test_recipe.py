"""The recipe: its phrases, what it runs and in which order, and what it leaves out when it is given again."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from asr.data.manifest import read_manifest
from distributed.errors import UsageError
from scripts.composition import recipe as recipes
from scripts.composition.compose import compose
from scripts.composition.recipe import ENCODERS, Recipe, RecipeError, make, phrases_of, recipe_options, steps_of

AWK = """{ for (i = 1; i <= NF; i += j) { n = 2 + k++ % 9; line = $i
    for (j = 1; j < n && i + j <= NF; j++) line = line " " $(i + j); if (j > 1) print line } }"""


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options that name data and texts."""
    monkeypatch.chdir(tmp_path)
    for name, file in (("corpus", "train.tsv"), ("texts", "a.txt")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("one two three four\nfive\n")
    return ["--data", "corpus", "--texts", "texts"]


def recipe_of(*arguments: str) -> Recipe:
    recipe = recipe_options(arguments, "")
    assert recipe is not None
    return recipe


def test_phrases_are_those_of_the_documented_command() -> None:
    sentences = [" ".join(f"w{line}-{word}" for word in range(1 + (7 * line) % 31)) for line in range(40)]
    text = "".join(f"{each}\n" for each in sentences)
    expected = subprocess.run(["awk", AWK], input=text, capture_output=True, text=True, check=True).stdout.splitlines()
    assert list(phrases_of(iter(sentences))) == expected
    assert len(expected) > 50


@pytest.mark.parametrize("quick", [[], ["--quick"]], ids=["whole", "quick"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_step_of_training_is_a_command_that_its_entry_point_takes(
    encoder: str, quick: list[str], folders: list[str]
) -> None:
    recipe = recipe_of(*folders, "--encoder", encoder, *quick)
    assert recipe.name == f"read-english-{encoder}{'-quick' if quick else ''}"
    commands = [
        step.command() for step in steps_of(recipe) if step.command is not None and step.title != "with these weights"
    ]
    for script, *arguments in commands:
        compose(script, arguments[:2] if script == "cut" else arguments)
    corpus = next(arguments for script, *arguments in commands if script == "train" and "cut" in " ".join(arguments))
    pieces = ENCODERS[encoder].pieces is not None
    assert ("init_modules=[encoder]" in corpus) is pieces, "other tokens than those of stage 1"
    assert any(script == "train_tokenizer" for script, *_ in commands) is pieces
    assert commands[-1][0] == "export"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The entry points that were run; each makes what its step makes."""
    scripts: list[str] = []
    steps: dict[str, Path] = {}

    def run(command: list[str], **options: Any) -> SimpleNamespace:
        script = Path(command[1]).stem
        scripts.append(script)
        target = next(path for title, path in steps.items() if title == " ".join(command[2:]))
        target.parent.mkdir(parents=True, exist_ok=True)
        content = {split: {"manifest": "m.jsonl"} for split in ("train", "dev", "test")}
        target.write_text(json.dumps(content | {"best": {"external": 0.1, "label_bonus": 0.6}}))
        return SimpleNamespace(returncode=0)

    def noting(recipe: Recipe, of: Callable[..., Any] = recipes.steps_of) -> Any:
        for step in of(recipe):
            made = step.command
            if made is None:
                yield step
                continue

            def command(made: Any = made, makes: Path = step.makes) -> Any:
                _, *arguments = found = made()
                steps[" ".join(arguments)] = makes
                return found

            yield recipes.Step(step.title, step.makes, command)

    monkeypatch.setattr(recipes, "steps_of", noting)
    monkeypatch.setattr(recipes.subprocess, "run", run)
    return scripts


def test_what_is_there_is_left_out_and_the_rest_is_made(
    ran: list[str], folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(*folders)
    line = {"audio_filepath": "a.wav", "duration": 1.0, "text": "one"}
    Path("m.jsonl").write_text("".join(json.dumps({"id": f"u{place}"} | line) + "\n" for place in range(60)))
    make(recipe)
    whole = [
        "prepare",
        "train",
        "cut",
        "train",
        "train_lm",
        "evaluate",
        "evaluate",
        "tune_fusion",
        "evaluate",
        "export",
    ]
    assert ran == whole
    assert (recipe.made / "phrases.txt").read_text() == "one two\nthree four\n"
    taken = read_manifest(recipe.made / "train.jsonl")
    assert [each.id for each in taken] == [f"u{place}" for place in range(60)]
    assert {each.audio_filepath.resolve() for each in taken} == {Path("a.wav").resolve()}
    assert "decode.fusion.external_weight=0.1 decode.fusion.label_bonus=0.6" in capsys.readouterr().out
    make(recipe)
    assert ran == whole, "nothing is made again"
    (recipe.run("-lm") / "summary.json").unlink()
    make(recipe)
    assert ran == [*whole, "train_lm"]


def test_a_step_that_fails_ends_the_recipe_with_its_name(
    ran: list[str], folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=2))
    with pytest.raises(RecipeError, match=r"^the corpus: scripts/prepare\.py ended with exit code 2 .* to go on$"):
        make(recipe_of(*folders))


@pytest.mark.parametrize("missing", ["--data", "--texts"])
def test_a_folder_without_the_files_is_refused(missing: str, folders: list[str]) -> None:
    wrong = [*folders, missing, "."]
    with pytest.raises(UsageError, match=rf"^{missing}=\.: a folder with "):
        recipe_options(wrong, "")
