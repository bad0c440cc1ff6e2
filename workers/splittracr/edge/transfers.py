"""Measures each request or probe on the link from its start until its answer."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from splittracr.planning.meter import LinkMeter
from splittracr.planning.transfer import LinkObserver, Transfer
from splittracr.transport.frames import Arrival
from splittracr.wire.messages import Failure, Probed, Reply


@dataclass(frozen=True, slots=True)
class _Started:
    cut: int | None
    size: int
    at: float


class Transfers:
    """Requests and probes of one session that have no answer yet, cancelled ones included.

    Finished transfers are given to `meter` and to the observer that `observer()` returns. Times
    are seconds on `time.perf_counter`.
    """

    def __init__(self, meter: LinkMeter, observer: Callable[[], LinkObserver | None]) -> None:
        self._meter = meter
        self._observer = observer
        self._started: dict[int, _Started] = {}

    def start(self, number: int, cut: int | None, size: int, now: float) -> None:
        """Note that a message of `size` bytes begins to leave; a probe has no cut."""
        self._started[number] = _Started(cut, size, now)
        observer = self._observer()
        if observer is not None:
            observer.sent(number, cut, size, now)

    def finish(self, message: Reply | Failure | Probed, arrival: Arrival) -> int:
        """Note an answer; returns the bytes that were sent for it, 0 if unknown.

        A failure shows as much of the link as a reply.
        """
        started = self._started.pop(message.id, None)
        if started is None:
            return 0
        receiving = 0.0
        match message:
            case Reply():
                stages, receiving = message.stages, message.receiving_ms
            case Failure():
                stages = {"server_wait": message.waited_ms}
            case Probed():
                stages, receiving = {}, message.receiving_ms
        elapsed = (arrival.last - started.at) * 1e3
        transfer = Transfer(
            cut=started.cut,
            bytes_up=started.size,
            bytes_down=arrival.size_on_wire,
            link_ms=max(0.0, elapsed - sum(stages.values())),
            stages=stages,
            receiving_up_ms=receiving,
            receiving_down_ms=arrival.receiving_ms,
        )
        self._meter.observe(arrival.last, transfer)
        observer = self._observer()
        if observer is not None:
            observer.heard(message.id, transfer, arrival.last)
        return started.size

    def oldest(self) -> float:
        """Return when the oldest unanswered message began to leave; infinity without any."""
        return min((started.at for started in self._started.values()), default=math.inf)
