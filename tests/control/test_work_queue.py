import asyncio

from splittracr_operator.work_queue import WorkQueue


def test_each_study_is_taken_once_and_in_its_turn() -> None:
    async def scenario() -> None:
        waits: list[float] = []
        queue = WorkQueue(waits.append)
        queue.add("late", after=0.05)
        for _ in range(3):
            queue.add("soon")
        assert queue.waiting == 1  # the other one is not due
        assert await queue.take() == "soon"
        assert queue.waiting == 0
        queue.add("soon")  # changed meanwhile: again, but not at the same time
        assert await queue.take() == "late"
        queue.done("soon")
        assert await queue.take() == "soon"
        assert len(waits) == 3
        assert all(0 <= wait < 20 for wait in waits)

    asyncio.run(scenario())


def test_the_earlier_of_two_times_counts() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        queue.add("a", after=60)
        taking = asyncio.create_task(queue.take())
        await asyncio.sleep(0)
        queue.add("a", after=90)
        queue.add("a")
        assert await asyncio.wait_for(taking, 5) == "a"

    asyncio.run(scenario())


def test_one_study_without_end_starves_nobody() -> None:
    async def scenario() -> None:
        queue, times = WorkQueue(), 0

        async def reconcile() -> None:
            nonlocal times
            while True:
                uid = await queue.take()
                times += 1
                queue.done(uid)
                queue.add(uid, after=-1)

        queue.add("restless")
        running = asyncio.create_task(reconcile())
        await asyncio.sleep(0.2)  # only where the loop turns does this ever end
        running.cancel()
        assert 1 < times < 10

    asyncio.run(scenario())


def test_several_takers_share_the_work() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        takers = [asyncio.create_task(queue.take()) for _ in range(4)]
        await asyncio.sleep(0)
        for name in "abcd":
            queue.add(name)
        assert sorted(await asyncio.wait_for(asyncio.gather(*takers), 5)) == list("abcd")

    asyncio.run(scenario())


def test_many_studies_are_taken_in_linear_time() -> None:
    """40,000 of them took minutes when each was searched for."""

    async def scenario() -> None:
        queue, count = WorkQueue(), 40_000
        for number in range(count):
            queue.add(str(number))
        async with asyncio.timeout(20):
            taken = {await queue.take() for _ in range(count)}
        assert len(taken) == count

    asyncio.run(scenario())


def test_a_study_that_is_busy_is_taken_when_it_is_due_and_done() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        queue.add("a")
        assert await queue.take() == "a"
        queue.add("a")
        queue.add("b")
        assert await queue.take() == "b"  # "a" is skipped
        queue.done("a")
        async with asyncio.timeout(20):
            assert await queue.take() == "a"
        queue.done("a")
        queue.add("a", after=1000)
        queue.add("a", after=0.01)  # earlier than planned
        async with asyncio.timeout(20):
            assert await queue.take() == "a"
        assert queue.waiting == 0

    asyncio.run(scenario())
