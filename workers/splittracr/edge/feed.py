"""Starts the frames of a study: when each is due, how many are in flight, and when to stop."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from typing import Any, Generic, TypeVar

from splittracr.edge.window import Window
from splittracr.experiment.errors import Stopped
from splittracr.experiment.spec import ClosedLoop, OpenLoop
from splittracr.planning.schedule import Step, due_times

T = TypeVar("T")

_GRACE_SECONDS = 3
"""Frames in flight have this long to finish after a stop."""


class Feed(Generic[T]):
    """Runs the steps of a study, as the arrival process and the window allow.

    `start` begins a step: it decides, and returns the frame's work. Its second argument is the time
    that latency counts from, on the scale of `time.perf_counter`. `give_up` is called if frames are
    still in flight three seconds after a stop, and has to make them fail.
    """

    def __init__(
        self,
        arrival: ClosedLoop | OpenLoop,
        window: Window,
        start: Callable[[Step, float], Coroutine[Any, Any, T]],
        give_up: Callable[[], None],
    ) -> None:
        self._arrival, self._window = arrival, window
        self._start, self._give_up = start, give_up

    async def run(
        self, steps: Iterable[Step], total: int, stop: asyncio.Event
    ) -> AsyncGenerator[T, None]:
        """Yield the result of each of `total` steps in order of completion.

        Raises the first error of a frame. If `stop` was set before the last frame started, raises
        Stopped once those in flight have finished.
        """
        finished: asyncio.Queue[T | Exception] = asyncio.Queue()
        feeder = asyncio.create_task(self._feed(steps, finished, stop))
        stopper = asyncio.create_task(self._stop_after_grace(stop))
        try:
            for done in range(total):
                outcome = await finished.get()
                if isinstance(outcome, Stopped):
                    raise Stopped(f"stopped after {done} of {total} frames")
                if isinstance(outcome, Exception):
                    raise outcome
                yield outcome
        finally:
            feeder.cancel()
            stopper.cancel()
            await asyncio.wait([feeder, stopper])

    async def _feed(
        self,
        steps: Iterable[Step],
        finished: "asyncio.Queue[T | Exception]",
        stop: asyncio.Event,
    ) -> None:
        """Start every frame when it is due and there is room; put its result in `finished`."""
        try:
            async with asyncio.TaskGroup() as group:
                for step, due in zip(steps, self._due(), strict=False):
                    await _until(due, stop)
                    await self._window.enter()
                    if stop.is_set():
                        break
                    work = self._start(step, time.perf_counter() if due is None else due)
                    group.create_task(self._finish(work, finished))
            if stop.is_set():
                await finished.put(Stopped())
        except Exception as error:  # noqa: BLE001 - the reader of the queue raises it
            # The group wraps what a start raises, such as the error of a policy.
            await finished.put(error.exceptions[0] if isinstance(error, ExceptionGroup) else error)

    async def _finish(
        self, work: Coroutine[Any, Any, T], finished: "asyncio.Queue[T | Exception]"
    ) -> None:
        try:
            await finished.put(await work)
        except Exception as error:  # noqa: BLE001 - the reader of the queue raises it
            await finished.put(error)
        finally:
            self._window.leave()

    def _due(self) -> Iterator[float | None]:
        """When each frame is due; None if the next one starts as soon as there is room."""
        if isinstance(self._arrival, OpenLoop):
            start = time.perf_counter()
            yield from (start + at for at in due_times(self._arrival))
        while True:
            yield None

    async def _stop_after_grace(self, stop: asyncio.Event) -> None:
        await stop.wait()
        await asyncio.sleep(_GRACE_SECONDS)
        self._give_up()


async def _until(due: float | None, stop: asyncio.Event) -> None:
    """Wait until a time on `time.perf_counter`, never less; `stop` ends the wait."""
    while due is not None and (left := due - time.perf_counter()) > 0 and not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), left)
