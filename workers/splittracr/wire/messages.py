"""Every message that edge and server exchange, and the frame that holds one.

A frame is the four bytes `STr` and the protocol version, the length of the header (uint32,
little-endian), the header as JSON, then the payload's encoded buffers one after the other. Sizes
are checked against each other before anything is copied, unknown keys are refused, and nothing in
a frame is ever executed. Tensors and what has to overtake them use connections of their own:

    data     edge    Hello ->            Request -> ...
             server          <- Welcome            <- Reply | Failure ...
                             <- Refusal (and close)
    control  edge    Attach ->    Probe | Cancel -> ...
             server                <- Probed        <- Goodbye
"""

import struct
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from splittracr.experiment.codec import ValueCodec
from splittracr.experiment.errors import ProtocolError
from splittracr.experiment.profile import Profile
from splittracr.experiment.types import Frozen
from splittracr.wire.codec import NOTHING, BufferCoding, EncodedPayload
from splittracr.wire.lossless import Packer
from splittracr.wire.payload import PayloadHeader, check_structure

PROTOCOL = 2
SESSION_PATH, CONTROL_PATH = "/v1/session", "/v1/control"
"""Where a server has its two connections."""
REASON_HEADER = "Splittracr-Reason"
"""Why a server takes no session now, in its HTTP answer."""
LINK_AGE_HEADER = "Splittracr-Link-Age"
"""Nanoseconds since the edge's link began: an emulated one goes on where it was."""

_PREFIX = struct.Struct("<3sBI")
_MAGIC = b"STr"
MOST_HEADER = 4 * 2**20
"""Bytes that a frame may have besides its payload."""

Text = Annotated[str, Field(max_length=4096)]
Number = Annotated[int, Field(ge=0, lt=2**63)]
Milliseconds = Annotated[float, Field(ge=0)]


class Identity(Frozen):
    """What both ends have to agree on before a tensor is sent.

    `settings` is what decides the network's input and the meaning of its output (identity.py).
    """

    network: Text
    fingerprint: Text
    weights: Text
    batch: Number
    outputs: Text
    settings: Text = ""


class Hello(Frozen):
    """The edge's first message."""

    type: Literal["hello"] = "hello"
    uid: Text
    edge: Text
    identity: Identity


class Welcome(Frozen):
    """The server's consent: what it is, for the environment file, and the cuts it refuses.

    `session` names this session to the control connection. `profile` is what the network takes
    there, where the edge needs it to decide. An edge may have `window` requests
    without an answer; the server would not take more.
    """

    type: Literal["welcome"] = "welcome"
    end: dict[str, Any]
    refused: dict[str, str]
    session: Text = ""
    profile: Profile | None = None
    window: Annotated[int, Field(ge=1, le=4096)] = 1


class Refusal(Frozen):
    """The server's no to a Hello; `reason` is a sentence that says what differed."""

    type: Literal["refusal"] = "refusal"
    reason: Text


class Request(Frozen):
    """Finish this frame: the payload is the live values at `cut`.

    `epoch` counts the edge's changes of cut or codec.
    """

    type: Literal["request"] = "request"
    id: Number
    cut: Number
    epoch: Number = 0


class Reply(Frozen):
    """The payload is the reduced output (or the raw one); times are the server's own stages.

    They begin when the request had arrived whole; `receiving_ms` is how long that took from its
    first bytes on. `batch` requests were computed together.
    """

    type: Literal["reply"] = "reply"
    id: Number
    stages: dict[str, Milliseconds]
    receiving_ms: Milliseconds = 0.0
    batch: Annotated[int, Field(ge=1, le=4096)] = 1


class Failure(Frozen):
    """The server could not finish this frame, or was told not to; the session goes on.

    `waited_ms` is the time since the request had arrived whole.
    """

    type: Literal["failure"] = "failure"
    id: Number
    reason: Text
    waited_ms: Milliseconds = 0.0


