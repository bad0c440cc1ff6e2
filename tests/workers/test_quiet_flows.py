"""A NAT that forgets quiet connections: no hang, a line in the log, every sample once."""

import time

import pytest

from splittracr.backends.torch.examples import example_batch
from splittracr.edge.liveness import Liveness
from splittracr.edge.recording import Finished
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Place
from splittracr.server.worker import Server
from splittracr.splitting.live import pack
from splittracr.wire import codec
from splittracr.wire.messages import CONTROL_PATH, SESSION_PATH, Checked
from tests.workers.pair import opened, proven, run_frames, serving, within
from tests.workers.test_faults import digests, port_of, raw, undisturbed, url_at
from tests.workers.wire_cutter import wire_cutter


def impatient(loss: str = "Wait", **workload: object) -> ExperimentSpec:
    """A heartbeat of one second, the shortest."""
    return raw(
        workload=workload,
        partition={"mode": "Sweep", "onServerLoss": loss},
        transport={"heartbeatSeconds": 1, "connectTimeoutSeconds": 10},
    )


@pytest.mark.parametrize("loss", ["Wait", "FinishOnEdge"])
@pytest.mark.parametrize("memory", [0.6, 2.5])
def test_a_nat_that_forgets_quiet_connections_costs_no_frame(
    loss: str, memory: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The pause between two frames is longer than either memory, the heartbeat than the first."""

    async def body() -> None:
        of = impatient(loss, arrival={"mode": "Open", "framesPerMinute": 20})
        expected = await undisturbed(raw(), 3)
        async with (
            serving(Server(proven(of), of, None)) as (_, runner),
            wire_cutter(port_of(runner), memory=memory) as nat,
        ):
            frames = (await run_frames(url_at(nat.port), proven(of), of, [2], 3)).frames
            assert digests(frames) == {(2, n): expected[2, n] for n in range(3)}
            if memory < 1:
                assert nat.forgotten
                assert "the server was lost" in caplog.text
            else:
                assert nat.connections == 2, "pings keep both connections in the NAT's memory"
                assert {frame.result.finished_on for frame in frames} == {Place.SERVER}

    within(body())


@pytest.mark.parametrize("loss", ["Wait", "FinishOnEdge"])
def test_a_tensor_connection_that_is_forgotten_alone_is_replaced(
    loss: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        of = impatient(loss)
        expected = await undisturbed(raw(), 40)
        async with (
            serving(Server(proven(of), of, None)) as (_, runner),
            wire_cutter(port_of(runner)) as nat,
        ):

            def forget(frame: Finished) -> None:
                if frame.step.frame == 20:
                    nat.forget(0)

            found = await run_frames(url_at(nat.port), proven(of), of, [2], 40, on_frame=forget)
            assert digests(found.frames) == {(2, n): expected[2, n] for n in range(40)}
            if loss == "Wait":
                assert nat.connections >= 4, "a second session"
            else:
                assert {f.result.fallback for f in found.frames} == {None, "server-lost"}
        assert "no byte" in caplog.text
        assert "though the control connection works" in caplog.text

    within(body())


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize("memory", [0.6, 2.5], ids=["long heartbeat", "short heartbeat"])
@pytest.mark.parametrize("path", [SESSION_PATH, CONTROL_PATH], ids=["tensor", "control"])
def test_a_relay_that_forgets_one_of_both_connections_costs_no_sample(
    path: str, memory: float
) -> None:
    """A heartbeat of one second, and frames three seconds apart: each finds a quiet connection."""

    async def body() -> None:
        of = impatient("Wait", arrival={"mode": "Open", "framesPerMinute": 20})
        expected = await undisturbed(raw(), 20)
        server = Server(proven(of), of, None)
        async with (
            serving(server) as (_, runner),
            wire_cutter(port_of(runner), memory, path) as relay,
        ):
            found = await run_frames(url_at(relay.port), proven(of), of, [2], 20)
            assert digests(found.frames) == {(2, n): expected[2, n] for n in range(20)}
            assert {frame.result.finished_on for frame in found.frames} == {Place.SERVER}
            if memory > 1:
                assert (relay.forgotten, relay.connections) == (0, 2), "pings keep both alive"
            else:
                assert relay.forgotten >= 5
                assert relay.connections >= 12, "two for each new session"
                assert server.state().sessions <= 2, "sessions that were left behind are closed"

    within(body(), 350)


def test_an_upload_of_many_heartbeats_is_not_taken_for_a_dead_connection() -> None:
    async def body() -> None:
        of = impatient(batchSize=64)
        edge = proven(of)
        async with (
            serving(Server(proven(of), of, None)) as (_, runner),
            wire_cutter(port_of(runner)) as relay,
            opened(url_at(relay.port), edge, of) as link,
        ):
            relay.slow_down(0, rate=2048)
            began = time.monotonic()
            live = pack(edge.head(0, example_batch(edge.network, 64)))
            answer = await link.request(0, 0, codec.encode(live))
            assert time.monotonic() - began > 4, "several heartbeats"
            assert answer.sent > 12_000
            assert relay.connections == 2

    within(body())


def test_a_connection_is_dead_only_if_bytes_are_due_and_none_moves() -> None:
    def judged(*rounds: tuple[int, int, int, int, bool]) -> list[bool]:
        """Whether it is dead after each: written and received here, received and written there."""
        liveness = Liveness(heartbeat=10)
        return [
            liveness.judge(w, r, Checked(id=0, received=there, written=sent, reading=reading))
            is not None
            for w, r, there, sent, reading in rounds
        ]

    quiet = (100, 50, 100, 50, True)
    assert judged(*[quiet] * 9) == [False] * 9
    slow_up = [(10**6, 50, 100 + n, 50, True) for n in range(9)]
    slow_down = [(100, 50 + n, 100, 10**6, True) for n in range(9)]
    assert judged(*slow_up) == judged(*slow_down) == [False] * 9
    dead_up, dead_down = (106, 50, 100, 50, True), (106, 50, 106, 56, True)
    assert judged(quiet, *[dead_up] * 3) == [False, False, False, True]
    assert judged(quiet, *[dead_down] * 3) == [False, False, False, True]
    assert judged(quiet, dead_up, dead_up, (106, 56, 106, 56, True), dead_up)[-1] is False
    without_memory = (106, 50, 100, 50, False)
    assert judged(quiet, *[without_memory] * 9) == [False] * 10
