"""Counting: totals and averages since the last call."""

import time

import pytest

from distributed.traffic import Traffic, all_reduce_bytes


def test_ring_all_reduce_sends_its_buffer_almost_twice():
    assert [all_reduce_bytes(1200, learners) for learners in (1, 2, 3, 4)] == [0, 1200, 1600, 1800]


def test_take_gives_totals_and_averages_and_starts_anew():
    traffic = Traffic()
    traffic.steps = 4
    traffic.rounds = 2
    traffic.count(100, 50)
    traffic.count_all_reduce(8, 2)
    with traffic.waiting():
        time.sleep(0.02)
    figures = traffic.take()
    assert figures["comm/bytes_sent"] == 108
    assert figures["comm/bytes_received"] == 58
    assert figures["comm/rounds"] == 2
    assert figures["comm/rounds_per_step"] == 0.5
    assert 0.005 <= figures["time/comm_exposed"] < 0.1
    assert traffic == Traffic()
    assert traffic.take() == {"comm/bytes_sent": 0, "comm/bytes_received": 0, "comm/rounds": 0}


def test_time_is_counted_when_the_exchange_fails():
    traffic = Traffic()
    with pytest.raises(RuntimeError), traffic.waiting():
        raise RuntimeError
    assert traffic.exposed_seconds > 0
