"""Files and folders that a kill, a full disk or a power cut leaves whole: the old or the new one, never half of each.

Folders on their way in or out have a name with a leading dot: ``.replaced-<name>`` is a folder whose place another one
is about to take, ``.deleted-<name>`` one that is being deleted. ``restore_replaced`` undoes an exchange that a kill
interrupted, ``sweep`` deletes what is left over.
"""

import hashlib
import itertools
import os
import secrets
import shutil
from pathlib import Path

REPLACED = ".replaced-"
DELETED = ".deleted-"


def write_atomically(path: Path, text: str) -> None:
    """Write a file atomically (under another name, fsynced, renamed): readers see the old or the new one, whole."""
    _write_beside(path, text).replace(path)


def create_atomically(path: Path, text: str) -> bool:
    """Create a file atomically; False, and nothing changes, where it already exists.

    Of processes that call this together, on any hosts, exactly one gets True. The file system must support hard links.
    """
    temporary = _write_beside(path, text)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _write_beside(path: Path, text: str) -> Path:
    """Write a file under another name, force it to disk and return its path."""
    temporary = path.with_name(
        f".{path.name}.{secrets.token_hex(8)}.tmp"
    )  # other hosts have processes of the same number
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(folder: Path, final: Path) -> None:
    """Rename a folder whose files are on disk to ``final``; one that has this name makes way and is deleted."""
    fsync(folder)
    aside = final.with_name(REPLACED + final.name)
    if final.exists():  # no folder can be renamed onto another one
        final.rename(aside)
    folder.rename(final)
    fsync(final.parent)
    if aside.exists():
        shutil.rmtree(aside)


def begun_folder(final: Path) -> Path:
    """A new empty folder beside ``final``, for ``put_in_place``; what a kill left of an earlier one is cleared up."""
    temporary, replaced = final.with_name(f".writing-{final.name}"), final.with_name(f"{REPLACED}{final.name}")
    if replaced.exists() and not final.exists():
        replaced.rename(final)  # a kill came between two renames
    for leftover in (temporary, replaced):
        if leftover.exists():
            shutil.rmtree(leftover)
    temporary.mkdir(parents=True)
    return temporary


def delete_folder(folder: Path) -> None:
    """Delete a folder; it loses its name first, so that half of it is never taken for the whole."""
    aside = folder.with_name(DELETED + folder.name)
    folder.rename(aside)
    shutil.rmtree(aside)


def set_aside(folder: Path, prefix: str) -> Path:
    """Put ``prefix`` before a folder's name, and a number behind it where that name is taken; returns the new path."""
    names = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    free = next(aside for name in names if not (aside := folder.with_name(prefix + folder.name + name)).exists())
    return folder.rename(free)


def restore_replaced(root: Path) -> None:
    """Rename back the folders that were moved aside for a replacement that a kill prevented."""
    for aside in root.glob(f"{REPLACED}*"):
        final = root / aside.name.removeprefix(REPLACED)
        if not final.exists():
            aside.rename(final)


def sweep(root: Path, *prefixes: str) -> None:
    """Delete what interrupted exchanges and deletions left in ``root``, and folders with one of ``prefixes``."""
    restore_replaced(root)
    for prefix in (REPLACED, DELETED, *prefixes):
        for leftover in root.glob(f"{prefix}*"):
            shutil.rmtree(leftover)
