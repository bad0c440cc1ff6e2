import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from splittracr import security
from splittracr.backends.torch import build
from splittracr.edge import main as edge
from splittracr.edge.handover import bring, fetch
from splittracr.edge.live_settings import SettingsInUse
from splittracr.edge.reporting import Reporter, Surroundings
from splittracr.edge.steering import Steered
from splittracr.experiment import manifest
from splittracr.experiment.codec import Codec
from splittracr.experiment.contracts import Role
from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.experiment.report import (
    MESSAGE_BYTES,
    CutReport,
    Phase,
    WorkerReport,
    from_message,
    termination_message,
)
from splittracr.experiment.settings import LiveSettings
from splittracr.experiment.spec import ExperimentSpec, LayerRef, StaticCut, TransportSpec
from splittracr.experiment.types import Cut
from splittracr.planning.schedule import Step, Trial
from tests.experiment.studies import study
from tests.workers.test_tally import record

SPEC = manifest.from_object(study()).spec


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def resolve(cut: StaticCut) -> Cut:
    if not isinstance(cut, int) or cut > 9:
        raise InvalidInput("spec.partition.cut", cut, "0 to 9")
    return Cut(index=cut, name=str(cut), live=(), bytes=0, work=0.0)


def settings(generation: int, cut: int, codec: str = "raw") -> LiveSettings:
    spec: ExperimentSpec = manifest.from_object(
        study(partition={"cut": cut}, transport={"codec": codec})
    ).spec
    return LiveSettings(generation=generation, partition=spec.partition, transport=spec.transport)


async def put(url: str, body: str, token: str = "secret") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession() as client,
        client.put(f"{url}/v1/settings", data=body, headers=headers) as answer,
    ):
        return answer.status, await answer.text()


def test_the_report_has_the_joules_of_the_edge_if_something_tells_them() -> None:
    reporter = Reporter(Surroundings(), SPEC)
    reporter.running(4, [])
    assert reporter.report(fresh=True).energy_joules is None
    reporter.use_energy(lambda: 12.5)
    assert reporter.report(fresh=True).energy_joules == 12.5


def test_settings_act_on_the_frames_after_them() -> None:
    async def scenario() -> None:
        reporter = Reporter(Surroundings(control="secret"), SPEC)
        chooser = Steered(SPEC, True, reporter.settings, resolve)
        step = Step(Trial(0, 3, 0), 0)
        app = web.Application()
        reporter.add_routes(app)
        async with served(app) as url:
            assert chooser.choose(step, 0).cut == 3
            changed = settings(2, 7, "uint8").model_dump_json(by_alias=True)
            assert await put(url, changed) == (200, '{"generation": 2}')
            decision = chooser.choose(step, 0)
            assert (decision.cut, decision.codec, decision.epoch) == (7, Codec.parse("uint8"), 1)
            older = settings(1, 5).model_dump_json(by_alias=True)
            assert await put(url, older) == (200, '{"generation": 2}')
            assert chooser.choose(step, 0) == decision
            status, words = await put(url, settings(3, 40).model_dump_json(by_alias=True))
            assert (status, "expected 0 to 9" in words) == (400, True)
            words = "partition: got nothing, expected a value, it is required"
            assert await put(url, "{}") == (400, words)
            assert (await put(url, changed, "wrong"))[0] == 401
            assert chooser.choose(step, 0) == decision

    asyncio.run(scenario())


def test_a_codec_that_cannot_be_used_is_refused() -> None:
    def usable(transport: TransportSpec) -> None:
        if (name := transport.codec) == "acme.topk":
            raise InvalidInput("spec.transport.codec", name, "a codec that both ends have")

    async def scenario() -> None:
        reporter = Reporter(Surroundings(control="secret"), SPEC)
        chooser = Steered(SPEC, True, reporter.settings, resolve, usable)
        app = web.Application()
        reporter.add_routes(app)
        async with served(app) as url:
            body = settings(2, 7, "acme.topk").model_dump_json(by_alias=True)
            assert await put(url, body) == (
                400,
                "spec.transport.codec: got 'acme.topk', expected a codec that both ends have",
            )
        assert str(chooser.choose(Step(Trial(0, 3, 0), 0), 0).codec) == "raw"

    asyncio.run(scenario())


