"""Requests as a state machine: each ends once, in order, within the window, and never in vain."""

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from splittracr.experiment.errors import (
    FrameFailed,
    HandshakeRefused,
    ProtocolError,
    ServerLost,
    SplittracrError,
)
from splittracr.experiment.spec import OnServerLoss
from splittracr.wire.codec import NOTHING
from splittracr.wire.messages import End, Failure, Reply, Request, Welcome
from splittracr.wire.payload import Payload, TensorRef
from splittracr.wire.requests import (
    MAX_LOSSES,
    SUSPECT_LOSSES,
    Action,
    Deliver,
    Fail,
    PendingRequests,
    Send,
    SendCancel,
)
from tests.wire.frames import plain

BLOB = plain(
    Payload(
        ({"t": 0},),
        (TensorRef(0, "uint8", (2**20 + 1,), (1,), 0),),
        (memoryview(bytes(2**20 + 1)),),
    )
)


def ask(number: int) -> Request:
    return Request(id=number, cut=1)


def reply(number: int) -> Reply:
    return Reply(id=number, stages={})


def opened(count: int, window: int = 8, loss: OnServerLoss = OnServerLoss.WAIT) -> PendingRequests:
    """Requests 0 to `count` - 1 in an open session; the first one is being sent."""
    requests = PendingRequests(loss, 2**30)
    requests.opened(Welcome(end=End(), refused={}, window=window))
    for number in range(count):
        requests.submit(ask(number), NOTHING)
    return requests


def sent(actions: Sequence[Action]) -> list[int]:
    return [action.request.id for action in actions if isinstance(action, Send)]


def failures(actions: Sequence[Action]) -> dict[int, str]:
    return {action.number: str(action.error) for action in actions if isinstance(action, Fail)}


def lose(requests: PendingRequests, welcome: Welcome | None = None) -> list[Action]:
    """Lose the session and open the next one; returns the actions of both."""
    return [
        *requests.lost("the server was lost"),
        *requests.opened(welcome or Welcome(end=End(), refused={}, window=8)),
    ]


def test_requests_are_sent_one_after_the_other_and_cancelled_ones_not_at_all() -> None:
    requests = opened(0)
    assert [sent(requests.submit(ask(n), NOTHING)) for n in range(3)] == [[0], [], []]
    assert requests.cancel(1) == []
    assert sent(requests.sent()) == [2]
    assert requests.sent() == []
    assert len(requests) == 2


def test_no_more_requests_are_in_flight_than_the_window_allows() -> None:
    requests = opened(4, window=2)
    assert sent(requests.sent()) == [1]
    assert requests.sent() == []
    assert requests.cancel(0) == [SendCancel(0)]  # in flight until the server has answered
    actions = requests.replied(Failure(id=0, reason="cancelled"))
    assert sent(actions) == [2]
    assert failures(actions) == {}


def test_an_answer_ends_its_request() -> None:
    requests = opened(2)
    requests.sent()
    assert requests.replied(reply(1)) == [Deliver(1)]
    assert failures(requests.replied(Failure(id=0, reason="too warm"))) == {0: "too warm"}
    assert len(requests) == 0


@pytest.mark.parametrize("message", [reply(1), Failure(id=1, reason=""), reply(7)])
def test_an_answer_that_was_not_asked_for_breaks_the_protocol(message: Reply | Failure) -> None:
    requests = opened(2)  # request 1 is not sent yet
    with pytest.raises(ProtocolError, match=f"unexpected {message.type} from the server"):
        requests.replied(message)


def test_a_second_answer_breaks_the_protocol() -> None:
    requests = opened(1)
    requests.replied(reply(0))
    with pytest.raises(ProtocolError, match="unexpected reply"):
        requests.replied(reply(0))


def test_an_answer_from_an_earlier_session_breaks_the_protocol() -> None:
    requests = opened(2)
    lose(requests)
    requests.lost("again")
    with pytest.raises(ProtocolError, match="unexpected reply"):
        requests.replied(reply(0))


