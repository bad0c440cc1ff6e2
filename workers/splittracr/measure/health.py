"""The HTTP routes that every worker has."""

from aiohttp import web

from splittracr.experiment.contracts import HEALTH_PATH, METRICS_PATH
from splittracr.experiment.errors import InvalidInput, why
from splittracr.exposition import Exposition
from splittracr.measure.listening import bind, joined


def add_health(app: web.Application) -> None:
    """Add `/healthz`, which answers while the event loop turns."""

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app.router.add_get(HEALTH_PATH, healthz)


def add_metrics(app: web.Application, exposition: Exposition) -> None:
    """Add `/metrics`, in the format that the request accepts."""

    async def metrics(request: web.Request) -> web.Response:
        body, content_type = exposition.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    app.router.add_get(METRICS_PATH, metrics)


async def serve(
    app: web.Application, host: str, port: int, field: str
) -> tuple[web.AppRunner, str]:
    """Serve `app` over plain HTTP; return its runner and its URL. Port 0 takes a free one.

    Raises InvalidInput that names the manifest's `field` if the port cannot be bound.
    """
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, bind(host, port)).start()
    except (OSError, UnicodeError) as error:
        await runner.cleanup()
        raise InvalidInput(field, port, f"a free port of {host} ({why(error)})") from error
    return runner, f"http://{joined(*runner.addresses[0][:2])}"
