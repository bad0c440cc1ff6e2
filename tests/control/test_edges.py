import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from splittracr.experiment import manifest
from splittracr.experiment.contracts import Role
from splittracr.experiment.report import REPORT_PATH, SETTINGS_PATH, CutReport, WorkerReport
from splittracr.experiment.settings import LiveSettings, Outcome
from splittracr_operator import edges
from splittracr_operator.edges import Edges
from splittracr_operator.live import Answer
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
    """Run a scenario with an edge that answers like `handler`, and with a report at `/moved`."""

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
def test_an_invalid_report_is_left_out(monkeypatch: pytest.MonkeyPatch, handler: Handler) -> None:
    async def scenario(asked: Edges) -> None:
        assert await asked.reports({"edge-0": HERE}) == {}

    with_edge(monkeypatch, handler, scenario)


SPEC = manifest.from_object(study()).spec
SETTINGS = LiveSettings(generation=1, partition=SPEC.partition, transport=SPEC.transport)


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, Answer(Outcome.ACCEPTED)),
        (400, Answer(Outcome.REFUSED, "cause")),
        (409, Answer(Outcome.DEFERRED, "cause")),
        (202, None),
        (401, None),
        (413, None),
        (500, None),
    ],
)
def test_answers_to_settings_by_status(
    monkeypatch: pytest.MonkeyPatch, status: int, answer: Answer | None
) -> None:
    async def answers(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="cause")

    async def scenario(asked: Edges) -> None:
        expected = {} if answer is None else {"edge-3": answer}
        assert await asked.steer({"edge-3": HERE}, SETTINGS, "secret") == expected

    with_edge(monkeypatch, answers, scenario)


@pytest.mark.parametrize("handler", [endless, elsewhere])
def test_an_invalid_answer_to_settings_is_left_out(
    monkeypatch: pytest.MonkeyPatch, handler: Handler
) -> None:
    async def scenario(asked: Edges) -> None:
        assert await asked.steer({"edge-0": HERE}, SETTINGS, "secret") == {}

    with_edge(monkeypatch, handler, scenario)


def test_requests_to_edges_are_concurrent(monkeypatch: pytest.MonkeyPatch) -> None:
    both = asyncio.Barrier(2)

    async def answers(_: web.Request) -> web.StreamResponse:
        await both.wait()  # sent one after the other, the first would time out
        return web.Response()

    async def scenario(asked: Edges) -> None:
        answers = await asked.steer({"edge-0": HERE, "edge-1": HERE}, SETTINGS, "secret")
        assert answers == dict.fromkeys(("edge-0", "edge-1"), Answer(Outcome.ACCEPTED))

    with_edge(monkeypatch, answers, scenario)