def test_pending_requests_are_sent_again_in_the_order_of_submission() -> None:
    requests = opened(4)
    requests.sent()
    requests.sent()  # 0, 1 and 2 were sent
    requests.replied(reply(1))
    actions = lose(requests)
    order = [(action.request.id, action.resent) for action in actions if isinstance(action, Send)]
    for _ in range(3):
        for action in requests.sent():
            assert isinstance(action, Send)
            order.append((action.request.id, action.resent))
    assert order == [(0, True), (2, True), (3, False)]


def test_a_request_of_which_no_byte_left_was_not_lost_with_the_session() -> None:
    requests = opened(2)
    for _ in range(MAX_LOSSES + 1):
        requests.returned()
        assert requests.sent() == [], "the session takes no more"
        assert not requests.connected
        actions = lose(requests)
        assert sent(actions) == [0]
        assert failures(actions) == {}
        assert [action.resent for action in actions if isinstance(action, Send)] == [False]


def test_a_closing_session_takes_no_requests_but_answers() -> None:
    requests = opened(2)
    requests.close()
    assert not requests.connected
    assert requests.sent() == []
    assert requests.submit(ask(2), NOTHING) == []
    assert requests.replied(reply(0)) == [Deliver(0)]
    assert sent(lose(requests)) == [1]


def test_a_request_in_many_lost_sessions_fails_and_no_other_does() -> None:
    requests = opened(2)
    for _ in range(MAX_LOSSES - 1):
        actions = lose(requests)
        assert sent(actions) == [0]
        assert failures(actions) == {}
    actions = lose(requests)
    assert failures(actions) == {0: "the server was lost 10 times while it had this request"}
    assert all(isinstance(a.error, FrameFailed) for a in actions if isinstance(a, Fail))
    assert sent(actions) == [1]


def test_suspected_requests_are_sent_alone() -> None:
    requests = opened(3)
    assert sent(requests.sent()) == [1]
    for _ in range(SUSPECT_LOSSES - 1):
        assert sent(lose(requests)) == [0]
        assert sent(requests.sent()) == [1]
    assert sent(lose(requests)) == [0]
    assert requests.sent() == [], "0 and 1 are suspected"
    actions = requests.replied(reply(0))
    assert (actions[0], sent(actions)) == (Deliver(0), [1])
    assert requests.sent() == []
    assert sent(requests.replied(reply(1))) == [2]


def test_one_suspect_less_makes_room_at_once() -> None:
    requests = opened(2)
    for _ in range(SUSPECT_LOSSES):
        lose(requests)
    assert requests.sent() == []
    actions = requests.cancel(0)
    assert (actions[0], sent(actions)) == (SendCancel(0), [1])


@pytest.mark.parametrize("loss", OnServerLoss)
def test_a_lost_session_is_handled_as_the_manifest_says(loss: OnServerLoss) -> None:
    requests = opened(2, loss=loss)
    actions = requests.lost("it went away")
    late = requests.submit(ask(2), NOTHING)
    again = requests.opened(Welcome(end=End(), refused={}))
    match loss:
        case OnServerLoss.WAIT:
            assert (actions, late, sent(again)) == ([], [], [0])
        case OnServerLoss.FINISH_ON_EDGE:
            assert failures(actions) == {0: "it went away", 1: "it went away"}
            assert failures(late) == {2: "there is no session with the server"}
            assert sent(requests.submit(ask(3), NOTHING)) == [3]
        case OnServerLoss.FAIL:
            assert failures(actions) == {0: "it went away", 1: "it went away"}
            assert failures(late) == {2: "it went away"}
            assert isinstance(requests.error, ServerLost)


def test_a_refusal_fails_pending_and_later_requests() -> None:
    requests = opened(1)
    requests.lost("it went away")
    error = HandshakeRefused("they differ in weights")
    assert requests.give_up(error) == [Fail(0, error)]
    assert requests.error is error
    assert requests.submit(ask(1), NOTHING) == [Fail(1, error)]


