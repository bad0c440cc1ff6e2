"""A client of Prometheus' HTTP API, for the queries of a dashboard."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from splittracr.experiment.errors import InvalidInput, SplittracrError

MAX_POINTS = 11_000
"""The maximum number of points of a series in one answer, a limit of Prometheus."""

_HOUR = 3600.0  # seconds
_TIMEOUT = aiohttp.ClientTimeout(total=60, connect=10)
_OPTION = "--prometheus"


class QueryFailed(SplittracrError):
    """Prometheus refused or aborted a query. The text is that of Prometheus."""


@dataclass(frozen=True)
class Series:
    """Values of one series. Times are Unix seconds."""

    labels: Mapping[str, str]
    times: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class SampleRange:
    """First and last sample of a selection, and the seconds between two of them (the median)."""

    start: float
    end: float
    interval: float


class Prometheus:
    """A server with the API of Prometheus. Use `connect`."""

    def __init__(self, url: URL, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url, session

    async def query(self, expression: str, at: float) -> list[Series]:
        """Return the instant vector or range vector at a time."""
        return await self._series("query", {"query": expression, "time": f"{at:.3f}"})

    async def query_range(
        self, expression: str, start: float, end: float, step: float
    ) -> list[Series]:
        """Return the vector at each step; `step` is in seconds."""
        times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        return await self._series("query_range", {"query": expression, **times})

    async def label_values(self, label: str, match: str) -> list[str]:
        """Return all values of a label in the selected series, past series included."""
        data = await self._data("GET", f"label/{label}/values", {"match[]": match})
        return [str(value) for value in data]

    async def now(self) -> float:
        """Return the server's time."""
        data = await self._data("POST", "query", {"query": "time()"})
        return float(data["result"][1])

    async def sample_range(self, selector: str, start: float, end: float) -> SampleRange | None:
        """Return the range of the selected samples between two times; None if there are none.

        Queries hours first, and then the samples of the first and the last hour. The answers
        therefore stay small for any time range.
        """
        counted = f"count(count_over_time({selector}[1h]))"
        hours = await self.query_range(counted, start + _HOUR, end, _HOUR) if start < end else []
        ends = [
            time for series in (*hours, *await self.query(counted, end)) for time in series.times
        ]
        if not ends:
            return None
        first = await self.query(f"{selector}[1h]", min(ends))
        last = await self.query(f"{selector}[1h]", max(ends))
        gaps = sorted(
            later - earlier
            for series in last
            for earlier, later in zip(series.times, series.times[1:], strict=False)
        )
        return SampleRange(
            start=min(series.times[0] for series in first),
            end=max(series.times[-1] for series in last),
            interval=gaps[len(gaps) // 2] if gaps else 0.0,
        )

    async def _series(self, path: str, form: Mapping[str, str]) -> list[Series]:
        data = await self._data("POST", path, form)
        if data["resultType"] in ("scalar", "string"):
            return [_single({}, data["result"])]
        return [
            _single(one["metric"], one["value"])
            if "value" in one
            else _many(one["metric"], one.get("values", ()))
            for one in data["result"]
        ]

    async def _data(self, method: str, path: str, form: Mapping[str, str]) -> Any:
        """Return the field `data` of the answer.

        Raises QueryFailed, or InvalidInput if the address is not that of a Prometheus.
        """
        get = method == "GET"
        request = self._session.request(
            method,
            self._url / "api" / "v1" / path,
            params=form if get else None,
            data=None if get else form,
        )
        try:
            async with request as response:
                status = response.status
                answer = await response.json(content_type=None)
        except (TimeoutError, aiohttp.ClientConnectionError) as error:
            reason = str(error) or "no answer in time"
            raise _unusable(self._url, f"a Prometheus that can be reached ({reason})") from error
        except aiohttp.ClientError as error:
            raise _unusable(self._url, f"a Prometheus (not HTTP: {error})") from error
        except ValueError as error:
            raise _unusable(self._url, f"a Prometheus (HTTP {status}, no JSON)") from error
        if not isinstance(answer, dict) or answer.get("status") not in ("success", "error"):
            raise _unusable(self._url, f"a Prometheus (HTTP {status}, JSON of something else)")
        if answer["status"] == "error":
            raise QueryFailed(str(answer.get("error", f"HTTP {status}")))
        return answer["data"]


@asynccontextmanager
async def connect(address: str) -> AsyncGenerator[Prometheus]:
    """Yield a client of the Prometheus at `address`, which may have a user, password and path.

    Raises InvalidInput if `address` is not a URL. No request is sent.
    """
    try:
        url = URL(address)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidInput(_OPTION, address, "an address such as http://localhost:9090")
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        yield Prometheus(url.with_query(None).with_fragment(None), session)


def _unusable(url: URL, expected: str) -> InvalidInput:
    return InvalidInput(_OPTION, str(url.with_user(None)), expected)


def _single(labels: Mapping[str, str], point: Sequence[Any]) -> Series:
    return Series(labels, (float(point[0]),), (float(point[1]),))


def _many(labels: Mapping[str, str], points: Sequence[Sequence[Any]]) -> Series:
    times = tuple(float(point[0]) for point in points)
    return Series(labels, times, tuple(float(point[1]) for point in points))
