"""A switch to a cut that lacks a session is not waited for, at either end."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from splittracr.backends import registry
from splittracr.backends.onnx.halves import Halves
from splittracr.backends.onnx.proven import OnnxNetwork
from splittracr.edge.infer import Inferencer, Options
from splittracr.edge.link import Link
from splittracr.edge.readiness import Readiness
from splittracr.experiment.contracts import Runtime
from splittracr.experiment.spec import ExperimentSpec
from splittracr.planning.decision import Decision
from splittracr.server.worker import Server
from splittracr.wire.messages import Welcome
from tests.edge.local import Counts, samples
from tests.workers.pair import opened, serving, spec, within

OLD, NEW = 2, 4


@dataclass
class Gate:
    """It opens once. `reached` says that somebody waits, or passed."""

    reached: threading.Event
    opens: threading.Event
    error: Exception | None = None

    def __call__(self) -> None:
        self.reached.set()
        assert self.opens.wait(60)
        if self.error is not None:
            raise self.error


class Gated:
    """A graph whose parts pass a gate before they are made."""

    gate: Gate | None = None

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def part(self, inputs: Any, outputs: Any) -> Any:
        if self.gate is not None:
            self.gate()
        return self._graph.part(inputs, outputs)


def gate(*, error: Exception | None = None) -> Gate:
    return Gate(threading.Event(), threading.Event(), error)


def study() -> ExperimentSpec:
    return spec(
        model={
            "name": "tests.workers.pair:Small",
            "weights": "none",
            "input": {"shape": [3, 8, 8], "dtype": "uint8"},
            "exactness": "Bounded",
        },
        edge={"runtime": "OnnxRuntime"},
        server={"runtime": "OnnxRuntime"},
    )


def built(of: ExperimentSpec, side: str) -> OnnxNetwork:
    made = registry.load(Runtime.ONNX_RUNTIME).build(of, side, Path())
    assert isinstance(made, OnnxNetwork)
    return made


def gated(own: OnnxNetwork, one: Gate) -> OnnxNetwork:
    """The network, whose next sessions pass a gate. It has the sessions of the old cut."""
    graph = Gated(own.halves.exported.graph)
    made = replace(own, halves=Halves(replace(own.halves.exported, graph=graph)))  # type: ignore[arg-type]
    made.make_ready("head", OLD)
    made.make_ready("tail", OLD)
    graph.gate = one
    return made


@asynccontextmanager
async def pair(
    of: ExperimentSpec, edge: OnnxNetwork, server: OnnxNetwork
) -> AsyncIterator[tuple[Readiness, Inferencer, Link]]:
    async with serving(Server(server, of, None)) as (url, _), opened(url, edge, of) as link:
        inferencer, readiness = Inferencer(edge, link, Counts(), Options()), Readiness(edge, link)
        try:
            yield readiness, inferencer, link
        finally:
            await readiness.close()
            inferencer.close()


async def until_ready(readiness: Readiness, decision: Decision) -> None:
    while not readiness(decision):  # noqa: ASYNC110 - it is asked before each frame
        await asyncio.sleep(0)


@pytest.mark.parametrize("side", ["edge", "server"])
def test_frames_go_on_while_a_session_is_made(side: str) -> None:
    of, one = study(), gate()
    ends = {name: built(of, name) for name in ("edge", "server")}
    ends[side] = gated(ends[side], one)

    async def body() -> None:
        async with pair(of, ends["edge"], ends["server"]) as (ready, runs, _):
            await until_ready(ready, Decision(OLD))
            assert not ready(Decision(NEW))
            assert await asyncio.to_thread(one.reached.wait, 60)
            for sample in samples(3):
                assert (await runs.infer([sample], Decision(OLD))).outcome().ok
            assert not ready(Decision(NEW))
            one.opens.set()
            await until_ready(ready, Decision(NEW))
            assert (await runs.infer(samples(1), Decision(NEW))).outcome().ok

    within(body())


@pytest.mark.parametrize("side", ["edge", "server"])
def test_a_cut_that_cannot_be_made_ready_is_never_used(
    side: str, caplog: pytest.LogCaptureFixture
) -> None:
    of, one = study(), gate(error=MemoryError("no room"))
    one.opens.set()
    ends = {name: built(of, name) for name in ("edge", "server")}
    ends[side] = gated(ends[side], one)

    async def body() -> None:
        async with pair(of, ends["edge"], ends["server"]) as (ready, runs, _):
            await until_ready(ready, Decision(OLD))
            while "is not used" not in caplog.text:
                assert not ready(Decision(NEW))
                await asyncio.sleep(0)
            assert not ready(Decision(NEW))
            assert (await runs.infer(samples(1), Decision(OLD))).outcome().ok

    within(body())
    name = ends["edge"].proof.cuts[NEW].name
    assert f"cut {name} cannot be made ready and is not used" in caplog.text
    assert "no room" in caplog.text


def test_a_tail_is_made_at_the_edge_if_the_policy_finishes_frames_there() -> None:
    edge = built(study(), "edge")
    edge.make_ready("head", OLD)

    async def body() -> None:
        ready = Readiness(edge, NoServer())
        assert ready(Decision(OLD))
        assert not ready(Decision(OLD, hedge_ms=0.0))
        await until_ready(ready, Decision(OLD, hedge_ms=0.0))
        assert edge.ready("tail", OLD)
        await ready.close()

    within(body())


def test_a_server_that_came_back_is_asked_again() -> None:
    of = study()
    edge, server = built(of, "edge"), built(of, "server")
    edge.make_ready("head", OLD)

    async def body() -> None:
        async with serving(Server(server, of, None)) as (url, _), opened(url, edge, of) as real:
            link = Losing(real)
            ready = Readiness(edge, link)
            await until_ready(ready, Decision(OLD))
            assert link.asked == [OLD]
            link.losses += 1
            assert not ready(Decision(OLD))
            await until_ready(ready, Decision(OLD))
            assert link.asked == [OLD, OLD]
            await ready.close()

    within(body())


class NoServer:
    """Nothing is asked of a server that computes with PyTorch."""

    welcome: Welcome | None = None
    losses = 0

    async def prepare(self, cut: int) -> None:
        raise AssertionError(cut)


class Losing:
    """A link that notes what is asked, and whose server may seem to have been lost."""

    losses = 0

    def __init__(self, link: Link) -> None:
        self._link, self.asked = link, list[int]()

    @property
    def welcome(self) -> Welcome | None:
        return self._link.welcome

    async def prepare(self, cut: int) -> None:
        self.asked.append(cut)
        await self._link.prepare(cut)
