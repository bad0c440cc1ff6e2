"""Metrics made from any table."""

import pytest

from splittracr.experiment.metrics import Metric, Type
from splittracr.exposition import Exposition
from tests.scrape import OPENMETRICS, scraped

TABLE = (
    Metric("a_joules", "Energy.", ("zone",), type=Type.COUNTER, values=(("one",), ("two",))),
    Metric("b_ratio", "Share.", type=Type.GAUGE),
    Metric("c_seconds", "Time.", type=Type.HISTOGRAM, buckets=(1.0, 2.0)),
)


def test_nothing_is_exposed_that_was_not_asked_for() -> None:
    made = Exposition(TABLE)
    assert {name.partition("_")[0] for name in scraped(made).names} == {"process"}
    made.counter("a_joules").labels("three").inc(2)
    assert scraped(made).of("a_joules_total", "zone") == {("one",): 0, ("two",): 0, ("three",): 2}


def test_series_are_those_that_the_table_lists() -> None:
    made = Exposition(TABLE)
    series = made.counters("a_joules")
    assert list(series) == ["one", "two"]
    series["two"].inc(3)
    assert scraped(made).of("a_joules_total", "zone") == {("one",): 0, ("two",): 3}


def test_what_is_read_is_absent_while_there_is_nothing() -> None:
    made, values = Exposition(TABLE, {"role": "edge"}), iter([None, None, 0.5, 0.5])
    made.read_one("b_ratio", values.__next__)
    assert "b_ratio" not in scraped(made).names  # a scrape in each format
    assert scraped(made).one("b_ratio", role="edge") == 0.5


def test_a_mistake_in_the_code_is_an_error() -> None:
    made = Exposition(TABLE)
    with pytest.raises(KeyError):
        made.counter("d")
    with pytest.raises(ValueError, match="b_ratio is a gauge, not a counter"):
        made.counter("b_ratio")
    with pytest.raises(ValueError, match="c_seconds is a histogram"):
        made.read("c_seconds", dict)
    made.gauge("b_ratio")
    with pytest.raises(ValueError, match="b_ratio is exposed already"):
        made.gauge("b_ratio")


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/json, text/plain;version=nonsense",
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ],
)
def test_the_format_is_what_the_request_accepts(accept: str, content_type: str) -> None:
    made = Exposition(TABLE)
    made.counter("a_joules")
    body, kind = made.render(accept)
    assert kind == content_type
    assert body.endswith(b"# EOF\n") == ("openmetrics" in kind)
    assert (b"# UNIT a_joules joules" in body) == ("openmetrics" in kind)
