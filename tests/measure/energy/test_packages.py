"""Energy readers of other packages: values are used, errors are reported."""

import logging
import math
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from splittracr.measure.energy import readers
from splittracr.measure.energy.account import machine
from splittracr.measure.energy.sensor import Counter, Power, Reading, Zone

HERE = __name__
BOARD = Zone("system", "usb-c", "acme")
RAPL = Zone("system", "psys", "rapl")


class Meter:
    """A sensor that gives what it was made with, or raises it."""

    def __init__(self, reading: Any, interval: Any = 0.1) -> None:
        self._reading, self.interval = reading, interval

    def read(self) -> Mapping[Zone, Reading]:
        if isinstance(self._reading, BaseException):
            raise self._reading
        found: Mapping[Zone, Reading] = self._reading
        return found


def meter() -> list[Meter]:
    return [Meter({BOARD: Power(4.5)}), Meter({BOARD: Counter(7.0)})]


def nothing() -> list[Meter]:
    return []


def broken() -> Iterator[Meter]:
    yield Meter({})
    raise OSError("no bus")


def too_often() -> list[Meter]:
    return [Meter({}, interval=0)]


def leaves() -> list[Meter]:
    raise SystemExit(3)


def entry(name: str) -> EntryPoint:
    return EntryPoint(f"acme.{name}", f"{HERE}:{name}", readers.GROUP)


def test_the_sensors_of_a_package_are_read() -> None:
    found = readers.find([entry("meter"), entry("nothing")])
    assert found.problems == ()
    assert [dict(one.read()) for one in found.sensors] == [
        {BOARD: Power(4.5)},
        {BOARD: Counter(7.0)},
    ]
    assert [one.interval for one in found.sensors] == [0.1, 0.1]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("broken", "no bus"),
        ("too_often", "ValueError: interval: got 0, expected seconds above 0"),
        ("leaves", "SystemExit: 3"),
        ("missing", f"AttributeError: module '{HERE}' has no attribute 'missing'"),
    ],
)
def test_a_reader_that_fails_is_a_problem_and_others_are_used(name: str, problem: str) -> None:
    found = readers.find([entry(name), entry("meter")])
    assert found.problems == (f"energy reader acme.{name} ({HERE}:{name}): {problem}",)
    assert len(found.sensors) == 2


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (RuntimeError("unplugged"), "RuntimeError: unplugged"),
        ({"board": Power(1.0)}, "read: got the key 'board', expected a Zone"),
        ({BOARD: 4.5}, "read: usb-c: got 4.5, expected a Counter or Power"),
        ({BOARD: Power(math.nan)}, "read: usb-c: got nan, expected a number of at least 0"),
        ({BOARD: Power(-1.0)}, "read: usb-c: got -1.0, expected a number of at least 0"),
        (None, "TypeError"),
    ],
)
def test_a_sensor_that_fails_gives_no_reading_and_is_logged_once(
    reading: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    sensor = readers.Contained("acme", Meter(reading))
    with caplog.at_level(logging.WARNING):
        assert [sensor.read(), sensor.read()] == [{}, {}]
    assert len(caplog.messages) == 1
    assert said in caplog.messages[0]


def test_a_whole_machine_sensor_of_a_package_stands_for_the_machine() -> None:
    assert machine((RAPL, BOARD)) == (BOARD,)
