"""Formats numbers for people; unknown numbers become a dash."""

import math

MISSING = "–"


def percent(value: float, digits: int = 2) -> str:
    """A fraction in percent: 0.0312 is 3.12 %."""
    return f"{100 * value:.{digits}f}\u202f%" if math.isfinite(value) else MISSING


def interval(ends: tuple[float, float] | None) -> str:
    """The ends of an interval of fractions, in percent."""
    return MISSING if ends is None else f"{100 * ends[0]:.2f} – {100 * ends[1]:.2f}\u202f%"


def count(value: float) -> str:
    """A whole number with thousands apart."""
    return f"{value:,.0f}".replace(",", "\u202f") if math.isfinite(value) else MISSING


def figure(value: float) -> str:
    """A measured quantity with four significant digits."""
    return f"{value:.4g}" if math.isfinite(value) else MISSING


def duration(seconds: float) -> str:
    """A time in its two leading units: 75 s is 1 min 15 s."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"


def compact(value: float, _position: int | None = None) -> str:
    """A number for an axis, with k, M, G, T for powers of a thousand; the tick's position is a formatter's argument."""
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.4g}{letter}"
    return f"{value:.4g}"


def compact_bytes(value: float) -> str:
    """A number of bytes for an axis: 1.5 GB is 1.5e9 bytes."""
    number = compact(value)
    return f"{number.rstrip('kMGT')}\u202f{number.lstrip('0123456789.e+-')}B"
