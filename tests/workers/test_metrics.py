"""What Prometheus sees of real workers: while they run, under faults, and of whole studies."""

import asyncio
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.edge.dial import Endpoint
from splittracr.edge.link import Link
from splittracr.edge.study import StudyRunner
from splittracr.experiment.metrics import of
from splittracr.experiment.spec import ExperimentSpec
from splittracr.measure.metrics import EdgeMetrics
from splittracr.planning.decision import Scheduled
from splittracr.planning.emulated_link import Conditions, constant
from splittracr.planning.schedule import order, trials
from splittracr.server.worker import Server
from splittracr.splitting.tape import Op
from splittracr.wire.messages import SESSION_PATH, Hello
from tests.cli.processes import environment, manifest
from tests.scrape import (
    OPENMETRICS,
    Scrape,
    complaints,
    exposed_names,
    parsed,
    parsed_openmetrics,
    scraped,
)
from tests.workers.pair import Tensors, opened, proven, serving, spec, within
from tests.workers.wire_cutter import wire_cutter

# ------------------------------------------------------------------------------------ whole studies


async def first(process: asyncio.subprocess.Process, event: str) -> dict[str, Any]:
    """The first event of this name that a worker tells."""
    assert process.stdout is not None
    async for line in process.stdout:
        found: dict[str, Any] = json.loads(line)
        if found["event"] == event:
            return found
    raise AssertionError(f"the worker ended before its event {event}")


