"""Stage times of one frame."""

import threading
import time

import torch

from splittracr.experiment.errors import Abandoned


class Stopwatch:
    """Adds up milliseconds of wall clock by stage.

    A stage that launches work on an accelerator ends when the device has finished it: what a
    frame waits for includes the launches, which device events would leave out and the network's
    residual would then be charged with. A `slowdown` above 1 stretches every stage by sleeping,
    or until `abandon` is set: then nobody wants the result, and Abandoned is raised.
    """

    def __init__(
        self,
        device: torch.device,
        slowdown: float = 1.0,
        abandon: threading.Event | None = None,
    ) -> None:
        self.stages: dict[str, float] = {}
        self._device = device
        self._slowdown = slowdown
        self._abandon = abandon

    def stage(self, name: str) -> "_Stage":
        """Time the body, and what it left running on the device, as `name`."""
        return _Stage(self, name)

    def end(self, name: str, started: float) -> None:
        """A stage that began at `started`, in perf_counter's time, ends."""
        synchronize(self._device)
        if self._slowdown > 1:
            self._sleep((time.perf_counter() - started) * (self._slowdown - 1))
        self.add(name, (time.perf_counter() - started) * 1e3)

    def _sleep(self, seconds: float) -> None:
        if self._abandon is None:
            time.sleep(seconds)
        elif self._abandon.wait(seconds):
            raise Abandoned("the other end has the answer")

    def add(self, name: str, elapsed_ms: float) -> None:
        """Count time that was measured elsewhere."""
        self.stages[name] = self.stages.get(name, 0.0) + elapsed_ms


class _Stage:
    """A class, not a generator: a frame has ten of them. One that fails is not counted."""

    def __init__(self, watch: Stopwatch, name: str) -> None:
        self._watch, self._name = watch, name

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._watch.end(self._name, self._started)


def synchronize(device: torch.device) -> None:
    """Wait for everything that was launched on an accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
