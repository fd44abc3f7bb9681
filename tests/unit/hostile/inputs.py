"""What a reader may meet in the place of a good file: damage of every kind, and what somebody made to do harm."""

import gzip
import json
import os
import random
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

DEEP = 100_000
VALUES: tuple[str, ...] = (  # in the place of any JSON value
    "null", "true", "[]", "{}", '""', "-1", "0", "1e999", "NaN", "-Infinity", "1" + "0" * 400, "9" * 5000, "9" * 25,
    '"\\ud800"', '"\\u0000"', '"\\u001b[2J"', '"../../../../etc/passwd"', '"/dev/zero"', '"a\\nb"', "[[[[1]]]]",
    '{"a": {"b": 1}}', '[1, "a", null]', "[" * 200 + "]" * 200, '"' + "x" * 5000 + '"', '"${oc.env:HOME}"', "1.5",
)  # fmt: skip
WHOLE: dict[str, bytes] = {  # in the place of a whole file
    "empty": b"",
    "a line end": b"\n",
    "line ends": b"\n" * 5000,
    "NUL": b"\0" * 4096,
    "noise": random.Random(0).randbytes(4096),
    "UTF-16": "a b\n".encode("utf-16"),
    "Latin-1": "\u00e9\u00e8 \u00fc\n".encode("latin-1"),
    "surrogate": b"\xed\xa0\x80 a\n",
    "deep lists": b"[" * DEEP,
    "deep objects": b'{"a":' * DEEP,
    "deep and closed": b"[" * DEEP + b"]" * DEEP,
    "long number": b"9" * 100_000,
    "number in an object": b'{"a": ' + b"9" * 5000 + b"}",
    "no object": b"3\n",
    "null": b"null\n",
    "text": b'"a"\n',
    "list": b"[1, 2]\n",
    "empty object": b"{}\n",
    "empty list": b"[]\n",
    "HTML": b"<!DOCTYPE html><html><body>404</body></html>\n",
    "pointer of git": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "aliases": b"a: &a [x, x, x, x, x, x, x, x, x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (98 + n, 98 + n, b", ".join([b"*%c" % (97 + n)] * 9)) for n in range(9)),
    "tag": b"a: !!python/object/apply:os.system ['true']\n",
    "interpolation": b"a: ${oc.env:HOME}\n",
    "escape": b"\x1b[2J\x1b]0;owned\x07 a b\n",
    "long line": b"a" * 1_000_000,
    "many words": b"a " * 50_000,
    "many rows": b"a b c\n" * 5000,
    "quotes": b"'" * 10_000,
    "brackets": b"]}" * 1000,
    "gzip": gzip.compress(b"a b\n" * 100),
    "gzip bomb": gzip.compress(b"\n" * 30_000_000),
    "gzip of nothing": gzip.compress(b""),
    "half a gzip": gzip.compress(random.Random(1).randbytes(1000))[:500],
    "header of gigabytes": (1 << 40).to_bytes(8, "little") + b"{}",
    "pickle": b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
}


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def nothing(path: Path) -> None:
    """There is no file."""


def dangling(path: Path) -> None:
    path.symlink_to("none")


def listening(path: Path) -> None:
    with (
        tempfile.TemporaryDirectory() as short,
        socket.socket(socket.AF_UNIX) as server,
    ):  # of paths that have 107 characters
        server.bind(f"{short}/s")
        Path(short, "s").rename(path)


SPECIAL: dict[str, Callable[[Path], None]] = {
    each.__name__: each for each in (fifo, folder, device, loop, nothing, dangling, listening)
}


def damaged(good: bytes, number: int, seed: str) -> Iterator[tuple[str, bytes]]:
    """A good file with something changed in it, in ``number`` ways that the seed decides; each with a name."""
    for index in range(number):
        draw = random.Random(f"{seed} {index}")
        kind, change = draw.choice(CHANGES)
        yield f"{kind} {index}", change(good, draw)


def _cut(good: bytes, draw: random.Random) -> bytes:
    return good[: draw.randrange(len(good))]


def _flip(good: bytes, draw: random.Random) -> bytes:
    changed = bytearray(good)
    for _ in range(draw.choice((1, 1, 4, 20))):
        changed[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _insert(good: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(good) + 1)
    what = draw.choice(
        (
            b"\0",
            b"\xff",
            b"\n",
            b" ",
            b"[",
            b"{",
            b'"',
            b"\xed\xa0\x80",
            b"\x1b[2J",
            b"9" * 5000,
            b"[" * 5000,
            b"\t",
            b"&a *a",
        )
    )
    return good[:place] + what + good[place:]


def _remove(good: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(good))
    return good[:place] + good[place + draw.choice((1, 3, 30)) :]


def _double(good: bytes, draw: random.Random) -> bytes:
    lines = good.splitlines(keepends=True)
    place = draw.randrange(len(lines))
    return b"".join([*lines[:place], lines[place], *lines[place:]])


def _token(good: bytes, draw: random.Random) -> bytes:
    """Another word or number in the place of one."""
    words = [word for word in good.replace(b":", b" ").replace(b",", b" ").split() if word]
    value = draw.choice(VALUES).encode()
    return good.replace(draw.choice(words), value, 1) if words else value


def _value(good: bytes, draw: random.Random) -> bytes:
    """Another value in a line of JSON, wherever one stands; as ``_token`` where there is no JSON."""
    lines = good.splitlines()
    place = draw.randrange(len(lines))
    try:
        record = json.loads(lines[place] if len(lines) > 1 and lines[place].startswith(b"{") else good)
    except ValueError:
        return _token(good, draw)
    mark = "@@@"
    spots = list(_spots(record))
    if not spots:
        return draw.choice(VALUES).encode()
    holder, key = draw.choice(spots)
    holder[key] = mark
    written = json.dumps(record).replace(f'"{mark}"', draw.choice(VALUES)).encode()
    return (
        written
        if not lines[place].startswith(b"{") or len(lines) == 1
        else b"\n".join([*lines[:place], written, *lines[place + 1 :], b""])
    )


def _spots(value: object) -> Iterator[tuple[dict[object, object] | list[object], object]]:
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _spots(value[key])


CHANGES = (
    ("cut", _cut), ("flip", _flip), ("insert", _insert), ("remove", _remove), ("double", _double), ("token", _token),
    ("value", _value), ("value", _value), ("value", _value),
)  # fmt: skip
