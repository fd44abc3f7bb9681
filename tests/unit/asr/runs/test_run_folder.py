"""Where things lie in the folder of a run is written down once."""

import ast
import re
from pathlib import Path

from asr.runs.run_folder import RunFolder
from scripts.composition.startup import REPOSITORY


def spelled(path: Path) -> set[str]:
    """The texts of a file's code that could be parts of paths: constants, and the constant parts of f-strings."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    told = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)
    }
    return {
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told
        for part in node.value.split("/")
    }


def joined(path: Path) -> set[str]:
    """The texts that a file puts behind another path with ``/``."""
    return {
        part
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        for text in ast.walk(node.right)
        if isinstance(text, ast.Constant) and isinstance(text.value, str)
        for part in text.value.split("/")
    }


def test_one_module_knows_where_things_lie_in_the_folder_of_a_run() -> None:
    run = RunFolder(Path("run"))
    properties = [name for name, each in vars(RunFolder).items() if isinstance(each, property)]
    made = [run.metrics_of(0), run.log_of(0), run.refused_of(0), run.export("x"), run.nbest("x")]
    paths = [getattr(run, name) for name in properties] + made
    first = {path.relative_to(run.path).parts[0] for path in paths}
    assert {"metrics.jsonl", "summary.json", "checkpoints", "eval", "export", "refused"} <= first
    distinctive = {name for name in first if "." in name.lstrip(".")} | {"checkpoints", "bad_batches"}
    sources = [path for package in ("asr", "compression", "scripts") for path in (REPOSITORY / package).rglob("*.py")]
    home = REPOSITORY / "asr" / "runs" / "run_folder.py"
    assert distinctive <= spelled(home), "the search finds what is there"
    for path in sources:
        if path != home:
            assert not spelled(path) & distinctive, f"{path}: take it from asr.runs.run_folder"
            assert not joined(path) & first, f"{path}: take it from asr.runs.run_folder"
            assert not any(re.match("(recogs|errs|wer|fusion|against|summary)-", each) for each in joined(path)), path