def steered(*brought: LiveSettings) -> tuple[SettingsInUse, Steered]:
    """An edge that starts after settings were brought to it."""
    in_use = SettingsInUse(SPEC)
    for one in brought:
        in_use.take(one)
    return in_use, Steered(SPEC, True, in_use, resolve)


def test_a_layer_is_a_cut_for_settings_too() -> None:
    spec = manifest.from_object(study(partition={"layer": 3})).spec
    seen: list[StaticCut] = []

    def after(cut: StaticCut) -> Cut:
        seen.append(cut)
        return Cut(index=4, name="model.3", live=(), bytes=0, work=0.0)

    chooser = Steered(spec, True, SettingsInUse(spec), after)
    assert chooser.choose(Step(Trial(0, 0, 0), 0), 0).cut == 4
    assert set(seen) == {LayerRef(3, 2)}


def test_only_another_cut_or_codec_counts_as_a_change() -> None:
    in_use, chooser = steered()
    step = Step(Trial(0, 3, 0), 0)
    for generation, cut, codec, epoch in [
        (1, 3, "raw", 0),
        (2, 7, "raw", 1),
        (3, 7, "raw", 1),
        (4, 7, "uint8", 2),
    ]:
        in_use.take(settings(generation, cut, codec))
        decision = chooser.choose(step, 0)
        assert (decision.cut, str(decision.codec), decision.epoch) == (cut, codec, epoch)


def test_settings_that_came_before_the_first_frame_act_on_it() -> None:
    _, chooser = steered(settings(2, 7, "uint8"))
    decision = chooser.choose(Step(Trial(0, 3, 0), 0), 0)
    assert (decision.cut, decision.codec, decision.epoch) == (7, Codec.parse("uint8"), 0)


def test_bad_settings_that_came_too_early_to_be_refused_are_dropped() -> None:
    in_use, chooser = steered(settings(2, 40))
    assert chooser.choose(Step(Trial(0, 3, 0), 0), 0).cut == 3
    assert in_use.current.generation == 0


def test_an_adaptive_edge_takes_another_generation_but_no_other_settings() -> None:
    async def scenario() -> None:
        spec = manifest.from_object(study(partition={"mode": "Adaptive"})).spec
        reporter = Reporter(Surroundings(control="secret"), spec)
        app = web.Application()
        reporter.add_routes(app)
        same = LiveSettings(generation=2, partition=spec.partition, transport=spec.transport)
        other = spec.transport.model_copy(update={"codec": "uint8"})
        later = LiveSettings(generation=3, partition=spec.partition, transport=other)
        async with served(app) as url:
            assert (await put(url, same.model_dump_json(by_alias=True)))[0] == 200
            status, words = await put(url, later.model_dump_json(by_alias=True))
        assert (status, "when it starts again" in words) == (409, True)
        assert reporter.settings.current == same

    asyncio.run(scenario())


def test_without_a_token_nobody_changes_settings() -> None:
    async def scenario() -> None:
        reporter = Reporter(Surroundings(), SPEC)
        app = web.Application()
        reporter.add_routes(app)
        async with served(app) as url:
            assert (await put(url, settings(2, 7).model_dump_json(by_alias=True), ""))[0] == 401

    asyncio.run(scenario())


