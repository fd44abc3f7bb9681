"""The server of a watched page: one page, for one host, renewed when its sources change."""

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from asr.reporting.server import PageServer, Watched
from distributed.errors import UsageError


class Made:
    """Makes pages that say how many were made."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.count = 0
        self.broken = False

    def page(self) -> str:
        if self.broken:
            raise UsageError("half a line")
        self.count += 1
        return f"page {self.count}"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    (tmp_path / "rows").write_text("1")
    return Made(tmp_path / "rows")


@pytest.fixture
def server(made: Made) -> Iterator[PageServer]:
    server = PageServer(Watched(made.page, lambda: [made.source], least_seconds=0.0, share=1.0), port=0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def ask(server: PageServer, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, answer.getheader("ETag") or ""


def test_it_listens_on_the_loopback_alone(server: PageServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.address == f"http://127.0.0.1:{server.server_port}/"


def test_a_page_is_made_again_when_a_source_has_changed_and_only_then(server: PageServer, made: Made) -> None:
    first = ask(server)
    assert first[:2] == (200, b"page 1")
    assert ask(server) == first
    assert ask(server, method="HEAD") == (200, b"", first[2])
    assert ask(server, If_None_Match=first[2])[:2] == (304, b"")
    made.source.write_text("1\n2")
    second = ask(server, method="HEAD")
    assert second[2] != first[2]
    assert ask(server)[:2] == (200, b"page 2")


def test_a_source_that_cannot_be_read_for_a_moment_leaves_the_page(server: PageServer, made: Made) -> None:
    assert ask(server)[1] == b"page 1"
    made.broken = True
    made.source.write_text("half")
    assert ask(server)[:2] == (200, b"page 1")
    made.broken = False
    made.source.write_text("whole")
    assert ask(server)[1] == b"page 2"


@pytest.mark.parametrize("path", ["/../rows", "/rows", "/..%2f..%2fetc%2fpasswd", "/?x", "/index.html"])
def test_nothing_else_can_be_asked_for(server: PageServer, path: str) -> None:
    status, body, _ = ask(server, path)
    assert status == 404
    assert b"page" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_sent(server: PageServer, method: str) -> None:
    assert ask(server, method=method)[0] == 501


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1", "127.0.0.1.example.org:80"])
def test_another_name_for_this_host_is_refused(server: PageServer, host: str) -> None:
    assert ask(server, Host=host)[:2][0] == 421
    assert ask(server, Host=f"localhost:{server.server_port}")[0] == 200


def test_a_taken_port_is_an_error_for_people(server: PageServer) -> None:
    with pytest.raises(
        UsageError, match=rf"^port={server.server_port} of 127.0.0.1 cannot be used .*choose another one"
    ):
        PageServer(server.watched, server.server_port)
    with pytest.raises(UsageError, match=r"^port=70000 "):
        PageServer(server.watched, 70000)


def test_a_page_that_takes_long_is_made_seldom(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("asr.reporting.server.time.monotonic", lambda: clock[0])

    def make() -> str:
        clock[0] += 2.0
        return made.page()

    watched = Watched(make, lambda: [made.source], least_seconds=5.0, share=0.1)
    assert watched.page()[0] == b"page 1"
    made.source.write_text("changed")
    clock[0] += 17.9
    assert watched.page()[0] == b"page 1"
    clock[0] += 0.2
    assert watched.page()[0] == b"page 2"
