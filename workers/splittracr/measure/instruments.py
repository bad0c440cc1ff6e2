"""The sensors of a worker: energy, and the load of its machine. Both sample in threads."""

import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from splittracr.experiment.contracts import SENSOR
from splittracr.experiment.energy import Kind
from splittracr.experiment.spec import ResultsSpec
from splittracr.measure.device import Device
from splittracr.measure.energy import nvml, sampler, service
from splittracr.measure.energy.account import Snapshot, Total
from splittracr.measure.energy.sampler import SYS, Sampler
from splittracr.measure.energy.sensor import Found, Zone
from splittracr.measure.usage import Machine, Sample, Usage, Watch
from splittracr.wire.messages import Metered, ZoneTotal

log = logging.getLogger(__name__)


class Instruments:
    """The sensors of this worker. `problems` are the reasons why some are not used."""

    def __init__(self, energy: Sampler, usage: Watch, problems: tuple[str, ...] = ()) -> None:
        self.energy, self._usage, self.problems = energy, usage, problems
        self._counter_id = secrets.token_hex(8)

    def usage(self) -> Usage:
        """How busy the machine has been so far."""
        return self._usage.usage()

    def latest(self) -> Sample:
        """How busy the machine is now."""
        return self._usage.latest()

    def metered(self, number: int) -> Metered:
        """Read the energy sensors now, as the answer to a Meter. Takes milliseconds."""
        snapshot, usage = self.energy.snapshot(), self.usage()
        return Metered(
            id=number,
            counter_id=self._counter_id,
            now=snapshot.now,
            zones=tuple(_total(zone, total) for zone, total in snapshot.totals.items()),
            samples=usage.samples,
            mean=_known(asdict(usage.mean)),
            largest=_known(asdict(usage.largest)),
            memory_bytes=usage.memory_bytes,
        )


NO_INSTRUMENTS = Instruments(Sampler(()), Watch(Sample))


def snapshot_of(metered: Metered) -> Snapshot:
    """The snapshot in a server's answer. Raises ValueError for an unknown kind."""
    return Snapshot(
        metered.now,
        {
            Zone(one.component, one.zone, one.source, Kind(one.kind), one.tick): Total(
                one.joules, one.readings, one.gaps
            )
            for one in metered.zones
        },
    )


@contextmanager
def instruments(
    results: ResultsSpec, device: Device, environment: Mapping[str, str] = os.environ
) -> Iterator[Instruments]:
    """Sample the sensors of this machine until the end. Looking for them may take a second."""
    gpu = device.uuid
    found = find(gpu, environment) if results.energy == "Auto" else Found()
    if found.problems:
        log.info("energy sensors that cannot be read: %s", "; ".join(found.problems))
    energy = Sampler(found.sensors)
    watch = Watch(Machine(None if gpu is None else nvml.find_gpu(gpu)[0]))
    energy.start()
    watch.start()
    try:
        zones = [f"{zone.component} {zone.zone} ({zone.source})" for zone in energy.joules()]
        if zones:
            log.info("energy sensors: %s", ", ".join(zones))
        yield Instruments(energy, watch, found.problems)
    finally:
        watch.stop()
        energy.stop()


def find(gpu: str | None, environment: Mapping[str, str], sys: Path = SYS) -> Found:
    """The energy sensors of a worker that computes on `gpu`.

    Those of the machine come from the sensor service if there is one: this process may be unable
    to read their files, and must not count them twice.
    """
    named = environment.get(SENSOR)
    remote = service.find_named(Path(named)) if named else Found()
    if not remote.sensors:
        return remote + sampler.find(gpu, sys)
    return (nvml.find(gpu) if gpu is not None else Found()) + remote


def _total(zone: Zone, total: Total) -> ZoneTotal:
    return ZoneTotal(
        component=zone.component,
        zone=zone.zone,
        source=zone.source,
        kind=zone.kind,
        tick=zone.tick,
        joules=total.joules,
        readings=total.readings,
        gaps=total.gaps,
    )


def _known(figures: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if value is not None}
