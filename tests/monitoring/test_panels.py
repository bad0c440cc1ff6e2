import re
from datetime import UTC, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.errors import InvalidInput
from splittracr.monitoring import panels, units
from splittracr.monitoring.collect import QueryResult, TimeRange
from splittracr.monitoring.panels import Target, fill, legend
from splittracr.monitoring.prometheus import Series
from splittracr.monitoring.table_panel import table
from splittracr.monitoring.time_series import time_ticks


def test_variables_are_filled_as_grafana_does() -> None:
    values = {"a": 'x"\\', "b": ["one.two", "3"], "c": ["only"], "d": []}
    assert fill('m{a="$a"}', values) == 'm{a="x\\"\\\\"}'
    assert fill('m{b=~"${b:regex}"}', values) == 'm{b=~"(one\\\\.two|3)"}'
    assert fill('m{c=~"${c}", d=~"$d"}', values) == 'm{c=~"only", d=~""}'
    with pytest.raises(InvalidInput, match="a variable that has a value"):
        fill("$unknown", values)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=3), st.text())
def test_a_filled_list_matches_its_texts_alone(texts: list[str], other: str) -> None:
    quoted = fill("$x", {"x": texts})
    # What PromQL takes out of the string: a backslash escapes the next letter.
    pattern = re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
    for text in texts:
        assert re.fullmatch(pattern, text)
    assert bool(re.fullmatch(pattern, other)) == (other in texts)


def test_legend() -> None:
    assert legend("p95 {{source}}", {"source": "edge", "le": "1"}) == "p95 edge"
    assert legend("{{gone}}", {}) == ""
    assert legend("", {"b": "2", "a": "1"}) == "a=1, b=2"


def test_windows_are_those_of_grafana() -> None:
    window = TimeRange(start=100.0, end=400.0, step=2.0, scrape=15.0)
    assert window.variables() == {
        "__interval": "2000ms",
        "__rate_interval": "60000ms",
        "__range": "300000ms",
    }
    assert TimeRange(0, 1, 120.0, 15.0).variables()["__rate_interval"] == "135000ms"


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "text"),
    [
        (0.0123, "s", None, "12.3 ms"), (4.2e-5, "s", None, "42 µs"), (0.0, "s", None, "0 s"),
        (2.5, "s", None, "2.5 s"), (90.0, "s", None, "90 s"), (5400.0, "s", None, "1.5 h"),
        (1500.0, "decbytes", None, "1.50 kB"), (2.4e6, "Bps", None, "2.40 MB/s"),
        (0.5, "percentunit", None, "50 %"), (0.9873, "percentunit", None, "98.7 %"),
        (12.345, "suffix: /s", None, "12.3 /s"), (3.0, "reqps", None, "3 req/s"),
        (20.0, "cpm", None, "20 /min"), (4.25, "joule", None, "4.25 J"),
        (5.2, "watt", None, "5.2 W"), (61.0, "celsius", None, "61 °C"),
        (2.4e9, "hertz", None, "2.4 GHz"),
        (1234.0, "short", 0, "1,234"), (2.5e6, "short", None, "2.5 M"), (7.0, "short", 1, "7.0"),
    ],
)  # fmt: skip
def test_values_in_words(value: float, unit: str, decimals: int | None, text: str) -> None:
    assert units.text(value, unit, decimals) == text


@pytest.mark.parametrize(
    ("values", "unit", "texts"),
    [
        ([0, 0.05, 0.1], "s", ["0 ms", "50 ms", "100 ms"]),
        ([0, 300, 600], "s", ["0 min", "5 min", "10 min"]),
        ([0, 2.5e6], "Bps", ["0 MB/s", "2.5 MB/s"]),
        ([0, 500], "decbytes", ["0 B", "500 B"]),
        ([0, 0.25], "percentunit", ["0 %", "25 %"]),
        ([0, 1.5e9], "hertz", ["0 GHz", "1.5 GHz"]),
        ([0, 20], "watt", ["0 W", "20 W"]),
        ([0, 20000], "short", ["0 k", "20 k"]),
        ([0, 2], "short", ["0", "2"]),
        ([0, 10], "suffix: /s", ["0 /s", "10 /s"]),
    ],
)
def test_axes_have_one_unit(values: list[float], unit: str, texts: list[str]) -> None:
    assert units.ticks(values, unit) == texts


def test_time_ticks_are_round_in_the_zone_and_few() -> None:
    assert time_ticks(3.0, 63.0, 6, UTC)[0] == (10.0, "00:00:10")
    india = timezone(timedelta(hours=5, minutes=30))
    assert time_ticks(0.0, 4 * 3600.0, 4, india)[0] == (1800.0, "06:00")
    assert time_ticks(0.0, 30 * 86400.0, 6, UTC)[1] == (5 * 86400.0, "6 Jan")


@given(st.floats(0, 2e9), st.floats(1, 4e7), st.integers(2, 12))
def test_there_are_never_more_time_ticks_than_fit(start: float, span: float, count: int) -> None:
    found = time_ticks(start, start + span, count, UTC)
    assert len(found) <= count + 1
    assert all(start - 1e-6 <= time <= start + span + 1e-6 for time, _ in found)


def answer(reference: str, *rows: tuple[dict[str, str], float]) -> QueryResult:
    series = tuple(("", Series(labels, (0.0,), (value,))) for labels, value in rows)
    return QueryResult(Target(reference, "", "", instant=True), series)


def test_tables_join_queries_by_the_labels_that_they_share() -> None:
    edges = next(p for p in panels.load("study").panels if p.title == "Edges")
    made = table(
        edges,
        [
            answer("A", ({"edge": "b", "cut": "relu", "codec": "raw"}, 1.0)),
            answer("B", ({"edge": "a"}, 7.0), ({"edge": "b"}, 1200.0)),
            answer("C"),
            answer("E", ({"edge": "a"}, 0.012)),
        ],
    )
    assert made.header == ("Edge", "Cut", "Codec", "Samples", "p95")
    assert made.rows == (("a", "", "", "7", "12 ms"), ("b", "relu", "raw", "1,200", ""))
    assert made.numeric == (False, False, False, True, True)


def test_a_second_version_is_a_second_row() -> None:
    versions = next(p for p in panels.load("study").panels if p.title == "Versions")
    role = {"role": "edge"}
    made = table(
        versions,
        [
            answer("A", ({**role, "version": "1"}, 2.0), ({**role, "version": "2"}, 1.0)),
            answer("B", ({**role, "model": "vgg16"}, 1.0)),
        ],
    )
    assert made.rows == (("edge", "1", "vgg16", "2"), ("edge", "2", "vgg16", "1"))


def test_conditions_are_words() -> None:
    studies = next(p for p in panels.load("fleet").panels if p.title == "Conditions and progress")
    place = {"study_namespace": "lab", "study": "s"}
    made = table(
        studies,
        [
            answer("A", ({**place, "model": "m", "mode": "Static"}, 1.0)),
            answer("E", (place, 1.0)),
            answer("F", (place, 0.0)),
            answer("G", (place, 2.0)),
        ],
    )
    assert made.rows == (("lab", "s", "m", "Static", "True", "False", "Unknown"),)
    assert made.colours[0][4] == "#222222"
