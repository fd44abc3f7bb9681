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


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the page's files, and its lines in the tables of the tests."""
    root = tmp_path_factory.mktemp("extended")
    for part in ("asr", "compression", "conf", "distributed", "scripts", "tests"):
        shutil.copytree(REPOSITORY / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", root)
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
        timeout=240,
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
    checked = [str(copy / path) for path in FILES if path.endswith(".py")]
    run(copy, "-m", "ruff", "check", *checked)
    run(copy, "-m", "mypy", *checked)


def test_the_suites_take_what_the_page_adds(copy: Path) -> None:
    suites = ("tests/unit/distributed", "tests/unit/test_house.py", "tests/unit/compression")
    words = "local_sgd or factorise or table or scheme"
    output = run(copy, "-m", "pytest", "-p", "no:cacheprovider", "-vv", "-k", words, *suites)
    assert "local_sgd" in output
    assert "[factorise]" in output
    assert "activation_penalty" in run(
        copy, "-m", "pytest", "-p", "no:cacheprovider", "-vv", "-k", "activation_penalty", "tests/integration/test_every_hook.py"
    )  # fmt: skip


def test_they_train_compress_and_evaluate_together(
    copy: Path, small_overrides, tiny_corpus: Path, tmp_path: Path
) -> None:
    for split in ("train", "dev"):
        rows = [yaml.safe_load(line) for line in (tiny_corpus / f"{split}.jsonl").read_text().splitlines()]
        table = "".join(f"{tiny_corpus / row['audio_filepath']},{row['speaker']},{row['text']}\n" for row in rows)
        (tmp_path / f"{split}.csv").write_text(table)
    data = ("data=comma_tables", f"data.root={tmp_path}", f"data.cache={tmp_path / 'manifests'}", "data.test=[]")
    kept = [each for each in small_overrides() if not each.startswith("data")]
    launched = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "scripts/train.py")
    chosen = ("backend=local_sgd", "backend.period=2", "hooks=[activation_penalty]", "trainer.max_steps=3", "name=all")
    output = run(copy, *launched, *kept, *data, *chosen)
    assert "2 learners, 40 utterances" in output
    assert '"train/activation_penalty"' in (copy / "exp" / "all" / "metrics" / "0.jsonl").read_text()
    assert "factorise of" in run(copy, "scripts/compress.py", "run=exp/all", "pass=factorise", "pass.rank=4")
    run(copy, "scripts/evaluate.py", "run=exp/all", "weights=exp/all/export/factorise", "sets=[dev]")
    assert (copy / "exp" / "all" / "export" / "factorise" / "eval" / "dev" / "wer-greedy.json").is_file()
