"""Interfaces of sensors: zones, and readings of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from splittracr.experiment.energy import Kind


@dataclass(frozen=True)
class Zone:
    """One part of a machine with a sensor of its own.

    `component` is cpu, gpu, memory, soc, system, link or other; `zone` is the sensor's own name
    for it; `source` is what was read. `tick` is the seconds between two changes of its value. Zones
    may contain each other: only `account.machine` adds up any.
    """

    component: str
    zone: str
    source: str
    kind: Kind = Kind.MEASURED
    tick: float = 0.001


@dataclass(frozen=True)
class Counter:
    """Joules since some moment. After `wraps_at` joules it starts from 0 again, if that is set.
    Readings of different `counter_id` have nothing in common.
    """

    joules: float
    wraps_at: float | None = None
    counter_id: str = ""


@dataclass(frozen=True)
class Power:
    """Watts at this moment."""

    watts: float


Reading = Counter | Power


class Sensor(Protocol):
    """A source of readings. `interval` is the max seconds between two readings that miss
    nothing.
    """

    @property
    def interval(self) -> float: ...

    def read(self) -> Mapping[Zone, Reading]:
        """The zones that can be read now. Never raises for one that cannot be read."""
        ...


@dataclass(frozen=True)
class Found:
    """The sensors of a machine, and why others that it seems to have are not used."""

    sensors: tuple[Sensor, ...] = ()
    problems: tuple[str, ...] = ()

    def __add__(self, other: "Found") -> "Found":
        return Found(self.sensors + other.sensors, self.problems + other.problems)
