"""Windows of energy at both ends, and the energy of frames by declared power."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass

from splittracr.edge.link import Link
from splittracr.edge.result import Result
from splittracr.experiment.contracts import EDGE, SERVER, Role
from splittracr.experiment.energy import (
    DECLARED,
    EnergyWindow,
    Kind,
    MachineLoad,
    MachineUsage,
    MeasuredPower,
)
from splittracr.experiment.errors import ServerLost
from splittracr.experiment.spec import PowerSpec
from splittracr.experiment.types import Cut
from splittracr.measure.energy.account import (
    Energy,
    Snapshot,
    machine,
    window,
    window_seconds,
)
from splittracr.measure.energy.sensor import Zone
from splittracr.measure.instruments import Instruments, snapshot_of
from splittracr.planning.cost import millijoules_per_byte, power
from splittracr.wire.messages import Metered

log = logging.getLogger(__name__)

Repeat = Callable[[Cut, float], Awaitable[int]]
"""Runs frames at a cut for some seconds, and returns how many."""

_MODELLED = Zone("system", "edge", DECLARED, Kind.MODELLED)
_LINK = Zone("link", "link", DECLARED, Kind.MODELLED)


@dataclass(frozen=True)
class Snapshots:
    """A snapshot of each end that answered, by role. `counter_id` is of the server's totals."""

    by_role: Mapping[str, Snapshot]
    counter_id: str = ""

    @property
    def zones(self) -> tuple[Zone, ...]:
        """The zones of both ends."""
        return tuple(zone for snapshot in self.by_role.values() for zone in snapshot.totals)

    def windows(self, end: "Snapshots") -> Iterable[tuple[str, Energy]]:
        """The energy of each zone until `end`, with the role of its machine."""
        for role, first in self.by_role.items():
            last = end.by_role.get(role)
            if last is not None and (role == EDGE or self.counter_id == end.counter_id):
                for energy in window(first, last):
                    yield role, energy


class Meter:
    """Takes windows. `edge` is this edge's name; `link` is None if nothing leaves it."""

    def __init__(
        self, edge: str, instruments: Instruments, link: Link | None, spent: "Spent"
    ) -> None:
        self._edge, self._instruments, self._link = edge, instruments, link
        self._spent = spent
        self._frames = 0
        self._served: Metered | None = None
        self.windows: tuple[EnergyWindow, ...] = ()

    def count(self, result: Result) -> None:
        """Count a recorded frame."""
        self._frames += 1
        nbytes = result.bytes_up + result.bytes_down
        self._spent.frame(result.own_stages, result.total_ms, nbytes)

    async def snapshots(self) -> Snapshots:
        """Read all sensors of both ends now. No frame may be in flight."""
        mine, theirs = await asyncio.gather(
            asyncio.to_thread(self._instruments.energy.snapshot), self._ask()
        )
        if theirs is None:
            return Snapshots({EDGE: mine})
        return Snapshots({EDGE: mine, SERVER: snapshot_of(theirs)}, theirs.counter_id)

    async def close(self, start: Snapshots, cut: Cut | None) -> None:
        """Keep the window of the recorded frames, all of which were at `cut` if that is set."""
        if self._frames and start.zones:
            of = "study" if cut is None else "cut"
            self._keep(of, start, await self.snapshots(), self._frames, cut)

    async def measure(self, cuts: Iterable[Cut], repeat: Repeat) -> None:
        """Take a window at each of `cuts`; nothing without a sensor.

        Frames run one after the other, long enough for the sensors. Ends early if the server is
        lost; the windows until then stay.
        """
        start = await self.snapshots()
        seconds = window_seconds(start.zones)
        for cut in cuts if seconds else ():
            try:
                frames = await repeat(cut, seconds)
            except ServerLost as error:
                log.warning("no more windows of energy: %s", error)
                return
            end = await self.snapshots()
            self._keep("cut", start, end, frames, cut)
            start = end

    async def idle(self) -> None:
        """Take a window without frames; nothing without a sensor."""
        start = await self.snapshots()
        seconds = window_seconds(start.zones)
        if seconds:
            await asyncio.sleep(seconds)
            self._keep("idle", start, await self.snapshots(), 0, None)

    def _keep(
        self, of: str, start: Snapshots, end: Snapshots, frames: int, cut: Cut | None
    ) -> None:
        self.windows += tuple(
            EnergyWindow.model_validate(
                {
                    "of": of,
                    "role": role,
                    "edge": self._edge,
                    "cut": None if cut is None else cut.name,
                    "cut_index": None if cut is None else cut.index,
                    "component": energy.zone.component,
                    "zone": energy.zone.zone,
                    "source": energy.zone.source,
                    "kind": energy.zone.kind,
                    "frames": frames,
                    "seconds": energy.seconds,
                    "joules": energy.joules,
                    "resolution_seconds": energy.zone.tick,
                    "readings_per_second": energy.readings / energy.seconds,
                    "note": energy.note,
                }
            )
            for role, energy in start.windows(end)
        )

    def usage(self) -> tuple[MachineUsage, ...]:
        """The load of both machines; that of the server by its last snapshot."""
        own = self._instruments.usage()
        found = [
            MachineUsage(
                role=Role.EDGE,
                edge=self._edge,
                samples=own.samples,
                mean=MachineLoad(**asdict(own.mean)),
                largest=MachineLoad(**asdict(own.largest)),
                memory_bytes=own.memory_bytes,
            )
        ]
        served = self._served
        if served is not None:
            known = MachineLoad.model_fields.keys()
            mean, largest = (
                MachineLoad(**{k: v for k, v in figures.items() if k in known})
                for figures in (served.mean, served.largest)
            )
            found.append(
                MachineUsage(
                    role=Role.SERVER,
                    edge=self._edge,
                    samples=served.samples,
                    mean=mean,
                    largest=largest,
                    memory_bytes=served.memory_bytes,
                )
            )
        return tuple(found)

    async def _ask(self) -> Metered | None:
        """A snapshot of the server's sensors; None if the server is lost."""
        if self._link is None:
            return None
        with contextlib.suppress(ServerLost):
            self._served = await self._link.read_energy()
            return self._served
        return None


