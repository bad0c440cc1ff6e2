"""The session as a state machine: handshake first, ids rising, nothing out of order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from splittracr.experiment.codec import ValueCodec
from splittracr.experiment.errors import HandshakeRefused, ProtocolError
from splittracr.experiment.types import Cut, TensorSpec
from splittracr.wire.codec import NOTHING, BufferCoding, EncodedPayload
from splittracr.wire.lossless import Packer
from splittracr.wire.messages import (
    End,
    Failure,
    Goodbye,
    Hello,
    Identity,
    Message,
    Refusal,
    Reply,
    Request,
    Welcome,
)
from splittracr.wire.payload import Payload, TensorRef
from splittracr.wire.session import EdgeSession, ServerSession
from tests.wire.frames import frame, plain

IDENTITY = Identity(network="n", fingerprint="f", weights="w", batch=1, outputs="Reduced")
HELLO = Hello(uid="u", edge="e", identity=IDENTITY)
WELCOME = Welcome(end=End(), refused={})
CUTS = {i: Cut(index=i, name=str(i), live=(), bytes=0, work=0) for i in (0, 1, 3)}
VALUE = plain(Payload(({"v": 1},), (), ()))
ASK = Request(id=5, cut=1, epoch=2)


def edge(welcomed: bool = True) -> EdgeSession:
    session = EdgeSession(HELLO)
    if welcomed:
        session.receive(frame(WELCOME))
    return session


def server(greeted: bool = True) -> ServerSession:
    session = ServerSession(IDENTITY, CUTS)
    if greeted:
        session.receive(frame(HELLO))
    return session


def test_both_ends_fit_together() -> None:
    here, there = edge(welcomed=False), server(greeted=False)
    assert there.receive(b"".join(here.opening())) == (HELLO, NOTHING)
    assert here.receive(frame(WELCOME)) == (WELCOME, NOTHING)
    assert there.receive(frame(ASK, VALUE)) == (ASK, VALUE)
    assert here.receive(frame(Reply(id=5, stages={}), VALUE)) == (Reply(id=5, stages={}), VALUE)


@pytest.mark.parametrize("field", ["network", "fingerprint", "weights", "outputs"])
def test_a_difference_is_refused_and_named(field: str) -> None:
    other = structs.replace(HELLO, identity=structs.replace(IDENTITY, **{field: "other"}))
    with pytest.raises(HandshakeRefused, match=f"differ in {field}: the edge has 'other'"):
        server(greeted=False).receive(frame(other))


def test_other_settings_are_refused_in_words() -> None:
    other = structs.replace(HELLO, identity=structs.replace(IDENTITY, settings="s"))
    words = r"edge and server differ in settings: the edge has 's', the server ''"
    with pytest.raises(HandshakeRefused, match=words):
        server(greeted=False).receive(frame(other))


def test_the_sessions_limit_bounds_a_live_tensor() -> None:
    live = (TensorSpec(name="x", shape=(1, 1), dtype="uint8", bytes=1),)
    cuts = {0: Cut(index=0, name="input", live=live, bytes=1, work=0)}
    ref = TensorRef(buffer=0, dtype="uint8", shape=(1, 9), strides=(9, 1), offset=0)
    payload = Payload(({"t": 0},), (ref,), (memoryview(bytes(9)),))
    request = frame(Request(id=0, cut=0), plain(payload))
    for limit in (9, 8):
        session = ServerSession(IDENTITY, cuts, variable_shape=True, limit=limit)
        session.receive(frame(HELLO))
        if limit == 9:
            session.receive(request)
        else:
            with pytest.raises(ProtocolError, match="the request may have 8"):
                session.receive(request)


def test_the_servers_reason_reaches_the_edge() -> None:
    with pytest.raises(HandshakeRefused, match="differ in weights"):
        edge(welcomed=False).receive(frame(Refusal(reason="they differ in weights")))


@pytest.mark.parametrize("message", [WELCOME, HELLO, Request(id=1, cut=1), Goodbye(reason="")])
def test_the_edge_takes_only_answers_after_the_welcome(message: Message) -> None:
    with pytest.raises(ProtocolError, match=f"unexpected {message.type} from the server"):
        edge().receive(frame(message))


@pytest.mark.parametrize("message", [Reply(id=1, stages={}), Failure(id=1, reason="")])
def test_the_edge_takes_no_answer_before_the_welcome(message: Message) -> None:
    with pytest.raises(ProtocolError, match=f"unexpected {message.type} from the server"):
        edge(welcomed=False).receive(frame(message))


def test_a_refusal_after_the_welcome_is_the_servers_fault() -> None:
    with pytest.raises(ProtocolError, match="the server ended the session: enough"):
        edge().receive(frame(Refusal(reason="enough")))


@pytest.mark.parametrize(
    "message", [WELCOME, Request(id=0, cut=0), Reply(id=0, stages={}), Goodbye(reason="")]
)
def test_the_server_wants_a_hello_first(message: Message) -> None:
    with pytest.raises(ProtocolError, match=f"unexpected {message.type}"):
        server(greeted=False).receive(frame(message))


def test_a_cut_that_is_not_offered_is_refused() -> None:
    with pytest.raises(ProtocolError, match="cut 2 is not offered"):
        server().receive(frame(Request(id=0, cut=2)))


@given(st.lists(st.integers(0, 5), max_size=8))
def test_request_ids_have_to_rise(numbers: list[int]) -> None:
    session, highest = server(), -1
    for number in numbers:
        request = frame(Request(id=number, cut=0))
        if number > highest:
            session.receive(request)
            highest = number
        else:
            with pytest.raises(ProtocolError):
                session.receive(request)


def coded(name: str) -> EncodedPayload:
    """A tensor of one byte by a codec of another package."""
    ref = TensorRef(buffer=0, dtype="uint8", shape=(1, 2), strides=(2, 1), offset=0)
    header = Payload(({"t": 0},), (ref,), (memoryview(bytes(2)),)).header()
    coding = BufferCoding(ValueCodec.RAW, Packer.NONE, size=1, codec=name)
    return EncodedPayload(header, (coding,), (memoryview(b"x"),))


@pytest.mark.parametrize(
    ("codecs", "words"),
    [
        ({"acme.topk": "1"}, r"the server lacks codec 'acme\.topk'"),
        ({"acme.flat": "1"}, r"version of codec 'acme\.flat': the edge has '1', the server '2'"),
    ],
)
def test_a_codec_that_the_server_lacks_is_refused_by_name(
    codecs: dict[str, str], words: str
) -> None:
    session = ServerSession(IDENTITY, CUTS, codecs={"acme.flat": "2"})
    with pytest.raises(HandshakeRefused, match=words):
        session.receive(frame(structs.replace(HELLO, codecs=codecs)))


def test_a_request_uses_the_servers_codecs_only() -> None:
    live = (TensorSpec(name="x", shape=(1, 2), dtype="uint8", bytes=2),)
    cuts = {1: Cut(index=1, name="1", live=live, bytes=2, work=0)}
    session = ServerSession(IDENTITY, cuts, codecs={"acme.flat": "2"})
    session.receive(frame(structs.replace(HELLO, codecs={"acme.flat": "2"})))
    session.receive(frame(Request(id=1, cut=1), coded("acme.flat")))
    with pytest.raises(ProtocolError, match=r"there is no codec 'acme\.topk'"):
        session.receive(frame(Request(id=2, cut=1), coded("acme.topk")))
