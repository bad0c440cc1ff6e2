"""Figures of a machine while it works; what cannot be read is None."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import psutil
import pytest

from splittracr.measure.energy.nvml import find_gpu
from splittracr.measure.usage import Machine, Sample, Summary, Watch, peak_memory
from tests.measure.energy.fake_nvml import FakeNvml


def test_a_figure_that_is_missing_does_not_count_as_zero() -> None:
    summary = Summary()
    for percent, celsius in ((10.0, None), (30.0, 55.0), (50.0, 65.0)):
        summary.add(Sample(cpu_percent=percent, cpu_celsius=celsius))
    usage = summary.usage(memory_bytes=7)
    assert usage.mean == Sample(cpu_percent=30.0, cpu_celsius=60.0)
    assert usage.largest == Sample(cpu_percent=50.0, cpu_celsius=65.0)
    assert (usage.samples, usage.memory_bytes) == (3, 7)


def test_without_a_sample_there_is_no_figure() -> None:
    assert Summary().usage(None).mean == Sample()


def test_the_thread_samples_until_it_is_stopped() -> None:
    seen = threading.Semaphore(0)

    def sample() -> Sample:
        seen.release()
        return Sample(cpu_percent=25.0)

    watch = Watch(sample, interval=0.001)
    watch.start()
    for _ in range(3):
        assert seen.acquire(timeout=60)
    watch.stop()
    usage = watch.usage()
    assert usage.samples >= 3
    assert usage.mean.cpu_percent == pytest.approx(25.0)


def test_this_machine_has_a_load_and_no_gpu() -> None:
    sample = Machine()()
    assert sample.cpu_percent is None or 0 <= sample.cpu_percent <= 100
    assert sample.gpu_percent is None
    peak = peak_memory()
    assert peak is not None
    assert 2**20 < peak < 2**45


class Times(NamedTuple):
    """Seconds as Linux counts them; `guest` is a part of `user`."""

    user: float
    system: float
    idle: float
    iowait: float
    guest: float


def test_the_first_sample_of_a_thread_is_the_load_since_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readings = [
        Times(100, 50, 800, 50, 90),
        Times(107, 52, 809, 52, 96),
        Times(107, 52, 813, 52, 96),
    ]
    monkeypatch.setattr(psutil, "cpu_times", iter([*readings, readings[-1]]).__next__)
    machine = Machine()
    with ThreadPoolExecutor(1) as other:
        loads = [other.submit(machine).result().cpu_percent for _ in range(3)]
    assert loads == [pytest.approx(45.0), 0.0, None]


def test_a_gpu_shows_what_it_supports() -> None:
    gpu, _ = find_gpu("000", FakeNvml([(1, 70_000)]))
    sample = Machine(gpu)()
    assert (sample.gpu_percent, sample.gpu_celsius, sample.gpu_watts) == (87.0, 61.0, 70.0)
    assert (sample.gpu_hertz, sample.gpu_memory_bytes) == (None, 3 * 2**30)
