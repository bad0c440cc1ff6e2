"""How long each operation of a tape takes: readings of passes that run anyway."""

import math
from collections.abc import Sequence

from splittracr.experiment.types import OperationTime
from splittracr.measure.device import Device
from splittracr.measure.stopwatch import Busy
from splittracr.splitting.tape import Registers, Tape

_ENOUGH = 3
"""Readings of warm passes that make those of the proof needless: its caches are cold."""


class OperationTimes:
    """Busy milliseconds of each of `count` operations, as the stages of a frame count them.

    `run` and `proof` run operations and note their times. Several threads may call them at once.
    """

    def __init__(self, count: int, device: Device) -> None:
        self._device = device
        self._proof: list[list[float]] = [[] for _ in range(count)]
        self._warm: list[list[float]] = [[] for _ in range(count)]

    def proof(self, tape: Tape, registers: Registers, k: int) -> float:
        """Run operation `k` in the proof; return its milliseconds."""
        elapsed = self._timed(tape, registers, k)
        self._proof[k].append(elapsed)
        return elapsed

    def run(self, tape: Tape, registers: Registers, start: int, stop: int) -> None:
        """Run operations `[start, stop)` one by one in a warm pass."""
        for k in range(start, stop):
            self._warm[k].append(self._timed(tape, registers, k))

    def add(self, k: int, elapsed_ms: float) -> None:
        """Note a time of a warm pass that was measured elsewhere."""
        self._warm[k].append(elapsed_ms)

    def table(self) -> tuple[OperationTime, ...]:
        """Mean and 95th percentile of each operation; the proof has run all of them."""
        return tuple(
            _typical(warm if len(warm) >= _ENOUGH else [*proof, *warm])
            for proof, warm in zip(self._proof, self._warm, strict=True)
        )

    def _timed(self, tape: Tape, registers: Registers, k: int) -> float:
        busy = Busy(self._device)
        tape.run(registers, k, k + 1)
        return busy.seconds() * 1e3


def _typical(readings: Sequence[float]) -> OperationTime:
    ordered = sorted(readings)
    return OperationTime(
        mean_ms=sum(ordered) / len(ordered),
        p95_ms=_quantile(ordered, 0.95),
        readings=len(ordered),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Interpolated linearly between readings, as the percentiles of latencies are."""
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
