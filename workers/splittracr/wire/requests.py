"""The edge's requests from submission to their end, over any number of sessions.

A state machine without I/O, clock or randomness. Each event is a method, which returns the
actions that its caller has to take, in order. `edge/link.py` is the caller that moves the bytes.
"""

from collections import deque
from dataclasses import dataclass, field

from splittracr.experiment.errors import FrameFailed, ProtocolError, ServerLost, SplittracrError
from splittracr.experiment.spec import OnServerLoss
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.messages import Failure, Reply, Request, Welcome

MAX_LOSSES = 10
"""Lost sessions after which a request that was in flight in each of them fails."""

SUSPECT_LOSSES = 3
"""Lost sessions after which a request is suspected to be their cause."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send this request in the open session, then call `sent` or `returned`.

    `resent` is true if an earlier session was lost while the request was in flight.
    """

    request: Request
    payload: EncodedPayload
    resent: bool


@dataclass(frozen=True, slots=True)
class Deliver:
    """Complete this request with the reply that has just arrived."""

    number: int


@dataclass(frozen=True, slots=True)
class Fail:
    """Fail this request with `error`."""

    number: int
    error: SplittracrError


@dataclass(frozen=True, slots=True)
class SendCancel:
    """Send a cancel for this request in the open session."""

    number: int


Action = Send | Deliver | Fail | SendCancel


@dataclass(slots=True)
class _Pending:
    request: Request
    payload: EncodedPayload
    losses: int = 0  # sessions that were lost while it was in flight


@dataclass(slots=True)
class _Session:
    window: int
    queue: deque[int]  # ids to send, in the order of submission; cancelled ones are skipped
    in_flight: set[int] = field(default_factory=set)  # sent and without a reply, cancelled included
    sending: int | None = None
    closing: bool = False


