"""Stages add up, and a slowed edge multiplies what it computes, not what it waits for."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace

import pytest
import torch

from splittracr.backends.torch.device import TorchDevice
from splittracr.experiment.errors import Abandoned
from splittracr.measure import stopwatch
from splittracr.measure.stopwatch import Busy, Stopwatch

CPU = TorchDevice(torch.device("cpu"))
SLOWDOWN = 6
WAITED = 0.1  # seconds that a loaded computation has to wait before it may end


class Clock:
    """Wall clock and CPU time that move only by `work`, `wait` and `sleep`; seconds."""

    def __init__(self) -> None:
        self.now, self.cpu = 100.0, 7.0

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.cpu

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.cpu += seconds

    def wait(self, seconds: float) -> None:
        self.now += seconds

    sleep = wait


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stopwatch, "time", clock)
    return clock


def test_stages_are_added_up_by_name(clock: Clock) -> None:
    watch = Stopwatch(CPU)
    for name, seconds in (("head", 0.5), ("encode", 0.25), ("head", 1.0)):
        with watch.stage(name):
            clock.work(seconds)
    watch.add("encode", 50.0)
    assert watch.stages == pytest.approx({"head": 1500.0, "encode": 300.0})


def test_slowdown_multiplies_work_and_not_waiting(clock: Clock) -> None:
    watch = Stopwatch(CPU, slowdown=10.0)
    with watch.stage("head"):
        clock.work(0.2)
        clock.wait(0.3)
    assert watch.stages == pytest.approx({"head": 2300.0})
    assert clock.now == pytest.approx(102.3)


def test_with_several_threads_slowdown_multiplies_wall_clock_time(clock: Clock) -> None:
    torch.set_num_threads(2)
    watch = Stopwatch(CPU, slowdown=10.0)
    with watch.stage("head"):
        clock.work(0.2)
        clock.wait(0.3)
    assert watch.stages == pytest.approx({"head": 5000.0})


def test_no_stage_takes_more_than_slowdown_times_its_wall_clock_time(clock: Clock) -> None:
    watch = Stopwatch(CPU, slowdown=10.0)
    with watch.stage("head"):
        clock.work(0.2)
        clock.cpu += 5.0  # a clock that counts too much
    assert watch.stages == pytest.approx({"head": 2000.0})


def test_a_stage_that_fails_is_neither_counted_nor_stretched(clock: Clock) -> None:
    watch = Stopwatch(CPU, slowdown=10.0)

    def broken() -> None:
        clock.work(0.2)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), watch.stage("head"):
        broken()
    assert watch.stages == {}
    assert clock.now == pytest.approx(100.2)


def test_an_abandoned_stage_ends_at_once() -> None:
    abandon = threading.Event()
    abandon.set()
    watch = Stopwatch(CPU, slowdown=1e6, abandon=abandon)
    with pytest.raises(Abandoned), watch.stage("head"):
        compute_until(lambda: True)
    assert watch.stages == {}


def test_the_real_clock_is_the_wall_clock() -> None:
    watch = Stopwatch(CPU)
    started = time.perf_counter()
    with watch.stage("head"):
        time.sleep(0.02)
    assert 20 <= watch.stages["head"] <= (time.perf_counter() - started) * 1e3


# --------------------------------------------------------------------------------- accelerators


class Accelerator:
    """A device with a clock of its own: it finishes at `until` what was launched."""

    name, capability, uuid, threads = "accelerator", "none", None, 1

    def __init__(self, clock: Clock) -> None:
        self.clock, self.until = clock, clock.now

    def launch(self, seconds: float) -> None:
        self.until = max(self.until, self.clock.now) + seconds

    def synchronise(self) -> None:
        self.clock.wait(max(0.0, self.until - self.clock.now) + 0.05)  # and 50 ms for a core

    def finish(self) -> float:
        left = max(0.0, self.until - self.clock.now)
        self.synchronise()
        return left

    def memory(self) -> Mapping[str, float]:
        return {}


def test_a_stage_ends_when_the_device_has_finished(clock: Clock) -> None:
    device = Accelerator(clock)
    watch = Stopwatch(device)
    with watch.stage("head"):
        device.launch(0.5)
        clock.work(0.1)
    assert watch.stages == pytest.approx({"head": 550.0})


def test_slowdown_multiplies_launches_and_what_the_device_still_does(clock: Clock) -> None:
    device = Accelerator(clock)
    watch = Stopwatch(device, slowdown=10.0)
    with watch.stage("head"):
        device.launch(0.5)
        clock.work(0.1)
        clock.wait(0.2)
    # 0.1 s of launches and 0.2 s of the device after them; 0.2 s and 0.05 s of waiting.
    assert watch.stages == pytest.approx({"head": 10 * 300.0 + 250.0})


# ---------------------------------------------------------------------- accuracy, alone and not


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """With any other load on the machine."""
    yield


@contextlib.contextmanager
def beside_a_process_on_the_same_core() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})  # of this thread; a child inherits it
    endless = "print(flush=True)\nwhile True: pass"
    try:
        with subprocess.Popen([sys.executable, "-c", endless], stdout=subprocess.PIPE) as hog:
            try:
                assert hog.stdout is not None
                hog.stdout.readline()
                yield
            finally:
                hog.kill()
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def beside_a_thread_that_holds_the_interpreter_lock() -> Iterator[None]:
    stop = threading.Event()

    def hold() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def beside_both() -> Iterator[None]:
    with (
        beside_a_process_on_the_same_core(),
        beside_a_thread_that_holds_the_interpreter_lock(),
    ):
        yield


LOADS = [
    (alone, 0.0),
    (beside_a_process_on_the_same_core, WAITED),
    (beside_a_thread_that_holds_the_interpreter_lock, WAITED),
    (beside_both, WAITED),
]
pinned = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot choose a core")


def compute_until(enough: Callable[[], bool]) -> None:
    """Run operations of a network for 20 ms of CPU time at least, and until `enough`."""
    picture, weights = torch.randn(1, 3, 64, 64), torch.randn(8, 3, 3, 3)
    began, end = time.thread_time(), time.monotonic() + 60
    while time.thread_time() - began < 0.02 or not enough():
        torch.relu(torch.conv2d(picture, weights))
        assert time.monotonic() < end, "the load made nothing wait"


class Span:
    """Seconds of CPU and of wall clock since this was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.thread_time()

    @property
    def wall(self) -> float:
        return time.perf_counter() - self._wall

    @property
    def cpu(self) -> float:
        return time.thread_time() - self._cpu


