"""The doctor's prediction against a real run: both are read, and of steps, waiting aside."""

from collections.abc import Callable

import pytest

from distributed.errors import UsageError
from scripts.bench.doctor import WARM_UP, computing_seconds, predicted


def test_the_prediction_is_that_of_the_doctor(
    small_overrides: Callable[..., list[str]], tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert predicted(small_overrides("backend=single", "trainer.max_steps=3"), 1) > 100
    with pytest.raises(UsageError, match=r"^no pace: error    run: "):
        predicted(small_overrides("backend=single", "optimizer.l=1"), 1)


def test_steps_are_counted_after_the_warm_up_and_without_their_wait() -> None:
    rows: list[dict[str, float]] = [{"time/step": 100.0, "time/data_wait": 1.0} for _ in range(WARM_UP)]
    rows += [
        {"time/step": 3.0, "time/data_wait": 1.0},
        {"eval/dev/wer": 0.1},
        {"time/step": 5.0, "time/data_wait": 1.0},
    ]
    assert computing_seconds(rows) == 3.0
    with pytest.raises(UsageError, match=r"^--steps: a run needs more than 5 steps"):
        computing_seconds(rows[:WARM_UP])
