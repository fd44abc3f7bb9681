"""Plain TCP beside the schemes: messages pass in both directions, a filled link empties again, nobody waits for nothing."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from scripts.bench import plain_tcp


@pytest.fixture(autouse=True)
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """One that is free."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    monkeypatch.setattr(plain_tcp, "PORT", free)
    return free


def test_a_message_passes_each_way():
    def learner(rank: int) -> bool:
        with plain_tcp.connection(rank, "127.0.0.1") as joined:
            plain_tcp.exchange(joined, 3 * plain_tcp.MIB + 5)
            joined.shutdown(socket.SHUT_WR)
            return joined.recv(1) == b""  # and not a byte more

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(learner, range(2)))


def test_a_link_is_filled_until_both_leave():
    def learner(rank: int) -> int:
        with plain_tcp.saturated(rank, "127.0.0.1") as sent:
            deadline = time.monotonic() + 20
            while sent() < (1 + 3 * rank) * plain_tcp.MIB and time.monotonic() < deadline:
                time.sleep(0.01)  # one leaves first, and still takes what the other sends
            return sent()

    with ThreadPoolExecutor(2) as pool:
        assert min(pool.map(learner, range(2))) >= plain_tcp.MIB


def test_a_learner_that_nobody_listens_to_says_so(port: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plain_tcp, "PAUSE_SECONDS", 0.01)
    refused = pytest.raises(ConnectionError, match=f"learner 0 does not listen at 127.0.0.1:{port} after 1 s")
    with refused, plain_tcp.connection(1, "127.0.0.1"):
        pass
