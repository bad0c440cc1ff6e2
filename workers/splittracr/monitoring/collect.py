"""Runs all queries of a dashboard over one time range."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from splittracr.monitoring.panels import ALL, Board, Panel, Target, fill, legend
from splittracr.monitoring.prometheus import Prometheus, QueryFailed, Series

_MAX_PARALLEL = 8  # queries

VariableValue = str | Sequence[str]
"""The value of a dashboard's variable: one text, or all selected texts."""


@dataclass(frozen=True)
class TimeRange:
    """A time range in Unix seconds, its step, and the seconds between two samples of a series."""

    start: float
    end: float
    step: float
    scrape: float

    def variables(self) -> dict[str, str]:
        """Return Grafana's own variables of a time range."""
        rate = max(self.step + self.scrape, 4 * self.scrape)
        return {
            "__interval": _duration(self.step),
            "__rate_interval": _duration(rate),
            "__range": _duration(self.end - self.start),
        }


@dataclass(frozen=True)
class QueryResult:
    """The result of a query: named series with at least one number each, or an error."""

    target: Target
    series: tuple[tuple[str, Series], ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Event:
    """A moment to mark."""

    time: float
    text: str


@dataclass(frozen=True)
class Collected:
    """Results by the identity of their panel, events by the name of their annotation."""

    results: Mapping[int, tuple[QueryResult, ...]]
    events: Mapping[str, tuple[Event, ...]]

    def errors(self, panel: Panel) -> list[str]:
        """Return the errors of a panel's queries."""
        return [result.error for result in self.results.get(panel.identity, ()) if result.error]

    def is_empty(self, panel: Panel) -> bool:
        """Whether all results of a panel are without series."""
        return not any(result.series for result in self.results.get(panel.identity, ()))


async def variable_values(
    client: Prometheus, board: Board, chosen: Mapping[str, VariableValue]
) -> dict[str, VariableValue]:
    """Return a value for each variable: the chosen one, otherwise all values (or the first)."""
    values: dict[str, VariableValue] = dict(chosen)
    for variable in board.variables:
        if values.get(variable.name, ALL) != ALL:
            continue
        found = await client.label_values(variable.label, fill(variable.match, values))
        values[variable.name] = sorted(found) if variable.multi else min(found, default="")
    return values


async def collect(
    client: Prometheus, board: Board, values: Mapping[str, VariableValue], time_range: TimeRange
) -> Collected:
    """Run all queries and annotations of a dashboard. A failed query becomes a result, too."""
    limit = asyncio.Semaphore(_MAX_PARALLEL)
    filled = {**values, **time_range.variables()}
    start, end, step = time_range.start, time_range.end, time_range.step

    async def run(target: Target) -> QueryResult:
        expression = fill(target.expression, filled)
        try:
            async with limit:
                found = await (
                    client.query(expression, end)
                    if target.instant
                    else client.query_range(expression, start, end, step)
                )
        except QueryFailed as error:
            return QueryResult(target, error=str(error))
        named = ((legend(target.legend, one.labels), _finite(one)) for one in found)
        return QueryResult(target, tuple((name, one) for name, one in named if one.values))

    async def panel(one: Panel) -> tuple[int, tuple[QueryResult, ...]]:
        return one.identity, tuple(await asyncio.gather(*map(run, one.targets)))

    async def events(name: str, expression: str, text: str) -> tuple[str, tuple[Event, ...]]:
        result = await run(Target("A", expression, text, instant=False))
        found = (Event(time, title) for title, series in result.series for time in series.times)
        return name, tuple(sorted(found, key=lambda event: event.time))

    results = await asyncio.gather(*(panel(one) for one in board.panels if one.targets))
    marks = await asyncio.gather(
        *(events(one.name, one.expression, one.text) for one in board.annotations)
    )
    return Collected(dict(results), dict(marks))


def _finite(series: Series) -> Series:
    """Return the series without NaN and infinities."""
    points = [
        (time, value)
        for time, value in zip(series.times, series.values, strict=True)
        if math.isfinite(value)
    ]
    return Series(series.labels, tuple(t for t, _ in points), tuple(v for _, v in points))


def _duration(seconds: float) -> str:
    """Format a duration for PromQL; at least a millisecond."""
    return f"{max(1, round(seconds * 1000))}ms"
