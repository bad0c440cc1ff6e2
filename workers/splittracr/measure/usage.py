"""Load, memory, temperature and clock of a worker's machine while a study runs.

A figure that cannot be read is None, never 0.
"""

import contextlib
import resource
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from splittracr.measure.energy.nvml import Gpu

INTERVAL = 1.0
"""Seconds between two samples."""

_MEGAHERTZ = 1e6
_PROCESSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal")
"""Names that the drivers of processors' thermometers have."""


@dataclass(frozen=True)
class Sample:
    """One sample of the machine. Loads are per cent of the whole machine, or of the GPU."""

    cpu_percent: float | None = None
    cpu_celsius: float | None = None
    cpu_hertz: float | None = None
    gpu_percent: float | None = None
    gpu_celsius: float | None = None
    gpu_hertz: float | None = None
    gpu_watts: float | None = None
    gpu_memory_bytes: float | None = None


FIGURES = tuple(figure.name for figure in fields(Sample))


@dataclass(frozen=True)
class Usage:
    """Mean and largest of each figure, and the largest resident memory of this process."""

    samples: int
    mean: Sample
    largest: Sample
    memory_bytes: int | None


class Summary:
    """Adds up samples, in constant memory."""

    def __init__(self) -> None:
        self._samples = 0
        self._counts = dict.fromkeys(FIGURES, 0)
        self._sums = dict.fromkeys(FIGURES, 0.0)
        self._largest: dict[str, float] = {}

    def add(self, sample: Sample) -> None:
        """Count a sample. A figure that it lacks does not count as 0."""
        self._samples += 1
        for name in FIGURES:
            value: float | None = getattr(sample, name)
            if value is not None:
                self._counts[name] += 1
                self._sums[name] += value
                self._largest[name] = max(value, self._largest.get(name, value))

    def usage(self, memory_bytes: int | None) -> Usage:
        """The figures so far; one that was never read is None."""
        means = {name: self._sums[name] / n for name, n in self._counts.items() if n}
        return Usage(self._samples, Sample(**means), Sample(**self._largest), memory_bytes)


class Watch:
    """Calls `sample` in a thread of its own, the first after `interval` seconds."""

    def __init__(self, sample: Callable[[], Sample], interval: float = INTERVAL) -> None:
        self._sample, self._interval = sample, interval
        self._summary = Summary()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def usage(self) -> Usage:
        """The figures so far."""
        with self._lock:
            return self._summary.usage(peak_memory())

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            sample = self._sample()
            with self._lock:
                self._summary.add(sample)


class Machine:
    """This machine, and the GPU in use if there is one. Calling it samples both."""

    def __init__(self, gpu: Gpu | None = None) -> None:
        self._gpu = gpu
        self._last = _cpu_seconds()

    def __call__(self) -> Sample:
        own = {
            "cpu_percent": self._cpu_percent(),
            "cpu_celsius": _celsius(),
            "cpu_hertz": _hertz(),
        }
        return Sample(**own, **({} if self._gpu is None else _look_at(self._gpu)))

    def _cpu_percent(self) -> float | None:
        """The load since the last sample. `psutil.cpu_percent` returns 0 once in each thread."""
        before, self._last = self._last, _cpu_seconds()
        busy, passed = (now - then for now, then in zip(self._last, before, strict=True))
        return min(max(100.0 * busy / passed, 0.0), 100.0) if passed > 0 else None


def peak_memory() -> int | None:
    """The largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def _cpu_seconds() -> tuple[float, float]:
    """Seconds that the cores worked, and all seconds, since the machine started."""
    import psutil

    times = psutil.cpu_times()._asdict()
    for name in ("guest", "guest_nice"):  # parts of user and nice
        times.pop(name, None)
    passed = sum(times.values())
    return passed - times["idle"] - times.get("iowait", 0.0), passed


def _hertz() -> float | None:
    import psutil

    try:
        clock: Any = psutil.cpu_freq()  # None on some machines, which the stubs leave out
    except (OSError, NotImplementedError, RuntimeError):  # by platform and kernel
        return None
    return float(clock.current) * _MEGAHERTZ if clock and clock.current else None


def _celsius() -> float | None:
    """The hottest thermometer of the processor."""
    import psutil

    read = getattr(psutil, "sensors_temperatures", None)  # not on macOS
    found = {} if read is None else read()
    own = [t.current for name in _PROCESSORS for t in found.get(name, ())]
    return max(own, default=None)


def _look_at(gpu: Gpu) -> dict[str, float]:
    api, handle = gpu.api, gpu.handle
    readers: dict[str, Callable[[], float]] = {
        "gpu_percent": lambda: api.nvmlDeviceGetUtilizationRates(handle).gpu,
        "gpu_celsius": lambda: api.nvmlDeviceGetTemperature(handle, api.NVML_TEMPERATURE_GPU),
        "gpu_hertz": lambda: api.nvmlDeviceGetClockInfo(handle, api.NVML_CLOCK_SM) * _MEGAHERTZ,
        "gpu_watts": lambda: api.nvmlDeviceGetPowerUsage(handle) / 1e3,
        "gpu_memory_bytes": lambda: api.nvmlDeviceGetMemoryInfo(handle).used,
    }
    found = {}
    for name, read in readers.items():
        with contextlib.suppress(api.NVMLError):
            found[name] = float(read())
    return found
