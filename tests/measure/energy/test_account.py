"""Readings to joules, with integrals that are known."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.energy import Kind
from splittracr.measure.energy.account import (
    Account,
    Energy,
    Snapshot,
    machine,
    window,
    window_seconds,
)
from splittracr.measure.energy.sensor import Counter, Power, Reading, Zone

CPU = Zone("cpu", "package-0", "rapl")
RANGE = 262_143.328850  # joules, of a real package


def account(*readings: tuple[float, Reading], zone: Zone = CPU) -> tuple[Snapshot, Snapshot]:
    """Snapshots at the first and the last reading."""
    kept = Account()
    snapshots = []
    for now, reading in readings:
        kept.add(now, {zone: reading})
        snapshots.append(kept.snapshot(now))
    return snapshots[0], snapshots[-1]


def energy(*readings: tuple[float, Reading], tick: float = 0.001) -> Energy:
    (found,) = window(*account(*readings, zone=replace(CPU, tick=tick)))
    return found


def test_a_counter_gives_the_difference() -> None:
    found = energy((0.0, Counter(100.0)), (1.0, Counter(130.0)), (4.0, Counter(160.0)))
    assert (found.joules, found.watts, found.seconds, found.readings) == (60.0, 15.0, 4.0, 2)


def test_a_counter_wraps() -> None:
    found = energy((0.0, Counter(RANGE - 5, RANGE)), (1.0, Counter(7.0, RANGE)))
    assert found.joules == pytest.approx(12.0)


@pytest.mark.parametrize(
    "old", [Counter(1_000.0, RANGE), Counter(1_000.0)], ids=["low before", "never wraps"]
)
def test_a_reset_counter_gives_no_value(old: Counter) -> None:
    found = energy((0.0, old), (1.0, Counter(3.0, old.wraps_at)), (2.0, Counter(9.0, old.wraps_at)))
    assert found.joules is None
    assert found.note == "the counter was reset, or readings are missing"


def test_after_a_reset_the_next_window_is_measured_again() -> None:
    kept = Account()
    snapshots = []
    for now, joules in enumerate([500.0, 0.0, 20.0]):
        kept.add(now, {CPU: Counter(joules)})
        snapshots.append(kept.snapshot(now))
    windows = [window(a, b) for a, b in itertools.pairwise(snapshots)]
    assert [found.joules for (found,) in windows] == [None, 20.0]


def test_a_short_window_says_so() -> None:
    found = energy((0.0, Counter(1.0)), (0.5, Counter(2.0)), tick=0.1)
    assert found.joules is None
    assert found.note == "too short to measure: 0.5 s, the sensor changes every 0.1 s"
    assert energy((0.0, Counter(1.0)), (1.0, Counter(2.0)), tick=0.1).joules == 1.0


def watts(*readings: tuple[float, Reading], now: float, tick: float = 0.001) -> float | None:
    """The power of a zone at `now`."""
    zone, kept = replace(CPU, tick=tick), Account()
    for then, reading in readings:
        kept.add(then, {zone: reading})
    return kept.watts(now).get(zone)


def test_power_is_that_of_the_last_second() -> None:
    counts = [(0.0, Counter(0.0)), (1.0, Counter(50.0)), (2.0, Counter(60.0)), (3.0, Counter(65.0))]
    assert watts(*counts[:1], now=0.1) is None
    assert watts(*counts[:2], now=1.5) == 50.0
    assert watts(*counts, now=3.5) == 5.0
    powers: list[tuple[float, Reading]] = [(0.02 * i, Power(float(i >= 50))) for i in range(200)]
    assert watts(*powers, now=4.0) == pytest.approx(1.0)


def test_power_of_a_slow_sensor_is_that_of_ten_ticks() -> None:
    readings = [(0.5 * i, Power(4.0 if i < 20 else 8.0)) for i in range(31)]
    assert watts(*readings[:20], now=9.5, tick=1.0) is None
    assert watts(*readings, now=15.0, tick=1.0) == pytest.approx(6.0, abs=0.2)


def test_power_is_absent_without_fresh_readings() -> None:
    counts = [(0.0, Counter(0.0)), (1.0, Counter(50.0))]
    assert watts(*counts, now=5.9) == 50.0
    assert watts(*counts, now=6.1) is None
    back = (3600.0, Counter(70.0))
    assert watts(*counts, back, now=3600.0) is None  # no mean over an hour
    assert watts(*counts, back, (3601.0, Counter(73.0)), now=3601.0) == 3.0


def test_power_is_absent_across_a_reset() -> None:
    counts = [(0.0, Counter(0.0)), (1.0, Counter(50.0)), (2.0, Counter(3.0))]
    assert watts(*counts, now=2.0) is None
    assert watts(*counts, (3.0, Counter(10.0)), now=3.0) == 7.0


def test_power_is_not_known_across_a_gap() -> None:
    found = energy((0.0, Power(10.0)), (1.0, Power(10.0)), (7.0, Power(10.0)))
    assert found.joules is None


def test_a_zone_that_was_not_read_is_absent() -> None:
    start, end = account((0.0, Counter(1.0)), (1.0, Counter(2.0)))
    assert window(Snapshot(0.0), end) == ()
    assert window(end, Snapshot(2.0, end.totals)) == ()
    assert window(start, Snapshot(2.0)) == ()


CURVES: dict[str, tuple[Callable[[float], float], float]] = {
    "constant": (lambda t: 12.5, 125.0),
    "ramp": (lambda t: 3 * t, 150.0),
    "sine": (lambda t: 20 + 15 * math.sin(2 * math.pi * t / 2.5), 200.0),
    "bursts": (lambda t: 30.0 if t % 1.0 < 0.4 else 5.0, 150.0),
}


@pytest.mark.parametrize("name", CURVES)
def test_the_integral_of_power_is_within_one_per_cent(name: str) -> None:
    curve, joules = CURVES[name]
    interval = 0.02  # of the INA3221 reader
    readings = [(i * interval, Power(curve(i * interval))) for i in range(501)]
    assert energy(*readings, tick=0.01).joules == pytest.approx(joules, rel=0.01)


@given(
    steps=st.lists(st.floats(0, 100, allow_subnormal=False), min_size=1, max_size=50),
    start=st.floats(0, RANGE),
)
def test_wrapping_loses_nothing(steps: list[float], start: float) -> None:
    """Steps are below half of the range, as a sensor is read long before that."""
    at, readings = start, [(0.0, Counter(start % RANGE, RANGE))]
    for i, step in enumerate(steps, 1):
        at += step
        readings.append((float(i), Counter(at % RANGE, RANGE)))
    found = energy(*readings)
    assert found.joules == pytest.approx(sum(steps), rel=1e-6, abs=1e-6)


def test_a_sensor_that_started_anew_gives_no_value() -> None:
    found = energy((0.0, Counter(10.0, counter_id="a")), (1.0, Counter(30.0, counter_id="b")))
    assert found.joules is None


PSYS = Zone("system", "psys", "rapl")
DRAM = Zone("memory", "dram of package-0", "rapl")
GPU = Zone("gpu", "gpu-0", "nvml", tick=0.1)
BATTERY = Zone("system", "BAT0", "battery", tick=1.0)
PMIC = Zone("system", "pmic-rails", "pmic", Kind.ESTIMATED, tick=0.1)
BOARD = Zone("system", "VDD_IN", "ina3221")
RAIL = Zone("gpu", "VDD_GPU_SOC", "ina3221")


@pytest.mark.parametrize(
    ("zones", "together"),
    [
        ((CPU, DRAM, GPU), (CPU, DRAM, GPU)),
        ((CPU, DRAM, PSYS, BATTERY), (PSYS,)),
        ((RAIL, BOARD), (BOARD,)),
        ((RAIL,), ()),
        ((PMIC,), (PMIC,)),
        ((), ()),
    ],
)
def test_only_disjoint_zones_stand_for_the_machine(
    zones: tuple[Zone, ...], together: tuple[Zone, ...]
) -> None:
    assert machine(zones) == together


@pytest.mark.parametrize(
    ("zones", "seconds"),
    [((), 0.0), ((CPU,), 1.0), ((CPU, GPU), 1.05), ((CPU, GPU, BATTERY), 1.05), ((BATTERY,), 10.5)],
)
def test_the_slowest_sensor_but_a_battery_decides_how_long_a_window_is(
    zones: tuple[Zone, ...], seconds: float
) -> None:
    assert window_seconds(zones) == pytest.approx(seconds)
