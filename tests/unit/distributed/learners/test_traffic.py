"""Counting: totals and averages since the last call."""

import time

import pytest

from distributed.learners.traffic import NEWEST_SPANS, Traffic, all_reduce_bytes, broadcast_copies_sent


def test_ring_all_reduce_sends_its_buffer_almost_twice():
    assert [all_reduce_bytes(1200, learners) for learners in (1, 2, 3, 4)] == [0, 1200, 1600, 1800]


@pytest.mark.parametrize("learners", range(1, 18))
def test_a_broadcast_reaches_every_other_learner_once(learners: int):
    for source in {0, learners // 2, learners - 1}:
        sent = [broadcast_copies_sent(rank, source, learners) for rank in range(learners)]
        assert sum(sent) == learners - 1
        assert max(sent) == sent[source] == (learners - 1).bit_length()


def test_take_gives_totals_and_averages_and_starts_anew():
    traffic = Traffic()
    traffic.steps = 4
    traffic.rounds = 2
    traffic.count(100, 50)
    with traffic.control():
        traffic.count_all_reduce(8, 2)
        traffic.count(0, 3)
    with traffic.waiting():
        time.sleep(0.02)
    figures = traffic.take()
    assert figures["comm/bytes_sent"] == 108
    assert figures["comm/bytes_received"] == 61
    assert figures["comm/control_bytes_sent"] == 8
    assert figures["comm/control_bytes_received"] == 11
    assert figures["comm/rounds"] == 2
    assert figures["comm/rounds_per_step"] == 0.5
    assert 0.005 <= figures["time/comm_exposed"] < 0.1
    assert traffic == Traffic()
    bytes_keys = [f"comm/{part}bytes_{way}" for part in ("", "control_") for way in ("sent", "received")]
    assert traffic.take() == dict.fromkeys([*bytes_keys, "comm/rounds"], 0)


def test_time_is_counted_when_the_exchange_fails():
    traffic = Traffic()
    with pytest.raises(RuntimeError), traffic.waiting():
        raise RuntimeError
    assert traffic.exposed_seconds > 0


def test_spans_say_when_it_was_waited_and_exchanged_and_stay_when_counters_are_taken():
    traffic = Traffic()
    began = time.perf_counter()
    with traffic.waiting():
        time.sleep(0.01)
    traffic.exchanged_since(began)
    exposed = traffic.take() and traffic.newest_spans()
    assert [span.kind for span in exposed] == ["waiting", "exchange"]
    waiting, exchange = exposed
    assert exchange.start == began <= waiting.start < waiting.end <= exchange.end
    assert waiting.end - waiting.start >= 0.009


def test_only_the_newest_spans_are_kept():
    traffic = Traffic()
    for place in range(NEWEST_SPANS + 10):
        traffic.exchanged_since(float(place))
    assert [span.start for span in traffic.newest_spans()] == list(range(10, NEWEST_SPANS + 10))
