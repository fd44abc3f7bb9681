"""Rules of the house that no linter knows: which way imports run, where packages lie, what YAML may name."""

import ast
import importlib
import inspect
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from asr.parts import NODE_KEYS, find_target
from scripts.composition import settings
from scripts.composition.compose import CONF, compose, options
from scripts.composition.startup import PACKAGES, REPOSITORY, WrongPackageError, check_packages
from tests.schemes import SCHEMES

ORDER = ("distributed", "asr", "compression", "scripts")  # each may import itself and those before it
SOURCES = [path for package in ORDER for path in sorted((REPOSITORY / package).rglob("*.py"))]
YAMLS = sorted(CONF.rglob("*.yaml"))


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file, parsed once for all rules."""
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """The imports of a file, wherever they stand."""
    return [node for node in ast.walk(tree(path)) if isinstance(node, (ast.Import, ast.ImportFrom))]


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in imports(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        else:
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_run_one_way(path: Path) -> None:
    package = path.relative_to(REPOSITORY).parts[0]
    allowed = ORDER[: ORDER.index(package) + 1]
    assert imported_packages(path) & set(ORDER) <= set(allowed)


def test_data_models_and_losses_know_nothing_of_training() -> None:
    for part in ("data", "models", "losses", "decoding"):
        for path in (REPOSITORY / "asr" / part).rglob("*.py"):
            assert not re.search(r"^\s*from asr\.(training|hooks|reporting)", path.read_text(), re.MULTILINE), path


def imported_rooms(path: Path, package: str) -> set[str]:
    """The second parts of the names that a file imports from ``package``: ``gossip`` of distributed.gossip.mixing."""
    names: set[str] = set()
    for node in imports(path):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            parts = node.module.split(".")
            if parts[0] == package:
                names |= {alias.name for alias in node.names} if len(parts) == 1 else {parts[1]}
    return names


GROUND = {"backend", "keyed", "ranges", "errors"}
ROOMS = {  # of distributed/, and what each may import of it; gossip and sparse never import each other
    "learners": GROUND | {"learners"},
    "parameters": GROUND | {"learners", "parameters"},
    "base": GROUND | {"learners", "parameters"},
    "values": GROUND | {"values"},
    "gossip": GROUND | {"learners", "parameters", "base", "values", "gossip"},
    "sparse": GROUND | {"learners", "parameters", "base", "values", "sparse"},
    "schemes": GROUND | {"learners", "parameters", "base", "values", "gossip", "sparse", "schemes"},
    "simulate": GROUND | {"learners", "parameters", "base", "values", "gossip", "sparse", "schemes", "simulate"},
} | dict.fromkeys(GROUND, GROUND)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "distributed").rglob("*.py")), ids=lambda path: path.stem)
def test_the_rooms_of_distributed_import_one_way(path: Path) -> None:
    parts = path.relative_to(REPOSITORY / "distributed").with_suffix("").parts
    if parts[0] != "__init__":
        assert imported_rooms(path, "distributed") <= ROOMS[parts[0]]


def test_a_scheme_is_a_file_a_yaml_and_a_line_of_the_tests_table() -> None:
    """conf/backend/<word>.yaml names a class of distributed/schemes/<word>.py."""
    files = {path.stem for path in (REPOSITORY / "distributed" / "schemes").glob("*.py")} - {"__init__"}
    assert SCHEMES.keys() == set(options("backend")) == files
    for word in SCHEMES:
        target = OmegaConf.load(CONF / "backend" / f"{word}.yaml")["_target_"]
        assert target.startswith(f"distributed.schemes.{word}."), f"{word}.yaml names {target}"


def test_the_folder_of_a_run_knows_nothing_of_training() -> None:
    for path in (REPOSITORY / "asr" / "runs").rglob("*.py"):
        assert imported_rooms(path, "asr") <= {"runs", "data", "models", "parts", "foreign"}, path


def test_the_door_for_foreign_files_opens_to_nothing_of_ours() -> None:
    for path in (REPOSITORY / "asr" / "foreign").rglob("*.py"):
        assert imported_rooms(path, "asr") <= {"foreign"}, path


OWN_FILES = {  # read beside the door: of the system, of conf/, or written by the same step
    "asr/training/meter.py", "asr/training/processor.py", "asr/runs/checkpoint_folder.py",
    "scripts/composition/compose.py", "scripts/composition/run_configuration.py",
}  # fmt: skip
READS = re.compile(
    r"\.read_(text|bytes)\(|json\.loads?\(|yaml\.(safe_)?load\(|OmegaConf\.load\(|torch\.load\(|load_file\(|gzip\.[A-Za-z]|\bprint\("
)


@pytest.mark.parametrize("room", ["asr", "compression", "scripts/composition"])
def test_files_from_elsewhere_come_through_one_door(room: str) -> None:
    """And what is printed leaves through it: ``say`` shows control characters."""
    printers = {"asr/runs/console.py", "scripts/composition/compose.py", "scripts/composition/startup.py"}
    for path in (REPOSITORY / room).rglob("*.py"):
        name = path.relative_to(REPOSITORY).as_posix()
        found = {match[0] for match in READS.finditer(path.read_text())}
        allowed = {"print("} if name in printers else set()
        assert name.startswith("asr/foreign/") or name in OWN_FILES or found <= allowed, f"{name}: {found}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports at the top of files, of which a circle fails or depends on who comes first."""
    names = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path for path in SOURCES}
    graph = {}
    for name, path in names.items():
        found = set()
        for node in tree(path).body:
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)} & names.keys()
        graph[name] = found
    tuple(TopologicalSorter(graph).static_order())  # CycleError names the circle