async def run_study(file: Path) -> dict[str, dict[str, str]]:
    """Run a study with real processes; what each worker exposes when all samples are recorded, by
    role and format.
    """
    brought, seen = asyncio.Event(), asyncio.Event()
    started: list[asyncio.subprocess.Process] = []

    async def keep(request: web.Request) -> web.Response:
        await request.read()
        brought.set()
        await seen.wait()
        return web.Response()

    async def worker(*arguments: str, **extra: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "splittracr", *arguments),
            env=environment(SPLITTRACR_TOKEN="secret", **extra),
            stdout=asyncio.subprocess.PIPE,
        )
        started.append(process)
        return process

    app = web.Application(client_max_size=2**30)
    app.router.add_put("/edge-7", keep)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    store = file.parent / "results-store"
    store.write_text(f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        server = await worker("server", str(file))
        urls = {"server": (await first(server, "metrics"))["url"]}
        url = (await first(server, "serving"))["url"]
        out = str(file.parent / "out")
        edge = await worker(
            *("edge", str(file), "--server", url, "--name", "edge-7", "--out", out),
            SPLITTRACR_STORE=str(store),
        )
        urls["edge"] = (await first(edge, "metrics"))["url"]
        await brought.wait()
        texts = {role: await both_formats(url) for role, url in urls.items()}
        seen.set()
        assert await edge.wait() == 0
    finally:
        for process in started:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        await runner.cleanup()
    return texts


async def both_formats(url: str) -> dict[str, str]:
    texts = {}
    async with aiohttp.ClientSession() as client:
        for accept in ("*/*", OPENMETRICS):
            async with client.get(url, headers={"Accept": accept}) as answer:
                texts[answer.content_type] = await answer.text()
    return texts


Exposed = Mapping[str, Mapping[str, Mapping[str, str]]]
"""What the workers of studies exposed, by study, role and format."""

MACHINE = {
    "splittracr_energy_joules",
    "splittracr_power_watts",
    "splittracr_utilization_ratio",
    "splittracr_temperature_celsius",
    "splittracr_clock_hertz",
}
"""Metrics that depend on the sensors of this machine, or on a study of more than a second."""

PLAIN = {"security": "Plain"}
NEVER_SURE = {
    "model": {"name": "mobilenet_v3_small", "weights": "none", "inputSize": [64, 64]},
    "statistic": "Margin",
    "thresholdPerMillion": 1_000_001,
    "maxDisagreementPerMillion": 50_000,
}
STUDIES: Mapping[str, Mapping[str, object]] = {
    "adaptive": {"partition": {"mode": "Adaptive"}, "transport": PLAIN},
    "lossy": {
        "partition": {"mode": "Cascade", "cut": 3, "cascade": NEVER_SURE},
        "transport": {**PLAIN, "codec": "uint8"},
    },
}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Exposed:
    found = {}
    for name, sections in STUDIES.items():
        folder = tmp_path_factory.mktemp(name)
        cpu = {"device": "cpu"}
        common = {"workload": {"samples": 12}, "edge": cpu, "server": cpu}
        file = manifest(folder, {**sections, **common}, name)
        found[name] = asyncio.run(asyncio.wait_for(run_study(file), 110))
    return found


def test_each_metric_of_the_table_is_exposed_and_no_other(studies: Exposed) -> None:
    for role in ("edge", "server"):
        names = set()
        for study in studies.values():
            seen = parsed(study[role]["text/plain"])
            names |= {name for name in seen.names if not name.startswith("process_")}
        assert {"process_cpu_seconds_total", "process_resident_memory_bytes"} <= seen.names
        known = {metric.name: exposed_names(metric) for metric in of(role)}
        assert names <= set().union(*known.values())
        missing = {metric for metric, exposed in known.items() if not exposed & names}
        assert missing - MACHINE == {
            "splittracr_device_memory_bytes",
            "splittracr_gpu_memory_bytes",
        }


def test_what_may_be_absent_says_so(studies: Exposed) -> None:
    for role in ("edge", "server"):
        for study in studies.values():
            seen = parsed(study[role]["text/plain"]).names
            for metric in of(role):
                assert metric.absent or exposed_names(metric) <= seen, metric.name


def test_openmetrics_shows_the_same(studies: Exposed) -> None:
    for study in studies.values():
        for texts in study.values():
            text = texts["application/openmetrics-text"]
            newer = parsed_openmetrics(text)
            assert newer.names == parsed(texts["text/plain"]).names
            assert "# UNIT splittracr_stage_seconds seconds\n" in text


def test_promtool_has_no_complaints(studies: Exposed) -> None:
    for study in studies.values():
        for texts in study.values():
            assert complaints(texts["text/plain"]) == ""


def test_figures_of_a_whole_study(studies: Exposed) -> None:
    edge = parsed(studies["lossy"]["edge"]["text/plain"])
    server = parsed(studies["lossy"]["server"]["text/plain"])
    common = {"study_namespace": "default", "study": "lossy"}
    for seen, whose in ((edge, {"role": "edge", "edge": "edge-7"}), (server, {"role": "server"})):
        for sample in seen.samples:
            assert {**common, **whose}.items() <= sample.labels.items()
    assert edge.of("splittracr_samples_total", "outcome") == {("ok",): 12, ("failed",): 0}
    assert edge.one("splittracr_samples_expected") == 12
    assert edge.one("splittracr_frame_latency_seconds_count", source="server") == 12
    assert edge.one("splittracr_link_sessions") == 0  # all is measured
    assert server.of("splittracr_server_requests_total", "outcome") == {
        ("ok",): 13,  # one frame warms up
        ("failed",): 0,
        ("cancelled",): 0,
    }
    assert edge.of("splittracr_model_info", "model", "graph", "weights") == server.of(
        "splittracr_model_info", "model", "graph", "weights"
    )
    encoded = edge.one("splittracr_payload_bytes_total", state="encoded")
    assert edge.one("splittracr_payload_bytes_total", state="raw") > 3 * encoded
    assert 0 <= edge.one("splittracr_agreement_ratio", codec="uint8") <= 1
    tail = server.one("splittracr_stage_seconds_sum", stage="tail")
    assert tail < server.one("splittracr_server_busy_seconds_total")
    assert edge.one("splittracr_stage_seconds_count", stage="tail") == 0


# ------------------------------------------------------------------------------------------- a pair


@contextmanager
def gate(far: ProvenNetwork) -> Iterator[tuple[threading.Semaphore, threading.Event]]:
    """Hold each tail of a network until the event is set; the semaphore counts those that began."""
    began, opened = threading.Semaphore(0), threading.Event()

    def held(op: Op) -> Op:
        def run(registers: list[object]) -> None:
            began.release()
            assert opened.wait(60)
            op.run(registers)

        return Op(op.name, op.target, op.source, run)

    far.tape.ops = (*far.tape.ops[:-1], held(far.tape.ops[-1]))
    try:
        yield began, opened
    finally:
        opened.set()


class Pair:
    """An edge that runs frames at one cut against a server, with the metrics of both."""

    def __init__(self, server: Server, link: Link, of: ExperimentSpec, edge: ProvenNetwork) -> None:
        self._server, self.link = server, link
        self._metrics = EdgeMetrics()
        chooser = Scheduled(of, edge.network.pictures)
        self.worker = StudyRunner(edge, of, Tensors(), link, self._metrics, chooser)

    @property
    def edge(self) -> Scrape:
        return scraped(self._metrics.exposition)

    @property
    def server(self) -> Scrape:
        return scraped(self._server.metrics.exposition)

    async def run(self, frames: int, cut: int = 2) -> None:
        steps = order(trials([cut], 1), frames, 0)
        async for frame in self.worker.run(steps, frames, asyncio.Event()):
            assert not frame.result.failures


async def pair(stack: AsyncExitStack, of: ExperimentSpec, far: ProvenNetwork) -> Pair:
    server, edge = Server(far, of, None), proven(of)
    url, _ = await stack.enter_async_context(serving(server))
    link = await stack.enter_async_context(opened(url, edge, of))
    made = Pair(server, link, of, edge)
    stack.callback(made.worker.close)
    return made


def test_both_ends_count_the_same_bytes_and_their_own_stages() -> None:
    async def body() -> None:
        of = spec()
        far = proven(of)
        async with AsyncExitStack() as stack:
            two = await pair(stack, of, far)
            assert two.edge.of("splittracr_frame_latency_seconds_count", "source") == {
                (source,): 0 for source in ("server", "edge", "deadline", "hedge", "server-lost")
            }
            await two.run(5)
            await two.run(2, far.proof.last)
            edge, server = two.edge, two.server
        traffic = edge.of("splittracr_link_bytes_total", "direction")
        assert traffic == server.of("splittracr_link_bytes_total", "direction")
        assert traffic["up",] > traffic["down",] > 0
        assert edge.one("splittracr_link_sessions") == server.one("splittracr_link_sessions") == 1
        assert two.edge.one("splittracr_link_sessions") == 0
        assert two.server.one("splittracr_link_sessions") == 0
        assert edge.one("splittracr_frame_latency_seconds_count", source="edge") == 2
        assert edge.one("splittracr_frame_latency_seconds_count", source="server") == 5
        assert edge.one("splittracr_stage_seconds_count", stage="head") == 7
        assert edge.one("splittracr_stage_seconds_count", stage="reduce") == 2
        assert server.one("splittracr_stage_seconds_count", stage="reduce") == 5
        assert server.one("splittracr_server_queue_wait_seconds_count") == 5
        assert server.one("splittracr_server_batch_size_sum") == 5
        assert server.one("splittracr_operations_total") == 5 * (far.proof.last - 2)
        assert edge.one("splittracr_operations_total") == 5 * 2 + 2 * far.proof.last

    within(body())


def test_a_scrape_in_the_middle_of_a_tail() -> None:
    async def body() -> None:
        of = spec(workload={"arrival": {"mode": "Closed", "inFlight": 2}})
        far = proven(of)
        async with AsyncExitStack() as stack:
            began, go_on = stack.enter_context(gate(far))
            two = await pair(stack, of, far)
            running = asyncio.create_task(two.run(2))
            assert await asyncio.to_thread(began.acquire, timeout=100)
            while two.server.one("splittracr_requests_in_flight") < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            server = two.server
            assert server.one("splittracr_server_queue_length") == 1
            assert server.one("splittracr_server_edges_max") == of.server.max_edges
            assert two.edge.one("splittracr_requests_in_flight") == 2
            assert server.of("splittracr_server_requests_total", "outcome")["ok",] == 0
            busy = server.one("splittracr_server_busy_seconds_total")
            assert two.server.one("splittracr_server_busy_seconds_total") > busy > 0
            go_on.set()
            await running
            assert two.edge.one("splittracr_requests_in_flight") == 0
            assert two.server.one("splittracr_server_queue_length") == 0

    within(body())


def test_lost_sessions_and_what_is_sent_again() -> None:
    async def body() -> None:
        of = spec()
        far = proven(of)
        async with AsyncExitStack() as stack:
            began, go_on = stack.enter_context(gate(far))
            server, edge = Server(far, of, None), proven(of)
            _, runner = await stack.enter_async_context(serving(server))
            cutter = await stack.enter_async_context(wire_cutter(runner.addresses[0][1]))
            url = f"ws://127.0.0.1:{cutter.port}{SESSION_PATH}"
            link = await stack.enter_async_context(opened(url, edge, of))
            two = Pair(server, link, of, edge)
            stack.callback(two.worker.close)
            running = asyncio.create_task(two.run(1))
            assert await asyncio.to_thread(began.acquire, timeout=100)
            cutter.reset()
            while not link.reconnects:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            go_on.set()
            await running
            seen = two.edge
            assert seen.one("splittracr_link_sessions_lost_total") == 1
            assert seen.one("splittracr_link_reconnects_total") == 1
            assert seen.one("splittracr_requests_resent_total") == 1

    within(body())


@pytest.mark.parametrize("kind", ["hedge", "deadline"])
def test_frames_that_the_edge_finishes_itself(kind: str) -> None:
    async def body() -> None:
        early = {"hedge": "hedgeDelayMilliseconds", "deadline": "deadlineMilliseconds"}[kind]
        of = spec(partition={"mode": "Sweep", early: 1})
        far = proven(of)
        async with AsyncExitStack() as stack:
            began, go_on = stack.enter_context(gate(far))
            two = await pair(stack, of, far)
            await two.run(2)
            if kind == "deadline":  # it counts from the hand-over: the server has both requests
                assert await asyncio.to_thread(began.acquire, timeout=100)
                while not two.server.one("splittracr_server_requests_total", outcome="cancelled"):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            go_on.set()
            seen = two.edge
        assert seen.one("splittracr_frame_latency_seconds_count", source=kind) == 2
        assert seen.one("splittracr_stage_seconds_count", stage="tail") == 2
        assert seen.one("splittracr_deadline_misses_total") == (2 if kind == "deadline" else 0)
        won = 2 if kind == "hedge" else 0
        assert seen.of("splittracr_hedges_total", "outcome") == {("won",): won, ("lost",): 0}

    within(body())


def test_the_links_speed_is_estimated_in_every_mode() -> None:
    async def body() -> None:
        of, megabit, milliseconds = spec(), 10**6, 10**6
        up = Conditions(constant(20 * megabit, 30 * milliseconds))
        down = Conditions(constant(80 * megabit, 30 * milliseconds))
        server, edge = Server(proven(of), of, None, down), proven(of)
        hello = Hello(uid="u", edge="edge-0", identity=edge.identity)
        async with (
            serving(server) as (url, _),
            Link.open(
                Endpoint(url, uplink=up), hello, of.transport, of.partition.server_loss
            ) as link,
        ):
            two = Pair(server, link, of, edge)
            assert not two.edge.of("splittracr_link_goodput_bytes_per_second", "direction")
            assert "splittracr_link_round_trip_seconds" not in two.edge.names
            await two.run(3)
            while (shortest := two.edge.one("splittracr_link_round_trip_seconds")) >= 0.05:
                await two.run(1)  # others on the machine may have slowed the first frames
            assert shortest >= 0.03
            expected = {("up",): pytest.approx(20 * megabit / 8, rel=0.2)}
            goodput: dict[tuple[str, ...], float] = {}
            while goodput != expected:
                await link.learn(200_000)
                goodput = two.edge.of("splittracr_link_goodput_bytes_per_second", "direction")
            two.worker.close()

    within(body())
