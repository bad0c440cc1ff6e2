"""Work queue of the operator: the studies that are due to be reconciled."""

import asyncio
import contextlib
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf

_PAUSE = 0.05
"""Min seconds between two reconciles of one study."""


class WorkQueue:
    """Studies to reconcile, each at most once at a time.

    `waited` is called with the seconds between the due time of a study and its `take`.
    """

    def __init__(self, waited: Callable[[float], None] = lambda _: None) -> None:
        self._waited = waited
        self._due: dict[str, float] = {}
        self._queue: list[tuple[float, str]] = []
        """Heap of all studies in `_due` that are not busy, and of outdated entries."""

        self._busy: set[str] = set()
        self._earliest: dict[str, float] = {}
        self._changed = asyncio.Event()

    def add(self, uid: str, after: float = 0.0) -> None:
        """Add a study that is due in `after` seconds; an earlier due time stays.

        Between two reconciles of a study there is a pause, so that one study cannot starve the
        event loop and the other studies.
        """
        now = asyncio.get_running_loop().time()
        due = max(now + after, self._earliest.get(uid, now))
        if due < self._due.get(uid, inf):
            self._schedule(uid, due)

    async def take(self) -> str:
        """Wait for a study that is due and not busy, and mark it as busy."""
        while True:
            now = asyncio.get_running_loop().time()
            due, uid = self._next()
            if due <= now:
                heappop(self._queue)
                del self._due[uid]
                self._busy.add(uid)
                self._waited(now - due)
                return uid
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due == inf else due - now):
                    await self._changed.wait()

    def done(self, uid: str) -> None:
        """Mark a study as not busy after its reconcile."""
        self._busy.discard(uid)
        now = asyncio.get_running_loop().time()
        self._earliest = {uid: at for uid, at in self._earliest.items() if at > now}
        self._earliest[uid] = now + _PAUSE
        if uid in self._due:
            self._schedule(uid, max(self._due[uid], self._earliest[uid]))

    def _schedule(self, uid: str, due: float) -> None:
        self._due[uid] = due
        heappush(self._queue, (due, uid))
        self._changed.set()

    def _next(self) -> tuple[float, str]:
        """The next study that is not busy. `done` puts back the busy ones skipped here."""
        while self._queue:
            due, uid = self._queue[0]
            if uid not in self._busy and self._due.get(uid) == due:
                return due, uid
            heappop(self._queue)
        return inf, ""

    @property
    def waiting(self) -> int:
        """Number of studies that are due and not taken."""
        now = asyncio.get_running_loop().time()
        return sum(due <= now for due in self._due.values())
