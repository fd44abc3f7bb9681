"""Making a corpus once: under concurrency, after a kill, on a full disk, in a forbidden folder."""

import fcntl
import logging
import multiprocessing
import resource
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import soundfile
import torch

from asr.data.corpus import (
    CorpusError,
    ManifestCorpus,
    content_hash,
    make_once,
    write_wav,
)


class Maker:
    """Fills a folder slowly, in two parts; every call leaves a mark outside."""

    def __init__(self, marks: Path) -> None:
        self.marks = marks
        marks.mkdir(exist_ok=True)

    def __call__(self, folder: Path) -> None:
        (self.marks / str(time.monotonic_ns())).touch()
        (folder / "first").write_text("1")
        time.sleep(0.2)
        (folder / "second").write_text("2")


def make_and_look(folder: Path, marks: Path) -> list[str]:
    make_once(folder, Maker(marks), key="data.root")
    return sorted(path.name for path in folder.iterdir())


def test_processes_that_ask_at_once_make_it_once_and_find_it_complete(tmp_path: Path) -> None:
    folder, marks = tmp_path / "root" / "abc", tmp_path / "marks"
    with multiprocessing.get_context("fork").Pool(3) as pool:
        seen = pool.starmap(make_and_look, [(folder, marks)] * 3, chunksize=1)
    assert seen == [["first", "second"]] * 3
    assert len(list(marks.iterdir())) == 1


def test_threads_that_ask_at_once_make_it_once(tmp_path: Path) -> None:
    folder, marks = tmp_path / "abc", tmp_path / "marks"
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda _: make_and_look(folder, marks), range(4)))
    assert seen == [["first", "second"]] * 4
    assert len(list(marks.iterdir())) == 1


def _hang_halfway(folder: Path) -> None:
    def hang(partial: Path) -> None:
        (partial / "rubbish").touch()
        time.sleep(60)

    make_once(folder, hang, key="data.root")


def test_after_a_kill_the_next_process_starts_afresh(tmp_path: Path) -> None:
    folder, partial = tmp_path / "abc", tmp_path / ".abc.partial"
    process = multiprocessing.get_context("fork").Process(target=_hang_halfway, args=(folder,))
    process.start()
    deadline = time.monotonic() + 10
    while not (partial / "rubbish").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert partial.exists()
    assert not folder.exists()
    assert make_and_look(folder, tmp_path / "marks") == ["first", "second"]
    assert not partial.exists()


def test_a_failure_leaves_nothing_and_the_next_call_makes_it(tmp_path: Path) -> None:
    folder = tmp_path / "abc"

    def fail(partial: Path) -> None:
        (partial / "first").touch()
        raise CorpusError("no voice")

    with pytest.raises(CorpusError, match="no voice"):
        make_once(folder, fail, key="data.root")
    assert not folder.exists()
    assert make_and_look(folder, tmp_path / "marks") == ["first", "second"]


def test_a_folder_that_cannot_be_written_is_one_line_with_key_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match=r"data\.root=.*file.*cannot make the corpus.*choose a folder") as caught:
        make_once(tmp_path / "file" / "abc", Maker(tmp_path / "marks"), key="data.root")
    assert "\n" not in str(caught.value)


@pytest.fixture
def _full_disk() -> Iterator[None]:
    """Files of this process may not grow beyond 64 KiB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("_full_disk")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    def make(partial: Path) -> None:
        write_wav(partial / "a.wav", torch.zeros(100_000), 16000)

    with pytest.raises(CorpusError, match="room to write"):
        make_once(tmp_path / "abc", make, key="data.root")
    assert not (tmp_path / "abc").exists()
    assert not (tmp_path / ".abc.partial").exists()


def test_a_long_wait_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("asr.data.locking.PATIENCE_SECONDS", 0.1)
    caplog.set_level(logging.INFO)
    with (tmp_path / ".abc.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=make_and_look, args=(tmp_path / "abc", tmp_path / "marks"))
        waiting.start()
        time.sleep(0.5)
        assert not (tmp_path / "abc").exists()
        fcntl.flock(other, fcntl.LOCK_UN)
    waiting.join(10)
    assert (tmp_path / "abc" / "second").exists()
    assert [record.message for record in caplog.records].count(
        f"waiting for another process that makes the corpus {tmp_path / 'abc'}"
    ) == 1


def test_content_hash_tells_parameters_apart() -> None:
    assert content_hash(seed=1, words=["a"]) == content_hash(words=["a"], seed=1)
    assert len({content_hash(seed=1), content_hash(seed=2), content_hash(seed="1"), content_hash(sead=1)}) == 4


def test_wav_is_what_soundfile_reads_and_limits_what_is_too_loud(tmp_path: Path) -> None:
    seconds = write_wav(tmp_path / "a.wav", torch.tensor([0.0, 0.5, 1.0, -1.0, 3.0, -3.0]), 8000)
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert (seconds, rate) == (6 / 8000, 8000)
    assert samples.tolist() == [0, 16384, 32767, -32767, 32767, -32768]


def manifests(root: Path, **paths: Path | None) -> ManifestCorpus:
    return ManifestCorpus(
        root=root, sample_rate=16000, on_bad="stop", resample=False, **({"dev": None, "test": None} | paths)
    )


def test_manifests_are_found_below_root_or_by_their_full_path(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    found = manifests(tmp_path, train=Path("a.jsonl"), test=tmp_path / "a.jsonl").prepare()
    assert found == {"train": tmp_path / "a.jsonl", "test": tmp_path / "a.jsonl"}


def test_a_missing_manifest_names_key_path_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(CorpusError, match=r"data\.dev: there is no manifest .*b\.jsonl; .*data\.root="):
        manifests(tmp_path, train=Path("a.jsonl"), dev=Path("b.jsonl")).prepare()


def test_unknown_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.on_bad must be stop or skip, got 'ignore'"):
        ManifestCorpus(
            root=tmp_path, sample_rate=1, on_bad="ignore", resample=False, train=Path("a"), dev=None, test=None
        )


def test_a_corpus_that_a_run_names_is_made_below_some_folders_alone(tmp_path: Path) -> None:
    corpus, made = manifests(tmp_path, train=Path("a.jsonl")), Maker(tmp_path / "marks")
    corpus.writable = (tmp_path / "run",)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path)
    for place in ("a", "run/../a", "run/link/a"):
        with pytest.raises(
            CorpusError, match=r"data\.cache=.*: the run's configuration would have files written there"
        ):
            corpus.make_once(tmp_path / place, made, key="data.cache")
    assert not list((tmp_path / "marks").iterdir())
    corpus.make_once(tmp_path / "run" / "a", made, key="data.cache")
    corpus.make_once(tmp_path / "run", made, key="data.cache")  # it is there: nothing would be written
    assert len(list((tmp_path / "marks").iterdir())) == 1
