"""The bench of whole searches: a version decodes from its own folder, and is compared with full precision search by search."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from asr.decoding.wer import ErrorCounts
from distributed.errors import UsageError
from scripts.bench.search_costs import FULL, figures, main, row, versions
from scripts.compress import main as compress

Run = Callable[..., Path]


def test_versions_are_compared_with_full_precision_of_the_same_search() -> None:
    seconds = {(FULL, "greedy"): 4.0, ("int4", "greedy"): 2.0, (FULL, "beam8"): 6.0, ("int4", "beam8"): 12.0}
    errors = ErrorCounts(substitutions=1, deletions=0, insertions=0, reference_words=4)
    rows = [row(key, seconds, 8.0, errors) for key in seconds]
    assert [each["real_time_factor"] for each in rows] == [0.5, 0.25, 0.75, 1.5]
    assert [each["faster"] for each in rows] == [1.0, 2.0, 1.0, 0.5]
    assert {each["wer"] for each in rows} == {0.25}
    for each, size in zip(rows, (100, 50, 120, 40), strict=True):
        each["memory_bytes"] = size
    assert figures(rows) == {
        "rtf_ratio/greedy/int4": 2.0,
        "rtf_ratio/beam8/int4": 0.5,
        "memory_ratio/greedy/int4": 2.0,
        "memory_ratio/beam8/int4": 3.0,
    }


@pytest.mark.parametrize("given", ["int4", "=folder", "int4="])
def test_a_version_has_a_name_and_a_folder(given: str) -> None:
    with pytest.raises(UsageError, match="write a name and a model folder"):
        versions([given])


def test_a_packed_version_is_measured(random_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, path = random_run("run"), tmp_path / "found.json"
    compress([f"run={run}", "pass=int4"])
    compress([f"run={run}", f"weights={run}/export/int4", "pass=pack"])
    version = f"packed={run}/export/pack"
    main(["--run", str(run), "--version", version, "--set", "dev", "--beam", "2", "--quick", "--json", str(path)])
    saved, shown = json.loads(path.read_text()), capsys.readouterr().out
    assert [(each["search"], each["version"]) for each in saved["rows"]] == [
        (search, name) for search in ("greedy", "beam2") for name in (FULL, "packed")
    ]
    assert all(f"| {each['search']} | {each['version']} | " in shown for each in saved["rows"])
    assert all(each["real_time_factor"] > 0 and each["memory_bytes"] > 0 for each in saved["rows"])
    assert saved["figures"].keys() == {
        f"{kind}_ratio/{search}/packed" for kind in ("rtf", "memory") for search in ("greedy", "beam2")
    }