def test_distributed_needs_torch_alone() -> None:
    standard = __import__("sys").stdlib_module_names
    for path in (REPOSITORY / "distributed").rglob("*.py"):
        assert imported_packages(path) - standard <= {"torch", "distributed"}, path


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_resolve_inside_the_repository(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert Path(module.__file__).resolve() == REPOSITORY / name / "__init__.py"


def test_a_foreign_package_of_the_same_name_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "distributed").mkdir()
    (tmp_path / "distributed" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "distributed")
    with pytest.raises(
        WrongPackageError, match=r"'distributed' resolves to .* another distribution has the same import name"
    ):
        check_packages()


def test_package_init_files_hold_a_docstring_alone() -> None:
    for path in REPOSITORY.glob("*/**/__init__.py"):
        if path.relative_to(REPOSITORY).parts[0] in ORDER:
            body = tree(path).body
            assert len(body) == 1, path
            assert ast.get_docstring(tree(path)), path


def test_every_package_is_declared() -> None:
    import tomllib

    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(path.parent.relative_to(REPOSITORY).parts)
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("__init__.py")
    }
    assert set(declared) == found


def test_composition_alone_knows_hydra() -> None:
    importers = {
        "/".join(path.relative_to(REPOSITORY).parts[:2]) for path in SOURCES if "hydra" in imported_packages(path)
    }
    assert importers == {"scripts/composition"}


def test_an_entry_point_never_imports_an_entry_point() -> None:
    entry_points = {path.stem for path in (REPOSITORY / "scripts").glob("*.py")}
    for path in SOURCES:
        assert not imported_rooms(path, "scripts") & entry_points, path


def test_torchaudio_is_loaded_where_it_is_used_and_by_one_function() -> None:
    importers = {path.relative_to(REPOSITORY).as_posix() for path in SOURCES if "torchaudio" in imported_packages(path)}
    assert not importers, "take it from asr.torchaudio_parts, inside the function that uses it"


def test_environment_variables_are_read_in_one_place() -> None:
    readers = {
        path.relative_to(REPOSITORY).as_posix()
        for path in SOURCES
        if re.search(r"os\.(environ|getenv)", path.read_text())
    }
    assert readers == {"distributed/learners/environment.py"}


def test_constants_and_type_aliases_have_one_home() -> None:
    """The same name with the same value in two modules is one thing that was written down twice."""
    own = {"FORMAT"}  # each module counts the versions of its own files
    homes: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in tree(path).body:
            if isinstance(node, ast.Assign) and not ast.unparse(node.targets[0]).islower():
                homes.setdefault(ast.unparse(node), []).append(path.relative_to(REPOSITORY).as_posix())
    twice = {text: paths for text, paths in homes.items() if len(paths) > 1 and text.split()[0] not in own}
    assert not twice


def nodes_with_targets(node: Any, path: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    if isinstance(node, dict):
        if "_target_" in node:
            found.append((path, node))
        for key, child in node.items():
            found += nodes_with_targets(child, f"{path}.{key}" if path else key)
    return found


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(CONF)))
def test_every_key_of_a_yaml_has_a_comment(path: Path) -> None:
    for line in path.read_text().splitlines():
        match = re.match(r"\s*([a-z_0-9]+):\s*(\S.*)?$", line)
        if match is None or match[2] is None or match[1].startswith("_"):
            continue
        group = path.parent.name == "experiment"
        assert "#" in match[2] or group, f"{path.name}: {line.strip()} says neither unit nor effect"


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(CONF)))
def test_defaults_have_one_home(path: Path) -> None:
    """What YAML gives has no default in the code, and what a constructor needs from YAML is there."""
    content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    for where, node in nodes_with_targets(content, ""):
        parameters = inspect.signature(find_target(node["_target_"], where, settings.__name__)).parameters
        for key in node.keys() - {*NODE_KEYS, "defaults"}:
            assert parameters[key].default is inspect.Parameter.empty, f"{where}.{key} has a default in the code too"


@pytest.mark.parametrize("model", options("model"))
@pytest.mark.parametrize("joiner", ["add", "multiply"])
def test_every_model_builds(model: str, joiner: str) -> None:
    from asr.parts import build
    from scripts.composition.build import count_parameters

    config = compose("train", [f"model={model}"])
    if "joiner" in config.model:
        config.model.joiner.combine = joiner
    assert count_parameters(build(config.model, vocabulary_size=29, feature_dimension=80)) > 1e5


@pytest.mark.parametrize("group", ["hooks", "data", "tokenizer", "decode"])
def test_every_option_builds(group: str) -> None:
    from asr.parts import build

    for option in options(group):
        chosen = f"{group}=[{option}]" if group == "hooks" else f"{group}={option}"
        needed = {
            "manifests": ["data.train=train.jsonl"],
            "additive_noise": ["hooks.additive_noise.manifest=noise.jsonl"],
            "reverberation": ["hooks.reverberation.manifest=rooms.jsonl"],
            "nbest_label_smoothing": ["hooks.nbest_label_smoothing.lists=exp/a/nbest/train"],
            "scheduled_sampling": ["hooks.scheduled_sampling.lm=exp/lm"],
            "layerwise_distillation": ["hooks.layerwise_distillation.teacher=exp/dense"],
        }.get(option, [])
        config = compose("train", [chosen, *needed])
        nodes = [config.hooks[option]] if group == "hooks" else [config[group]]
        assert all(build(node) is not None for node in nodes)
