"""Bounds the frames in flight: by the manifest's number, or by as many as the stages need."""

import asyncio

from splittracr.experiment.spec import ClosedLoop, OpenLoop
from splittracr.planning.decision import Outcome
from splittracr.planning.schedule import MAX_IN_FLIGHT, lanes, window

_WEIGHT = 0.2  # of the newest frame in a lane's mean
_WAITS = ("edge_wait", "server_wait", "link")


class Window:
    """Frames enter when there is room and leave when they have finished."""

    def __init__(self, arrival: ClosedLoop | OpenLoop) -> None:
        wanted = arrival.in_flight if isinstance(arrival, ClosedLoop) else MAX_IN_FLIGHT
        self.single = wanted == 1
        self._measured = wanted == 0
        self.size = wanted or 2
        self._inside = 0
        self._room = asyncio.Event()
        self._lanes: dict[str, float] = {}
        self._link_ms = float("inf")  # of a frame that waited for no other

    async def enter(self) -> None:
        """Wait for room."""
        while self._inside >= self.size:
            self._room.clear()
            await self._room.wait()
        self._inside += 1

    def leave(self) -> None:
        """Make room."""
        self._inside -= 1
        self._room.set()

    def observe(self, outcome: Outcome) -> None:
        """Learn how long a finished frame kept each lane busy."""
        if not self._measured or not outcome.ok:
            return
        stages = outcome.stages
        for lane, busy in lanes(stages, outcome.receiving_up_ms).items():
            mean = self._lanes.get(lane, busy)
            self._lanes[lane] = mean + _WEIGHT * (busy - mean)
        self._link_ms = min(self._link_ms, stages.get("link", 0.0))
        working = sum(elapsed for stage, elapsed in stages.items() if stage not in _WAITS)
        self.size = window(self._lanes, working + self._link_ms)
        self._room.set()
