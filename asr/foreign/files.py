"""Files that may come from anywhere, read within limits: regular files alone, up to a size, as UTF-8 without NUL.

Corpora, manifests, run folders and model folders are copied from other people and damaged by disks. A FIFO would be
waited for without end, ``/dev/zero`` fills the memory, a gzip file of a megabyte unpacks to gigabytes: each is refused in one
line that names the file and the limit. A symbolic link to a regular file is as good as the file.
"""

import codecs
import gzip
import itertools
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from distributed.errors import UsageError

MEBIBYTE = 1 << 20
LONGEST_LINE_BYTES = 16 * MEBIBYTE
LARGEST_RATIO = 100  # largest allowed ratio of unpacked to packed bytes; tables have ratios of 5 to 30
WITHOUT_RATIO_BYTES = MEBIBYTE  # unpacked bytes up to which the ratio is not checked
_NUL_REASON = "holds a NUL character, which no text has; write the file anew"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file: its name in error messages, and the largest unpacked size."""

    name: str
    limit_bytes: int


TABLE = Kind("table of a corpus", 16384 * MEBIBYTE)  # a line at a time is in memory
TEXT = Kind("file of sentences", 1024 * MEBIBYTE)
TRANSCRIPT = Kind("text of one utterance", MEBIBYTE)
RECORD = Kind("JSON record", 16 * MEBIBYTE)
ROWS = Kind("file of rows", 4096 * MEBIBYTE)  # a line at a time is in memory
CONFIGURATION = Kind("configuration", MEBIBYTE // 2)
TOKENS = Kind("tokenizer", 64 * MEBIBYTE)


class ForeignError(UsageError):
    """Foreign content that cannot be used; the message gives the place (a file, or file:line) and the reason."""

    def __init__(self, where: object, reason: str) -> None:
        super().__init__(where, reason)  # both, so that it travels between processes
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.reason}"


@contextmanager
def opened(path: Path, kind: Kind) -> Iterator[IO[bytes]]:
    """A file, open for reading; errors while it is read are reported in one line as well.

    Raises:
        ForeignError: it is missing, no regular file, or larger than its kind may be.
    """
    if "\0" in str(path):
        raise ForeignError(path, "cannot be read: its name holds a NUL character, which no file's does")
    try:
        _check(os.stat(path), path, kind)  # before it is opened, which alone may move a tape
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            _check(os.fstat(file.fileno()), path, kind)
            yield file
    except OSError as error:
        raise ForeignError(path, f"cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:  # of its content, which has a line of its own
        raise
    except (ValueError, EOFError, zlib.error) as error:
        if isinstance(error, UsageError):
            raise
        raise ForeignError(path, f"cannot be read: {error}") from None


def read_bytes(path: Path, kind: Kind) -> bytes:
    """The bytes of a file as it is stored: a packed file is not unpacked.

    Raises:
        ForeignError: see ``opened``.
    """
    with opened(path, kind) as file:
        # In parts: one read reserves all the bytes that it may return, whatever the size of the file.
        parts = list(itertools.takewhile(len, (file.read(MEBIBYTE) for _ in range(kind.limit_bytes // MEBIBYTE + 1))))
    content = b"".join(parts)
    if len(content) > kind.limit_bytes:
        raise _too_large(path, kind)
    return content


def read_text(path: Path, kind: Kind) -> str:
    """The whole text of a file, without its byte order mark.

    Raises:
        ForeignError: see ``opened``; or it is not UTF-8, or holds a NUL character.
    """
    content = read_bytes(path, kind)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise _not_utf8(path, number, error, content[:2]) from None
    if "\0" in text:
        raise ForeignError(f"{path}:{text.count(chr(10), 0, text.index(chr(0))) + 1}", _NUL_REASON)
    return text


def read_lines(path: Path, kind: Kind) -> Iterator[tuple[int, str]]:
    """Yields number and content of every line, without its Unix or Windows end; ``*.gz`` files are unpacked.

    Raises:
        ForeignError: see ``read_text``; or a line is too long, or the file unpacks to more than it may.
    """
    start = b""
    for number, line in enumerate(read_byte_lines(path, kind), start=1):
        start = start or line[:2]
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _not_utf8(path, number, error, start) from None
        if "\0" in text:
            raise ForeignError(f"{path}:{number}", _NUL_REASON)
        yield number, text.rstrip("\r\n")


def read_byte_lines(path: Path, kind: Kind) -> Iterator[bytes]:
    """Yields every line unchanged, its end included; ``*.gz`` files are unpacked.

    Raises:
        ForeignError: see ``opened``; or a line is too long, or the file unpacks to more than it may.
    """
    with opened(path, kind) as file:
        unpacked = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file
        rest, total, number = b"", 0, 1
        while chunk := unpacked.read(MEBIBYTE):
            total += len(chunk)
            if total > kind.limit_bytes:
                raise _too_large(path, kind)
            if unpacked is not file and total > WITHOUT_RATIO_BYTES + LARGEST_RATIO * file.tell():
                reason = f"unpacks to more than {LARGEST_RATIO} times its size, which no table does; unpack it yourself"
                raise ForeignError(path, reason)
            *lines, rest = (rest + chunk).split(b"\n")  # not splitlines(), to which a carriage return is an end too
            for line in lines:
                yield line + b"\n"
            number += len(lines)
            if len(rest) > LONGEST_LINE_BYTES:
                raise ForeignError(f"{path}:{number}", f"the line is longer than {LONGEST_LINE_BYTES // MEBIBYTE} MiB")
        if rest:
            yield rest


def _check(status: os.stat_result, path: Path, kind: Kind) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ForeignError(path, f"is a folder, where a {kind.name} is expected")
    if not stat.S_ISREG(status.st_mode):
        raise ForeignError(path, "is a pipe, a socket or a device; name a regular file")
    if status.st_size > kind.limit_bytes:
        raise _too_large(path, kind)


def _too_large(path: Path, kind: Kind) -> ForeignError:
    return ForeignError(path, f"larger than the {kind.limit_bytes / MEBIBYTE:g} MiB that a {kind.name} may have")


def _not_utf8(path: Path, number: int, error: UnicodeDecodeError, start: bytes) -> ForeignError:
    wide = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    convert = f"iconv -f {'utf-16' if wide else 'latin1'} -t utf-8 {path.name}"
    return ForeignError(f"{path}:{number}", f"not UTF-8 ({error.reason}); convert it: {convert}")
