"""Windows cover a recording, overlap as asked, and are never the overlap alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.windows import Windows, windows
from distributed.errors import UsageError

RATE = 100


@given(st.integers(0, 3000), st.integers(1, 700), st.integers(2, 10), st.data())
def test_windows_cover_everything_once_but_for_the_overlap(
    samples: int, block: int, seconds: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(1, seconds // 2))
    recording = np.arange(samples, dtype=np.float32)
    blocks = [recording[start : start + block] for start in range(0, samples, block)]
    found = list(windows(blocks, RATE, RATE, Windows(seconds, overlap)))
    rebuilt = np.zeros(0, dtype=np.float32)
    for place, window in enumerate(found):
        start = round(window.start * RATE)
        assert start == place * (seconds - overlap) * RATE
        assert 0 < len(window.waveform) <= seconds * RATE
        assert place == 0 or len(window.waveform) > overlap * RATE, "it holds something new"
        rebuilt = np.concatenate([rebuilt[:start], window.waveform.numpy()])
    assert np.array_equal(rebuilt, recording)


def test_windows_are_resampled() -> None:
    found = list(windows([np.zeros(1000, dtype=np.float32)], RATE, 2 * RATE, Windows(4, 1)))
    assert [(each.start, len(each.waveform)) for each in found] == [(0, 800), (3, 800), (6, 800)]


def test_an_overlap_of_more_than_half_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^window_seconds=4 and overlap_seconds=3: the overlap must be above 0"):
        Windows(4, 3)
