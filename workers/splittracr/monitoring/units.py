"""Formats values by the names that Grafana gives to units."""

from collections.abc import Sequence

from splittracr.results.words import human_bytes

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_LONG = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))
_SUFFIXES = {"reqps": " req/s", "cpm": " /min", "joule": " J", "watt": " W", "celsius": " °C"}
_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def text(value: float, unit: str, decimals: int | None = None) -> str:
    """Format a value: `0.0123` seconds as `12.3 ms`, `1500` bytes as `1.50 kB`."""
    match unit:
        case "s":
            return _seconds(value)
        case "decbytes":
            return human_bytes(value)
        case "Bps":
            return f"{human_bytes(value)}/s"
        case "percentunit":
            return f"{_digits(value * 100, 1 if decimals is None else decimals)} %"
        case "hertz":
            scale, prefix = _prefix(abs(value))
            return f"{_significant(value / scale)} {prefix}Hz"
    return _number(value, decimals) + _suffix(unit)


def ticks(values: Sequence[float], unit: str) -> list[str]:
    """Format the ticks of an axis, all with the unit of the largest value."""
    largest = max((abs(value) for value in values), default=0.0)
    scale, suffix = _scale(largest, unit)
    return [f"{round(value / scale, 9):g}{suffix}" for value in values]


def _scale(largest: float, unit: str) -> tuple[float, str]:
    match unit:
        case "s":
            steps = (*_LONG, *_TIMES) if largest >= 120 else _TIMES
            scale, name = next((one for one in steps if largest >= one[0]), _TIMES[-1])
            return scale, f" {name}"
        case "decbytes" | "Bps":
            scale, prefix = _prefix(largest)
            return scale, f" {prefix}B{'/s' if unit == 'Bps' else ''}"
        case "hertz":
            scale, prefix = _prefix(largest)
            return scale, f" {prefix}Hz"
        case "percentunit":
            return 0.01, " %"
    scale, prefix = next((one for one in _LARGE if largest >= max(10_000, one[0])), (1.0, ""))
    suffix = _suffix(unit)
    return scale, f"{' ' if prefix and not suffix else ''}{prefix}{suffix}"


def _prefix(largest: float) -> tuple[float, str]:
    return next((one for one in _LARGE if largest >= one[0]), (1.0, ""))


def _suffix(unit: str) -> str:
    if unit.startswith("suffix:"):
        return f" {unit.removeprefix('suffix:').strip()}"
    return _SUFFIXES.get(unit, "")


def _seconds(value: float) -> str:
    largest = abs(value)
    if largest >= 120:
        scale, name = next(one for one in _LONG if largest >= one[0])
        return f"{_digits(value / scale, 1)} {name}"
    scale, name = next((one for one in _TIMES if largest >= one[0]), _TIMES[-1])
    return f"{_significant(value / scale)} {name}" if value else "0 s"


def _number(value: float, decimals: int | None) -> str:
    if abs(value) >= 10_000:
        scale, prefix = next(one for one in _LARGE if abs(value) >= one[0])
        return f"{_significant(value / scale)} {prefix}"
    return _significant(value) if decimals is None else f"{value:,.{decimals}f}"


def _significant(value: float) -> str:
    """Format with three significant digits, without trailing zeros."""
    largest = abs(value)
    return _digits(value, 0 if largest >= 100 else 1 if largest >= 10 else 2)


def _digits(value: float, digits: int) -> str:
    shown = f"{value:,.{digits}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown
