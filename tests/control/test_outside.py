"""Edges outside of the cluster: joining, reports, settings and results over real TLS."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from splittracr.edge import handover, joining
from splittracr.edge.joining import Joined
from splittracr.edge.reporting import Reporter, Surroundings
from splittracr.edge.sending import Ended, Sender, sending
from splittracr.experiment import manifest
from splittracr.experiment.contracts import ExitCode, Role
from splittracr.experiment.errors import (
    AllFailed,
    CutRefused,
    HandshakeRefused,
    SplittracrError,
)
from splittracr.experiment.joining import Invitation, Report, TokenReply, TokenRequest
from splittracr.experiment.report import Phase, WorkerReport
from splittracr_operator import client, results_server
from splittracr_operator.cluster import Cluster
from splittracr_operator.join_routes import JoinRoutes, secret_for
from splittracr_operator.readers import Readers
from splittracr_operator.results_server import ResultsServer
from splittracr_operator.routes import Routes
from tests.control.gateway import Gateway, user
from tests.control.studies import SETTINGS, UID, pod, settings
from tests.control.world import KEYS, World, in_event_loop

REACHED = {"service": {"type": "NodePort", "host": "192.0.2.7"}}
ONE: dict[str, Any] = {"edge": {"replicas": 0, "outside": 1}, "server": REACHED}
NODE_PORT = 30123


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_server, "HOST", "127.0.0.1")


@dataclass
class Operator:
    """A world with the operator's results port, and a user who may let edges join."""

    world: World
    gateway: Gateway
    cluster: Cluster

    async def token(self, edge: str | None = None, seconds: int = 3600) -> TokenReply:
        body = dict(self.world.cache.study(UID) or {})
        wish = TokenRequest(edge=edge, seconds=seconds)
        return await client.fetch_token(self.cluster, body, wish)

    def invitation(self, token: str) -> Invitation:
        return Invitation.parse(f"wss://localhost:{self.gateway.port}#{token}")

    async def join(self, token: str, folder: Path) -> Joined:
        return await asyncio.to_thread(joining.join, self.invitation(token), folder)


@contextlib.asynccontextmanager
async def operator(
    folder: Path, node_port: int = NODE_PORT, **spec: Any
) -> AsyncIterator[Operator]:
    """An operator with a study, whose server is ready."""
    world, gateway, app = World(folder), Gateway(), web.Application()
    gateway.users = {"ada": user("ada"), "eve": user("eve")}
    gateway.rights = {("ada", "lab")}
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        gateway.port = found.getsockname()[1]
    await world.apply(**{**ONE, **spec})
    await serve(world, node_port)
    async with gateway.open() as own, gateway.open("ada") as users:
        chosen = settings(results_port=gateway.port, join_address="tower.example:30443")
        Routes(world.store, KEYS).add_for_edges(app)
        readers = Readers(own)
        JoinRoutes(chosen, KEYS, world.cache, world.outside, readers, lambda: True).add(app)
        async with ResultsServer.open(chosen, own, KEYS.store_authority(), app):
            yield Operator(world, gateway, users)


async def serve(world: World, node_port: int) -> None:
    """Run the server's pod, and give its Service a port as the API server does."""
    service = world.api.objects.get(("Service", "alexnet-server"))
    if service is not None:
        service["spec"]["ports"][0]["nodePort"] = node_port
        world.cache.put("Service", world.api.versioned(service))
        world.put_pod(pod("server"))
    await world.reconcile()


def reporter_of(joined: Joined) -> Reporter:
    """The reporter of the edge's process."""
    around = Surroundings.read(joined.edge, joined.environment(), resume=True)
    return Reporter(around, joining.study(joined).spec)


@contextlib.asynccontextmanager
async def sender_of(joined: Joined, reporter: Reporter) -> AsyncIterator[Sender]:
    headers = {"Authorization": f"Bearer {joined.token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        yield Sender(reporter, UID, session)


def ready(world: World) -> tuple[str, str]:
    """State, and reason of the condition Ready."""
    return world.status()["state"], world.condition("Ready")["reason"]


@in_event_loop
async def test_an_edge_joins_by_the_token_of_a_user(tmp_path: Path) -> None:
    async with operator(tmp_path / "store") as here:
        assert ready(here.world) == ("Waiting", "EdgeNotJoined")
        message = here.world.condition("Ready")["message"]
        assert "`splittracr join-token alexnet -n lab --edge edge-0`" in message
        assert here.world.api.kinds() == {
            "ConfigMap",
            "Secret",
            "NetworkPolicy",
            "Service",
            "Deployment",
        }
        reply = await here.token()
        assert (reply.edge, reply.address) == ("edge-0", "tower.example:30443")
        asked = here.gateway.asked[-1]["spec"]["resourceAttributes"]
        assert (asked["verb"], asked["subresource"]) == ("create", "join")
        joined = await here.join(reply.token, tmp_path / "edge")
        assert joined.edge == "edge-0"
        assert joined.session_url == f"wss://192.0.2.7:{NODE_PORT}/v1/session"
        study = manifest.parse((tmp_path / "edge" / "study.yaml").read_text())
        assert (study.metadata.name, study.metadata.uid) == ("alexnet", UID)
        assert await here.join(reply.token, tmp_path / "edge") == joined
        await here.world.reconcile()
        (worker,) = [w for w in here.world.status()["workers"] if w["role"] == "edge"]
        assert (worker["name"], worker["outside"], worker["ready"]) == ("edge-0", True, False)
        assert here.world.status()["placement"] == "outside -> gpu-1"
        with pytest.raises(SplittracrError, match="all edges have joined; --edge names one"):
            await here.token()


@in_event_loop
async def test_a_token_lets_one_edge_join_while_it_lasts(tmp_path: Path) -> None:
    async with operator(tmp_path / "store") as here:
        token = (await here.token()).token
        digest, _, secret = token.partition(".")
        past = datetime.now(UTC) - timedelta(seconds=1)
        other = UID.replace("6", "7")
        later = datetime.now(UTC) + timedelta(hours=1)
        for wrong, cause in (
            (f"{digest}.{'A' * 51}", "the token is not one of this operator"),
            (f"{digest}.{secret[:-1]}{'A' if secret[-1] != 'A' else 'Q'}", "not one of this"),
            (f"{digest}.{secret_for(KEYS, UID, 'edge-0', past)}", "the token expired at "),
            (f"{digest}.{secret_for(KEYS, UID, 'edge-1', later)}", "edge-1 is no edge outside"),
            (f"{digest}.{secret_for(KEYS, other, 'edge-0', later)}", "the study was deleted"),
        ):
            with pytest.raises(HandshakeRefused, match=cause):
                await here.join(wrong, tmp_path / "thief")
        await here.join(token, tmp_path / "edge")
        here.world.start_operator(SETTINGS)  # the use of a token survives it
        assert here.world.outside.passes(UID).joined == {"edge-0"}
        with pytest.raises(HandshakeRefused, match="the token was used already, by edge-0"):
            await here.join(token, tmp_path / "thief")
        # Another machine takes the edge over with a token of its own.
        again = await here.token("edge-0", seconds=1800)
        assert (await here.join(again.token, tmp_path / "other")).edge == "edge-0"


@in_event_loop
async def test_only_users_with_the_right_get_a_token(tmp_path: Path) -> None:
    async with operator(tmp_path / "store") as here:
        here.gateway.rights = set()
        refusal = 'user "ada" may not create splitexperiments/join "alexnet" in namespace "lab"'
        with pytest.raises(SplittracrError, match=refusal):
            await here.token()
        here.gateway.rights = {("ada", "lab")}


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        ({"server": {}}, "spec.server.service.type is ClusterIP, expected NodePort"),
        ({"transport": {"security": "Plain"}}, "spec.transport.security is Plain, expected TLS"),
        ({"partition": {"mode": "EdgeOnly"}}, "spec.partition.mode is EdgeOnly, expected a mode"),
        ({"results": {"claim": "kept"}}, "spec.results.claim is given, expected none"),
    ],
)
def test_a_study_that_no_edge_can_join_is_stalled(
    tmp_path: Path, spec: Mapping[str, Any], cause: str
) -> None:
    @in_event_loop
    async def scenario() -> None:
        async with operator(tmp_path / "store", **spec) as here:
            assert ready(here.world) == ("Stalled", "EdgesCannotJoin")
            assert cause in here.world.condition("Ready")["message"]
            with pytest.raises(SplittracrError, match=cause):
                await here.token()

    scenario()


