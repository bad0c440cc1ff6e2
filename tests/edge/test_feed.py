"""Arrivals, the window and stops, with work that is no frame."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest

from splittracr.edge.feed import Feed
from splittracr.edge.window import Window
from splittracr.experiment.errors import ServerLost, Stopped
from splittracr.experiment.spec import ClosedLoop, OpenLoop
from splittracr.planning.schedule import Step, order, trials
from tests.workers.pair import within

Work = Callable[[Step, float], Coroutine[Any, Any, int]]


def steps(count: int) -> list[Step]:
    return list(order(trials([0], 1), count, 0))


def feed(
    arrival: ClosedLoop | OpenLoop, work: Work, give_up: Callable[[], None] = lambda: None
) -> Feed[int]:
    return Feed(arrival, Window(arrival), work, give_up)


async def results(
    of: Feed[int], count: int, stop: asyncio.Event | None = None, done: list[int] | None = None
) -> list[int]:
    """The results in order of completion; also in `done`, for runs that raise."""
    done = [] if done is None else done
    async for one in of.run(steps(count), count, stop or asyncio.Event()):
        done.append(one)
    return done


@pytest.mark.parametrize("size", [1, 3])
def test_as_many_frames_are_in_flight_as_the_window_has(size: int) -> None:
    async def body() -> None:
        inside, most = 0, 0

        async def work(step: Step, due: float) -> int:
            nonlocal inside, most
            assert due <= time.perf_counter()
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1
            return step.frame

        assert sorted(await results(feed(ClosedLoop(in_flight=size), work), 9)) == list(range(9))
        assert most == size

    within(body())


def test_the_order_is_that_of_completion() -> None:
    async def body() -> None:
        first = asyncio.Event()

        async def work(step: Step, due: float) -> int:
            del due
            if step.frame == 0:
                await first.wait()
            first.set()
            return step.frame

        assert (await results(feed(ClosedLoop(in_flight=2), work), 2)) == [1, 0]

    within(body())


def test_frames_of_an_open_loop_are_due_at_equal_gaps_and_start_no_earlier() -> None:
    async def body() -> None:
        dues = list[float]()

        async def work(step: Step, due: float) -> int:
            assert time.perf_counter() >= due
            dues.append(due)
            return step.frame

        arrival = OpenLoop(mode="Open", frames_per_minute=6000)
        await results(feed(arrival, work), 10)
        gaps = [later - earlier for earlier, later in pairwise(dues)]
        assert gaps == pytest.approx([0.01] * 9)

    within(body())


def test_the_first_error_of_a_frame_ends_the_run() -> None:
    async def body() -> None:
        async def work(step: Step, due: float) -> int:
            del due
            if step.frame == 3:
                raise ServerLost("gone")
            return step.frame

        done = list[int]()
        with pytest.raises(ServerLost, match="gone"):
            await results(feed(ClosedLoop(in_flight=1), work), 9, None, done)
        assert done == [0, 1, 2]

    within(body())


def test_a_stop_lets_frames_in_flight_finish_and_starts_no_other() -> None:
    async def body() -> None:
        stop, done = asyncio.Event(), list[int]()

        async def work(step: Step, due: float) -> int:
            del due
            if step.frame == 1:
                stop.set()
                await asyncio.sleep(0)
            return step.frame

        with pytest.raises(Stopped, match="stopped after 2 of 9 frames"):
            await results(feed(ClosedLoop(in_flight=1), work), 9, stop, done)
        assert done == [0, 1]

    within(body())


def test_frames_that_outlast_a_stop_are_given_up() -> None:
    async def body() -> None:
        stop, given_up = asyncio.Event(), asyncio.Event()

        async def work(step: Step, due: float) -> int:
            del due
            stop.set()
            await given_up.wait()
            return step.frame

        with pytest.raises(Stopped, match="stopped after 1 of 9 frames"):
            await results(feed(ClosedLoop(in_flight=1), work, given_up.set), 9, stop)

    within(body())
