"""The work queue in fake time: which study is taken, and when."""

import asyncio
import time

import pytest

from splittracr_operator.work_queue import WorkQueue
from tests.control import fake_time

PAUSE = 0.05
"""Seconds between two reconciles of one study."""


def test_each_study_is_taken_once_when_it_is_due() -> None:
    async def scenario() -> None:
        waits: list[float] = []
        queue = WorkQueue(waits.append)
        queue.add("late", after=3)
        for _ in range(3):
            queue.add("soon")
        assert queue.waiting == 1  # "late" is not due
        assert await queue.take() == "soon"
        assert queue.waiting == 0
        queue.add("soon")  # it is busy, so "late" comes first
        assert await queue.take() == "late"
        queue.done("soon")
        assert await queue.take() == "soon"
        assert waits == pytest.approx([0, 0, 0])  # a busy study becomes due after the pause
        assert asyncio.get_running_loop().time() == pytest.approx(3 + PAUSE)

    fake_time.run(scenario())


def test_the_earlier_of_two_times_counts() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        queue.add("a", after=60)
        taking = asyncio.create_task(queue.take())
        await asyncio.sleep(10)
        queue.add("a", after=90)
        await asyncio.sleep(10)
        assert not taking.done()
        queue.add("a", after=5)
        assert await taking == "a"
        assert asyncio.get_running_loop().time() == pytest.approx(25)

    fake_time.run(scenario())


def test_a_study_that_is_always_due_leaves_time_to_others() -> None:
    async def scenario() -> None:
        queue, taken = WorkQueue(), list[str]()

        async def reconcile() -> None:
            while len(taken) < 100:  # without pauses, the task would end here
                uid = await queue.take()
                taken.append(uid)
                queue.done(uid)
                if uid == "restless":
                    queue.add(uid, after=-1)

        queue.add("restless")
        queue.add("calm", after=3.5 * PAUSE)
        running = asyncio.create_task(reconcile())
        await asyncio.sleep(4.5 * PAUSE)
        running.cancel()
        assert taken == ["restless"] * 4 + ["calm", "restless"]

    fake_time.run(scenario())


def test_several_takers_share_the_work() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        takers = [asyncio.create_task(queue.take()) for _ in range(4)]
        await asyncio.sleep(1)  # all of them wait
        for name in "abcd":
            queue.add(name)
        assert sorted(await asyncio.gather(*takers)) == list("abcd")

    fake_time.run(scenario())


def test_many_studies_are_taken_in_linear_time() -> None:
    """A search through the queue for each of them would take minutes."""

    async def scenario() -> None:
        queue, count = WorkQueue(), 40_000
        for number in range(count):
            queue.add(str(number))
        deadline = time.monotonic() + 20
        taken = set[str]()
        for _ in range(count):
            taken.add(await queue.take())
            assert time.monotonic() < deadline
        assert len(taken) == count

    fake_time.run(scenario())


def test_a_busy_study_is_taken_when_it_is_due_and_done() -> None:
    async def scenario() -> None:
        loop, queue = asyncio.get_running_loop(), WorkQueue()
        queue.add("a")
        assert await queue.take() == "a"
        queue.add("a")
        queue.add("b")
        assert await queue.take() == "b"  # "a" is skipped
        queue.done("a")
        assert await queue.take() == "a"
        assert loop.time() == pytest.approx(PAUSE)
        queue.done("a")
        queue.add("a", after=1000)
        queue.add("a", after=10)  # earlier than planned
        assert await queue.take() == "a"
        assert loop.time() == pytest.approx(10 + PAUSE)
        assert queue.waiting == 0

    fake_time.run(scenario())
