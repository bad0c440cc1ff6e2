"""One session with a server: moves messages between its two connections and the requests."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from splittracr.edge.dial import Connections
from splittracr.edge.liveness import Liveness
from splittracr.edge.transfers import Transfers
from splittracr.experiment.errors import ProtocolError, ServerLost
from splittracr.experiment.errors import reason as reason_of
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.messages import (
    Cancel,
    Check,
    Checked,
    Goodbye,
    Meter,
    Metered,
    Prepare,
    Prepared,
    Probe,
    Probed,
    Reply,
    Time,
    Timed,
    Welcome,
    decode,
    encode,
)
from splittracr.wire.requests import Action, PendingRequests, Send

log = logging.getLogger(__name__)

_LONG_WAIT = 60.0  # seconds without a reply that are worth a line in the log


@dataclass(frozen=True)
class ServerReply:
    """A reply as it arrived: the server's message, its payload, and the sizes of both ways.

    `resent`: its request waited for a server that was lost.
    """

    reply: Reply
    payload: EncodedPayload
    sent: int
    size: int
    resent: bool = False


Act = Callable[[Sequence[Action], ServerReply | None], None]
"""Takes the actions of an event. The reply is the one that `Deliver` is about."""


class Session:
    """An open session. Its events go to `requests`, and the resulting actions to `act`."""

    def __init__(
        self,
        connections: Connections,
        requests: PendingRequests,
        transfers: Transfers,
        heartbeat: float,
        act: Act,
    ) -> None:
        self._channel, self._control = connections.channel, connections.control
        self._protocol = connections.protocol
        self._requests = requests
        self._transfers = transfers
        self._heartbeat = heartbeat
        self._act = act
        self._cancels: asyncio.Queue[int] = asyncio.Queue()
        self._checks: asyncio.Queue[Checked] = asyncio.Queue()
        self._probes: dict[int, asyncio.Future[Probed]] = {}
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._goodbye: str | None = None
        self._over = False
        self._warned_at = -math.inf  # when a long wait was logged last

    async def run(self) -> str:
        """Move messages until the session ends; returns why it ended."""
        tasks = [
            asyncio.create_task(self._receive(), name="replies"),
            asyncio.create_task(self._receive_control(), name="control"),
            asyncio.create_task(self._send_cancels(), name="cancels"),
            asyncio.create_task(self._supervise(), name="checks"),
            self._failed,
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return self._goodbye or next(_reason(task) for task in tasks if task in done)
        finally:
            self._over = True
            self._requests.close()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            asked: list[asyncio.Future[Any]] = [*self._probes.values(), *self._asked.values()]
            for answer in asked:
                if not answer.done():
                    answer.set_exception(ServerLost("the server was lost"))

    def send(self, action: Send) -> list[Action]:
        """Begin to send a request; returns the next actions if it was sent at once."""
        number = action.request.id
        try:
            parts = encode(action.request, action.payload)
            size = sum(len(part) for part in parts)
            self._transfers.start(number, action.request.cut, size, time.perf_counter())
            sending = self._channel.begin(parts)
        except ConnectionError:  # the task that receives reports it
            self._requests.returned()
            return []
        except Exception as error:  # noqa: BLE001 - ends the session, not the request
            self._fail(error)
            return []
        if sending is None:
            return self._requests.sent()
        sending.add_done_callback(self._sent)
        return []

    def cancel(self, number: int) -> None:
        """Send a cancel for a request."""
        self._cancels.put_nowait(number)

    async def probe(self, number: int, payload: EncodedPayload) -> None:
        """Wait until the server has answered a probe. Raises ServerLost if the session ends."""
        answer: asyncio.Future[Probed] = asyncio.get_running_loop().create_future()
        self._probes[number] = answer
        parts = encode(Probe(id=number), payload)
        size = sum(len(part) for part in parts)
        self._transfers.start(number, None, size, time.perf_counter())
        try:
            await self._control.send(parts)
            await answer
        except ConnectionError as error:
            raise ServerLost("the server was lost") from error
        finally:
            self._probes.pop(number, None)

    async def ask(self, question: Meter | Time | Prepare) -> Any:
        """Return the server's `Metered`, `Timed` or `Prepared`.

        Raises ServerLost if the session ends before.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[question.id] = answer
        try:
            await self._control.send(encode(question))
            return await answer
        except ConnectionError as error:
            raise ServerLost("the server was lost") from error
        finally:
            self._asked.pop(question.id, None)

    def _sent(self, sending: asyncio.Future[None]) -> None:
        """Continue with the next request when all bytes of the last one are sent."""
        error = None if sending.cancelled() else sending.exception()
        if self._over:
            return
        if error is None:
            self._act(self._requests.sent(), None)
        elif isinstance(error, ConnectionError):  # the task that receives reports it
            self._requests.close()
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End the session for a fault of this end."""
        self._requests.close()
        if not self._failed.done():
            self._failed.set_exception(error)

    async def _receive(self) -> None:
        """Take replies from the data connection."""
        while (arrival := await self._channel.receive()) is not None:
            message, payload = self._protocol.receive(arrival.data)
            if isinstance(message, Welcome):
                raise ProtocolError("a second welcome from the server")
            actions = self._requests.replied(message)
            sent = self._transfers.finish(message, arrival)
            reply = None
            if isinstance(message, Reply):
                reply = ServerReply(message, payload, sent, arrival.size_on_wire)
            self._act(actions, reply)
        raise ConnectionResetError(f"the server was lost ({self._channel.why_closed})")

    async def _receive_control(self) -> None:
        """Take answers to probes and checks, and the goodbye, from the control connection."""
        while (arrival := await self._control.receive()) is not None:
            message, _ = decode(arrival.data)
            match message:
                case Probed():
                    self._transfers.finish(message, arrival)
                    probe = self._probes.get(message.id)
                    if probe is not None and not probe.done():
                        probe.set_result(message)
                case Metered() | Timed() | Prepared():
                    asked = self._asked.get(message.id)
                    if asked is not None and not asked.done():
                        asked.set_result(message)
                case Checked():
                    self._checks.put_nowait(message)
                case Goodbye():
                    self._goodbye = f"the server ended the session: {message.reason}"
                    self._requests.close()
                case _:
                    raise ProtocolError(f"unexpected {message.type} on a control connection")
        if self._goodbye is None:
            raise ConnectionResetError(f"the server was lost ({self._control.why_closed})")
        await asyncio.Event().wait()  # the remaining replies come by the data connection

    async def _send_cancels(self) -> None:
        while True:
            number = await self._cancels.get()
            await self._control.send(encode(Cancel(ids=(number,))))

    async def _supervise(self) -> None:
        """End the session if the data connection no longer carries bytes.

        The control connection is supervised by the heartbeat of its channel.
        """
        liveness = Liveness(self._heartbeat)
        for number in count():
            await asyncio.sleep(self._heartbeat)
            self._warn_of_long_wait(time.perf_counter())
            with contextlib.suppress(ConnectionError):  # `_receive_control` reports it
                self._channel.ping()
                written = self._channel.written
                await self._control.send(encode(Check(id=number)))
                checked = await self._checks.get()
                reason = liveness.judge(written, self._channel.received, checked)
                if reason is not None:
                    self._channel.abort(reason)

    def _warn_of_long_wait(self, now: float) -> None:
        """Log, at most once a minute, that a request has been without a reply for long."""
        oldest = self._transfers.oldest()
        if now - max(oldest, self._warned_at) > _LONG_WAIT:
            self._warned_at = now
            log.warning(
                "a request has been without a reply for %.0f s; the connection works",
                now - oldest,
            )


def _reason(task: asyncio.Future[None]) -> str:
    """Why a task has ended: its error."""
    error = task.exception()
    assert error is not None
    if not isinstance(error, ConnectionError | ProtocolError):
        log.error("a session ended by an error of this end", exc_info=error)
    return reason_of(error)