@pinned
@pytest.mark.parametrize(("load", "waited"), LOADS, ids=[load.__name__ for load, _ in LOADS])
def test_stretched_time_is_slowdown_times_cpu_time_under_any_load(
    load: Callable[[], contextlib.AbstractContextManager[None]],
    waited: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bounds are the CPU time just inside the stage and just around it: the tolerance is
    what the stopwatch itself computes.
    """
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time.sleep(seconds)

    clocks = {"perf_counter": time.perf_counter, "thread_time": time.thread_time}
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(**clocks, sleep=sleep))
    watch = Stopwatch(CPU, SLOWDOWN)
    with load():
        around = Span()
        with watch.stage("head"):
            inside = Span()
            compute_until(lambda: inside.wall - inside.cpu >= waited)
            wall, least = inside.wall, inside.cpu
        most, total = around.cpu, around.wall
    (added,) = slept
    assert (SLOWDOWN - 1) * least <= added <= (SLOWDOWN - 1) * most
    assert wall + added <= watch.stages["head"] / 1e3 <= total


@pinned
@pytest.mark.parametrize(("load", "waited"), LOADS, ids=[load.__name__ for load, _ in LOADS])
def test_busy_time_is_cpu_time_under_any_load(
    load: Callable[[], contextlib.AbstractContextManager[None]], waited: float
) -> None:
    with load():
        around = Span()
        busy = Busy(CPU)
        inside = Span()
        compute_until(lambda: inside.wall - inside.cpu >= waited)
        least = inside.cpu
        seconds = busy.seconds()
        most = around.cpu
    assert least <= seconds <= most
