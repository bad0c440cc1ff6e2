"""The threads that run the stages of frames.

There are three lanes, each one frame at a time and in the order of submission: reading, the model,
coding. If several frames are in flight, they overlap, with each other and with the link. A frame
that is alone gains nothing from a change of thread, so reading and the model then share one.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from splittracr.measure.stopwatch import Stopwatch

T = TypeVar("T")


class Lanes:
    """The three threads. `pipelined` is False if there is never more than one frame in flight."""

    def __init__(self, *, pipelined: bool) -> None:
        self.pipelined = pipelined
        self.model = ThreadPoolExecutor(1, thread_name_prefix="head")
        self.code = ThreadPoolExecutor(1, thread_name_prefix="code")
        self.read = ThreadPoolExecutor(1, thread_name_prefix="read") if pipelined else self.model

    async def run(self, lane: ThreadPoolExecutor, watch: Stopwatch, work: Callable[[], T]) -> T:
        """Return the result of `work`, run in `lane`; the time until it starts is `edge_wait`."""
        submitted = time.perf_counter()

        def timed() -> T:
            watch.add("edge_wait", (time.perf_counter() - submitted) * 1e3)
            return work()

        return await asyncio.get_running_loop().run_in_executor(lane, timed)

    def close(self) -> None:
        """Release the threads; work that runs continues to its end."""
        for lane in (self.read, self.model, self.code):
            lane.shutdown(wait=False)
