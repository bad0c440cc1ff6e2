"""A device of torch: its properties, and how to wait for it."""

import functools
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum

import torch

from splittracr.experiment.errors import InvalidInput
from splittracr.measure import machine

_LIMITS = ("DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")


class _Left(Enum):
    """The work that a thread may have launched on a GPU since it last waited."""

    ANYTHING = 0
    LAUNCHES = 1
    FINISHED_COPIES = 2


class _Thread(threading.local):
    """The work that a thread has launched on a GPU, and the seconds that its copies took there."""

    left = _Left.ANYTHING
    copying = 0.0


class TorchDevice:
    """A `Device` of `measure/device.py`. `place` is the device as torch has it.

    On CUDA copies have a stream of their own, so that those of one request overlap with the
    computation of another one. A thread waits for its own work only: one that has just copied does
    not wait for what another one computes.
    """

    def __init__(self, place: torch.device) -> None:
        self.place = place
        self._thread = _Thread()
        self._kind = place.type  # a stage asks for it: torch makes a new string each time

    def __str__(self) -> str:
        return str(self.place)

    @property
    def name(self) -> str:
        """The accelerator's own name, or the processor's."""
        if self._kind == "cuda":
            return str(torch.cuda.get_device_name(self.place))
        return machine.processor()

    @property
    def uuid(self) -> str | None:
        """The accelerator's identity, by which its driver finds it; None for a processor."""
        if self._kind != "cuda":
            return None
        return str(torch.cuda.get_device_properties(self.place).uuid)

    @property
    def capability(self) -> str:
        """The instruction set in use, or the accelerator's name and compute capability."""
        if self._kind == "cuda":
            major, minor = torch.cuda.get_device_capability(self.place)
            return f"{torch.cuda.get_device_name(self.place)}, sm_{major}{minor}"
        return str(torch.backends.cpu.get_cpu_capability())

    @property
    def threads(self) -> int:
        """Threads of one operation on the processor."""
        return torch.get_num_threads()

    def launches(self) -> None:
        """Note that this thread launches work on the stream for computing."""
        self._thread.left = _Left.LAUNCHES

    @contextmanager
    def copies(self, *, after: bool = False) -> Iterator[torch.cuda.Stream | None]:
        """Copies between host and device in the body run on their own stream, and have ended when
        it ends.

        With `after` they begin after what was launched before. Yields the stream for computing, or
        None if there is only one.
        """
        if self._kind != "cuda":
            yield None
            return
        computing, stream = torch.cuda.current_stream(self.place), _copy_stream(self.place)
        if after:
            stream.wait_stream(computing)
        begun, done = _event(), _event()
        with torch.cuda.stream(stream):
            begun.record(stream)
            yield computing
            done.record(stream)
        done.synchronize()
        self._thread.copying += begun.elapsed_time(done) / 1e3
        if self._thread.left is not _Left.LAUNCHES:
            self._thread.left = _Left.FINISHED_COPIES

    def synchronise(self) -> None:
        """Wait for everything that this thread has launched."""
        if self._kind == "mps":
            torch.mps.synchronize()
        elif self._kind == "cuda" and self._take()[0] is not _Left.FINISHED_COPIES:
            torch.cuda.current_stream(self.place).synchronize()

    def finish(self) -> float:
        """Wait, and return the seconds that the device still took, by CUDA events if possible."""
        if self._kind == "cpu":
            return 0.0
        if self._kind == "cuda":
            left, copying = self._take()
            return copying if left is _Left.FINISHED_COPIES else copying + self._remaining()
        started = time.perf_counter()
        self.synchronise()
        return time.perf_counter() - started

    def _take(self) -> tuple[_Left, float]:
        """The work of this thread since the last call, and the seconds of its copies."""
        left, copying = self._thread.left, self._thread.copying
        self._thread.left, self._thread.copying = _Left.ANYTHING, 0.0
        return left, copying

    def _remaining(self) -> float:
        """Wait for the stream for computing; return the seconds that it still took."""
        now, done = _event(), _event()
        now.record(_idle_stream(self.place))
        done.record(torch.cuda.current_stream(self.place))
        now.synchronize()
        done.synchronize()
        remaining_ms: float = now.elapsed_time(done)
        return max(0.0, remaining_ms / 1e3)

    def memory(self) -> Mapping[str, float]:
        """Bytes that tensors occupy: `current`, and the `peak` so far. Only CUDA counts them."""
        if self._kind != "cuda":
            return {}
        return {
            "current": torch.cuda.memory_allocated(self.place),
            "peak": torch.cuda.max_memory_allocated(self.place),
        }

    @property
    def arithmetic(self) -> str:
        """All that the last bits of a result depend on besides the program and its input."""
        kind = f"{self._kind}, {self.name}, {self.capability}, torch {torch.__version__}"
        if self._kind == "cuda":
            return kind
        limits = [f"{key}={os.environ[key]}" for key in _LIMITS if key in os.environ]
        return ", ".join([kind, f"{self.threads} threads", machine.features(), *limits])


def resolve(name: str, field: str) -> torch.device:
    """The device called `name`; `auto` takes an accelerator if there is one.

    Raises InvalidInput for a device that is not there; it never falls back to the CPU silently.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidInput(field, name, f"a device that is here, {_present()}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InvalidInput(field, name, f"a device that is here, {_present()}")
    return device


def _present() -> str:
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return "one of: " + ", ".join(["auto", "cpu", *gpus, *mps])


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


@functools.cache
def _idle_stream(device: torch.device) -> torch.cuda.Stream:
    """A stream without work, on which a recorded event gets the current time."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of copies between host and device."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
