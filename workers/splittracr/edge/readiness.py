"""Which decisions can be carried out at once, if a runtime makes something for each cut."""

import asyncio
import logging
from collections.abc import Awaitable, Iterator
from typing import Protocol

from splittracr.backends.protocol import Backend, Part
from splittracr.experiment.contracts import Runtime
from splittracr.experiment.errors import ServerLost, reason
from splittracr.planning.decision import Decision
from splittracr.wire.messages import Welcome

log = logging.getLogger(__name__)


class PreparingLink(Protocol):
    """The part of `Link` that is used here."""

    @property
    def welcome(self) -> Welcome | None: ...

    @property
    def losses(self) -> int: ...

    def prepare(self, cut: int) -> Awaitable[None]: ...


class Readiness:
    """Reports which decisions are ready, and makes others ready, one at a time, while frames run.

    A server that has come back is asked again, since it may be another process. Use it on the
    event loop, and close it.
    """

    def __init__(self, backend: Backend, link: PreparingLink) -> None:
        self._backend, self._link = backend, link
        self._there: set[int] = set()  # cuts whose tails the server has made ready
        self._failed: set[int] = set()
        self._losses = link.losses
        self._making: asyncio.Task[None] | None = None

    def __call__(self, decision: Decision) -> bool:
        """Whether a decision is ready at both ends. If not, begin to make it ready."""
        if decision.cut in self._failed:
            return False
        if self._link.losses != self._losses:
            self._there.clear()
            self._losses = self._link.losses
        here, there = list(self._missing_here(decision)), self._is_missing_there(decision.cut)
        if not here and not there:
            return True
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make(decision.cut, here, there))
        return False

    async def close(self) -> None:
        """Stop making."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait([self._making])

    def _missing_here(self, decision: Decision) -> Iterator[Part]:
        if not self._backend.ready("head", decision.cut):
            yield "head"
        finishes = decision.deadline_ms is not None or decision.hedge_ms is not None
        if finishes and not self._backend.ready("tail", decision.cut):
            yield "tail"

    def _is_missing_there(self, cut: int) -> bool:
        welcome = self._link.welcome
        makes = welcome is not None and welcome.end.runtime != Runtime.TORCH.value
        return makes and cut != self._backend.proof.last and cut not in self._there

    async def _make(self, cut: int, here: list[Part], there: bool) -> None:
        losses = self._losses
        try:
            for part in here:
                await asyncio.to_thread(self._backend.make_ready, part, cut)
            if there:
                await self._link.prepare(cut)
                if losses == self._link.losses:
                    self._there.add(cut)
        except ServerLost:
            log.debug("the server is away, it is asked again")
        except Exception as error:  # noqa: BLE001 - a library's own; another cut is used
            self._failed.add(cut)
            name = self._backend.proof.cuts[cut].name
            log.warning("cut %s cannot be made ready and is not used: %s", name, reason(error))
