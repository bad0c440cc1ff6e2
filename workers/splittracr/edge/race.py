"""The second half of a frame whose tail belongs to the server.

The request may take too long or the server may be lost. The decision says when the edge starts the
tail too: `hedge_ms` after the head, or `deadline_ms` after the request was handed to the link. The
first result counts and the other attempt is cancelled. If the server is lost, `onServerLoss` says
whether requests wait for it, the study fails, or the edge finishes the frame.
"""

import asyncio
import math
import threading
import time
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from splittracr.edge import stages
from splittracr.edge.frame import Answered, Encoded, Failed, Frame, Packed, Replied
from splittracr.edge.lanes import Lanes
from splittracr.edge.link import ServerReply
from splittracr.edge.stages import Pipeline, then
from splittracr.experiment.errors import CutRefused, FrameFailed, ServerLost
from splittracr.experiment.spec import OnServerLoss
from splittracr.planning.decision import Decision, Fallback
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.messages import Welcome

_MAX_INLINE_MS = 2.0
"""A reply is decoded on the event loop if the one before took less."""


class RequestLink(Protocol):
    """The methods of a link that a race needs."""

    @property
    def welcome(self) -> Welcome | None:
        """The welcome of the last server, None before the first session."""

    async def request(self, cut: int, epoch: int, payload: EncodedPayload) -> ServerReply:
        """Have the server finish a frame; cancelling this cancels the request.

        Raises FrameFailed if this frame cannot be finished there.
        Raises ServerLost if the server is lost and requests do not wait for it.
        Raises HandshakeRefused if another server took its place.
        """


@dataclass(frozen=True, slots=True)
class Attempt:
    """How a frame ended.

    `frame` has the attempt's own stopwatch, `submitted` is true if the link had the request, and
    `reply` is the server's if its result counts. `fallback` is why the edge's result counts, `late`
    why the edge started the tail while the request was pending.
    """

    frame: Frame
    end: Answered | Failed
    submitted: bool = False
    reply: ServerReply | None = None
    fallback: Fallback | None = None
    late: Fallback | None = None


