"""Formats numbers for people; unknown numbers become a dash."""

import math
from collections.abc import Callable

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
    if not math.isfinite(value):
        return MISSING
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.4g}{letter}"
    return f"{value:.4g}"


def compact_bytes(value: float) -> str:
    """A number of bytes for an axis: 1.5 GB is 1.5e9 bytes."""
    number = compact(value)
    if number == MISSING:
        return MISSING
    return f"{number.rstrip('kMGT')}\u202f{number.lstrip('0123456789.e+-')}B"


def signed(value: float, form: Callable[[float], str] = figure) -> str:
    """A difference with its sign: a true minus, a plus, or +-0 where the text of the amount shows nothing."""
    if not math.isfinite(value):
        return MISSING
    amount = form(abs(value))
    if not any(digit in amount for digit in "123456789"):
        return f"\u00b1{amount}"
    return ("\u2212" if value < 0 else "+") + amount


def points(value: float) -> str:
    """A difference of two fractions in percentage points."""
    return signed(value, lambda amount: f"{100 * amount:.2f}")


def ratio(value: float, baseline: float) -> str:
    """How a quantity differs from that of a baseline: in percent, or as a factor where it is twice or half of it."""
    if not (math.isfinite(value) and math.isfinite(baseline)) or baseline <= 0 or value < 0:
        return MISSING
    quotient = value / baseline
    if 0.5 < quotient < 2:
        return signed(quotient - 1, lambda part: f"{100 * part:.1f}\u202f%")
    return f"\u00d7{quotient:.3g}"