@pytest.mark.parametrize(
    ("own", "server", "expected"),
    [
        (2**20, None, "1048577 bytes are more than spec.transport.maxMessageMebibytes, 1"),
        (
            2**21,
            2**20,
            "1048577 bytes are more than the server's spec.transport.maxMessageMebibytes, 1",
        ),
        (2**20, 2**21, "1048577 bytes are more than spec.transport.maxMessageMebibytes, 1"),
    ],
)
def test_a_request_above_the_limit_of_either_end_fails(
    own: int, server: int | None, expected: str
) -> None:
    requests = PendingRequests(OnServerLoss.WAIT, own)
    requests.opened(Welcome(end=End(), refused={}, max_message_bytes=server))
    actions = requests.submit(ask(0), BLOB)
    assert failures(actions) == {0: expected}
    assert [type(action.error) for action in actions if isinstance(action, Fail)] == [FrameFailed]


def test_ids_have_to_rise() -> None:
    requests = opened(2)
    with pytest.raises(ValueError, match="request 1 after 1: ids have to rise"):
        requests.submit(ask(1), NOTHING)


class EveryRequestEndsOnce(RuleBasedStateMachine):
    """Any order of events, against a model that only counts.

    The model knows which requests were submitted, how each ended, and which of them the server
    has received in the current session. Hypothesis takes all rules of a machine from one class.
    """

    submitted = Bundle("submitted")

    @initialize(loss=st.sampled_from(OnServerLoss), window=st.integers(1, 4))
    def begin(self, loss: OnServerLoss, window: int) -> None:
        self.requests = PendingRequests(loss, 2**30)
        self.loss, self.window = loss, window
        self.count = 0
        self.ends: dict[int, str] = {}
        self.losses: dict[int, int] = {}
        self.open = self.closing = False
        self.sending: int | None = None
        self.sent: list[int] = []  # in this session
        self.server: set[int] = set()  # requests that the server has to answer
        self.error: SplittracrError | None = None

    def take(self, actions: Sequence[Action], replied: int | None = None) -> None:
        """Check the actions of one event and add them to the model."""
        for action in actions:
            match action:
                case Send(request, _, resent):
                    number = request.id
                    assert self.open
                    assert not self.closing, "a session that closes takes nothing"
                    assert self.sending is None, "one at a time"
                    assert number not in self.ends
                    assert number not in self.sent, "once in a session"
                    assert not self.sent or number > self.sent[-1], "in the order of submission"
                    assert resent == (self.losses[number] > 0)
                    suspected = any(
                        losses >= SUSPECT_LOSSES
                        for other, losses in self.losses.items()
                        if other not in self.ends
                    )
                    assert len(self.server) < (1 if suspected else self.window)
                    self.sending = number
                    self.sent.append(number)
                    self.server.add(number)
                case Deliver(number):
                    assert number == replied
                    self.end(number, "answered")
                case Fail(number, _):
                    self.end(number, "failed")
                case SendCancel(number):
                    assert self.open
                    assert number in self.server

    def end(self, number: int, how: str) -> None:
        assert number not in self.ends, "each request ends once"
        self.ends[number] = how

    @rule(target=submitted)
    def submit(self) -> int:
        number, self.count = self.count, self.count + 1
        self.losses[number] = 0
        self.take(self.requests.submit(ask(number), NOTHING))
        fails = self.error is not None or (
            not self.open and self.loss is OnServerLoss.FINISH_ON_EDGE
        )
        assert (self.ends.get(number) == "failed") == fails
        return number

    @rule(number=consumes(submitted))
    def cancel(self, number: int) -> None:
        pending = number not in self.ends
        if pending:
            self.end(number, "cancelled")
        actions = self.requests.cancel(number)
        self.take(actions)
        cancelled = any(isinstance(action, SendCancel) for action in actions)
        assert cancelled == (pending and number in self.server)

    @precondition(lambda self: not self.open and self.error is None)
    @rule(window=st.integers(1, 4))
    def open_session(self, window: int) -> None:
        self.open, self.closing, self.sending = True, False, None
        self.window, self.sent, self.server = window, [], set()
        self.take(self.requests.opened(Welcome(end=End(), refused={}, window=window)))

    @precondition(lambda self: self.sending is not None)
    @rule()
    def hand_over(self) -> None:
        self.sending = None
        self.take(self.requests.sent())

    @precondition(lambda self: self.sending is not None)
    @rule()
    def return_unsent(self) -> None:
        assert self.sending is not None
        self.server.discard(self.sending)
        self.sending, self.closing = None, True
        self.requests.returned()

    @precondition(lambda self: self.open)
    @rule()
    def close(self) -> None:
        self.closing = True
        self.requests.close()

    @precondition(lambda self: self.server)
    @rule(data=st.data(), well=st.booleans())
    def answer(self, data: st.DataObject, well: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.server)))
        self.server.discard(number)
        pending = number not in self.ends
        message = reply(number) if well else Failure(id=number, reason="no")
        self.take(self.requests.replied(message), number if well else None)
        if pending:
            assert self.ends[number] == ("answered" if well else "failed")

    @precondition(lambda self: self.open)
    @rule()
    def lose_session(self) -> None:
        expected = set()
        for number in range(self.count):
            if number in self.ends:
                continue
            self.losses[number] += number in self.server
            if self.loss is not OnServerLoss.WAIT or self.losses[number] >= MAX_LOSSES:
                expected.add(number)
        self.open, self.server, self.sending = False, set(), None
        before = set(self.ends)
        actions = self.requests.lost("gone")
        self.take(actions)
        assert set(self.ends) - before == expected
        for action in actions:
            assert isinstance(action, Fail)
            worn_out = self.losses[action.number] >= MAX_LOSSES
            assert isinstance(action.error, FrameFailed if worn_out else ServerLost)
        if self.loss is OnServerLoss.FAIL:
            self.error = self.requests.error
            assert isinstance(self.error, ServerLost)

    @precondition(lambda self: self.open and self.loss is OnServerLoss.WAIT)
    @rule(times=st.integers(SUSPECT_LOSSES, MAX_LOSSES))
    def lose_many_sessions(self, times: int) -> None:
        for _ in range(times):
            self.lose_session()
            self.open_session(self.window)

    @rule(draw=st.integers(0, 19))
    def refuse(self, draw: int) -> None:
        if draw == 0:  # rarely, as it ends everything
            self.error = HandshakeRefused("no")
            self.take(self.requests.give_up(self.error))
            assert len(self.ends) == self.count

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "requests"):
            assert len(self.requests) == self.count - len(self.ends)
            assert self.requests.connected == (self.open and not self.closing)
            assert self.requests.error is self.error

    @invariant()
    def nothing_stands_still(self) -> None:
        """A request that could be sent is being sent."""
        if not hasattr(self, "requests"):
            return
        waiting = [n for n in range(self.count) if n not in self.ends and n not in self.sent]
        if self.open and not self.closing and self.sending is None and waiting:
            assert self.server, "the window is full"

    def teardown(self) -> None:
        """With a server that answers, all requests end."""
        if not hasattr(self, "requests"):
            return
        if not self.open and self.error is None:
            self.open_session(4)
        if self.open and self.closing:
            self.lose_session()
            if self.error is None:
                self.open_session(4)
        while self.open and (self.sending is not None or self.server):
            if self.sending is not None:
                self.hand_over()
            else:
                number = min(self.server)
                self.server.discard(number)
                self.take(self.requests.replied(reply(number)), number)
        assert len(self.ends) == self.count
        assert len(self.requests) == 0


EveryRequestEndsOnce.TestCase.settings = settings(
    max_examples=300, stateful_step_count=60, deadline=None
)
TestEveryRequestEndsOnce = EveryRequestEndsOnce.TestCase
