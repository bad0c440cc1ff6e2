import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from splittracr.experiment import manifest
from splittracr.experiment.report import REPORT_PATH, SETTINGS_PATH, CutReport, WorkerReport
from splittracr.experiment.settings import LiveSettings
from splittracr.experiment.status import Role
from splittracr_operator import edges
from splittracr_operator.edges import Edges, Objection
from tests.experiment.studies import study

HERE = "127.0.0.1"
CUTS = tuple(
    CutReport(cut=f"a.name.as.long.as.they.come.{i}", index=i, frames=9, p50_ms=1.5, p95_ms=2.5)
    for i in range(1000)
)
REPORT = WorkerReport(role=Role.EDGE, edge="edge-0", done=7, cuts=CUTS)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def with_edge(
    monkeypatch: pytest.MonkeyPatch, handler: Handler, scenario: Callable[[Edges], Awaitable[None]]
) -> None:
    """A pod that answers everything as `handler` does, and `/moved` with a report."""

    async def moved(_: web.Request) -> web.Response:
        return web.Response(text=REPORT.model_dump_json())

    async def run() -> None:
        app = web.Application()
        app.router.add_get("/moved", moved)
        app.router.add_get(REPORT_PATH, handler)
        app.router.add_put(SETTINGS_PATH, handler)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, HERE, 0).start()
        monkeypatch.setattr(edges, "METRICS_PORT", runner.addresses[0][1])
        async with aiohttp.ClientSession() as session:
            await scenario(Edges(session))
        await runner.cleanup()

    asyncio.run(run())


async def sound(_: web.Request) -> web.StreamResponse:
    return web.Response(text=REPORT.model_dump_json())


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(status=418)
    await response.prepare(request)
    try:
        while True:
            await response.write(b" " * 2**16)
    except ConnectionError:
        return response


async def elsewhere(_: web.Request) -> web.StreamResponse:
    raise web.HTTPTemporaryRedirect("/moved")


def test_a_report_of_very_many_cuts_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(asked: Edges) -> None:
        assert await asked.reports({"edge-0": HERE}) == {"edge-0": REPORT}

    with_edge(monkeypatch, sound, scenario)


@pytest.mark.parametrize("handler", [endless, elsewhere])
def test_what_is_no_report_is_none(monkeypatch: pytest.MonkeyPatch, handler: Handler) -> None:
    async def scenario(asked: Edges) -> None:
        assert await asked.reports({"edge-0": HERE}) == {}

    with_edge(monkeypatch, handler, scenario)


def test_the_token_goes_to_the_edge_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = manifest.from_object(study()).spec
    settings = LiveSettings(generation=1, partition=spec.partition, transport=spec.transport)

    async def scenario(asked: Edges) -> None:
        said = await asked.steer(HERE, settings, "secret")
        assert said is not None
        assert "307" in said.words

    with_edge(monkeypatch, elsewhere, scenario)


@pytest.mark.parametrize(
    ("status", "objection"),
    [
        (200, None),
        (400, Objection("words", final=True)),
        (401, Objection("words", final=False)),
        (409, Objection("words", final=False)),
    ],
)
def test_only_what_an_edge_cannot_use_is_refused_for_good(
    monkeypatch: pytest.MonkeyPatch, status: int, objection: Objection | None
) -> None:
    spec = manifest.from_object(study()).spec
    settings = LiveSettings(generation=1, partition=spec.partition, transport=spec.transport)

    async def answers(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="words")

    async def scenario(asked: Edges) -> None:
        assert await asked.steer(HERE, settings, "secret") == objection

    with_edge(monkeypatch, answers, scenario)


def test_an_endless_objection_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = manifest.from_object(study()).spec
    settings = LiveSettings(generation=1, partition=spec.partition, transport=spec.transport)

    async def scenario(asked: Edges) -> None:
        with pytest.raises(aiohttp.ClientError, match="more than"):
            await asked.steer(HERE, settings, "secret")

    with_edge(monkeypatch, endless, scenario)
