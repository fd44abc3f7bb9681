"""Signals kept in memory, up to a bound."""

from collections.abc import Hashable

from torch import Tensor

BYTES_PER_GB = 1e9


class SignalCache:
    """Keeps tensors until ``limit_gb`` gigabytes are reached; later tensors are not kept.

    Nothing is evicted: where every signal is used once per epoch, in an order that changes, the part that is
    kept is found again every time, while a least-recently-used cache would lose each signal before it is used again.
    A copy in another process starts empty.
    """

    def __init__(self, limit_gb: float) -> None:
        self.limit_gb = limit_gb
        self.num_bytes = 0
        self._signals: dict[Hashable, Tensor] = {}

    def get(self, key: Hashable) -> Tensor | None:
        """The signal kept under ``key``, which must not be written to; None if there is none."""
        return self._signals.get(key)

    def put(self, key: Hashable, signal: Tensor) -> None:
        """Keep the signal if there is room; the caller must not write to it afterwards."""
        if self.num_bytes + signal.nbytes <= self.limit_gb * BYTES_PER_GB and key not in self._signals:
            self._signals[key] = signal
            self.num_bytes += signal.nbytes

    def __reduce__(self) -> tuple[type["SignalCache"], tuple[float]]:
        return SignalCache, (self.limit_gb,)
