"""What scripts/doctor.py has found, a line each."""

from dataclasses import dataclass
from typing import Literal

Weight = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. A warning may be right as it is; with an error a run cannot work."""

    weight: Weight
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.weight:8} {self.what}: {self.text}"


def ok(what: str, text: str) -> Finding:
    """Nothing is wrong with it."""
    return Finding("ok", what, text)


def warning(what: str, text: str) -> Finding:
    """It may be what the user wants, and is often not."""
    return Finding("warning", what, text)


def error(what: str, text: str) -> Finding:
    """No run can work with it."""
    return Finding("error", what, text)
