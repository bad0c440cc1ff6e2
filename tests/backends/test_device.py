"""A device that was named is there, or it is an error; and how to wait for it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest
import torch

from splittracr.backends.torch.device import TorchDevice, resolve
from splittracr.experiment.errors import InvalidInput
from splittracr.measure.stopwatch import Busy

CPU = TorchDevice(torch.device("cpu"))


def test_the_cpu_is_always_there() -> None:
    assert resolve("cpu", "spec.edge.device") == torch.device("cpu")
    assert CPU.capability == torch.backends.cpu.get_cpu_capability()
    assert str(CPU) == "cpu"
    assert CPU.memory() == {}


def test_auto_takes_what_is_there() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve("auto", "spec.edge.device").type in (expected, "mps")


def test_a_named_device_that_is_missing_is_never_replaced() -> None:
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(InvalidInput, match=rf"spec\.server\.device: got '{missing}'.*auto, cpu"):
        resolve(missing, "spec.server.device")


def test_what_the_last_bits_depend_on_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    here = CPU.arithmetic
    assert here == CPU.arithmetic
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert CPU.arithmetic != here
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert CPU.arithmetic != here


# ------------------------------------------------------------------------------------------- CUDA


class Gpu:
    """What `TorchDevice` needs of torch.cuda. Its streams have work until a time in milliseconds;
    `waited` notes whom a thread waits for.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waited: list[str] = []
        self.made: list[Stream] = []
        self.computing = self.current = Stream(self, "computing", 500.0)
        monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Event())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: self.current)
        monkeypatch.setattr(torch.cuda, "Stream", lambda _: Stream(self, "own", 200.0))
        monkeypatch.setattr(torch.cuda, "stream", self.use)

    @contextmanager
    def use(self, stream: "Stream") -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before


class Stream:
    def __init__(self, gpu: Gpu, name: str, busy_until: float) -> None:
        self.gpu, self.name, self.busy_until = gpu, name, busy_until

    def __str__(self) -> str:
        return self.name

    def wait_stream(self, other: "Stream") -> None:
        self.busy_until = max(self.busy_until, other.busy_until)

    def synchronize(self) -> None:
        self.gpu.waited.append(self.name)


class Event:
    """The time at which a stream has done what was launched before."""

    def record(self, stream: Stream) -> None:
        self.at, self.stream = stream.busy_until, stream

    def synchronize(self) -> None:
        self.stream.synchronize()

    def elapsed_time(self, end: "Event") -> float:
        return end.at - self.at


NUMBERS = count(70)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


@pytest.fixture
def there() -> TorchDevice:
    """A device that no other test has, since streams are kept by device."""
    return TorchDevice(torch.device("cuda", next(NUMBERS)))


def test_a_gpu_is_waited_for_and_says_how_long_it_took(gpu: Gpu, there: TorchDevice) -> None:
    assert there.finish() == pytest.approx(0.3)
    assert gpu.waited == ["own", "computing"]


def copy(gpu: Gpu, there: TorchDevice, milliseconds: float, *, after: bool = False) -> None:
    """Copy for so long."""
    with there.copies(after=after) as user:
        assert str(user) == "computing"
        gpu.current.busy_until += milliseconds


def test_a_copy_does_not_wait_for_what_others_compute(gpu: Gpu, there: TorchDevice) -> None:
    copy(gpu, there, 30.0)
    there.synchronise()
    assert gpu.waited == ["own"]
    copy(gpu, there, 40.0)
    copy(gpu, there, 30.0)
    assert there.finish() == pytest.approx(0.07)
    assert gpu.waited == ["own", "own", "own"]


def test_a_copy_of_results_begins_after_their_computation(gpu: Gpu, there: TorchDevice) -> None:
    copy(gpu, there, 30.0, after=True)
    assert there.finish() == pytest.approx(0.03)


def test_what_a_thread_launches_is_waited_for_after_its_copies(
    gpu: Gpu, there: TorchDevice
) -> None:
    copy(gpu, there, 30.0)
    there.launches()
    there.synchronise()
    assert gpu.waited == ["own", "computing"]
    there.launches()
    copy(gpu, there, 30.0)
    there.synchronise()
    assert gpu.waited == ["own", "computing", "own", "computing"]


def test_a_second_wait_after_a_copy_waits_for_all(gpu: Gpu, there: TorchDevice) -> None:
    copy(gpu, there, 30.0)
    there.synchronise()
    there.synchronise()
    assert gpu.waited == ["own", "computing"]


def test_another_thread_has_work_of_its_own(gpu: Gpu, there: TorchDevice) -> None:
    there.launches()

    def copies() -> None:
        copy(gpu, there, 30.0)
        there.synchronise()

    thread = threading.Thread(target=copies)
    thread.start()
    thread.join()
    assert gpu.waited == ["own"]
    there.synchronise()
    assert gpu.waited == ["own", "computing"]


def test_the_processor_has_one_stream() -> None:
    with CPU.copies() as user:
        assert user is None
    assert CPU.finish() == 0.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_busy_time_on_a_gpu_is_nearly_that_of_the_device() -> None:
    here = TorchDevice(torch.device("cuda"))
    x = torch.randn(2048, 2048, device=here.place)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    Busy(here).seconds()  # makes the idle stream
    busy = Busy(here)
    begin.record()
    for _ in range(200):
        x = x @ x
    end.record()
    seconds = busy.seconds()
    assert 0.5 * begin.elapsed_time(end) / 1e3 <= seconds <= 2 * begin.elapsed_time(end) / 1e3
