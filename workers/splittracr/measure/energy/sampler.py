"""Reads the sensors of this machine in a thread of its own."""

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from splittracr.measure.energy import battery, ina3221, nvml, pmic, rapl, readers
from splittracr.measure.energy.account import Account, Snapshot
from splittracr.measure.energy.sensor import Found, Sensor, Zone

SYS = Path("/sys")


def find(gpu: str | None = None, sys: Path = SYS) -> Found:
    """The sensors of this machine. `gpu` is the uuid of the GPU in use, if one is."""
    own = nvml.find(gpu) if gpu is not None else Found()
    return own + host(sys)


def host(sys: Path = SYS) -> Found:
    """The sensors of the machine itself, without its GPUs, and those of other packages."""
    own = ina3221.find(sys) + rapl.find(sys) + pmic.find() + battery.find(sys)
    return own + readers.find()


class Sampler:
    """Samples sensors from `start` until `stop`."""

    def __init__(self, sensors: Sequence[Sensor]) -> None:
        self._sensors = tuple(sensors)
        self._account = Account()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="energy", daemon=True)

    def start(self) -> None:
        """Begin to sample, if there is a sensor. The first readings are taken before it returns."""
        if self._sensors:
            self.snapshot()
            self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def snapshot(self) -> Snapshot:
        """Read all sensors now and return the totals of the zones that could be read.

        Takes milliseconds; call it in a thread.
        """
        return self._read(self._sensors)

    def joules(self) -> Mapping[Zone, float]:
        """The energy of each zone since the start, as last read."""
        with self._lock:
            snapshot = self._account.snapshot(time.monotonic())
        return {zone: total.joules for zone, total in snapshot.totals.items()}

    def watts(self) -> Mapping[Zone, float]:
        """The power of each zone now, as far as its readings resolve it."""
        with self._lock:
            return self._account.watts(time.monotonic())

    def _read(self, sensors: Sequence[Sensor]) -> Snapshot:
        with self._lock:
            since = time.monotonic()
            for sensor in sensors:
                readings = sensor.read()
                self._account.add(time.monotonic(), readings)
            return self._account.snapshot(time.monotonic(), since)

    def _run(self) -> None:
        due = {id(sensor): 0.0 for sensor in self._sensors}
        while not self._stop.is_set():
            now = time.monotonic()
            ready = [sensor for sensor in self._sensors if due[id(sensor)] <= now]
            self._read(ready)
            due |= {id(sensor): now + sensor.interval for sensor in ready}
            self._stop.wait(max(0.0, min(due.values()) - time.monotonic()))
