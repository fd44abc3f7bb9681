"""What docs/extend.md shows is whole: its files, in a copy of the project, train, compress and evaluate, and its lines pass the suites."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scripts.composition.startup import REPOSITORY

PAGE = (REPOSITORY / "docs" / "extend.md").read_text()
FILES = dict(re.findall(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
LINES = dict(
    re.findall(r"^and a line [^\n]*`(tests/[\w./]+)`[^\n]*\n\n```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
)
TABLES = {
    "tests/schemes.py": '        Scheme("single", "alone"),\n',
    "tests/integration/test_every_hook.py": "TABLE = {\n",
    "tests/unit/compression/test_every_pass.py": "TABLE: dict[str, Row] = {\n",
}

pytestmark = pytest.mark.timeout(900)  # one process of pytest runs all that is run in the copy


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the page's files, and its lines in the tables of the tests."""
    root = tmp_path_factory.mktemp("extended")
    for part in ("asr", "compression", "conf", "distributed", "scripts", "tests"):
        shutil.copytree(REPOSITORY / part, root / part, ignore=shutil.ignore_patterns("*.pyc.*"))  # being written
    shutil.copy(REPOSITORY / "pyproject.toml", root)
    if (
        known := REPOSITORY / ".mypy_cache"
    ).is_dir():  # what `make check` has found out already of the files of the project
        shutil.copytree(known, root / ".mypy_cache")
    for path, content in FILES.items():
        assert not (root / path).exists()
        (root / path).write_text(content)
    for path, line in LINES.items():
        table = (root / path).read_text()
        assert table.count(TABLES[path]) == 1
        (root / path).write_text(table.replace(TABLES[path], TABLES[path] + line))
    return root


def run(root: Path, *arguments: str) -> str:
    """Run Python in the copy, and its modules; what it printed."""
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_page_shows_five_extensions_each_with_its_defaults() -> None:
    assert sorted(Path(path).suffix for path in FILES) == [".py"] * 4 + [".yaml"] * 4
    assert LINES.keys() == TABLES.keys()
    for path, content in FILES.items():
        if path.endswith(".yaml"):
            assert yaml.safe_load(content)["_target_"].rpartition(".")[0].replace(".", "/") + ".py" in FILES


def test_what_the_page_shows_is_clean(copy: Path) -> None:
    checked = [path for path in FILES if path.endswith(".py")]
    run(copy, "-m", "ruff", "check", *checked)
    run(copy, "-m", "mypy", *checked)


SUITES = ("tests/unit/distributed", "tests/unit/test_house.py", "tests/unit/compression/test_every_pass.py")
RUNS = ("tests/integration/test_every_hook.py", "tests/integration/extended.py")
WORDS = "local_sgd or factorise or activation_penalty or table or together"


@pytest.fixture(scope="module")
def passed(copy: Path) -> str:
    """What pytest prints of the tests in the copy that have to do with the page's files; one process, as imports take seconds."""
    return run(copy, "-m", "pytest", "-p", "no:cacheprovider", "-vv", "-k", WORDS, *SUITES, *RUNS)


def test_the_suites_take_what_the_page_adds(passed: str) -> None:
    for added in ("local_sgd]", "factorise]", "activation_penalty]"):
        assert f"{added} PASSED" in passed


def test_they_train_compress_and_evaluate_together(passed: str) -> None:
    assert "extended.py::test_they_train_compress_and_evaluate_together PASSED" in passed
