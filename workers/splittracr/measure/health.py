"""The HTTP routes that every worker has."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from splittracr.measure.metrics import Metrics


def add_health(app: web.Application, metrics: Metrics) -> None:
    """Add `/healthz`, which answers while the event loop turns, and `/metrics`."""

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def exposition(_: web.Request) -> web.Response:
        body = generate_latest(metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", exposition)