class Spent:
    """Joules of this edge so far: by its sensors, without them by declared power.

    The energy of bits on the link is never part of the total: only the joules by zone have it.
    """

    def __init__(
        self, sampled: Callable[[], Mapping[Zone, float]], declared: PowerSpec | None = None
    ) -> None:
        self._sampled, self._power = sampled, power(declared, None)
        self._per_bit = None if declared is None else declared.nanojoules_per_bit
        self._start = dict(sampled())
        self._sensors = bool(machine(self._start))
        self._modelled: dict[Zone, float] = {}

    def frame(self, stages: Mapping[str, float], total_ms: float, nbytes: int) -> None:
        """Count a finished frame, whose bytes on the link are those of both ways."""
        if self._power is not None and not self._sensors:
            self._add(_MODELLED, self._power.frame_joules(stages, total_ms))
        if self._per_bit is not None:
            self._add(_LINK, nbytes * millijoules_per_byte(self._per_bit) / 1e3)

    def _add(self, zone: Zone, joules: float) -> None:
        self._modelled[zone] = self._modelled.get(zone, 0.0) + joules

    def joules(self) -> Mapping[Zone, float]:
        """By zone, for Prometheus."""
        return {**self._sampled(), **self._modelled}

    def total(self) -> float | None:
        """Joules of the machine since the start; None if unknown."""
        now = self._sampled()
        zones = machine(now)
        if zones:
            return sum(now[zone] - self._start.get(zone, 0.0) for zone in zones)
        return self._modelled.get(_MODELLED)


def measured_power(
    snapshot: Callable[[], Snapshot], work: Callable[[], object], wait: Callable[[float], object]
) -> MeasuredPower | None:
    """The power of this machine while `work` runs repeatedly, and while it is idle.

    None without a sensor of the machine. `wait` waits for some seconds.
    """
    start = snapshot()
    seconds = window_seconds(machine(start.totals))
    if not seconds:
        return None
    while (end := snapshot()).now - start.now < seconds:
        work()
    wait(seconds)
    idle_end = snapshot()
    zones = set(machine(start.totals))
    busy = [e for e in window(start, end) if e.zone in zones]
    idle = [e for e in window(end, idle_end) if e.zone in zones]
    if min(len(busy), len(idle)) < len(zones) or any(e.joules is None for e in (*busy, *idle)):
        return None
    return MeasuredPower(
        compute_watts=sum(e.watts or 0.0 for e in busy),
        idle_watts=sum(e.watts or 0.0 for e in idle),
        source=", ".join(f"{zone.zone} by {zone.source}" for zone in machine(start.totals)),
        kind=max((zone.kind for zone in zones), key=list(Kind).index),
    )
