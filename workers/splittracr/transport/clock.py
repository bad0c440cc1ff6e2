"""Sleeps until a time, more precisely than an event loop's timers."""

import asyncio
import ctypes
import functools
import os
import sys
import time
from typing import Protocol

_SECOND = 10**9  # nanoseconds
_EARLY = 100_000  # nanoseconds: about the time from a timer's end to the waiting task
_TFD_TIMER_ABSTIME = 1


class Clock(Protocol):
    """Time in nanoseconds, from any origin, that never decreases."""

    def now(self) -> int:
        """Return the time."""

    async def sleep_until(self, due: int) -> None:
        """Return at `due` or as soon as possible after it, never before."""


class MonotonicClock:
    """The machine's monotonic clock.

    On Linux a timer of the kernel wakes the loop, because epoll and libuv round to whole
    milliseconds. Polling for the last millisecond would slow down the models in other threads, so
    only the last 0.1 ms are polled. Other systems use the loop's own timers.
    """

    def now(self) -> int:
        """Return the nanoseconds of the monotonic clock."""
        return time.monotonic_ns()

    async def sleep_until(self, due: int) -> None:
        """Return at `due` or as soon as possible after it, never before."""
        while (left := due - time.monotonic_ns()) > 0:
            if sys.platform == "linux" and left > _EARLY:
                await _kernel_timer(due - _EARLY)
            elif sys.platform == "linux":
                await asyncio.sleep(0)
            else:
                await asyncio.sleep(left / _SECOND)


async def _kernel_timer(due: int) -> None:
    """Wait with timerfd (Linux; in `os` from Python 3.13 on, by ctypes before)."""
    loop = asyncio.get_running_loop()
    expired = loop.create_future()
    libc = _libc()
    timer = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    _check(timer)

    def expire() -> None:
        loop.remove_reader(timer)
        if not expired.done():
            expired.set_result(None)

    try:
        once_at = (ctypes.c_long * 4)(0, 0, *divmod(due, _SECOND))  # struct itimerspec
        _check(libc.timerfd_settime(timer, _TFD_TIMER_ABSTIME, once_at, None))
        loop.add_reader(timer, expire)
        await expired
    finally:
        loop.remove_reader(timer)
        os.close(timer)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(returned: int) -> None:
    if returned == -1:
        raise OSError(ctypes.get_errno(), "timerfd: " + os.strerror(ctypes.get_errno()))
