"""The answers to all queries of a dashboard, for one time range."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from splittracr.monitoring.panels import ALL, Board, Panel, Query, fill, legend
from splittracr.monitoring.prometheus import Prometheus, QueryFailed, Series

_AT_ONCE = 8  # queries

Choice = str | Sequence[str]


@dataclass(frozen=True)
class Window:
    """A time range in Unix seconds, its step, and the seconds between two samples of a series."""

    start: float
    end: float
    step: float
    scrape: float

    def variables(self) -> dict[str, str]:
        """Grafana's own variables of a time range."""
        rate = max(self.step + self.scrape, 4 * self.scrape)
        return {
            "__interval": _duration(self.step),
            "__rate_interval": _duration(rate),
            "__range": _duration(self.end - self.start),
        }


@dataclass(frozen=True)
class Answer:
    """What a query gave: named series with at least one number each, or an error."""

    query: Query
    series: tuple[tuple[str, Series], ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Event:
    """A moment to mark."""

    time: float
    text: str


@dataclass(frozen=True)
class Collected:
    """Answers by the identity of their panel, events by the name of their annotation."""

    answers: Mapping[int, tuple[Answer, ...]]
    events: Mapping[str, tuple[Event, ...]]

    def errors(self, panel: Panel) -> list[str]:
        """Why queries of a panel failed."""
        return [answer.error for answer in self.answers.get(panel.identity, ()) if answer.error]

    def is_empty(self, panel: Panel) -> bool:
        """Whether no query of a panel gave a series."""
        return not any(answer.series for answer in self.answers.get(panel.identity, ()))


async def choices(
    client: Prometheus, board: Board, chosen: Mapping[str, Choice]
) -> dict[str, Choice]:
    """A value for each variable: the chosen one, else all that there are (one, if not multi)."""
    values: dict[str, Choice] = dict(chosen)
    for variable in board.variables:
        if values.get(variable.name, ALL) != ALL:
            continue
        found = await client.label_values(variable.label, fill(variable.match, values))
        values[variable.name] = sorted(found) if variable.multi else min(found, default="")
    return values


async def collect(
    client: Prometheus, board: Board, values: Mapping[str, Choice], window: Window
) -> Collected:
    """Ask all queries and annotations of a dashboard. A query that fails is an answer too."""
    limit = asyncio.Semaphore(_AT_ONCE)
    filled = {**values, **window.variables()}

    async def ask(query: Query) -> Answer:
        expression = fill(query.expression, filled)
        try:
            async with limit:
                found = await (
                    client.query(expression, window.end)
                    if query.instant
                    else client.query_range(expression, window.start, window.end, window.step)
                )
        except QueryFailed as error:
            return Answer(query, error=str(error))
        named = ((legend(query.legend, one.labels), _finite(one)) for one in found)
        return Answer(query, tuple((name, one) for name, one in named if one.values))

    async def panel(one: Panel) -> tuple[int, tuple[Answer, ...]]:
        return one.identity, tuple(await asyncio.gather(*map(ask, one.queries)))

    async def events(name: str, expression: str, text: str) -> tuple[str, tuple[Event, ...]]:
        answer = await ask(Query("A", expression, text, instant=False))
        found = (Event(time, said) for said, series in answer.series for time in series.times)
        return name, tuple(sorted(found, key=lambda event: event.time))

    answers = await asyncio.gather(*(panel(one) for one in board.panels if one.queries))
    marks = await asyncio.gather(
        *(events(one.name, one.expression, one.text) for one in board.annotations)
    )
    return Collected(dict(answers), dict(marks))


def _finite(series: Series) -> Series:
    """Without NaN and infinities."""
    points = [
        (time, value)
        for time, value in zip(series.times, series.values, strict=True)
        if math.isfinite(value)
    ]
    return Series(series.labels, tuple(t for t, _ in points), tuple(v for _, v in points))


def _duration(seconds: float) -> str:
    """As PromQL writes it; at least a millisecond."""
    return f"{max(1, round(seconds * 1000))}ms"
