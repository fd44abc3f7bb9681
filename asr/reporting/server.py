"""Serves one page on 127.0.0.1, made anew when what it is about has changed; a reader's browser asks for that.

Nothing but the page can be asked for: no path leads to a file. Requests that name another host are refused, so that a
page of another origin, whose name was made to mean 127.0.0.1, cannot read it.
"""

import hashlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from distributed.errors import UsageError, UserError

HOST = "127.0.0.1"

log = logging.getLogger(__name__)


class Watched:
    """A page that is made again when its sources have changed.

    Not more often than every ``least_seconds``, and seldom enough that making it takes no more than ``share`` of the
    time: a page of many long runs takes seconds, of a core that training may need.
    """

    def __init__(
        self, make: Callable[[], str], sources: Callable[[], Iterable[Path]], least_seconds: float, share: float = 0.1
    ) -> None:
        self.make = make
        self.sources = sources
        self.least_seconds = least_seconds
        self.share = share
        self._lock = threading.Lock()
        self._seen: frozenset[tuple[str, int, int]] | None = None
        self._next_at = 0.0  # clock reading before which the page is not made again
        self._page, self._tag = b"", ""

    def page(self) -> tuple[bytes, str]:
        """The page and its entity tag. A source that cannot be read at the moment leaves the page as it was."""
        with self._lock:
            started = time.monotonic()
            if started >= self._next_at:
                try:
                    self._renew()
                except (UserError, OSError) as error:
                    if not self._page:
                        raise
                    log.warning("the page stays as it was: %s", error)
                made = time.monotonic()
                self._next_at = made + max(self.least_seconds, (made - started) * (1 / self.share - 1))
            return self._page, self._tag

    def _renew(self) -> None:
        """Make the page if a source has changed since it was made."""
        state = state_of(self.sources())
        if state == self._seen:
            return
        self._seen = state
        self._page = self.make().encode()
        self._tag = f'"{hashlib.sha256(self._page).hexdigest()[:24]}"'


def state_of(paths: Iterable[Path]) -> frozenset[tuple[str, int, int]]:
    """Names, sizes and times of change of the files that exist."""
    found = set()
    for path in paths:
        try:
            status = path.stat()
        except OSError:  # gone between the listing and now
            continue
        found.add((str(path), status.st_size, status.st_mtime_ns))
    return frozenset(found)


class PageServer(ThreadingHTTPServer):
    """Answers GET and HEAD of ``/`` with the page, and everything else with an error."""

    daemon_threads = True

    def __init__(self, watched: Watched, port: int) -> None:
        """``port``: 0 takes one that is free. Raises UsageError where it is taken."""
        self.watched = watched
        try:
            super().__init__((HOST, port), _Answer)
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"port={port} of {HOST} cannot be used ({error}); choose another one, or 0 for any"
            ) from None

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away in the middle of an answer is no error; anything else is logged in a line."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            log.warning("a request could not be answered: %s", error)

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.server_port}/"


class _Answer(BaseHTTPRequestHandler):
    server: PageServer
    server_version, sys_version = "murmuration", ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        port = self.server.server_port
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        if self.path != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        page, tag = self.server.watched.page()
        is_known = self.headers.get("If-None-Match") == tag
        self.send_response(HTTPStatus.NOT_MODIFIED if is_known else HTTPStatus.OK)
        headers = {
            "Content-Type": "text/html; charset=utf-8", "ETag": tag, "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin", "Referrer-Policy": "no-referrer",
        }  # fmt: skip
        for name, value in headers.items():
            self.send_header(name, value)
        if not is_known:
            self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if with_body and not is_known:
            self.wfile.write(page)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a browser asks every few seconds."""
