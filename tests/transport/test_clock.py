"""Waiting by the real clock: never short, and nothing left behind."""

import asyncio
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from splittracr.transport import clock
from splittracr.transport.clock import MonotonicClock

MS = 10**6
linux = pytest.mark.skipif(sys.platform != "linux", reason="timerfd is Linux's")


def _waits(*nanoseconds: int) -> list[int]:
    """How late each wait was, in nanoseconds."""

    async def wait() -> list[int]:
        subject, late = MonotonicClock(), []
        for wanted in nanoseconds:
            due = subject.now() + wanted
            await subject.sleep_until(due)
            late.append(subject.now() - due)
        return late

    return asyncio.run(wait())


def test_a_wait_is_never_short() -> None:
    assert all(0 <= late < 10_000 * MS for late in _waits(3 * MS, MS // 3, 50_000, 1, 0, -MS))


def test_a_wait_is_never_short_where_the_kernel_has_no_timers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock, "sys", SimpleNamespace(platform="other"))
    assert all(0 <= late < 10_000 * MS for late in _waits(3 * MS, MS // 3, -MS))


@linux
def test_many_tasks_wait_at_once_and_a_cancelled_wait_leaves_no_descriptor() -> None:
    async def cancelled_waits() -> None:
        subject = MonotonicClock()
        before = _descriptors()
        far = subject.now() + 3600 * 1000 * MS
        waits = [asyncio.create_task(subject.sleep_until(far)) for _ in range(10)]
        await subject.sleep_until(subject.now() + MS)
        assert _descriptors() == before + 10
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
        assert all(wait.cancelled() for wait in waits)
        assert _descriptors() == before

    asyncio.run(cancelled_waits())


@linux
def test_a_kernel_that_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = SimpleNamespace(timerfd_create=lambda *_: -1)
    monkeypatch.setattr(clock, "_libc", lambda: refusing)
    with pytest.raises(OSError, match="timerfd"):
        _waits(3 * MS)


def _descriptors() -> int:
    """Open timers; other descriptors may belong to threads of earlier tests."""
    links = Path(f"/proc/{os.getpid()}/fd").iterdir()
    return sum("timerfd" in _target(link) for link in links)


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:  # closed meanwhile
        return ""
