"""Traces as text: what is read, and that nothing but InvalidInput comes of anything else."""

import os
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.errors import InvalidInput
from splittracr.planning.emulated_link import Capacity, Conditions, EmulatedLink, Span
from splittracr.planning.traces import parse_trace

HEADER = "duration_ms,bandwidth_kbps,latency_ms"
TRACES = os.environ.get("SPLITTRACR_TRACES", "")


def test_a_trace_is_read_in_whole_nanoseconds_and_bits() -> None:
    text = f"{HEADER}\n1013,1285,100\n1008.25,0,20.5\n"
    assert parse_trace(text) == (
        Span(1_013_000_000, 1_285_000, 100_000_000),
        Span(1_008_250_000, 0, 20_500_000),
    )


def test_order_of_columns_line_ends_and_blank_lines_do_not_matter() -> None:
    text = "\ufefflatency_ms, cell ,bandwidth_kbps,duration_ms\r\n20,a,3,1\r\n\r\n20,b,4,1\r\n\n"
    assert parse_trace(text) == (Span(10**6, 3000, 20 * 10**6), Span(10**6, 4000, 20 * 10**6))


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("", "4g, line 1", ""),
        ("hello\nworld", "4g, line 1", "hello"),
        ("duration_ms,bandwidth_kbps\n1,2", "4g, line 1", "duration_ms,bandwidth_kbps"),
        (f"{HEADER},latency_ms\n1,2,3,4", "4g, line 1", f"{HEADER},latency_ms"),
        (f"{HEADER}\n1,2", "4g, line 2", "1,2"),
        (f"{HEADER}\n1,2,3,4", "4g, line 2", "1,2,3,4"),
        (f"{HEADER}\n1,2,3\n\n1,-2,3", "4g, line 4, bandwidth_kbps", "-2"),
        (f"{HEADER}\n1,2,-3", "4g, line 2, latency_ms", "-3"),
        (f"{HEADER}\n1,fast,3", "4g, line 2, bandwidth_kbps", "fast"),
        (f"{HEADER}\n1,nan,3", "4g, line 2, bandwidth_kbps", "nan"),
        (f"{HEADER}\n1,1e9,3", "4g, line 2, bandwidth_kbps", "1e9"),
        (f"{HEADER}\n1,²,3", "4g, line 2, bandwidth_kbps", "²"),
        (f"{HEADER}\n1,1_000,3", "4g, line 2, bandwidth_kbps", "1_000"),
        (f"{HEADER}\n1,,3", "4g, line 2, bandwidth_kbps", ""),
        (f"{HEADER}\n1,1000000000000,3", "4g, line 2, bandwidth_kbps", "1000000000000"),
        (f"{HEADER}\n0,2,3", "4g, line 2, duration_ms", "0"),
        (f"{HEADER}\n0.0000001,2,3", "4g, line 2, duration_ms", "0.0000001"),
        (f"{HEADER}\n", "4g", "no spans"),
        (f"{HEADER}\n1,0,3\n1,0,3", "4g", "0 kbit/s throughout"),
    ],
)
def test_a_bad_trace_is_refused_by_line_value_and_expectation(
    text: str, field: str, value: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_trace(text, "4g")
    assert (refused.value.field, refused.value.value) == (field, value)
    assert refused.value.expected


def test_a_long_bad_value_is_shown_in_part() -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_trace(f"{HEADER}\n1,{'9' * 10_000},3")
    assert len(str(refused.value)) < 300


cells = st.one_of(
    st.integers(-5, 10**13).map(str), st.floats().map(str), st.text(max_size=8), st.just("7")
)
rows = st.lists(cells, min_size=2, max_size=4).map(",".join)
tables = st.lists(rows, max_size=5).map(lambda lines: "\n".join([HEADER, *lines]))


@given(st.one_of(st.text(), tables, st.text().map(lambda text: f"{HEADER}\n{text}")))
def test_any_text_is_a_link_that_works_or_an_invalid_input(text: str) -> None:
    try:
        spans = parse_trace(text)
    except InvalidInput:
        return
    assert EmulatedLink(Conditions(spans), Random(0)).send(0, 1000).departs > 0


def _recorded() -> list[Path]:
    return sorted(Path(TRACES).glob("**/*.csv")) if TRACES else []


@pytest.mark.skipif(not TRACES, reason="SPLITTRACR_TRACES names no folder of recorded traces")
@pytest.mark.parametrize("path", _recorded(), ids=lambda path: path.stem)
def test_a_recorded_trace_carries_what_it_says(path: Path) -> None:
    text = path.read_text()
    rows = [[int(cell) for cell in line.split(",")] for line in text.splitlines()[1:]]
    spans = parse_trace(text, path.name)
    bits = sum(duration * kbps for duration, kbps, _ in rows)  # ms * kbit/s
    capacity = Capacity(spans)
    length = sum(duration for duration, _, _ in rows) * 10**6
    assert capacity.nanobits(length) - capacity.nanobits(0) == bits * 10**9
    sent = EmulatedLink(Conditions(spans), Random(0)).send(0, bits // 8)
    assert sent.departs <= length  # before it, where the trace ends in an outage
    assert 0 <= capacity.nanobits(sent.departs) - bits // 8 * 8 * 10**9 < 10**9
    assert sent.arrives - sent.departs == rows[0][2] * 10**6 // 2