def test_report_from_the_start_to_the_termination_message(tmp_path: Path) -> None:
    async def scenario() -> None:
        words = tmp_path / "words"
        reporter = Reporter(Surroundings("edge-3", termination=words), SPEC)
        app = web.Application()
        reporter.add_routes(app)
        async with (
            served(app) as url,
            aiohttp.ClientSession() as client,
            client.get(f"{url}/v1/report") as answer,
        ):
            first = WorkerReport.model_validate_json(await answer.read())
        assert first == WorkerReport(role=Role.EDGE, edge="edge-3")
        reporter.running(5, [record(0)])
        reporter.add(record(1))
        reporter.kept("store")
        reporter.ended(None)
        last = from_message(words.read_text())
        assert last is not None
        assert (last.phase, last.done, last.resumed, last.total) == (Phase.FINISHED, 2, 1, 5)
        assert (last.results, last.exit_code) == ("store", 0)
        reporter.ended(InvalidInput("spec.x", 1, "2"))
        last = from_message(words.read_text())
        assert last is not None
        assert (last.error, last.exit_code) == ("spec.x: got 1, expected 2", 2)
        reporter.ended(SplittracrError("broken"))
        last = from_message(words.read_text())
        assert last is not None
        assert (last.phase, last.exit_code) == (Phase.FAILED, 1)

    asyncio.run(scenario())


def test_termination_messages_fit_and_keep_what_matters() -> None:
    cuts = tuple(
        CutReport(cut=f"features.{i}.a_long_name", index=i, frames=3, p50_ms=1.25, p95_ms=2.5)
        for i in range(300)
    )
    report = WorkerReport(
        role=Role.EDGE,
        edge="edge-0",
        done=900,
        best=cuts[3],
        latency=cuts[4],
        cuts=cuts,
        error="é" * 9000,
        exit_code=1,
    )
    message = termination_message(report)
    assert len(message) <= MESSAGE_BYTES
    read = from_message(message.decode())
    assert read is not None
    assert (read.done, read.best, read.latency, read.cuts) == (900, cuts[3], cuts[4], ())
    assert read.exit_code == 1
    assert from_message("Traceback: no report") is None
    assert from_message(None) is None


class Shelf:
    """A results store that is away for a while."""

    def __init__(self, away: int, status: int = 200, troubled: int = 0) -> None:
        self.kept: bytes | None = None
        self.asked = self.looked = 0
        self._away, self._status, self._troubled = away, status, troubled

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**30)
        app.router.add_put("/{edge}", self._put)
        app.router.add_get("/{edge}", self._get)
        return app

    async def _put(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.asked <= self._away:
            raise web.HTTPServiceUnavailable
        _admit(request)
        self.kept = await request.read()
        return web.Response(status=self._status)

    async def _get(self, request: web.Request) -> web.Response:
        self.looked += 1
        if self.looked <= self._troubled:
            raise web.HTTPInternalServerError
        _admit(request)
        return web.Response(body=self.kept) if self.kept else web.Response(status=404)


def _admit(request: web.Request) -> None:
    if request.headers["Authorization"] != "Bearer secret":
        raise web.HTTPUnauthorized


def at(url: str) -> Callable[[], str]:
    """The address of an edge's results below `url`."""
    return lambda: f"{url}/edge-0"


def test_results_reach_a_store_that_was_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "from" / "pictures").mkdir(parents=True)
        (tmp_path / "from" / "records.jsonl").write_text("one\n")
        (tmp_path / "from" / "pictures" / "0.jpg").write_bytes(b"\xff")
        shelf = Shelf(away=2)
        async with served(shelf.app()) as url:
            assert not await fetch(tmp_path / "to", at(url), "secret")
            await bring(tmp_path / "from", at(url), "secret", 30)
            assert shelf.asked == 3
            assert await fetch(tmp_path / "to", at(url), "secret")
        assert (tmp_path / "to" / "records.jsonl").read_text() == "one\n"
        assert (tmp_path / "to" / "pictures" / "0.jpg").read_bytes() == b"\xff"

    asyncio.run(scenario())


def test_a_store_that_says_no_is_not_asked_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "records.jsonl").write_text("one\n")
        shelf = Shelf(away=0)
        async with served(shelf.app()) as url:
            with pytest.raises(SplittracrError, match="it answers 401"):
                await bring(tmp_path, at(url), "wrong", 30)
        assert shelf.asked == 1

    asyncio.run(scenario())


