"""Numbers as a reader wants them: with a unit, with as many digits as mean something, never NaN."""

from __future__ import annotations

import math

NO_VALUE = "–"
_NARROW = "\u00a0"  # keeps a number and its unit on one line


def format_count(value: float | None) -> str:
    """Return a whole number with thousands separated: 12,345."""
    return NO_VALUE if value is None else f"{value:,.0f}"


def format_compact(value: float) -> str:
    """Return a number in at most five characters or so: 6.2k, 1.5M, 0.031, 1e-5."""
    size = abs(value)
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if limit <= size < 1e15:
            return f"{value / limit:.4g}{letter}" if size < 10 * limit else f"{value / limit:.3g}{letter}"
    if size == 0 or 1e-3 <= size < 1e3:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def format_seconds(seconds: float | None) -> str:
    """Return a duration in its two largest units: 3 min 12 s."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return NO_VALUE
    if seconds < 10:
        return f"{seconds:.1f}{_NARROW}s"
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}{_NARROW}d {hours}{_NARROW}h"
    if hours:
        return f"{hours}{_NARROW}h {minutes:02d}{_NARROW}min"
    if minutes:
        return f"{minutes}{_NARROW}min {whole % 60:02d}{_NARROW}s"
    return f"{whole}{_NARROW}s"


def format_bytes(value: float) -> str:
    """Return a size in binary units: 1.4 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.3g}{_NARROW}{unit}"
        value /= 1024
    return f"{value:.3g}{_NARROW}TiB"


def format_figure(value: float | None, unit: str, *, with_unit: bool = True) -> str:
    """Return a metric's value in its unit; a fraction is shown in percent.

    Args:
        value: The value, or None where there is none.
        unit: The unit that `core.metrics` declares; empty for an undeclared metric.
        with_unit: Whether the unit is written behind the number.
    """
    if value is None:
        return NO_VALUE
    if unit == "fraction":
        return f"{100 * value:.1f}{_NARROW}%" if with_unit else f"{100 * value:.1f}"
    if unit == "bytes":
        return format_bytes(value)
    number = f"{value:.3f}" if 1e-3 <= abs(value) < 100 else format_compact(value)
    return f"{number}{_NARROW}{unit}" if unit and with_unit else number


def format_change(value: float | None, unit: str, *, with_unit: bool = True) -> str:
    """Return a difference of two values with its sign; of two fractions in percentage points."""
    if value is None:
        return NO_VALUE
    sign = "+" if value > 0 else "−" if value < 0 else "±"
    if unit == "fraction":
        return f"{sign}{abs(100 * value):.1f}" + (f"{_NARROW}points" if with_unit else "")
    return sign + format_figure(abs(value), unit, with_unit=with_unit)


def format_p_value(value: float | None) -> str:
    """Return a p-value with as many digits as decide: 0.23, 0.0012, <0.0001."""
    if value is None:
        return NO_VALUE
    return "<0.0001" if value < 1e-4 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"
