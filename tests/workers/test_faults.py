"""Faults of network and server: every frame once, and with the result of an undisturbed run."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from splittracr.backends.torch.examples import example_batch
from splittracr.edge.dial import Endpoint, connected
from splittracr.edge.recording import Finished
from splittracr.experiment.errors import HandshakeRefused, ServerLost, Stopped
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Place
from splittracr.planning.schedule import order, trials
from splittracr.server.worker import Server
from splittracr.splitting.live import pack
from splittracr.transport.channel import ByteCounter
from splittracr.wire import codec
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.messages import (
    SESSION_PATH,
    Cancel,
    Failure,
    Hello,
    Probe,
    Reply,
    Request,
    encode,
)
from tests.workers.pair import (
    Tensors,
    count_operations,
    edge_worker,
    instead_of_last,
    opened,
    proven,
    run_frames,
    serving,
    spec,
    within,
)
from tests.workers.wire_cutter import wire_cutter

CUTS = (0, 2, 5)


def url_at(port: int) -> str:
    return f"ws://127.0.0.1:{port}{SESSION_PATH}"


def port_of(runner: web.AppRunner) -> int:
    port: int = runner.addresses[0][1]
    return port


def digests(frames: Sequence[Finished]) -> dict[tuple[int, int], str | None]:
    """The output of every frame by its cut and number; fails where one is there twice."""
    counted = Counter((f.result.cut.index, f.step.frame) for f in frames)
    assert set(counted.values()) == {1}
    assert not any(f.result.failures for f in frames)
    return {(f.result.cut.index, f.step.frame): f.result.digest for f in frames}


def raw(**parts: Any) -> ExperimentSpec:
    return spec(results={"outputs": "Raw"}, **parts)


async def undisturbed(of: ExperimentSpec, frames: int) -> dict[tuple[int, int], str | None]:
    async with serving(Server(proven(of), of, None)) as (url, _):
        return digests((await run_frames(url, proven(of), of, CUTS, frames)).frames)


def test_connections_that_break_at_any_moment_lose_and_double_nothing() -> None:
    async def body() -> None:
        of = raw(workload={"arrival": {"mode": "Closed", "inFlight": 4}})
        expected = await undisturbed(of, 60)
        server = Server(proven(of), of, None)
        async with serving(server) as (_, runner), wire_cutter(port_of(runner)) as cutter:
            done = 0

            def count(_: Finished) -> None:
                nonlocal done
                done += 1
                if done % 17 == 0:
                    cutter.reset()

            result = await run_frames(url_at(cutter.port), proven(of), of, CUTS, 60, on_frame=count)
            assert cutter.connections >= 2 * 10, "each session has two"
        assert digests(result.frames) == expected
        assert all(f.result.finished_on is Place.SERVER for f in result.frames)

    within(body())


def test_a_server_that_is_replaced_by_another_process_is_found_again() -> None:
    async def body() -> None:
        of = raw()
        expected = await undisturbed(of, 20)
        async with wire_cutter(0) as cutter:
            frames: list[Finished] = []

            async def run() -> None:
                found = await run_frames(
                    url_at(cutter.port), proven(of), of, CUTS, 20, on_frame=frames.append
                )
                assert digests(found.frames) == expected

            running = asyncio.create_task(run())
            for part in (20, 40, 60):
                async with serving(Server(proven(of), of, None)) as (_, runner):
                    cutter.target = port_of(runner)
                    while len(frames) < part and not running.done():  # noqa: ASYNC110
                        await asyncio.sleep(0)
                cutter.reset()
            await running

    within(body())


def test_a_stalled_link_is_survived_by_the_deadline() -> None:
    async def body() -> None:
        of = raw(partition={"mode": "Sweep", "deadlineMilliseconds": 50})
        expected = await undisturbed(of, 10)
        server = Server(proven(of), of, None)
        async with serving(server) as (_, runner), wire_cutter(port_of(runner)) as cutter:

            def stall(frame: Finished) -> None:
                if frame.step.frame == 3:
                    cutter.flowing.clear()

            result = await run_frames(url_at(cutter.port), proven(of), of, CUTS, 10, on_frame=stall)
        assert digests(result.frames) == expected
        fallen = [f for f in result.frames if f.result.fallback == "deadline"]
        assert fallen
        assert all(f.result.finished_on is Place.EDGE and f.result.total_ms >= 50 for f in fallen)
        records = [r for f in fallen for r in result.worker.records(f, "u", "e")]
        assert {r.fallback for r in records} == {"deadline"}

    within(body())


def _with_20_ms_of_cpu_time(operation: Callable[[], None]) -> None:
    end = time.thread_time() + 0.02
    operation()
    while time.thread_time() < end:
        pass


def test_a_hedge_takes_the_first_answer() -> None:
    async def body() -> None:
        of = raw(partition={"mode": "Sweep", "hedgeDelayMilliseconds": 0})
        expected = await undisturbed(of, 10)
        server = Server(proven(of), of, None)
        async with serving(server) as (_, runner), wire_cutter(port_of(runner)) as cutter:
            hedged = await run_frames(url_at(cutter.port), proven(of), of, CUTS, 10)
            assert digests(hedged.frames) == expected
            slow = raw(
                partition={"mode": "Sweep", "hedgeDelayMilliseconds": 0},
                edge={"slowdownPercent": 30_000},
            )
            edge = proven(slow)
            instead_of_last(edge, _with_20_ms_of_cpu_time)  # 6 s, in the tail of every cut
            outrun = await run_frames(url_at(cutter.port), edge, slow, CUTS, 3)
            assert {f.result.finished_on for f in outrun.frames} == {Place.SERVER}
            assert all(f.result.fallback is None for f in outrun.frames)

    within(body())


def test_a_hedged_frame_does_not_wait_for_its_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    finished, real, waited = threading.Event(), codec.encode, list[bool]()

    def held(*arguments: Any) -> EncodedPayload:
        waited.append(finished.wait(10))
        return real(*arguments)

    async def body() -> None:
        of = raw(partition={"mode": "Sweep", "hedgeDelayMilliseconds": 0})
        expected, edge = await undisturbed(raw(), 1), proven(of)
        async with serving(Server(proven(of), of, None)) as (url, _):
            monkeypatch.setattr(codec, "encode", held)
            done = await run_frames(url, edge, of, [2], 1, on_frame=lambda _: finished.set())
        (frame,) = done.frames
        assert frame.result.digest == expected[2, 0]
        assert (frame.result.fallback, frame.result.finished_on) == ("hedge", Place.EDGE)
        assert False not in waited
        assert sum(frame.result.stages.values()) == pytest.approx(frame.result.total_ms)

    within(body())


def test_an_edge_that_may_finish_alone_does_so_while_there_is_no_server() -> None:
    async def body() -> None:
        partition = {"mode": "Sweep", "onServerLoss": "FinishOnEdge"}
        of = raw(partition=partition, transport={"connectTimeoutSeconds": 1})
        expected = await undisturbed(raw(), 4)
        async with wire_cutter(1) as nobody:
            alone = await run_frames(url_at(nobody.port), proven(of), of, CUTS, 4)
        assert digests(alone.frames) == expected
        assert {f.result.fallback for f in alone.frames} == {"server-lost"}

    within(body())


def test_another_network_in_the_servers_place_is_refused_by_what_differs() -> None:
    async def body() -> None:
        of = raw(transport={"connectTimeoutSeconds": 1})
        right, wrong = (Server(proven(of, seed=seed), of, None) for seed in (0, 1))
        async with (
            serving(right) as (_, runner),
            serving(wrong) as (_, other),
            wire_cutter(port_of(runner)) as cutter,
        ):

            def swap(frame: Finished) -> None:
                if frame.step.frame == 2:
                    cutter.target = port_of(other)
                    cutter.reset()

            with pytest.raises(HandshakeRefused, match="differ in weights"):
                await run_frames(url_at(cutter.port), proven(of), of, [2], 1000, on_frame=swap)

    within(body())


def test_a_full_server_says_so_and_serves_the_next_when_there_is_room() -> None:
    async def body() -> None:
        of = raw(server={"maxEdges": 1}, transport={"connectTimeoutSeconds": 1})
        edge = proven(of)
        async with serving(Server(proven(of), of, None)) as (url, _):
            async with opened(url, edge, of, name="first"):
                with pytest.raises(ServerLost, match=r"1 edges are served already \(spec\.server"):
                    async with opened(url, edge, of, name="second"):
                        pass
            async with opened(url, edge, of, name="second") as link:
                assert link.connected

    within(body())


def test_an_edge_that_comes_back_takes_the_place_of_what_it_left_behind() -> None:
    async def body() -> None:
        of = raw()
        edge, server = proven(of), Server(proven(of), of, None)
        async with (
            serving(server) as (url, runner),
            wire_cutter(port_of(runner)) as cutter,
            opened(url_at(cutter.port), edge, of),
        ):
            cutter.flowing.clear()  # the server does not hear that this edge leaves
            async with opened(url, edge, of):
                assert server.state().sessions == 1

    within(body())


def test_several_frames_are_under_way_and_each_has_its_own_result() -> None:
    async def body() -> None:
        expected = await undisturbed(raw(), 30)
        for wanted in (8, 0):
            of = raw(workload={"arrival": {"mode": "Closed", "inFlight": wanted}})
            async with serving(Server(proven(of), of, None)) as (url, _):
                result = await run_frames(url, proven(of), of, CUTS, 30)
            assert digests(result.frames) == expected
            starts = sorted(
                (f.result.due, f.result.due + f.result.total_ms / 1e3) for f in result.frames
            )
            assert any(a[1] > b[0] for a, b in pairwise(starts))

    within(body())


def test_an_edge_in_a_hurry_never_sends_what_nobody_wants_twice() -> None:
    """A cancelled request is answered with a failure that no task reads, and the session lives."""

    async def body() -> None:
        of = raw(partition={"mode": "Sweep", "deadlineMilliseconds": 1})
        async with serving(Server(proven(of), of, None)) as (url, _):
            result = await run_frames(url, proven(of), of, CUTS, 100, Tensors())
        digests(result.frames)

    within(body())


def test_a_stop_is_obeyed_while_the_server_is_away() -> None:
    async def body() -> None:
        of = raw()
        edge = proven(of)
        async with (
            serving(Server(proven(of), of, None)) as (_, runner),
            wire_cutter(port_of(runner)) as cutter,
            opened(url_at(cutter.port), edge, of) as link,
        ):
            worker = edge_worker(edge, of, Tensors(), link)
            stop, planned = asyncio.Event(), trials([2], 1)

            async def run() -> None:
                async for _ in worker.run(order(planned, 1000, 0), 1000, stop):
                    cutter.flowing.clear()
                    stop.set()

            with pytest.raises(Stopped, match=r"stopped after \d+ of 1000 frames"):
                await run()
            worker.close()

    within(body())


def test_a_request_that_was_cancelled_before_it_arrived_is_not_computed() -> None:
    async def body() -> None:
        of = raw()
        edge, there = proven(of), proven(of)
        ran: list[str] = []
        count_operations(there, ran)
        payload = codec.encode(pack(edge.head(2, example_batch(edge.network, 1))))
        hello = Hello(uid="u", edge="edge-0", identity=edge.identity)
        async with (
            serving(Server(there, of, None)) as (url, _),
            connected(
                Endpoint(url), hello, of.transport, time.perf_counter(), ByteCounter()
            ) as both,
        ):

            async def answer(number: int) -> Reply | Failure:
                await both.channel.send(encode(Request(id=number, cut=2), payload))
                arrival = await both.channel.receive()
                assert arrival is not None
                message, _ = both.protocol.receive(arrival.data)
                assert isinstance(message, Reply | Failure)
                return message

            assert isinstance(await answer(0), Reply)
            computed = len(ran)
            await both.control.send(encode(Cancel(ids=(1,))))
            await both.control.send(encode(Probe(id=0)))
            assert await both.control.receive() is not None  # the server has read the cancel
            cancelled = await answer(1)
            assert isinstance(cancelled, Failure)
            assert cancelled.reason == "cancelled"
            assert len(ran) == computed
            assert isinstance(await answer(2), Reply)

    within(body())
