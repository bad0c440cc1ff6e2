"""Stages add up, and a slowed edge sleeps in proportion."""

import time

import pytest
import torch

from splittracr.measure import stopwatch
from splittracr.measure.stopwatch import Stopwatch

CPU = torch.device("cpu")


class Clock:
    """A clock that moves only when told to, or when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stopwatch, "time", clock)
    return clock


def test_stages_are_added_up_by_name(clock: Clock) -> None:
    watch = Stopwatch(CPU)
    for name, seconds in (("head", 0.5), ("encode", 0.25), ("head", 1.0)):
        with watch.stage(name):
            clock.sleep(seconds)
    watch.add("encode", 50.0)
    assert watch.stages == pytest.approx({"head": 1500.0, "encode": 300.0})


def test_slowdown_stretches_what_was_measured(clock: Clock) -> None:
    watch = Stopwatch(CPU, slowdown=10.0)
    with watch.stage("head"):
        clock.sleep(0.2)
    assert watch.stages == pytest.approx({"head": 2000.0})
    assert clock.now == pytest.approx(102.0)


def test_the_real_clock_is_the_wall_clock() -> None:
    watch = Stopwatch(CPU)
    started = time.perf_counter()
    with watch.stage("head"):
        time.sleep(0.02)
    assert 20 <= watch.stages["head"] <= (time.perf_counter() - started) * 1e3
