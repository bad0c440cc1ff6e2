"""From readings to joules. Pure: the time of each reading comes with it."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from splittracr.measure.energy.sensor import Counter, Power, Reading, Zone

MIN_TICKS = 10
"""A shorter window is dominated by the sensor's resolution."""

MAX_GAP = 5.0
"""Seconds between two readings of power beyond which nothing is known of the time between."""

_MAX_TICK_SECONDS = 0.1  # of a sensor that decides how long a window is, unless all are slower
_MIN_WINDOW_SECONDS = 1.0
_MARGIN = 1.05  # times the window that MIN_TICKS asks for
_MIN_POWER_SECONDS = 0.9  # readings a second apart count, with some jitter


@dataclass(frozen=True)
class Total:
    """The known energy of a zone at one moment.

    It is the joules since the first reading, the number of readings, and how often joules were lost
    (a counter was reset, readings were missing).
    """

    joules: float = 0.0
    readings: int = 0
    gaps: int = 0


@dataclass(frozen=True)
class Energy:
    """The energy of a zone in a window. `joules` is None if it could not be measured; `note` has
    the reason.
    """

    zone: Zone
    seconds: float
    joules: float | None
    readings: int
    note: str = ""

    @property
    def watts(self) -> float | None:
        """Mean power."""
        return None if self.joules is None else self.joules / self.seconds


@dataclass(frozen=True)
class Snapshot:
    """The totals where a window begins or ends. `now` is in seconds of a monotonic clock."""

    now: float
    totals: Mapping[Zone, Total] = field(default_factory=dict)


class Account:
    """Adds up readings. Power is integrated by the trapezoidal rule."""

    def __init__(self) -> None:
        self._last: dict[Zone, tuple[float, Reading]] = {}
        self._totals: dict[Zone, Total] = {}
        self._recent: dict[Zone, deque[tuple[float, Total]]] = {}

    def add(self, now: float, readings: Mapping[Zone, Reading]) -> None:
        """Count the readings taken at `now`, in seconds that never go back."""
        for zone, reading in readings.items():
            total = self._totals.get(zone, Total())
            last = self._last.get(zone)
            spent = 0.0 if last is None else _between(*last, now, reading)
            self._totals[zone] = Total(
                total.joules + (spent or 0.0),
                total.readings + 1,
                total.gaps + int(spent is None),
            )
            self._last[zone] = now, reading
            self._remember(zone, now)

    def snapshot(self, now: float, since: float = -math.inf) -> Snapshot:
        """Return the totals of the zones that were read at `since` or later.

        An earlier reading would leave out the joules of the last frames.
        """
        fresh = {zone: t for zone, t in self._totals.items() if self._last[zone][0] >= since}
        return Snapshot(now, fresh)

    def watts(self, now: float) -> Mapping[Zone, float]:
        """Mean power of each zone over its last readings, as many as its resolution needs.

        A zone that was not read for a while has none, nor one whose readings have a gap.
        """
        found = {}
        for zone, recent in self._recent.items():
            (start, first), (end, last) = recent[0], recent[-1]
            fresh = now - end <= MAX_GAP and end - start <= _power_seconds(zone) + MAX_GAP
            if fresh and end - start >= _power_seconds(zone) and first.gaps == last.gaps:
                found[zone] = (last.joules - first.joules) / (end - start)
        return found

    def _remember(self, zone: Zone, now: float) -> None:
        """Keep the totals of the last readings, just enough of them for a mean power."""
        recent = self._recent.setdefault(zone, deque())
        recent.append((now, self._totals[zone]))
        while len(recent) > 2 and now - recent[1][0] >= _power_seconds(zone):
            recent.popleft()


def _power_seconds(zone: Zone) -> float:
    """The time over which a zone's power is a mean."""
    return max(_MIN_POWER_SECONDS, MIN_TICKS * zone.tick)


def _between(then: float, old: Reading, now: float, new: Reading) -> float | None:
    """Joules between two readings of a zone; None if unknown."""
    match old, new:
        case Counter(), Counter():
            if new.counter_id != old.counter_id:
                return None
            if new.joules >= old.joules:
                return new.joules - old.joules
            # A counter that was low cannot have wrapped since: it was reset.
            if new.wraps_at is not None and old.joules > new.wraps_at / 2:
                return new.joules + new.wraps_at - old.joules
            return None
        case Power(), Power() if now - then <= MAX_GAP:
            return (old.watts + new.watts) / 2 * (now - then)
    return None


def window(start: Snapshot, end: Snapshot) -> tuple[Energy, ...]:
    """The energy of each zone between two snapshots. A zone that was not read is left out."""
    seconds = end.now - start.now
    found = []
    for zone, last in end.totals.items():
        first = start.totals.get(zone)
        if first is None or last.readings == first.readings:
            continue
        note = ""
        if seconds < MIN_TICKS * zone.tick:
            every = f"the sensor changes every {zone.tick:g} s"
            note = f"too short to measure: {seconds:.3g} s, {every}"
        elif last.gaps != first.gaps:
            note = "the counter was reset, or readings are missing"
        joules = last.joules - first.joules if not note else None
        found.append(Energy(zone, seconds, joules, last.readings - first.readings, note))
    return tuple(found)


def window_seconds(zones: Iterable[Zone]) -> float:
    """The min length of a window for these zones; 0 without any.

    It is at least a second, so that a window holds several frames. A battery, by far the slowest
    sensor, counts only if it is the only one; beside others its windows are too short.
    """
    ticks = [zone.tick for zone in zones]
    if not ticks:
        return 0.0
    longest = max((tick for tick in ticks if tick <= _MAX_TICK_SECONDS), default=min(ticks))
    return max(_MIN_WINDOW_SECONDS, MIN_TICKS * longest * _MARGIN)


_WHOLE = ("ina3221", "rapl", "battery", "pmic")
"""Sources with a zone for the whole machine, the best one first."""

_DISJOINT = ("rapl", "nvml")
"""Sources whose other zones do not contain each other: packages, their memory, GPUs."""


def machine(zones: Iterable[Zone]) -> tuple[Zone, ...]:
    """The zones that together cover the machine; empty if none do.

    A sensor of the whole machine is used alone. Without one it is the packages of the processor,
    their memory and the GPU, which are disjoint. Rails of a board without its input rail cover no
    machine: some feed others. A whole-machine sensor of another package comes before those here:
    the user has chosen to install it.
    """
    known = tuple(zones)
    others = sorted({z.source for z in known if z.component == "system"} - set(_WHOLE))
    for source in (*others, *_WHOLE):
        whole = tuple(z for z in known if (z.component, z.source) == ("system", source))
        if whole:
            return whole
    return tuple(z for z in known if z.source in _DISJOINT)