class PendingRequests:
    """Requests of one edge until they have a reply, have failed or are cancelled.

    Requests are sent one at a time, in the order of submission, and at most as many are in flight
    as the server's window allows. After a lost session the pending ones are sent again, in the
    same order, unless `loss` says otherwise. A request that was in flight in `MAX_LOSSES` lost
    sessions fails. As long as one is suspected (`SUSPECT_LOSSES`), the window is 1, so that the
    request at fault is lost alone.

    `max_bytes` is the largest payload of a request; the server's limit may be lower. `error` is
    what every request fails with from now on; None while requests are taken.
    """

    def __init__(self, loss: OnServerLoss, max_bytes: int) -> None:
        self._loss = loss
        self._max_bytes = max_bytes
        self._server_max: int | None = None
        self._pending: dict[int, _Pending] = {}  # in the order of submission
        self._suspects: set[int] = set()
        self._session: _Session | None = None
        self.error: SplittracrError | None = None
        self._last_id = -1

    def __len__(self) -> int:
        """Return the number of pending requests, sent or not."""
        return len(self._pending)

    @property
    def connected(self) -> bool:
        """Whether there is a session that takes requests."""
        return self._session is not None and not self._session.closing

    # Events of the edge.

    def submit(self, request: Request, payload: EncodedPayload) -> list[Action]:
        """Add a request. Its id has to be higher than all before (ValueError)."""
        if request.id <= self._last_id:
            raise ValueError(f"request {request.id} after {self._last_id}: ids have to rise")
        self._last_id = request.id
        error = self.error
        if self._session is None and error is None and self._loss is OnServerLoss.FINISH_ON_EDGE:
            error = ServerLost("there is no session with the server")
        error = _too_large(payload.nbytes, self._max_bytes, self._server_max) or error
        if error is not None:
            return [Fail(request.id, error)]
        self._pending[request.id] = _Pending(request, payload)
        if self._session is not None:
            self._session.queue.append(request.id)
        return self._advance()

    def cancel(self, number: int) -> list[Action]:
        """End a request whose reply is no longer needed. Does nothing if it has ended."""
        if not self._end(number):
            return []
        if self._session is not None and number in self._session.in_flight:
            return [SendCancel(number), *self._advance()]
        return self._advance()

    def give_up(self, error: SplittracrError) -> list[Action]:
        """Fail all pending requests, and all that are submitted later, with `error`."""
        self.error = error
        return self._fail_all(error)

    # Events of a session.

    def opened(self, welcome: Welcome) -> list[Action]:
        """Start a session; every pending request is queued for it."""
        self._server_max = welcome.max_message_bytes
        self._session = _Session(welcome.window, deque(self._pending))
        return self._advance()

    def sent(self) -> list[Action]:
        """Continue after the last `Send`: the channel has taken all bytes of it."""
        if self._session is not None:
            self._session.sending = None
        return self._advance()

    def returned(self) -> None:
        """Take back the last `Send`, of which no byte was sent; the session takes no more."""
        session = self._session
        if session is not None and session.sending is not None:
            session.in_flight.discard(session.sending)
        self.close()

    def close(self) -> None:
        """Send no more requests in this session; those in flight may still have a reply."""
        if self._session is not None:
            self._session.closing = True

    def replied(self, message: Reply | Failure) -> list[Action]:
        """End the request that `message` answers, unless it was cancelled or has failed.

        Raises ProtocolError if no such request is in flight.
        """
        session = self._session
        if session is None or message.id not in session.in_flight:
            raise ProtocolError(f"unexpected {message.type} from the server")
        session.in_flight.discard(message.id)
        if not self._end(message.id):
            return self._advance()
        if isinstance(message, Reply):
            return [Deliver(message.id), *self._advance()]
        return [Fail(message.id, FrameFailed(message.reason)), *self._advance()]

    def lost(self, reason: str) -> list[Action]:
        """End the session: keep pending requests for the next one, or fail them (`loss`)."""
        session, self._session = self._session, None
        if session is None:
            return []
        actions: list[Action] = []
        for number, pending in list(self._pending.items()):
            pending.losses += number in session.in_flight
            if pending.losses >= MAX_LOSSES:
                self._end(number)
                text = f"the server was lost {MAX_LOSSES} times while it had this request"
                actions.append(Fail(number, FrameFailed(text)))
            elif pending.losses >= SUSPECT_LOSSES:
                self._suspects.add(number)
        match self._loss:
            case OnServerLoss.FAIL:
                actions += self.give_up(ServerLost(reason))
            case OnServerLoss.FINISH_ON_EDGE:
                actions += self._fail_all(ServerLost(reason))
            case OnServerLoss.WAIT:
                pass
        return actions

    def _advance(self) -> list[Action]:
        """Return the next request to send, if one can be sent now."""
        session = self._session
        if session is None or session.closing or session.sending is not None:
            return []
        if len(session.in_flight) >= (1 if self._suspects else session.window):
            return []
        while session.queue:
            number = session.queue.popleft()
            pending = self._pending.get(number)
            if pending is not None:
                session.sending = number
                session.in_flight.add(number)
                return [Send(pending.request, pending.payload, resent=pending.losses > 0)]
        return []

    def _end(self, number: int) -> bool:
        """Forget a request; returns whether it was pending."""
        self._suspects.discard(number)
        return self._pending.pop(number, None) is not None

    def _fail_all(self, error: SplittracrError) -> list[Action]:
        failed = list(self._pending)
        self._pending.clear()
        self._suspects.clear()
        return [Fail(number, error) for number in failed]


def _too_large(size: int, own_max: int, server_max: int | None) -> FrameFailed | None:
    """Return the error of a payload of `size` bytes that one end does not take."""
    limit = own_max if server_max is None else min(own_max, server_max)
    if size <= limit:
        return None
    owner = "the server's " if limit < own_max else ""
    return FrameFailed(
        f"{size} bytes are more than {owner}spec.transport.maxMessageMebibytes, {limit // 2**20}"
    )
