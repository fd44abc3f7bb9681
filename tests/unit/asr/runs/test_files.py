"""Files that several processes write at once: one of them wins, and nobody reads half a file."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from asr.runs.files import create_atomically


def test_one_of_concurrent_creators_of_a_file_wins_and_it_is_whole(tmp_path: Path) -> None:
    texts = [f"{writer}" * 10_000 for writer in range(8)]
    together = threading.Barrier(len(texts))

    def create(path: Path, text: str) -> tuple[bool, str]:
        together.wait()
        return create_atomically(path, text), path.read_text()

    with ThreadPoolExecutor(len(texts)) as threads:
        for attempt in range(20):
            path = tmp_path / f"{attempt}"
            created, seen = zip(*threads.map(create, [path] * len(texts), texts), strict=True)
            assert sum(created) == 1
            assert set(seen) == {texts[created.index(True)]}
    assert len(list(tmp_path.iterdir())) == 20, "nothing else is left"


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    assert create_atomically(tmp_path / "a", "old")
    assert not create_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