@in_event_loop
async def test_reports_reach_the_status_and_settings_the_edge(tmp_path: Path) -> None:
    async with operator(tmp_path / "store") as here:
        joined = await here.join((await here.token()).token, tmp_path / "edge")
        reporter = reporter_of(joined)
        async with sender_of(joined, reporter) as sender:
            await sender.send()
            await here.world.reconcile()
            assert here.world.status()["state"] == "Starting"
            reporter.running(9, [])
            await sender.send(fresh=True)
            await here.world.reconcile()
            assert ready(here.world) == ("Running", "Measuring")
            assert here.world.status()["progress"]["summary"] == "0/9"
            (worker,) = [w for w in here.world.status()["workers"] if w["role"] == "edge"]
            assert worker["ready"] is True

            await here.world.apply(2, **ONE, partition={"cut": 7})
            assert here.world.configured_cut() == 5  # until the edge has answered
            await sender.send(fresh=True)
            assert reporter.settings.current.partition.cut == 7
            await sender.send(fresh=True)
            await here.world.reconcile()
            assert here.world.configured_cut() == 7
            assert here.world.api.reasons().count("SettingsChanged") == 1

            def refuse(cut: object) -> Any:
                raise CutRefused(f"no cut {cut}")

            reporter.settings.check_with(lambda cut: refuse(cut) if cut == 99 else cut)  # type: ignore[return-value, arg-type]
            await here.world.apply(3, **ONE, partition={"cut": 99})
            await sender.send(fresh=True)
            await sender.send(fresh=True)
            await here.world.reconcile()
            assert here.world.condition("Degraded")["reason"] == "SettingsRefused"
            assert "at edge-0: no cut 99" in here.world.condition("Degraded")["message"]
            assert here.world.configured_cut() == 7


@in_event_loop
async def test_a_study_completes_with_the_results_of_its_edges_outside(tmp_path: Path) -> None:
    async with operator(tmp_path / "store") as here:
        joined = await here.join((await here.token()).token, tmp_path / "edge")
        reporter = reporter_of(joined)
        reporter.running(9, [])
        async with sending(reporter, UID, asyncio.Event()) as sender:
            assert sender is not None
            reporter.ended(None)
            await sender.send_last(stopped=False)
        await here.world.reconcile()
        assert ready(here.world) == ("Waiting", "ResultsMissing")
        here.world.start_operator(SETTINGS)  # which remembers the last report
        results = tmp_path / "results"
        results.mkdir()
        (results / "records.jsonl").write_text("")
        url = joined.results_url(UID)
        with pytest.raises(SplittracrError, match="it answers 401"):
            await handover.bring(results, lambda: url, "wrong", 10, joined.tls)
        other = url.replace("edge-0", "edge-1")
        with pytest.raises(SplittracrError, match="it answers 401"):
            await handover.bring(results, lambda: other, joined.token, 10, joined.tls)
        await handover.bring(results, lambda: url, joined.token, 10, joined.tls)
        await here.world.reconcile()
        assert here.world.status()["state"] == "Succeeded"
        assert here.world.status()["results"]["edges"] == ["edge-0"]
        async with sender_of(joined, reporter) as late:
            with pytest.raises(Ended, match="the study has ended"):
                await late.send()
        with pytest.raises(HandshakeRefused, match="the study has ended"):
            await here.join(f"{joined.invitation.token}", tmp_path / "late")


