"""Bytes of the messages of a step by what they are: what compression is judged by."""

from dataclasses import dataclass


@dataclass(slots=True)
class Payload:
    """Number of payload bytes by their kind."""

    values: int = 0
    indices: int = 0
    uncompressed: int = 0

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return self.values + self.indices + self.uncompressed