class Attach(Frozen):
    """First on a control connection: the session that it belongs to."""

    type: Literal["attach"] = "attach"
    session: Text


class Probe(Frozen):
    """Answer at once; the payload is there for its size."""

    type: Literal["probe"] = "probe"
    id: Number


class Probed(Frozen):
    """The answer to a probe; `receiving_ms` as in Reply."""

    type: Literal["probed"] = "probed"
    id: Number
    receiving_ms: Milliseconds = 0.0


class Cancel(Frozen):
    """The edge has these answers by now; what has not begun need not be computed."""

    type: Literal["cancel"] = "cancel"
    ids: Annotated[tuple[Number, ...], Field(max_length=4096)]


class Goodbye(Frozen):
    """The server stops; what was not answered will not be."""

    type: Literal["goodbye"] = "goodbye"
    reason: Text


Message = (
    Hello
    | Welcome
    | Refusal
    | Request
    | Reply
    | Failure
    | Attach
    | Probe
    | Probed
    | Cancel
    | Goodbye
)


class _Header(Frozen):
    """`codings` say how each buffer is encoded; there are none where all travel as they are."""

    message: Annotated[Message, Field(discriminator="type")]
    payload: PayloadHeader | None = None
    codings: tuple[BufferCoding, ...] | None = None


_HEADER = TypeAdapter(_Header)


def encode(message: Message, payload: EncodedPayload = NOTHING) -> list[bytes | memoryview]:
    """One frame, in parts that need not be joined to be sent."""
    header = _Header(
        message=message,
        payload=payload.header if payload.header.values else None,
        codings=payload.codings if payload.codings != _plain(payload.header) else None,
    )
    text = header.model_dump_json(exclude_none=True).encode()
    return [_PREFIX.pack(_MAGIC, PROTOCOL, len(text)) + text, *payload.buffers]


def decode(frame: bytes | bytearray | memoryview) -> tuple[Message, EncodedPayload]:
    """The message and its payload, whose buffers are views of `frame`.

    Raises ProtocolError for anything that `encode` of this version would not have written.
    """
    if len(frame) < _PREFIX.size:
        raise ProtocolError(f"a frame of {len(frame)} bytes is too short")
    magic, version, length = _PREFIX.unpack_from(frame)
    if magic != _MAGIC:
        raise ProtocolError("a frame does not start with this protocol's mark")
    if version != PROTOCOL:
        raise ProtocolError(f"the peer speaks protocol {version}, this end {PROTOCOL}")
    start = _PREFIX.size + length
    if length > MOST_HEADER or start > len(frame):
        raise ProtocolError(f"a header of {length} bytes in a frame of {len(frame)}")
    try:
        header = _HEADER.validate_json(bytes(frame[_PREFIX.size : start]))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(f"a header is not valid at {where}: {first['msg']}") from error
    return header.message, _payload(header, memoryview(frame)[start:])


def _payload(header: _Header, body: memoryview) -> EncodedPayload:
    carried = header.payload or NOTHING.header
    codings = _plain(carried) if header.codings is None else header.codings
    sizes = [coding.size for coding in codings]
    if sum(sizes) != len(body):
        raise ProtocolError(f"buffers of {sum(sizes)} bytes announced, {len(body)} received")
    if len(sizes) != len(carried.buffers):
        raise ProtocolError(f"{len(carried.buffers)} buffers announced, {len(sizes)} described")
    check_structure(carried)
    buffers, start = [], 0
    for size in sizes:
        buffers.append(body[start : start + size])
        start += size
    return EncodedPayload(carried, codings, tuple(buffers))


def _plain(header: PayloadHeader) -> tuple[BufferCoding, ...]:
    """Buffers that travel as they are."""
    return tuple(
        BufferCoding(values=ValueCodec.RAW, packer=Packer.NONE, size=size)
        for size in header.buffers
    )
