"""Every way to damage a file, one after the other, and what may come of reading it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from distributed.errors import UserError
from scripts.composition.startup import line_for_people
from tests.unit.hostile.inputs import SPECIAL, WHOLE, damaged

LONGEST_SECONDS = 2.0  # of the processor's, for one case
LONGEST_LINE = 4000  # characters


def check_every_case(folder: Path, name: str, read: Callable[[Path], object], changed: int, seed: str = "") -> int:
    """Damage the file ``name`` of a good tree in every way, and ``changed`` times as ``seed`` decides; returns how many.

    The tree must be read without an error before, and is left as it was.
    """
    path, count = folder / name, 0
    good = path.read_bytes()
    read(folder)
    path.write_bytes(good)  # reading may cut it
    for case, put in _cases(good, changed, name + seed):
        _remove(path)
        put(path)
        begun = time.process_time()
        said = _outcome(read, folder)
        seconds = time.process_time() - begun
        assert said is None or (said.count("\n") == 1 and len(said) < LONGEST_LINE), f"{name}: {case}: {said}"
        assert seconds < LONGEST_SECONDS, f"{name}: {case}: {seconds:.1f} s"
        count += 1
    _remove(path)
    path.write_bytes(good)
    return count


def _cases(good: bytes, changed: int, seed: str) -> Iterator[tuple[str, Callable[[Path], object]]]:
    for case, content in WHOLE.items():
        yield case, lambda path, content=content: path.write_bytes(content)
    yield from SPECIAL.items()
    for case, content in damaged(good, changed, seed):
        yield case, lambda path, content=content: path.write_bytes(content)


def _outcome(read: Callable[[Path], object], folder: Path) -> str | None:
    """None where the tree was read, else the line that a person gets; an error without one is raised."""
    try:
        read(folder)
    except (UserError, OSError) as error:
        line = line_for_people(error)
        if line is None:
            raise
        return line
    return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
