"""Every message that edge and server exchange, and the frame that holds one.

A frame is one binary websocket message: the four bytes `STr` and the protocol version, the length
of the header (uint32, little-endian), the header as JSON, then the payload's buffers one after
the other. Sizes are checked against each other before anything is copied, unknown keys are
refused, and nothing in a frame is ever executed.

    edge    Hello ->            Request -> ...
    server          <- Welcome            <- Reply | Failure ...   <- Goodbye
                    <- Refusal (and close)
"""

import struct
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from splittracr.experiment.errors import ProtocolError
from splittracr.experiment.types import Frozen
from splittracr.wire.payload import EMPTY, Payload, PayloadHeader, check_structure

PROTOCOL = 1
_PREFIX = struct.Struct("<3sBI")
_MAGIC = b"STr"
_MAX_HEADER = 4 * 2**20

Text = Annotated[str, Field(max_length=4096)]
Number = Annotated[int, Field(ge=0, lt=2**63)]
Milliseconds = Annotated[float, Field(ge=0)]


class Identity(Frozen):
    """What both ends have to agree on before a tensor is sent.

    `settings` is a digest of what decides the network's input and the meaning of its output.
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
    """The server's consent: what it is, for the environment file, and the cuts it refuses."""

    type: Literal["welcome"] = "welcome"
    end: dict[str, Any]
    refused: dict[str, str]


class Refusal(Frozen):
    """The server's no to a Hello; `reason` is a sentence that says what differed."""

    type: Literal["refusal"] = "refusal"
    reason: Text


class Request(Frozen):
    """Finish this frame: the payload is the live values at `cut`."""

    type: Literal["request"] = "request"
    id: Number
    cut: Number


class Reply(Frozen):
    """The payload is the reduced output (or the raw one); times are the server's own stages."""

    type: Literal["reply"] = "reply"
    id: Number
    stages: dict[str, Milliseconds]


class Failure(Frozen):
    """The server could not finish this frame; the session goes on."""

    type: Literal["failure"] = "failure"
    id: Number
    reason: Text


class Goodbye(Frozen):
    """The server stops; what was not answered will not be."""

    type: Literal["goodbye"] = "goodbye"
    reason: Text


Message = Hello | Welcome | Refusal | Request | Reply | Failure | Goodbye


class _Header(Frozen):
    message: Annotated[Message, Field(discriminator="type")]
    payload: PayloadHeader | None = None


_HEADER = TypeAdapter(_Header)


def encode(message: Message, payload: Payload = EMPTY) -> bytes:
    """One frame."""
    carried = payload.header() if payload.values else None
    header = _Header(message=message, payload=carried).model_dump_json(exclude_none=True).encode()
    prefix = _PREFIX.pack(_MAGIC, PROTOCOL, len(header))
    return b"".join((prefix, header, *payload.buffers))


def decode(frame: bytes) -> tuple[Message, Payload]:
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
    if length > _MAX_HEADER or start > len(frame):
        raise ProtocolError(f"a header of {length} bytes in a frame of {len(frame)}")
    try:
        header = _HEADER.validate_json(frame[_PREFIX.size : start])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(f"a header is not valid at {where}: {first['msg']}") from error
    return header.message, _payload(header.payload, memoryview(frame)[start:])


def _payload(header: PayloadHeader | None, body: memoryview) -> Payload:
    sizes = header.buffers if header else ()
    if sum(sizes) != len(body):
        raise ProtocolError(f"buffers of {sum(sizes)} bytes announced, {len(body)} received")
    if header is None:
        return EMPTY
    check_structure(header)
    buffers, start = [], 0
    for size in sizes:
        buffers.append(body[start : start + size])
        start += size
    return Payload(header.values, header.tensors, tuple(buffers))