@in_event_loop
async def test_a_study_that_has_ended_stops_its_edges(tmp_path: Path) -> None:
    async with operator(tmp_path / "store", edge={"replicas": 0, "outside": 2}) as here:
        first = await here.join((await here.token()).token, tmp_path / "first")
        second = await here.join((await here.token()).token, tmp_path / "second")
        assert (first.edge, second.edge) == ("edge-0", "edge-1")
        failing = reporter_of(first)
        failing.running(9, [])
        failing.ended(AllFailed("every sample failed: no such picture"))
        async with sender_of(first, failing) as sender:
            await sender.send(fresh=True)
        await here.world.reconcile()
        condition = here.world.condition("Succeeded")
        assert (condition["status"], condition["reason"]) == ("False", "AllSamplesFailed")
        stop = asyncio.Event()
        async with sending(reporter_of(second), UID, stop, seconds=0.01) as told:
            await asyncio.wait_for(stop.wait(), 30)
            assert told is not None
            assert "the study has ended: Failed: every sample failed" in str(told.ended)


def report(here: Operator, **more: Any) -> None:
    """A report of edge-0, as the operator takes it."""
    given = {"phase": Phase.RUNNING, "done": 3, "total": 9, **more}
    made = WorkerReport(role=Role.EDGE, edge="edge-0", generation=1, **given)
    here.world.outside.hear(UID, "edge-0", Report(report=made))


@in_event_loop
async def test_an_edge_that_stops_reporting_is_named(tmp_path: Path) -> None:
    async with operator(tmp_path / "store") as here:
        world = here.world
        await here.join((await here.token()).token, tmp_path / "edge")
        world.now = datetime(2026, 3, 1, 12, tzinfo=UTC)
        report(here)
        await world.reconcile()
        assert ready(world) == ("Running", "Measuring")
        world.now += timedelta(seconds=29)
        await world.reconcile()
        assert ready(world) == ("Running", "Measuring")
        world.start_operator(SETTINGS)  # the count starts again
        await world.reconcile()
        assert ready(world) == ("Running", "Measuring")
        world.now += timedelta(seconds=30)
        await world.reconcile()
        assert ready(world) == ("Waiting", "EdgeUnreachable")
        report(here, phase=Phase.FAILED, error="no picture", exit_code=ExitCode.INVALID_INPUT)
        await world.reconcile()
        assert ready(world) == ("Waiting", "EdgeStopped")
        message = world.condition("Ready")["message"]
        assert message == (
            "edge-0, outside of the cluster, ended: no picture. Its command starts it again."
        )
        assert len(list(tmp_path.glob("store/*/*.report.json"))) == 1
        report(here, done=4)
        await world.reconcile()
        assert ready(world) == ("Running", "Measuring")
        assert list(tmp_path.glob("store/*/*.report.json")) == []
        await world.apply(**ONE, activeDeadlineSeconds=60)
        report(here, first_record_at=world.now.timestamp() - 61)
        await world.reconcile()
        assert world.condition("Stalled")["reason"] == "ActiveDeadlineExceeded"


def bad_reports() -> Iterator[tuple[str, bytes, int]]:
    good = b'{"report": {"role": "edge", "edge": "edge-0"}}'
    token = KEYS.edge(UID, "edge-0")
    yield KEYS.edge(UID, "edge-1"), good, 401
    yield KEYS.control(UID), good, 401
    yield token, good.replace(b"edge-0", b"edge-1"), 400
    yield token, b'{"report": 1}', 400
    yield token, b"x" * 2**19, 413
    yield token, good, 200


@in_event_loop
async def test_reports_of_others_are_refused(tmp_path: Path) -> None:
    async with operator(tmp_path / "store") as here, aiohttp.ClientSession() as session:
        joined = await here.join((await here.token()).token, tmp_path / "edge")
        url = f"https://localhost:{here.gateway.port}/v1/reports/{UID}/edge-0"
        for token, content, status in bad_reports():
            headers = {"Authorization": f"Bearer {token}"}
            async with session.put(url, data=content, headers=headers, ssl=joined.tls()) as answer:
                assert answer.status == status, await answer.text()
