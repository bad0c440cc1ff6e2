"""The thread that samples: snapshots of windows are exact at any time."""

import threading
import time
from collections.abc import Mapping

import pytest

from splittracr.measure.energy.account import window
from splittracr.measure.energy.sampler import Sampler
from splittracr.measure.energy.sensor import Counter, Power, Reading, Zone

GPU = Zone("gpu", "gpu-0", "rapl")
BOARD = Zone("system", "VDD_IN", "ina3221")


class Clocked:
    """A counter of 50 W and a board that draws 8 W."""

    interval = 0.01

    def __init__(self) -> None:
        self.reads = 0
        self.often, self.long = threading.Event(), threading.Event()
        self.first = time.monotonic()

    def read(self) -> Mapping[Zone, Reading]:
        self.reads += 1
        if self.reads >= 20:
            self.often.set()
        if time.monotonic() - self.first >= 1.5:
            self.long.set()
        return {GPU: Counter(50 * time.monotonic()), BOARD: Power(8.0)}


def test_a_window_has_the_energy_between_two_snapshots() -> None:
    sensor = Clocked()
    sampler = Sampler([sensor])
    start = sampler.snapshot()
    sampler.start()
    assert sensor.often.wait(60)
    end = sampler.snapshot()
    sampler.stop()
    found = {energy.zone: energy for energy in window(start, end)}
    assert found[GPU].watts == pytest.approx(50, rel=0.05)
    assert found[BOARD].watts == pytest.approx(8, rel=0.05)
    assert found[GPU].readings >= 18
    assert sampler.joules()[GPU] >= (found[GPU].joules or 0)


def test_the_power_of_each_zone_is_known_after_a_second() -> None:
    sensor = Clocked()
    sampler = Sampler([sensor])
    sampler.start()
    assert sensor.long.wait(60)
    sampler.snapshot()
    sampler.stop()
    watts = sampler.watts()
    assert watts[BOARD] == pytest.approx(8)
    assert watts[GPU] > 0


class Broken(Clocked):
    """A sensor that can be switched off."""

    on = True

    def read(self) -> Mapping[Zone, Reading]:
        return super().read() if self.on else {}


def test_a_snapshot_has_no_zone_that_was_not_read_for_it() -> None:
    sensor = Broken()
    sampler = Sampler([sensor])
    start = sampler.snapshot()
    sensor.on = False
    end = sampler.snapshot()
    assert set(start.totals) == {GPU, BOARD}
    assert end.totals == {}
    assert set(sampler.joules()) == {GPU, BOARD}
    assert sampler.watts() == {}


def test_without_sensors_there_is_nothing() -> None:
    sampler = Sampler([])
    sampler.start()
    assert sampler.snapshot().totals == {}
    sampler.stop()
