"""Whole frames, where a test has no use for their parts."""

from splittracr.wire import codec
from splittracr.wire.codec import NOTHING, EncodedPayload
from splittracr.wire.messages import Message, encode
from splittracr.wire.payload import Payload

EMPTY = Payload((), (), ())


def plain(payload: Payload) -> EncodedPayload:
    """The payload as the raw codec sends it."""
    return codec.encode(payload)


def frame(message: Message, payload: EncodedPayload = NOTHING) -> bytes:
    """The frame in one piece."""
    return b"".join(encode(message, payload))