class ServerTail:
    """Has the server finish frames, with the edge's own tail as the fallback."""

    def __init__(
        self, pipeline: Pipeline, lanes: Lanes, link: RequestLink, server_loss: OnServerLoss
    ) -> None:
        self._pipeline, self._lanes, self._link = pipeline, lanes, link
        self._server_loss = server_loss
        self._decoding_ms = math.inf
        self._tails: set[asyncio.Task[Attempt]] = set()

    async def finish(self, frame: Frame, value: Packed | Encoded) -> Attempt:
        """Finish a frame from its live tensors, encoded or not.

        Raises what `RequestLink.request` raises, except FrameFailed, and ServerLost only if the
        edge must not finish the frame itself.
        """
        welcome = self._link.welcome
        refused = welcome.refused.get(frame.cut.name) if welcome else None
        if refused is not None:
            error = CutRefused(f"the server refuses cut {frame.cut.name}: {refused}")
            return Attempt(frame, Failed.of(value.batch, error))
        submitted = asyncio.Event()
        packed = value.packed if isinstance(value, Encoded) else value
        if frame.decision.hedge_ms is None and frame.decision.deadline_ms is None:
            asked = self._request(frame, value, submitted)
            return await self._reply(frame, packed, asked, submitted)
        return await self._in_time(frame, packed, value, submitted)

    async def _in_time(
        self, frame: Frame, packed: Packed, value: Packed | Encoded, submitted: asyncio.Event
    ) -> Attempt:
        """Finish a frame that has a deadline or a hedge."""
        abandon = threading.Event()
        remote_frame = frame.fork(abandon)
        asked = asyncio.create_task(self._request(remote_frame, value, submitted))
        late = asyncio.create_task(_late(frame.decision, submitted))
        try:
            await asyncio.wait([asked, late], return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return await self._reply(remote_frame, packed, asked, submitted)
            return await self._race(remote_frame, packed, asked, late.result(), submitted)
        finally:
            abandon.set()  # an encoder that still runs
            asked.cancel()
            late.cancel()

    async def _race(
        self,
        remote_frame: Frame,
        packed: Packed,
        asked: "asyncio.Task[ServerReply]",
        late: Fallback,
        submitted: asyncio.Event,
    ) -> Attempt:
        """Start the tail on the edge while the request is pending; the first result counts."""
        abandon = threading.Event()
        local_frame = remote_frame.fork(abandon)
        tail = self._own_tail(local_frame, packed, late, submitted=submitted.is_set())
        own = asyncio.create_task(tail)
        self._tails.add(own)
        own.add_done_callback(self._tails.discard)
        try:
            await asyncio.wait([asked, own], return_when=asyncio.FIRST_COMPLETED)
            if _succeeded(asked) and not own.done():
                abandon.set()
                attempt = await self._reply(remote_frame, packed, asked, submitted)
            else:
                attempt = await own
                if isinstance(attempt.end, Failed):  # the server may still succeed
                    attempt = await self._reply(remote_frame, packed, asked, submitted)
        finally:
            abandon.set()
        return replace(attempt, late=late)

    async def _request(
        self, frame: Frame, value: Packed | Encoded, submitted: asyncio.Event
    ) -> ServerReply:
        """Encode the live tensors unless that is done, and wait for the server's reply.

        Raises what `RequestLink.request` raises, and FrameFailed if they cannot be encoded.
        """
        encoded = value if isinstance(value, Encoded) else await self._encoded(frame, value)
        if isinstance(encoded, Failed):
            raise FrameFailed(encoded.reason)
        submitted.set()
        return await self._link.request(frame.cut.index, frame.decision.epoch, encoded.payload)

    async def _encoded(self, frame: Frame, packed: Packed) -> Encoded | Failed:
        encode = partial(stages.encoded, self._pipeline, frame)
        return await self._lanes.run(self._lanes.code, frame.watch, lambda: then(packed, encode))

    async def _reply(
        self,
        frame: Frame,
        packed: Packed,
        asked: Awaitable[ServerReply],
        submitted: asyncio.Event,
    ) -> Attempt:
        """Wait for the reply and finish the frame, handling failure and server loss."""
        try:
            reply = await asked
        except FrameFailed as error:
            return Attempt(frame, Failed.of(packed.batch, error), submitted.is_set())
        except ServerLost:
            if self._server_loss is not OnServerLoss.FINISH_ON_EDGE:
                raise
            return await self._own_tail(frame, packed, "server-lost", submitted=submitted.is_set())
        end = await self._decoded(frame, Replied(packed.batch, reply))
        return Attempt(frame, end, submitted=True, reply=reply)

    async def _decoded(self, frame: Frame, replied: Replied) -> Answered | Failed:
        """Decode the reply.

        Run inline on the event loop if no other frame is in flight and the previous reply took
        under 2 ms; otherwise use the codec thread.
        """
        decode = partial(self._timed_decode, frame, replied)
        if not self._lanes.pipelined and self._decoding_ms < _MAX_INLINE_MS:
            return decode()
        return await self._lanes.run(self._lanes.code, frame.watch, decode)

    def _timed_decode(self, frame: Frame, replied: Replied) -> Answered | Failed:
        started = time.perf_counter()
        end = then(replied, partial(stages.decoded, self._pipeline, frame))
        self._decoding_ms = (time.perf_counter() - started) * 1e3
        return end

    async def _own_tail(
        self, frame: Frame, packed: Packed, fallback: Fallback, *, submitted: bool
    ) -> Attempt:
        """Finish the frame on the edge."""
        tail = partial(stages.tail, self._pipeline, frame)
        end = await self._lanes.run(self._lanes.model, frame.watch, lambda: then(packed, tail))
        if isinstance(end, Failed):
            return Attempt(frame, end, submitted)
        return Attempt(frame, end, submitted, fallback=fallback)


def _succeeded(asked: "asyncio.Task[ServerReply]") -> bool:
    return asked.done() and asked.exception() is None


async def _late(decision: Decision, submitted: asyncio.Event) -> Fallback:
    """Wait until the edge has to start the tail, possibly for ever; return the reason.

    The hedge counts from this call, at the end of the head; the deadline from `submitted`.
    """
    hedge, deadline = decision.hedge_ms, decision.deadline_ms
    try:
        async with asyncio.timeout(None if hedge is None else hedge / 1e3):
            await submitted.wait()
            await asyncio.sleep(math.inf if deadline is None else deadline / 1e3)
    except TimeoutError:
        return "hedge"
    return "deadline"
