"""Parses recorded link traces. The caller reads the file."""

import re
from decimal import Decimal

from splittracr.experiment.errors import InvalidInput
from splittracr.planning.emulated_link import Span

COLUMNS = ("duration_ms", "bandwidth_kbps", "latency_ms")
"""Length of a span, its rate in 1,000 bits per second, and the round-trip time during it."""

_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{0,18})?")
_SHOWN = 60  # characters of a bad value in an error


def parse_trace(text: str, name: str = "trace") -> tuple[Span, ...]:
    """Parse a trace: a header with the names of the columns, then one line for each span.

    The order of the columns does not matter. Other columns and blank lines are ignored. Errors call
    the trace `name`. Raises InvalidInput with the line, the value and what was expected.
    """
    lines = text.removeprefix("\ufeff").split("\n")
    header = _fields(lines[0])
    if any(header.count(column) != 1 for column in COLUMNS):
        expected = f"the columns {', '.join(COLUMNS)}, each once"
        raise InvalidInput(f"{name}, line 1", lines[0][:_SHOWN], expected)
    numbered = enumerate(lines[1:], start=2)
    spans = tuple(_span(f"{name}, line {n}", header, line) for n, line in numbered if line.strip())
    if not any(span.bits_per_second for span in spans):
        found = "0 kbit/s throughout" if spans else "no spans"
        raise InvalidInput(name, found, "at least one span with a rate above zero")
    return spans


def _span(where: str, header: list[str], line: str) -> Span:
    values = _fields(line)
    if len(values) != len(header):
        expected = f"{len(header)} values, separated by commas"
        raise InvalidInput(where, line[:_SHOWN], expected)
    row = dict(zip(header, values, strict=True))
    duration, rate, round_trip = COLUMNS
    span_ns = _whole(where, duration, row, 10**6)
    if span_ns == 0:
        raise InvalidInput(f"{where}, {duration}", row[duration][:_SHOWN], "a time above zero")
    return Span(span_ns, _whole(where, rate, row, 10**3), _whole(where, round_trip, row, 10**6))


def _whole(where: str, column: str, row: dict[str, str], factor: int) -> int:
    """Return a value times `factor`, rounded to the nearest integer."""
    value = row[column]
    if not _NUMBER.fullmatch(value):
        raise InvalidInput(f"{where}, {column}", value[:_SHOWN], "a number from 0 to 999999999999")
    return round(Decimal(value) * factor)


def _fields(line: str) -> list[str]:
    return [field.strip() for field in line.split(",")]
