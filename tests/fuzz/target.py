"""What the fuzzers call: everything that parses a peer's bytes, in one function.

The input is what a peer writes to the socket after the handshake: frames are read from it in
pieces of odd sizes, each message is decoded, its payload too, and held against a cut. Nothing but
ProtocolError may come out of it, and nothing may take more memory than was sent or agreed on.
"""

import contextlib

import numpy as np
from msgspec import structs

from splittracr.experiment.codec import Codec
from splittracr.experiment.errors import HandshakeRefused, ProtocolError
from splittracr.experiment.types import Cut, TensorSpec
from splittracr.transport.frames import Arrival, FrameReader, Opcode, header, masked
from splittracr.wire import codec
from splittracr.wire.messages import Hello, Identity, PartDigest, Request, Summary, decode, encode
from splittracr.wire.payload import Payload, TensorRef
from splittracr.wire.session import EdgeSession, ServerSession

LIMIT = 2**16
"""Of a message, and of what its payload decodes to."""

IDENTITY = Identity(
    network="n",
    fingerprint="f",
    weights="w",
    batch=1,
    outputs="Reduced",
    settings='{"a": 1}',
    versions={"torch": "1.2.3"},
    code={"net.py": "sha256:00"},
    processor="cpu",
    parts=(
        PartDigest("operation part (net.Part)", "00", (Summary("float32[1,4]", 0.5, 0.5, 0.5),)),
    ),
)
CUT = Cut(
    index=1,
    name="relu",
    live=(TensorSpec(name="relu", shape=(1, 4, 8, 8), dtype="float32", bytes=1024),),
    bytes=1024,
    work=0.5,
)


def stream(data: bytes) -> None:
    """`data` as what a peer wrote, to both ends."""
    server = ServerSession(IDENTITY, {1: CUT})
    edge = EdgeSession(Hello(uid="u", edge="e", identity=IDENTITY))

    def message(arrival: Arrival) -> None:
        assert len(arrival.data) <= LIMIT
        for session in (server, edge):
            with contextlib.suppress(ProtocolError, HandshakeRefused):
                session.receive(arrival.data)
        _, payload = decode(arrival.data)
        codec.decode(payload, LIMIT)

    def control(opcode: Opcode, body: bytes) -> None:
        assert len(body) <= 125

    reader = FrameReader(LIMIT, message, control, lambda: 0.0)
    with contextlib.suppress(ProtocolError):
        feed(reader, data)


def feed(reader: FrameReader, data: bytes) -> None:
    """Give `data` to the reader in pieces whose sizes depend on it."""
    piece = 1 + (data[0] if data else 0) * 7
    while data:
        room = reader.buffer()
        count = min(len(room), len(data), piece)
        room[:count] = data[:count]
        reader.received(count)
        data = data[count:]


def one_message(data: bytes) -> None:
    """`data` as one message, past the frames, which a fuzzer would mostly break."""
    key = data[:4].ljust(4, b"\0")
    stream(bytes(masked(key, data, after=header(Opcode.BINARY, len(data), key))))


def both(data: bytes) -> None:
    """One input, both ways."""
    stream(data)
    one_message(data)


def seeds() -> list[bytes]:
    """Inputs that are right, for the fuzzer to start from."""
    hello = b"".join(encode(Hello(uid="u", edge="e", identity=IDENTITY)))
    found = [hello, header(Opcode.BINARY, len(hello)) + hello, header(Opcode.PING, 2) + b"hi"]
    for numbers in (Summary("float32[1,4]", 0.5, 0.5, 0.5), Summary("float32[2,4]", 9.0, 9.0, 9.0)):
        part = structs.replace(IDENTITY.parts[0], digest="11", tensors=(numbers,))
        other = structs.replace(IDENTITY, processor="another", parts=(part,))
        found.append(b"".join(encode(Hello(uid="u", edge="e", identity=other))))
    for payload in coded_payloads():
        request = b"".join(encode(Request(id=1, cut=1, epoch=0), payload))
        found += [request, header(Opcode.BINARY, len(hello)) + hello]
        found[-1] += header(Opcode.BINARY, len(request), b"mask") + masked(b"mask", request)
    return found


def coded_payloads() -> list[codec.EncodedPayload]:
    """A tensor of the cut in every kind of coding."""
    values = np.random.default_rng(0).standard_normal(256, np.float32).data.cast("B")
    ref = TensorRef(
        buffer=0, dtype="float32", shape=(1, 4, 8, 8), strides=(256, 64, 8, 1), offset=0
    )
    payload = Payload(({"t": 0},), (ref,), (values,))
    names = ("raw", "float16", "uint8", "uint4", "raw+zstd1", "uint8+lz4-1")
    return [codec.encode(payload, Codec.parse(name)) for name in names]
