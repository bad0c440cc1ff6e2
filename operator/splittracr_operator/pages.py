"""HTTP pages of the operator for probes and monitoring."""

import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from splittracr.experiment.contracts import HEALTH_PATH, METRICS_PATH
from splittracr_operator.metrics import Metrics

_ALIVE_SECONDS = 60.0
"""Seconds without progress of the background task after which the operator counts as hung."""


class Pages:
    """Health and metrics. `idle` returns the seconds since the background task last ran."""

    def __init__(self, metrics: Metrics, idle: Callable[[], float]) -> None:
        self._metrics, self._idle = metrics, idle

    def add(self, app: web.Application) -> None:
        """Add the pages to an application."""
        app.router.add_get(HEALTH_PATH, self.health)
        app.router.add_get(METRICS_PATH, self.exposition)

    async def health(self, _: web.Request) -> web.Response:
        """Status 200 if the background task runs, else 503."""
        since = self._idle()
        status = 200 if since < _ALIVE_SECONDS else 503
        return web.json_response({"seconds_since_last_turn": round(since, 1)}, status=status)

    async def exposition(self, request: web.Request) -> web.Response:
        """The metrics in the format that the client asks for."""
        accept = request.headers.get("Accept", "")
        body, content_type = self._metrics.exposition.render(accept)
        return web.Response(body=body, headers={"Content-Type": content_type})


@contextlib.asynccontextmanager
async def serving(app: web.Application, port: int) -> AsyncIterator[None]:
    """Serve an application on all addresses. Raises OSError if the port cannot be bound."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, None, port).start()
        yield
    finally:
        await runner.cleanup()
