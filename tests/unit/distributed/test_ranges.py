"""Allowed ranges: refusals name the key and what is allowed."""

import pytest

from distributed.ranges import checked_interval


@pytest.mark.parametrize("ends", [[3, 1], [1], [1, 2, 3], [-1, 2], [1, 11]])
def test_interval_names_key_and_value(ends: list[float]) -> None:
    with pytest.raises(ValueError, match=r"data\.pitch must be \[lowest, highest\].*at least 0 and at most 10"):
        checked_interval("data.pitch", ends, low=0, high=10)
