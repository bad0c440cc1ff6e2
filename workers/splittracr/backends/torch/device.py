"""A device of torch: its properties, and how to wait for it."""

import functools
import os
import time
from collections.abc import Mapping

import torch

from splittracr.experiment.errors import InvalidInput
from splittracr.measure import machine

_LIMITS = ("DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")


class TorchDevice:
    """A `Device` of `measure/device.py`. `place` is the device as torch has it."""

    def __init__(self, place: torch.device) -> None:
        self.place = place
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

    def synchronise(self) -> None:
        """Wait for everything that was launched."""
        if self._kind == "cuda":
            torch.cuda.synchronize(self.place)
        elif self._kind == "mps":
            torch.mps.synchronize()

    def finish(self) -> float:
        """Wait, and return the seconds that the device still took, by CUDA events if possible."""
        if self._kind == "cpu":
            return 0.0
        if self._kind == "cuda":
            now, done = _event(), _event()
            now.record(_idle_stream(self.place))
            done.record(torch.cuda.current_stream(self.place))
            self.synchronise()
            remaining_ms: float = now.elapsed_time(done)
            return max(0.0, remaining_ms / 1e3)
        started = time.perf_counter()
        self.synchronise()
        return time.perf_counter() - started

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
