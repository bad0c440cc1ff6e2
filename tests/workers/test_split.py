"""Edge and server over a real websocket: exact, disjoint, measured, and clear when refused."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields
from itertools import count
from typing import Any

import aiohttp
import pytest
import torch

from splittracr.backends import measuring
from splittracr.backends.torch.examples import example_batch
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.edge.timing import operation_times
from splittracr.experiment.errors import (
    FrameFailed,
    HandshakeRefused,
    InvalidInput,
    ServerLost,
    Stopped,
    reason,
)
from splittracr.experiment.types import STAGES
from splittracr.planning.schedule import order, trials
from splittracr.server import engine
from splittracr.server import worker as servers
from splittracr.server.job import Job
from splittracr.server.worker import Server
from splittracr.splitting.live import pack
from splittracr.transport.heartbeat import Heartbeat, PeerState
from splittracr.wire import codec
from splittracr.wire.messages import Failure, Goodbye, Hello, Identity, Refusal, Request, decode
from splittracr.wire.session import Parts
from tests.wire.frames import frame as whole
from tests.workers.pair import (
    Small,
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


def test_every_cut_gives_the_output_of_the_uncut_network() -> None:
    async def body() -> None:
        of = spec(results={"outputs": "Raw"})
        edge, there = proven(of), proven(of)
        async with serving(Server(there, of, None)) as (url, _):
            cuts = range(edge.proof.last + 1)
            result = await run_frames(url, edge, of, cuts, frames=4)
        assert len(result.frames) == 4 * len(cuts)
        digests = {(f.step.frame, f.result.digest) for f in result.frames}
        assert len(digests) == 4, "one output a picture, at every cut"
        assert len({digest for _, digest in digests}) == 4, "and another for another picture"

    asyncio.run(body())


def test_the_reduced_result_is_that_of_the_whole_network_run_eagerly() -> None:
    async def body() -> None:
        of = spec()
        edge = proven(of)
        async with serving(Server(proven(of), of, None)) as (url, _):
            result = await run_frames(url, edge, of, [2], frames=3)
        with torch.inference_mode():
            for frame in result.frames:
                picture = Tensors().load(frame.step.frame).data
                assert picture is not None
                best = Small().eval()(picture.unsqueeze(0)).argmax().item()
                (record,) = result.worker.records(frame, "u", "edge-0")
                assert record.prediction[0]["class"] == best

    asyncio.run(body())


def test_the_server_runs_no_head_operation_and_the_edge_no_tail_one() -> None:
    async def body() -> None:
        of = spec()
        edge, there = proven(of), proven(of)
        on_edge: list[str] = []
        on_server: list[str] = []
        count_operations(edge, on_edge)
        count_operations(there, on_server)
        names = [op.name for op in edge.tape.ops]
        async with serving(Server(there, of, None)) as (url, _):
            for cut in range(edge.proof.last + 1):
                on_edge.clear()
                on_server.clear()
                await run_frames(url, edge, of, [cut], frames=2)
                assert on_edge == names[:cut] * 2
                assert on_server == names[cut:] * 2

    asyncio.run(body())


def test_stages_add_up_and_none_is_unknown() -> None:
    async def body() -> None:
        of = spec()
        async with serving(Server(proven(of), of, None)) as (url, _):
            result = await run_frames(url, proven(of), of, [0, 3, 5], frames=4)
        assert len(result.frames) == 3 * 4
        for frame in result.frames:
            assert set(frame.result.stages) <= set(STAGES)
            assert sum(frame.result.stages.values()) == pytest.approx(frame.result.total_ms)
            assert min(frame.result.stages.values()) >= 0
            assert frame.result.bytes_up > frame.result.cut.bytes
            assert frame.result.bytes_down > 0

    asyncio.run(body())


def test_a_profile_predicts_the_bytes_that_records_count() -> None:
    async def body() -> None:
        of = spec()
        edge = proven(of)
        async with serving(Server(proven(of), of, None)) as (url, _):
            result = await run_frames(url, edge, of, range(edge.proof.last), frames=3)
        made = edge.profile(of, measuring.frames(edge, 2, Tensors()), ["raw"], ["uint8"], ())
        sent = (*made.picture_codecs[0].bytes, *made.codecs[0].bytes[1:])
        for frame in result.frames:
            assert frame.result.bytes_up == sent[frame.result.cut.index]
            # Times have different numbers of digits, and the frame of websocket has a header.
            assert abs(frame.result.bytes_down - made.reply_bytes) < 64

    asyncio.run(body())


def test_several_frames_are_in_flight_and_each_gets_its_own_answer() -> None:
    async def body() -> None:
        of = spec(
            results={"outputs": "Raw"}, workload={"arrival": {"mode": "Closed", "inFlight": 8}}
        )
        edge = proven(of)
        async with serving(Server(proven(of), of, None)) as (url, _):
            piped = await run_frames(url, edge, of, [2], frames=40)
        alone = await run_frames(None, edge, of, [edge.proof.last], frames=40)
        assert {f.step.frame: f.result.digest for f in piped.frames} == {
            f.step.frame: f.result.digest for f in alone.frames
        }

    asyncio.run(body())


def test_an_edge_is_not_read_while_requests_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here: dict[int, int] = {}
    most = []
    submit = engine.Engine.submit

    def counting(self: engine.Engine, job: Job) -> None:
        done = job.done

        def finished(*answer: Any) -> None:
            here[job.edge] -= 1
            done(*answer)

        here[job.edge] = here.get(job.edge, 0) + 1
        most.append(here[job.edge])
        job.done = finished
        submit(self, job)

    async def body() -> None:
        of = spec(workload={"arrival": {"mode": "Closed", "inFlight": 8}})
        async with serving(Server(proven(of), of, None)) as (url, _), asyncio.TaskGroup() as group:
            for name in ("edge-0", "edge-1"):
                group.create_task(run_frames(url, proven(of), of, [2], frames=40, name=name))

    monkeypatch.setattr(engine.Engine, "submit", counting)
    monkeypatch.setattr(servers, "_MAX_HELD", 0)
    within(body())
    assert most == [1] * 80


def test_a_batch_gives_a_record_a_picture() -> None:
    async def body() -> None:
        of = spec(workload={"batchSize": 3})
        async with serving(Server(proven(of), of, None)) as (url, _):
            result = await run_frames(url, proven(of), of, [2], frames=2)
        records = [r for f in result.frames for r in result.worker.records(f, "u", "e")]
        assert [r.sample for r in records] == list(range(6))
        assert len({str(r.prediction) for r in records}) == 6

    asyncio.run(body())


def test_what_cannot_be_read_is_recorded_as_failed_and_the_run_goes_on() -> None:
    async def body() -> None:
        of = spec(workload={"batchSize": 2})
        dataset = Tensors(broken=(1, 2, 3))
        async with serving(Server(proven(of), of, None)) as (url, _):
            result = await run_frames(url, proven(of), of, [2], 3, dataset)
        records = [r for f in result.frames for r in result.worker.records(f, "u", "e")]
        assert [r.outcome for r in records] == ["ok", "failed", "failed", "failed", "ok", "ok"]
        assert records[1].error == "ValueError: tensor-1 is broken"
        assert records[1].prediction is None

    asyncio.run(body())


@pytest.mark.parametrize("cut", [2, 6])
def test_a_sample_of_another_shape_is_recorded_as_failed(cut: int) -> None:
    async def body() -> None:
        of = spec()
        async with serving(Server(proven(of), of, None)) as (url, _):
            result = await run_frames(url, proven(of), of, [cut], 4, Tensors(odd=(1,)))
        records = [r for f in result.frames for r in result.worker.records(f, "u", "e")]
        assert [r.outcome for r in records] == ["ok", "failed", "ok", "ok"]
        assert records[1].error is not None
        assert "[3, 8, 9], the model takes torch.uint8 [3, 8, 8]; return a PIL" in records[1].error

    asyncio.run(body())


def test_one_odd_sample_of_a_batch_fails_alone() -> None:
    async def body() -> None:
        of = spec(workload={"batchSize": 4})
        async with serving(Server(proven(of), of, None)) as (url, _):
            result = await run_frames(url, proven(of), of, [2], 2, Tensors(odd=(1, 4)))
        records = [r for f in result.frames for r in result.worker.records(f, "u", "e")]
        assert [r.outcome == "ok" for r in records] == [
            *(True, False, True, True),
            *(False, True, True, True),
        ]

    asyncio.run(body())


def test_a_user_whose_post_processor_raises_gets_failed_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body() -> None:
        of = spec()
        edge = proven(of)
        monkeypatch.setattr(
            type(edge.postprocessor), "describe", lambda *_: (_ for _ in ()).throw(KeyError("x"))
        )
        async with serving(Server(proven(of), of, None)) as (url, _):
            result = await run_frames(url, edge, of, [2], 2)
        records = [r for f in result.frames for r in result.worker.records(f, "u", "e")]
        assert [(r.outcome, r.error) for r in records] == [("failed", "KeyError: 'x'")] * 2

    asyncio.run(body())


def test_frames_of_an_open_loop_never_start_before_they_are_due() -> None:
    async def body() -> None:
        arrival = {"mode": "Open", "framesPerMinute": 30_000, "process": "Poisson"}
        of = spec(workload={"arrival": arrival})
        edge = proven(of)
        result = await run_frames(None, edge, of, [edge.proof.last], frames=100)
        assert min(f.result.stages["edge_wait"] for f in result.frames) >= 0
        assert all("link" not in f.result.stages for f in result.frames)

    asyncio.run(body())


def test_a_stop_ends_a_long_gap_of_an_open_loop() -> None:
    async def body() -> None:
        of = spec(workload={"arrival": {"mode": "Open", "framesPerMinute": 1}})
        edge = proven(of)
        worker = edge_worker(edge, of, Tensors(), None)
        stop = asyncio.Event()
        steps = order(trials([edge.proof.last], 1), 5, 0)

        async def stop_after_the_first() -> None:
            async for _ in worker.run(steps, 5, stop):
                stop.set()

        with pytest.raises(Stopped, match="stopped after 1 of 5 frames"):
            await stop_after_the_first()
        worker.close()

    within(body(), 20)


def test_a_draining_server_answers_what_it_accepted() -> None:
    async def body() -> None:
        of = spec(partition={"mode": "Sweep", "onServerLoss": "Fail"})
        edge, server = proven(of), Server(proven(of), of, None)
        payload = codec.encode(pack(edge.head(2, example_batch(edge.network, 1))))
        async with serving(server) as (url, _), opened(url, edge, of) as link:
            asked = [asyncio.create_task(link.request(2, 0, payload)) for _ in range(20)]
            while not (accepted := server.state().in_flight):  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0)
            await server.drain()
            done = await asyncio.gather(*asked, return_exceptions=True)
            answered = [answer for answer in done if not isinstance(answer, BaseException)]
            assert len(answered) >= accepted >= 1
            assert all(isinstance(a, ServerLost) for a in done if isinstance(a, BaseException))

    within(body(), 20)


def test_a_message_above_the_limit_fails_its_frame_with_the_reason() -> None:
    async def body() -> None:
        of = spec(transport={"maxMessageMebibytes": 1})
        edge = proven(of)
        payload = codec.encode(pack(edge.head(0, example_batch(edge.network, 2**13))))
        assert payload.nbytes > 2**20
        server = Server(proven(of), of, None)
        async with serving(server) as (url, _), opened(url, edge, of) as link:
            with pytest.raises(FrameFailed, match="maxMessageMebibytes, 1"):
                await link.request(0, 0, payload)

    within(body(), 20)


def test_a_slowed_edge_takes_slowdown_times_its_cpu_time_and_says_so() -> None:
    async def body() -> None:
        slow = spec(edge={"slowdownPercent": 3000})
        edge = proven(slow)
        computed: list[float] = []

        def timed(operation: Callable[[], None]) -> None:
            started = time.thread_time()
            operation()
            computed.append((time.thread_time() - started) * 1e3)

        instead_of_last(edge, timed)
        slowed = await run_frames(None, edge, slow, [edge.proof.last], frames=10)
        for frame, cpu_ms in zip(slowed.frames, computed, strict=True):
            assert frame.result.stages["head"] >= 30 * cpu_ms
        assert all(r.emulated for f in slowed.frames for r in slowed.worker.records(f, "u", "e"))

    asyncio.run(body())


@pytest.mark.parametrize(
    ("token", "said"), [(None, "wants a token"), ("wrong", "does not accept the token")]
)
def test_a_wrong_token_is_refused_before_the_handshake(token: str | None, said: str) -> None:
    async def body() -> None:
        of = spec()
        async with serving(Server(proven(of), of, "right")) as (url, _):
            with pytest.raises(HandshakeRefused, match=said):
                await run_frames(url, proven(of), of, [2], 1, token=token)
            assert (await run_frames(url, proven(of), of, [2], 1, token="right")).frames

    asyncio.run(body())


def test_other_weights_are_refused_and_named() -> None:
    async def body() -> None:
        of = spec()
        async with serving(Server(proven(of, seed=1), of, None)) as (url, _):
            with pytest.raises(HandshakeRefused, match="edge and server differ in weights"):
                await run_frames(url, proven(of), of, [2], 1)

    asyncio.run(body())


def test_no_server_is_named_after_the_time_out() -> None:
    async def body() -> None:
        of = spec(transport={"connectTimeoutSeconds": 1})
        with pytest.raises(ServerLost, match=r"no server answered at ws://127\.0\.0\.1:9/ within"):
            await run_frames("ws://127.0.0.1:9/", proven(of), of, [2], 1)
        with pytest.raises(InvalidInput, match=r"--server.*such as wss://.*:8765/v1/session$"):
            await run_frames("not a url", proven(of), of, [2], 1)

    asyncio.run(body())


def test_an_address_without_the_path_of_a_session_is_refused_with_an_example() -> None:
    async def body() -> None:
        of = spec()
        async with serving(Server(proven(of), of, None)) as (url, _):
            address = url.removesuffix("/v1/session")
            assert address != url
            with pytest.raises(InvalidInput, match=r"such as wss://.*/v1/session \(it answers 404"):
                await run_frames(address, proven(of), of, [2], 1)

    asyncio.run(body())


def test_a_server_that_goes_away_ends_the_run() -> None:
    async def body() -> None:
        of = spec(partition={"mode": "Sweep", "onServerLoss": "Fail"})
        edge, server = proven(of), Server(proven(of), of, None)
        stops: list[asyncio.Task[None]] = []

        async with serving(server) as (url, _):
            with pytest.raises(
                ServerLost, match="the server ended the session: the server is stopping"
            ):
                await run_frames(
                    url,
                    edge,
                    of,
                    [2],
                    10_000,
                    on_frame=lambda f: (
                        stops.append(asyncio.ensure_future(server.drain()))
                        if f.step.frame == 5
                        else None
                    ),
                )
            await asyncio.gather(*stops)

    asyncio.run(body())


def test_any_error_can_be_encoded() -> None:
    failures: list[Failure] = []

    def done(_: Job, parts: Parts, outcome: str) -> None:
        failure = decode(b"".join(parts))[0]
        assert isinstance(failure, Failure)
        assert outcome == "failed"
        failures.append(failure)

    for error in (ValueError("caf\udce9"), InvalidInput("x", "1", "2"), ValueError("x" * 9999)):
        Job(0, Request(id=1, cut=0), codec.NOTHING, 0.0, 0.0, done).fail(reason(error))
    assert [failure.reason for failure in failures[:2]] == [
        r"ValueError: caf\udce9",
        "x: got '1', expected 2",
    ]
    assert len(failures[2].reason) == 4096


def test_a_tail_that_raises_fails_its_frame_only() -> None:
    async def body() -> None:
        of, calls = spec(), count()

        class Unlucky(ProvenNetwork):
            def reduce(self, output: Any) -> Any:
                if next(calls) == 1:
                    raise ValueError("out of luck")
                return super().reduce(output)

        own = proven(of)
        unlucky = Unlucky(**{field.name: getattr(own, field.name) for field in fields(own)})
        async with serving(Server(unlucky, of, None)) as (url, _):
            result = await run_frames(url, proven(of), of, [2], frames=3)
        records = [r for f in result.frames for r in result.worker.records(f, "u", "e")]
        assert [r.outcome for r in records] == ["ok", "failed", "ok"]
        assert records[1].error == "ValueError: out of luck"

    asyncio.run(body())


@pytest.mark.parametrize(
    "frames",
    [
        [b"garbage"],
        [whole(Goodbye(reason=""))],
        [
            whole(
                Hello(
                    uid="u",
                    edge="e",
                    identity=Identity(network="x", fingerprint="", weights="", batch=1, outputs=""),
                )
            )
        ],
    ],
)
def test_a_broken_client_is_told_why_and_harms_nobody(frames: list[bytes]) -> None:
    async def body() -> None:
        of = spec()
        async with serving(Server(proven(of), of, None)) as (url, _):
            async with aiohttp.ClientSession() as client, client.ws_connect(url) as socket:
                for frame in frames:
                    await socket.send_bytes(frame)
                message, _ = decode((await socket.receive()).data)
                assert isinstance(message, Refusal)
                assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
            assert (await run_frames(url, proven(of), of, [2], 2)).frames

    asyncio.run(body())


def test_the_session_port_answers_probes_and_shows_no_metrics() -> None:
    async def body() -> None:
        of = spec()
        async with serving(Server(proven(of), of, None)) as (url, _):
            await run_frames(url, proven(of), of, [2], frames=3)
            base = url.replace("ws://", "http://").rsplit("/v1/", 1)[0]
            async with aiohttp.ClientSession() as client:
                async with client.get(f"{base}/healthz") as answer:
                    assert (await answer.json()) == {"status": "ok"}
                async with client.get(f"{base}/metrics") as answer:
                    assert answer.status == 404

    asyncio.run(body())


def test_a_link_answers_pings_while_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's heartbeat closes a session whose edge does not receive."""
    judged: defaultdict[Heartbeat, list[PeerState]] = defaultdict(list)
    enough = asyncio.Event()
    check = Heartbeat.check

    def noted(heartbeat: Heartbeat, unsent: int, reading: bool) -> PeerState:
        judged[heartbeat].append(check(heartbeat, unsent, reading))
        if all(len(states) >= 3 for states in judged.values()):
            enough.set()
        return judged[heartbeat][-1]

    monkeypatch.setattr(Heartbeat, "check", noted)

    async def body() -> None:
        of = spec(transport={"heartbeatSeconds": 1})
        edge = proven(of)
        server = Server(proven(of), of, None)
        async with serving(server) as (url, _), opened(url, edge, of) as link:
            await enough.wait()
            assert any(PeerState.SILENT in states for states in judged.values()), "a ping was due"
            assert link.connected
            assert (link.losses, server.state().sessions) == (0, 1)

    within(body(), 20)


def test_the_warm_up_times_each_operation_at_the_end_that_runs_it() -> None:
    async def body() -> None:
        of = spec(workload={"warmUp": 4})
        edge, there = proven(of), proven(of)
        cut = edge.proof.cuts[2]
        async with (
            serving(Server(there, of, None)) as (url, _),
            opened(url, edge, of) as link,
        ):
            runner = edge_worker(edge, of, Tensors(), link)
            await runner.warm_up([cut])
            await runner.repeat(cut, 0.05)
            ends = await operation_times(edge, link, "edge-0")
            runner.close()
        assert [end.role for end in ends] == ["edge", "server"]
        readings = [[one.readings for one in end.operations] for end in ends]
        proof, warm = 2, 4  # the proof runs each operation twice
        assert readings[0] == [warm] * 2 + [proof] * (edge.proof.last - 2)
        assert readings[1] == [proof] * 2 + [warm] * (edge.proof.last - 2)

    asyncio.run(body())
