"""Energy readers of other packages, by entry point: a function that returns sensors.

    [project.entry-points."splittracr.energy"]
    "acme.meter" = "acme_meter:find"

It returns an empty list on a machine without its hardware. What it raises becomes a problem in the
results; a sensor that raises later gives no reading, as one that is missing.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points

from splittracr.data.containment import contained
from splittracr.experiment.errors import LeftEarly, reason
from splittracr.measure.energy.sensor import Counter, Found, Power, Reading, Sensor, Zone

GROUP = "splittracr.energy"
"""Entry-point group in which another package names its functions."""

_log = logging.getLogger(__name__)


def find(entries: Iterable[EntryPoint] | None = None) -> Found:
    """The sensors of all installed readers, and why others are not used."""
    found = Found()
    for entry in entry_points(group=GROUP) if entries is None else entries:
        found += _of(entry)
    return found


def _of(entry: EntryPoint) -> Found:
    name = f"energy reader {entry.name} ({entry.value})"
    try:
        with contained():
            sensors = [Contained(name, sensor) for sensor in entry.load()()]
    except Exception as error:  # noqa: BLE001 - another package's code may raise anything
        return Found(problems=(f"{name}: {_why(error)}",))
    return Found(tuple(sensors))


class Contained:
    """A sensor of another package. Its errors and wrong results are logged once.

    Raises ValueError if its interval is no number of seconds above 0.
    """

    def __init__(self, name: str, sensor: Sensor) -> None:
        self.interval = float(sensor.interval)
        if not 0 < self.interval < math.inf:
            raise ValueError(f"interval: got {sensor.interval!r}, expected seconds above 0")
        self._name, self._sensor, self._logged = name, sensor, False

    def read(self) -> Mapping[Zone, Reading]:
        """The zones that can be read now; none if the sensor fails."""
        try:
            with contained():
                readings = dict(self._sensor.read())
                for zone, reading in readings.items():
                    _check(zone, reading)
        except Exception as error:  # noqa: BLE001 - another package's code may raise anything
            if not self._logged:
                self._logged = True
                _log.warning("%s: %s", self._name, _why(error))
            return {}
        return readings


def _why(error: Exception) -> str:
    """The reason, without the advice of `contained` about models and data sets."""
    cause = error.__cause__ if isinstance(error, LeftEarly) else None
    return reason(cause or error)


def _check(zone: object, reading: object) -> None:
    if not isinstance(zone, Zone):
        raise TypeError(f"read: got the key {zone!r}, expected a Zone")
    if not isinstance(reading, Counter | Power):
        raise TypeError(f"read: {zone.zone}: got {reading!r}, expected a Counter or Power")
    value = reading.joules if isinstance(reading, Counter) else reading.watts
    if not 0 <= value < math.inf:
        raise ValueError(f"read: {zone.zone}: got {value!r}, expected a number of at least 0")
