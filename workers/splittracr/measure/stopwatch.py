"""Stage times of one frame, and the time that a computation keeps a processor busy."""

import threading
import time

from splittracr.experiment.errors import Abandoned
from splittracr.measure.device import Device


class Busy:
    """Measures how long a computation keeps its processor busy, from the moment this is made.

    Waiting for a core, the interpreter lock, a disk or a network is left out: it says nothing of
    the processor's speed, and an emulated slow edge would multiply it.

    - With one intra-op thread: the CPU time of the calling thread.
    - With more of them: wall-clock time, waiting included. The other threads' CPU time cannot be
      separated from that of the rest of the process, and if they outnumber the cores the
      calling thread sleeps while they compute.
    - On an accelerator: the above for the launches, then the time in which the device finishes
      what they left. What the device does during the launches is not counted twice.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._clock = time.thread_time if device.threads == 1 else time.perf_counter
        self._wall = time.perf_counter()
        self._start = self._clock()

    def seconds(self) -> float:
        """Wait for the device; return the busy time, at most the wall-clock time."""
        launched = self._clock() - self._start
        busy = launched + self._device.finish()
        return min(busy, time.perf_counter() - self._wall)


class Stopwatch:
    """Adds up milliseconds of wall clock by stage.

    A stage that launches work on an accelerator ends when the device has finished it: what a
    frame waits for includes the launches, which device events would leave out and the network's
    residual would then be charged with.

    A `slowdown` above 1 multiplies the busy time of every stage (see `Busy`), not its waiting: the
    stage ends with a sleep of busy time x (slowdown - 1). As busy time is at most the wall-clock
    time, no stage takes more than slowdown x its wall-clock time. If `abandon` is set, the result
    is not needed any more: the sleep ends and Abandoned is raised.
    """

    def __init__(
        self,
        device: Device,
        slowdown: float = 1.0,
        abandon: threading.Event | None = None,
    ) -> None:
        self.stages: dict[str, float] = {}
        self.abandon = abandon
        self._device = device
        self._slowdown = slowdown

    def fork(self, abandon: threading.Event) -> "Stopwatch":
        """A stopwatch with the times so far, for one of two attempts at the stages to come."""
        fork = Stopwatch(self._device, self._slowdown, abandon)
        fork.stages |= self.stages
        return fork

    def stage(self, name: str) -> "_Stage":
        """Time the body, and its remaining work on the device, as `name`."""
        return _Stage(self, name)

    def start(self) -> Busy | None:
        """Begin a stage. Its busy time is measured only if it will be multiplied."""
        return Busy(self._device) if self._slowdown > 1 else None

    def end(self, name: str, started: float, busy: Busy | None) -> None:
        """End a stage that began at `started`, in perf_counter's time, with `start`."""
        if busy is None:
            self._device.synchronise()
        else:
            self._sleep(busy.seconds() * (self._slowdown - 1))
        self.add(name, (time.perf_counter() - started) * 1e3)

    def _sleep(self, seconds: float) -> None:
        if self.abandon is None:
            time.sleep(seconds)
        elif self.abandon.wait(seconds):
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
        self._busy = self._watch.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._watch.end(self._name, self._started, self._busy)
