"""A device that was named is there, or it is an error; and how to wait for it."""

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


class Event:
    """The time at which a stream has done what was launched before, in milliseconds."""

    at: float

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: str) -> None:
        self.at = {"idle": 200.0, "current": 500.0}[stream]

    def elapsed_time(self, end: "Event") -> float:
        return end.at - self.at


def test_a_gpu_is_waited_for_and_says_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: "current")
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: "idle")
    place = torch.device("cuda", 77)
    assert TorchDevice(place).finish() == pytest.approx(0.3)
    assert waited == [place]


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
