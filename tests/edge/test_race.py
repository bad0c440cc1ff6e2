"""The race between the server's reply and the edge's own tail."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial

import pytest

from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.edge import stages
from splittracr.edge.frame import Answered, Failed, Loaded, Packed
from splittracr.edge.lanes import Lanes
from splittracr.edge.race import Attempt, ServerTail
from splittracr.edge.stages import Pipeline, then
from splittracr.experiment.errors import FrameFailed, HandshakeRefused, ServerLost, SplittracrError
from splittracr.experiment.spec import OnServerLoss
from splittracr.planning.decision import Decision
from splittracr.wire import codec
from splittracr.wire.messages import End, Welcome
from tests.edge.local import FakeLink, frame, given, pipeline
from tests.workers.pair import instead_of_last, proven, spec, within

CUT = 2
FOR_EVER = 1e6  # ms


class Case:
    """A frame at the end of its head, and the link that its request goes to."""

    def __init__(self, decision: Decision, loss: OnServerLoss = OnServerLoss.WAIT) -> None:
        self.own = proven(spec())
        self.link = FakeLink(proven(spec()))
        self.frame = frame(self.own, decision)
        self._line, self._loss = pipeline(self.own), loss

    async def run(self, *, encoded: bool = False) -> Attempt:
        lanes = Lanes(pipelined=True)
        try:
            live = head(self.own, self._line, self.frame.decision)
            value = stages.encoded(self._line, self.frame, live) if encoded else live
            server = ServerTail(self._line, lanes, self.link, self._loss)
            return await server.finish(self.frame, value)
        finally:
            lanes.close()


def head(own: ProvenNetwork, line: Pipeline, decision: Decision) -> Packed:
    at = frame(own, decision)
    value = then(given(1), partial(stages.load, line, at))
    assert isinstance(value, Loaded)
    return stages.packed(line, at, stages.head(line, at, value))


def expected() -> object:
    """The prediction of the network on the edge alone."""
    own = proven(spec())
    line, decision = pipeline(own), Decision(CUT)
    end = stages.tail(line, frame(own, decision), head(own, line, decision))
    return end.predictions[0].described


def described(attempt: Attempt) -> object:
    assert isinstance(attempt.end, Answered)
    return attempt.end.predictions[0].described


def held(gate: threading.Event, began: threading.Event) -> Callable[[Callable[[], None]], None]:
    """An operation that waits for `gate` once it has begun."""

    def run(operation: Callable[[], None]) -> None:
        began.set()
        assert gate.wait(30)
        operation()

    return run


def test_without_deadline_and_hedge_the_server_finishes_the_frame() -> None:
    async def body() -> None:
        case = Case(Decision(CUT))
        case.link.open.set()
        attempt = await case.run(encoded=True)
        assert described(attempt) == expected()
        assert (attempt.submitted, attempt.fallback, attempt.late) == (True, None, None)
        assert attempt.reply is not None
        assert attempt.frame.watch.stages["tail"] == 1.0

    within(body())


@pytest.mark.parametrize("name", ["hedge", "deadline"])
def test_a_reply_that_does_not_come_in_time_is_replaced_and_cancelled(name: str) -> None:
    async def body() -> None:
        decision = (
            Decision(CUT, hedge_ms=1.0) if name == "hedge" else Decision(CUT, deadline_ms=1.0)
        )
        case = Case(decision)
        attempt = await case.run(encoded=True)
        assert described(attempt) == expected()
        assert (attempt.fallback, attempt.late, attempt.reply) == (name, name, None)
        await case.link.cancelled.wait()

    within(body())


def test_a_reply_in_time_needs_no_tail_here() -> None:
    async def body() -> None:
        case = Case(Decision(CUT, deadline_ms=FOR_EVER, hedge_ms=FOR_EVER))
        instead_of_last(case.own, lambda _: pytest.fail("the edge runs the tail"))
        case.link.open.set()
        attempt = await case.run()
        assert described(attempt) == expected()
        assert (attempt.fallback, attempt.late) == (None, None)

    within(body())


def test_a_reply_that_overtakes_the_edges_tail_counts_and_abandons_it() -> None:
    gate, began = threading.Event(), threading.Event()

    async def body() -> None:
        case = Case(Decision(CUT, hedge_ms=0.0))
        instead_of_last(case.own, held(gate, began))
        running = asyncio.create_task(case.run())
        assert await asyncio.to_thread(began.wait, 30)
        case.link.open.set()
        attempt = await running
        assert not gate.is_set(), "the attempt did not wait for the edge's own tail"
        assert described(attempt) == expected()
        assert (attempt.fallback, attempt.late) == (None, "hedge")
        gate.set()

    within(body())


def test_an_edge_whose_tail_fails_waits_for_the_server() -> None:
    async def body() -> None:
        case = Case(Decision(CUT, hedge_ms=0.0))
        loop = asyncio.get_running_loop()

        def fail(_: Callable[[], None]) -> None:
            loop.call_soon_threadsafe(case.link.open.set)
            raise MemoryError("out of memory")

        instead_of_last(case.own, fail)
        attempt = await case.run()
        assert described(attempt) == expected()
        assert (attempt.fallback, attempt.late) == (None, "hedge")

    within(body())


def test_a_frame_that_both_ends_fail_has_the_servers_reason() -> None:
    async def body() -> None:
        case = Case(Decision(CUT, hedge_ms=0.0))
        case.link.error = FrameFailed("the tail failed")
        case.link.open.set()

        def fail(_: Callable[[], None]) -> None:
            raise MemoryError("out of memory")

        instead_of_last(case.own, fail)
        attempt = await case.run()
        assert attempt.end == Failed("the tail failed", {0: "the tail failed"})

    within(body())


@pytest.mark.parametrize("decision", [Decision(CUT), Decision(CUT, deadline_ms=FOR_EVER)])
@pytest.mark.parametrize("loss", OnServerLoss)
def test_a_lost_server_ends_the_frame_as_the_manifest_says(
    decision: Decision, loss: OnServerLoss
) -> None:
    async def body() -> None:
        case = Case(decision, loss)
        case.link.error = ServerLost("gone")
        case.link.open.set()
        if loss is not OnServerLoss.FINISH_ON_EDGE:
            with pytest.raises(ServerLost, match="gone"):
                await case.run(encoded=True)
            return
        attempt = await case.run(encoded=True)
        assert described(attempt) == expected()
        assert (attempt.fallback, attempt.late, attempt.submitted) == ("server-lost", None, True)

    within(body())


@pytest.mark.parametrize("error", [ServerLost("gone"), HandshakeRefused("another")])
def test_a_server_that_is_lost_during_the_race_costs_nothing(error: SplittracrError) -> None:
    gate, began = threading.Event(), threading.Event()

    async def body() -> None:
        case = Case(Decision(CUT, deadline_ms=0.0))
        instead_of_last(case.own, held(gate, began))
        case.link.error = error
        running = asyncio.create_task(case.run(encoded=True))
        assert await asyncio.to_thread(began.wait, 30)
        case.link.open.set()
        await asyncio.sleep(0)
        gate.set()
        attempt = await running
        assert described(attempt) == expected()
        assert (attempt.fallback, attempt.late) == ("deadline", "deadline")

    within(body())


@pytest.mark.parametrize("hedge_ms", [None, FOR_EVER])
def test_live_tensors_that_cannot_be_encoded_fail_the_frame(
    hedge_ms: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such codec")

    async def body() -> None:
        case = Case(Decision(CUT, hedge_ms=hedge_ms))
        monkeypatch.setattr(codec, "encode", fail)
        attempt = await case.run()
        assert attempt.end == Failed("ValueError: no such codec", {0: "ValueError: no such codec"})
        assert not attempt.submitted
        assert not case.link.asked.is_set()

    within(body())


def test_a_cut_that_the_server_refuses_is_not_requested() -> None:
    async def body() -> None:
        case = Case(Decision(CUT, hedge_ms=0.0))
        name = case.own.proof.cuts[CUT].name
        case.link.welcome = Welcome(end=End(), refused={name: "not exact"})
        attempt = await case.run()
        assert isinstance(attempt.end, Failed)
        assert attempt.end.reason == f"the server refuses cut {name}: not exact"
        assert not case.link.asked.is_set()

    within(body())
