"""Entry points answer at once: --help without torch, and a Python without our environment in one line."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.composition import startup
from scripts.composition.startup import REPOSITORY, WrongPythonError, check_python, line_for_people
from tests.schemes import SCHEMES

ENTRY_POINTS = sorted(path for path in (REPOSITORY / "scripts").glob("*.py") if "__main__" in path.read_text())
BENCHES = sorted(
    path for path in (REPOSITORY / "scripts" / "bench").glob("*.py") if "run_main(main)" in path.read_text()
)
NAMES = [path.stem for path in ENTRY_POINTS]


def imported_at_the_top(path: Path) -> set[str]:
    """The modules that reading a file imports."""
    body = ast.parse(path.read_text()).body
    plain = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    return plain | {str(node.module) for node in body if isinstance(node, ast.ImportFrom)}


def test_every_entry_point_is_looked_at() -> None:
    assert {"train", "train_lm", "evaluate", "report"} < set(NAMES)
    assert {"compression", "network", "parity"} < {path.stem for path in BENCHES}


@pytest.mark.parametrize(
    "path", [*ENTRY_POINTS, REPOSITORY / "scripts" / "composition" / "startup.py"], ids=lambda path: path.stem
)
def test_nothing_but_the_standard_library_is_needed_to_begin(path: Path) -> None:
    assert imported_at_the_top(path) <= sys.stdlib_module_names | {"collections.abc", "importlib.util"}


@pytest.mark.parametrize("path", ENTRY_POINTS, ids=lambda path: path.stem)
def test_no_entry_point_imports_another(path: Path) -> None:
    modules = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
    assert not modules & {f"scripts.{name}" for name in NAMES}


@pytest.mark.parametrize("path", [*ENTRY_POINTS, *BENCHES], ids=lambda path: path.stem)
def test_a_python_without_the_environment_gets_one_line(path: Path) -> None:
    arguments, package = (["--learners", "2", "train"], "torch") if path.stem == "launch" else (["--help"], "hydra")
    bare = [sys.executable, "-I", "-S", str(path), *arguments]  # -S: no site-packages
    done = subprocess.run(bare, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line == f"error: {sys.executable} has no package {package}: make setup, then . .venv/bin/activate"


def test_another_version_of_python_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup.sys, "version_info", (3, 9, 2))
    with pytest.raises(WrongPythonError) as caught:
        check_python()
    line = "error: Python 3.9.2 is not 3.11, 3.12 or 3.13: make setup, then . .venv/bin/activate\n"
    assert line_for_people(caught.value) == line


def test_help_of_every_entry_point_needs_no_torch() -> None:
    """Torch alone takes more than a second to import."""
    code = f"""
import importlib, sys
sys.path.insert(0, {str(REPOSITORY)!r})
for name in {NAMES!r}:
    importlib.import_module("scripts." + name).main(["--help"])
print("loaded:", *({{"torch", "numpy"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("loaded:\n")
    assert done.stdout.count("--cfg prints the whole configuration") == len(NAMES) - 3, (
        "launcher, doctor and recipe have none"
    )
    assert "backend=" + "|".join(sorted(SCHEMES)) in done.stdout


def test_the_error_comes_after_what_was_printed_before_also_in_one_file(tmp_path: Path) -> None:
    code = "from scripts.composition.startup import run_main\ndef main(_):\n    print('results')\n    import nowhere\nrun_main(main)"
    with (tmp_path / "log").open("w") as log:
        subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, stdout=log, stderr=log, timeout=60)
    assert (tmp_path / "log").read_text().startswith("results\nerror: ")
