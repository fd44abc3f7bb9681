"""Headers kept beside a manifest: what is read again, what is not, and what a damaged table costs."""

import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data import header_cache
from asr.data.audio import Header
from asr.data.header_cache import cached_headers, read_table, table_of
from asr.data.screening import read_headers


class Opened:
    """Stands for ``read_headers`` and notes the files that it is asked for."""

    def __init__(self) -> None:
        self.files: list[Path] = []

    def __call__(self, files: Iterable[Path]) -> dict[Path, Header | str]:
        files = list(files)
        self.files += files
        return read_headers(files)

    def names(self) -> list[str]:
        """Names of the files since the last call."""
        names, self.files = sorted(file.name for file in self.files), []
        return names


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    found = Opened()
    monkeypatch.setattr(header_cache, "read_headers", found)
    monkeypatch.setattr(header_cache, "SETTLED_SECONDS", 0.0)  # the files of a test are new
    return found


def write(file: Path, samples: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, np.zeros(samples, dtype=np.float32), 16000)
    return file


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / f"speech/{name}.wav", 100 + index) for index, name in enumerate("abc")]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "train.jsonl"


def lengths(found: dict[Path, Header | str]) -> list[int | str]:
    return [each.num_samples if isinstance(each, Header) else each.split(";")[0] for _, each in sorted(found.items())]


def test_a_second_start_opens_no_file(files: list[Path], manifest: Path, opened: Opened) -> None:
    first = cached_headers(manifest, files, may_write=True)
    assert opened.names() == ["a.wav", "b.wav", "c.wav"]
    assert cached_headers(manifest, files, may_write=True) == first == read_headers(files)
    assert opened.names() == []


def test_a_moved_corpus_and_a_changed_manifest_cost_new_files_alone(
    files: list[Path], manifest: Path, tmp_path: Path, opened: Opened
) -> None:
    """A move of the folder leaves the files as they are; a table is of files, not of lines."""
    folder = tmp_path / "corpus"
    one, other = (write(folder / f"{name}.wav", 50) for name in "xy")
    cached_headers(folder / "train.jsonl", [one], may_write=True)
    opened.names()
    moved = folder.rename(tmp_path / "moved")
    found = cached_headers(moved / "train.jsonl", [moved / one.name, moved / other.name], may_write=True)
    assert opened.names() == ["y.wav"]
    assert lengths(found) == [50, 50]


def test_changed_replaced_and_removed_files_are_read_again(
    files: list[Path], manifest: Path, tmp_path: Path, opened: Opened
) -> None:
    cached_headers(manifest, files, may_write=True)
    opened.names()
    changed, replaced, removed = files
    write(changed, 77)
    times = replaced.stat()
    other = write(tmp_path / "other.wav", 101)  # as long as the one before
    soundfile.write(other, np.zeros(101, dtype=np.float32), 8000)
    assert other.stat().st_size == times.st_size
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    shutil.move(other, replaced)  # of the same size and time of content
    removed.unlink()
    found = cached_headers(manifest, files, may_write=True)
    assert opened.names() == ["a.wav", "b.wav", "c.wav"]
    assert found == read_headers(files)
    assert lengths(found) == [77, 101, "there is no such file"]
    assert sorted(read_table(table_of(manifest))) == ["speech/a.wav", "speech/b.wav"]
    cached_headers(manifest, files, may_write=True)
    assert opened.names() == ["c.wav"]
    write(removed, 5)
    assert lengths(cached_headers(manifest, files, may_write=True)) == [77, 101, 5]


def test_defects_are_not_kept(files: list[Path], manifest: Path, opened: Opened) -> None:
    files[1].write_text("no audio")
    for _ in range(2):
        found = cached_headers(manifest, files, may_write=True)
        assert "cannot be read as audio" in str(found[files[1]])
    assert opened.names() == ["a.wav", "b.wav", "b.wav", "c.wav"]


def test_files_that_have_just_changed_are_not_kept(
    files: list[Path], manifest: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header_cache, "SETTLED_SECONDS", 1000.0)
    cached_headers(manifest, files, may_write=True)
    assert read_table(table_of(manifest)) == {}


def damages(table: Path) -> Iterator[tuple[str, str]]:
    """Contents that are not what was written, and a piece of what is logged."""
    heading, content, _ = table.read_text().split("\n")
    yield "", "not JSON"
    yield "[]\n[]\n", "not what its first line says"
    yield f"{heading}\n{content[:-9]}\n", "not what its first line says"
    yield f"{heading}\n{content.replace('16000', '16001', 1)}\n", "not what its first line says"
    for key, value, reason in (
        ("rate", [True, 1, 1], "whole numbers"),
        ("bytes", [1], "one length"),
        ("files", [1, 2, 3], "names"),
    ):
        foreign = json.dumps(json.loads(content) | {key: value})
        yield f"{json.dumps(header_cache._heading(foreign))}\n{foreign}\n", reason
    yield f"{json.dumps(header_cache._heading('{}'))}\n{{}}\n", "must hold files"
    yield "[" * 100_000, "nested deeper"


def test_a_damaged_or_foreign_table_is_written_anew_with_one_line(
    files: list[Path], manifest: Path, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    expected = cached_headers(manifest, files, may_write=True)
    whole = table_of(manifest).read_text()
    for damage, reason in list(damages(table_of(manifest))):
        table_of(manifest).write_text(damage)
        caplog.clear()
        opened.names()
        assert cached_headers(manifest, files, may_write=True) == expected
        assert opened.names() == ["a.wav", "b.wav", "c.wav"]
        assert len(caplog.records) == 1
        assert reason in caplog.records[0].message
        assert str(table_of(manifest)) in caplog.records[0].message
        assert table_of(manifest).read_text() == whole


@pytest.mark.parametrize("obstacle", ["forbidden", "a folder in the place of the lock"])
def test_where_nothing_can_be_written_headers_are_read(
    files: list[Path], manifest: Path, opened: Opened, obstacle: str
) -> None:
    if obstacle != "forbidden":
        table_of(manifest).with_name(f"{table_of(manifest).name}.lock").mkdir()
    for _ in range(2):
        assert lengths(cached_headers(manifest, files, may_write=obstacle != "forbidden")) == [100, 101, 102]
    assert len(opened.names()) == 6
    assert not table_of(manifest).exists()


def test_one_process_reads_and_the_others_take_it_over(files: list[Path], manifest: Path, opened: Opened) -> None:
    files[2].write_text("no audio")  # which each has to find out, but not one after the other
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cached_headers(manifest, files, may_write=True), range(4)))
    assert all(each == found[0] for each in found)
    assert opened.names().count("a.wav") == 1