def test_only_a_store_that_holds_nothing_lets_an_edge_start_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        shelf = Shelf(away=0, troubled=1)
        async with served(shelf.app()) as url:
            assert not await fetch(tmp_path, at(url), "secret")
            assert shelf.looked == 2
            with pytest.raises(SplittracrError, match="it answers 401"):
                await fetch(tmp_path, at(url), "wrong")

    asyncio.run(scenario())


def test_a_store_that_is_not_there_is_given_up_in_the_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        nowhere = at("http://127.0.0.1:9")
        with pytest.raises(SplittracrError, match="did not answer within"):
            await bring(tmp_path, nowhere, "secret", 0.6)
        with pytest.raises(SplittracrError, match="did not answer within"):
            await fetch(tmp_path, nowhere, "secret", 0.6)

    asyncio.run(scenario())


def test_results_reach_a_store_whose_address_changes(tmp_path: Path) -> None:
    """As when an upgrade gives the operator another port while its studies run."""
    file, results = tmp_path / "address", tmp_path / "results"
    around = Surroundings.read("edge-1", {"SPLITTRACR_STORE": str(file)}, resume=True)
    results.mkdir()
    (results / "records.jsonl").write_text("one\n")

    async def scenario() -> None:
        shelf, old = Shelf(away=0), web.Application()
        async with served(shelf.app()) as url:

            async def moves(_: web.Request) -> web.Response:
                file.write_text(f"{url}\n")
                raise web.HTTPServiceUnavailable

            old.router.add_put("/{edge}", moves)
            async with served(old) as before:
                file.write_text(before)
                await bring(results, around.store_url, "secret", 60)
        assert shelf.kept

    asyncio.run(scenario())


def test_results_reach_a_store_only_over_tls_that_can_be_trusted(tmp_path: Path) -> None:
    """The authority is a file beside the address, and is read again at each attempt."""
    file, results = tmp_path / "results-url", tmp_path / "results"
    around = Surroundings.read("edge-1", {"SPLITTRACR_STORE": str(file)}, resume=True)
    results.mkdir()
    (results / "records.jsonl").write_text("one\n")
    now = datetime.now(UTC)
    right, wrong = (security.standing_authority("store", bytes([i]) * 32) for i in (1, 2))
    tls = security.store_context(security.server_pair(right, ["localhost"], now, 1), None)

    async def scenario() -> None:
        shelf = Shelf(away=1)
        runner = web.AppRunner(shelf.app())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        file.write_text(f"https://localhost:{runner.addresses[0][1]}")
        authority = tmp_path / "results-ca.crt"
        for content in ("", wrong.certificate.decode()):
            authority.write_text(content)
            with pytest.raises(SplittracrError, match="did not answer within"):
                await bring(results, around.store_url, "secret", 0.6, around.store_tls)
        assert (shelf.asked, shelf.kept) == (0, None)
        authority.write_text(right.certificate.decode())
        await bring(results, around.store_url, "secret", 30, around.store_tls)
        assert await fetch(tmp_path / "to", around.store_url, "secret", 30, around.store_tls)
        await runner.cleanup()

    asyncio.run(scenario())


def test_results_that_reach_no_store_are_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def measured(*_: object) -> None:
        (tmp_path / "records.jsonl").write_text("one\n")

    async def scenario() -> None:
        words = tmp_path / "words"
        shelf = Shelf(away=0, status=413)
        async with served(shelf.app()) as url:
            (tmp_path / "store").write_text(url)
            around = Surroundings(control="secret", store=tmp_path / "store", termination=words)
            experiment = manifest.from_object(study(edge={"metricsPort": 0}))
            with pytest.raises(SplittracrError, match="it answers 413"):
                await edge.study(
                    experiment, build, tmp_path, tmp_path, None, asyncio.Event(), around
                )
        last = from_message(words.read_text())
        assert last is not None
        assert (last.phase, last.exit_code, last.results) == (Phase.FAILED, 1, None)

    monkeypatch.setattr(edge, "_study", measured)
    asyncio.run(scenario())
