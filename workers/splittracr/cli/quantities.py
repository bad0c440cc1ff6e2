"""Rates and times as a person writes them: `5mbit`, `40ms`."""

import math
import re
from pathlib import Path

from splittracr.experiment.errors import InvalidInput

MOST_SLOWDOWN = 1000  # times, of an edge

_RATES = {"bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_LONG_TIMES = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def bits_per_second(text: str, field: str) -> float:
    """`5mbit`, `250 kbit/s`. Raises InvalidInput for anything else, and for no rate at all."""
    return _above_zero(text, field, _RATES, "a rate such as 5mbit or 250kbit", suffix="/s")


def milliseconds(text: str, field: str) -> float:
    """`40ms`, `1.5s`, `0ms`."""
    return _parsed(text, field, _TIMES, "a time such as 40ms or 1.5s")


def seconds(text: str, field: str) -> float:
    """`30s`, `15m`, `1h`, `2d`; more than none."""
    return _above_zero(text, field, _LONG_TIMES, "a time such as 30s, 15m, 1h or 2d")


def size(text: str, field: str) -> float:
    """`512mib`, `2gb`."""
    return _above_zero(text, field, _SIZES, "a size such as 512mib")


def number(value: float | None, field: str, lowest: float, highest: float) -> float | None:
    """A number within bounds; None stays. Raises InvalidInput for others, nan and infinity too."""
    if value is not None and not (math.isfinite(value) and lowest <= value <= highest):
        raise InvalidInput(field, value, f"a number from {lowest:g} to {highest:g}")
    return value


def output(path: Path | None, field: str) -> None:
    """Raises InvalidInput where a file could not be written, before work is done for it."""
    if path is not None and not path.absolute().parent.is_dir():
        raise InvalidInput(field, str(path), "a file in a folder that is there")


def _above_zero(
    text: str, field: str, units: dict[str, float], expected: str, suffix: str = ""
) -> float:
    value = _parsed(text.lower().removesuffix(suffix), field, units, expected)
    if value <= 0:
        raise InvalidInput(field, text, expected)
    return value


def _parsed(text: str, field: str, units: dict[str, float], expected: str) -> float:
    found = re.fullmatch(r"\s*([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([a-z]+)\s*", text.lower())
    if found is None or found[2] not in units:
        raise InvalidInput(field, text, expected)
    return float(found[1]) * units[found[2]]
