"""Signals in memory: the bound holds, what is kept stays, a copy in another process starts empty."""

import pickle

import torch

from asr.data.cache import SignalCache


def test_what_exceeds_the_bound_is_not_kept_and_what_fits_still_is() -> None:
    cache = SignalCache(limit_gb=900e-9)
    first, large, small = torch.zeros(100), torch.zeros(200), torch.zeros(50)
    for key, signal in (("first", first), ("large", large), ("small", small), ("late", first)):
        cache.put(key, signal)
    assert cache.get("first") is first
    assert cache.get("small") is small
    assert cache.get("large") is cache.get("late") is None
    assert cache.num_bytes == 600


def test_the_same_key_counts_once() -> None:
    cache = SignalCache(limit_gb=1)
    for _ in range(3):
        cache.put("a", torch.zeros(10))
    assert cache.num_bytes == 40


def test_no_memory_keeps_nothing() -> None:
    cache = SignalCache(limit_gb=0)
    cache.put("a", torch.zeros(1))
    assert cache.get("a") is None


def test_a_copy_in_another_process_has_the_bound_and_starts_empty() -> None:
    cache = SignalCache(limit_gb=1)
    cache.put("a", torch.zeros(10))
    copy = pickle.loads(pickle.dumps(cache))
    assert (copy.limit_gb, copy.num_bytes, copy.get("a")) == (1, 0, None)
