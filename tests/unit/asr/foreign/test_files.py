"""Files from elsewhere are read within limits, and refused in one line that names the file and the limit."""

import gzip
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from asr.foreign import files
from asr.foreign.files import TABLE, TEXT, TRANSCRIPT, ForeignError, Kind, read_bytes, read_lines, read_text

SMALL = Kind("table of a test", 1 << 20)


def content(path: Path, kind: Kind = TABLE) -> list[str]:
    return [line for _, line in read_lines(path, kind)]


@pytest.mark.parametrize(
    ("stored", "lines"),
    [
        (b"", []),
        (b"a", ["a"]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"\xef\xbb\xbfa\r\nb\r\n", ["a", "b"]),
        ("a\u2028b\rc\n".encode(), ["a\u2028b\rc"]),
    ],
)
def test_lines_end_where_unix_and_windows_end_them(tmp_path: Path, stored: bytes, lines: list[str]) -> None:
    (tmp_path / "a.txt").write_bytes(stored)
    assert content(tmp_path / "a.txt") == lines
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(stored[:2]) + gzip.compress(stored[2:]))
    assert content(tmp_path / "a.txt.gz") == lines


def test_lines_are_whole_however_they_lie_in_what_is_read_at_once(tmp_path: Path) -> None:
    written = ["x" * length for length in (1, files.MEBIBYTE - 2, 0, files.MEBIBYTE, 3 * files.MEBIBYTE, 5)]
    (tmp_path / "a.txt").write_text("\n".join(written))
    assert content(tmp_path / "a.txt") == written


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("yes")
    (tmp_path / "b.txt").symlink_to("a.txt")
    assert read_text(tmp_path / "b.txt", TEXT) == "yes"


def make_fifo(folder: Path) -> Path:
    os.mkfifo(folder / "f")
    return folder / "f"


def make_socket(folder: Path) -> Path:
    socket.socket(socket.AF_UNIX).bind(str(folder / "s"))
    return folder / "s"


def linked_device(folder: Path) -> Path:
    (folder / "d").symlink_to("/dev/zero")
    return folder / "d"


def write(folder: Path, stored: bytes) -> Path:
    (folder / "a.txt").write_bytes(stored)
    return folder / "a.txt"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_fifo, "is a pipe, a socket or a device; name a regular file"),
        (make_socket, "is a pipe, a socket or a device; name a regular file"),
        (linked_device, "is a pipe, a socket or a device; name a regular file"),
        (lambda folder: Path("/dev/tty"), "is a pipe, a socket or a device; name a regular file"),
        (lambda folder: folder, "is a folder, where a text of one utterance is expected"),
        (lambda folder: folder / "none", "cannot be read: No such file or directory"),
        (lambda folder: folder / ("n" * 300), "cannot be read: File name too long"),
        (lambda folder: folder / "a\0b", "cannot be read: its name holds a NUL character"),
        (lambda folder: folder / "a\ud800b", "cannot be read: "),
        (lambda folder: write(folder, b"a\nb\xe9\n"), "); convert it: iconv -f latin1"),
        (lambda folder: write(folder, b"\xed\xa0\x80"), "not UTF-8 (invalid continuation byte); convert it"),
        (
            lambda folder: write(folder, "a".encode("utf-16")),
            "not UTF-8 (invalid start byte); convert it: iconv -f utf-16",
        ),
        (lambda folder: write(folder, b"a\nb\0"), "a.txt:2: holds a NUL character"),
        (
            lambda folder: write(folder, bytes(TRANSCRIPT.limit_bytes + 1)),
            "larger than the 1 MiB that a text of one utt",
        ),
    ],
)
def test_what_is_no_text_within_limits_is_refused(tmp_path: Path, make: Callable[[Path], Path], reason: str) -> None:
    path = make(tmp_path)
    for read in (read_text, content):
        with pytest.raises(ForeignError) as caught:
            read(path, TRANSCRIPT)
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_check", lambda *_: None)
    with pytest.raises(ForeignError, match="larger than the 1 MiB that a table of a test"):
        read_bytes(Path("/dev/zero"), SMALL)
    with pytest.raises(ForeignError, match="larger than the 1 MiB that a table of a test"):
        content(write(tmp_path, b"a\n" * SMALL.limit_bytes), SMALL)


def test_a_line_without_an_end_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, b"a\nb" + b"c" * (files.LONGEST_LINE_BYTES + files.MEBIBYTE))
    with pytest.raises(ForeignError, match=r"a\.txt:2: the line is longer than 16 MiB"):
        content(path)


@pytest.mark.parametrize("line", [b"\n", b"a\n", b"0123456789abcdef\n"])
def test_a_gzip_bomb_is_refused_before_it_has_unpacked(tmp_path: Path, line: bytes) -> None:
    with gzip.open(tmp_path / "a.gz", "wb") as file:
        for _ in range(64):
            file.write(line * 2**18)
    begun = time.process_time()
    with pytest.raises(ForeignError, match=r"a\.gz: unpacks to more than 100 times its size"):
        content(tmp_path / "a.gz")
    assert time.process_time() - begun < 2


@pytest.mark.parametrize("cut", [1, 10, -9, -1])
def test_a_gzip_file_that_breaks_off_is_refused(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path, gzip.compress(b"some text\n" * 100)[:cut]).rename(tmp_path / "a.gz")
    with pytest.raises(ForeignError, match=r"a\.gz: cannot be read: "):
        content(path)


def test_a_gzip_file_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    stored = bytearray(gzip.compress(os.urandom(1000).hex().encode()))
    stored[500] ^= 16
    path = write(tmp_path, bytes(stored)).rename(tmp_path / "a.gz")
    with pytest.raises(ForeignError, match=r"a\.gz: cannot be read: "):
        content(path)
