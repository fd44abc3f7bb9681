"""The index of a folder of runs."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from asr.reporting.index import index_page, read_entries, run_folders

MakeRun = Callable[..., Path]


def test_a_folder_of_runs_is_listed_newest_first(make_run: MakeRun, tmp_path: Path) -> None:
    old, new = make_run("old", steps=20), make_run("new", steps=20)
    (tmp_path / "notes").mkdir()
    (tmp_path / "file.txt").write_text("x")
    for age, run in ((100, old), (50, new)):
        for path in (run, *run.rglob("*")):
            os.utime(path, (1e9 - age, 1e9 - age))
    assert run_folders(tmp_path) == [new, old]
    assert run_folders(old) == [], "a run is no folder of runs"


def test_each_run_has_a_line_and_a_link_to_its_page(make_run: MakeRun, tmp_path: Path) -> None:
    run, other = make_run("a run & <b>", steps=40), make_run("plain", steps=40)
    (run / "report.html").write_text("its page")
    (other / "summary.json").unlink()
    page = index_page(tmp_path, read_entries(sorted(run_folders(tmp_path))))
    rows = re.findall(r'<tr><th scope="row">(.*?)</th><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td>', page)
    assert rows == [
        ('<a href="a%20run%20%26%20%3Cb%3E/report.html">a run &amp; &lt;b&gt;</a>', "finished", "dpsgd"),
        ("plain", "not finished", "dpsgd"),
    ]
    assert "test · greedy <b>3.12\u202f%</b>" in page
    assert 'href="a%20run' not in index_page(tmp_path, read_entries(run_folders(tmp_path)), watched_seconds=5)


def test_a_damaged_run_is_a_line_that_says_so(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("good", steps=20)
    (make_run("bad", steps=20) / "summary.json").write_text("{")
    page = index_page(tmp_path, read_entries(run_folders(tmp_path)))
    assert "cannot be read" in page
    assert "summary.json: not JSON" in page
    assert "good" in page
