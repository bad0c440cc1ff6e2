"""Options with a unit, as typer parsers: `--uplink 5mbit` becomes bits per second.

Each function takes the option's name and returns its parser. A parser raises InvalidInput that
names the option, the text and what was expected. A number is in the parser's own unit.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path

from splittracr.experiment.errors import InvalidInput, why

MAX_SLOWDOWN = 1000  # times, of an edge
MAX_WATTS = 10_000

_RATES = {"bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}

Number = Callable[[str | float], float]


def rate(option: str) -> Number:
    """Bits per second from `5mbit` or `250 kbit/s`, above 0."""
    return _with_unit(option, _RATES, "a rate such as 5mbit or 250kbit", suffix="/s")


def milliseconds(option: str) -> Number:
    """Milliseconds from `40ms`, `1.5s` or `0ms`."""
    return _with_unit(option, _MILLISECONDS, "a time such as 40ms or 1.5s", zero=True)


def seconds(option: str) -> Number:
    """Seconds from `30s`, `15m`, `1h` or `2d`, above 0."""
    return _with_unit(option, _SECONDS, "a time such as 30s, 15m, 1h or 2d")


def size(option: str) -> Number:
    """Bytes from `512mib` or `2gb`, above 0."""
    return _with_unit(option, _SIZES, "a size such as 512mib")


def number(option: str, low: float, high: float) -> Number:
    """A finite number from `low` to `high`."""

    def parse(text: str | float) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise InvalidInput(option, text, f"a number from {low:g} to {high:g}")
        return value

    return parse


def output_file(option: str, *suffixes: str) -> Callable[[str], Path]:
    """A file that can be made, with one of the suffixes if there are any.

    Checked while options are parsed, before any work is done for the file.
    """

    def parse(text: str) -> Path:
        path = Path(text)
        if suffixes and path.suffix not in suffixes:
            raise InvalidInput(option, text, f"a file that ends in {' or '.join(suffixes)}")
        if not path.absolute().parent.is_dir():
            raise InvalidInput(option, text, "a file in a folder that is there")
        if path.is_file() or not path.exists():  # a device or a pipe is opened once only
            _try(path, option)
        return path

    return parse


def _try(path: Path, option: str) -> None:
    """Raise InvalidInput if the file cannot be written; its content stays."""
    there = path.exists()
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        expected = f"a file that can be written ({why(error)})"
        raise InvalidInput(option, str(path), expected) from error
    if not there:
        path.unlink()


def _with_unit(
    option: str, units: dict[str, float], expected: str, *, suffix: str = "", zero: bool = False
) -> Number:
    def parse(text: str | float) -> float:
        if isinstance(text, float):
            value = text
        else:
            plain = text.lower().strip().removesuffix(suffix)
            found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([a-z]+)", plain)
            value = float(found[1]) * units.get(found[2], math.nan) if found else math.nan
        if not (0 < value < math.inf or (zero and value == 0)):
            raise InvalidInput(option, text, expected)
        return value

    return parse
