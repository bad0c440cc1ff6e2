"""Columns of a profile while they are measured: codecs at cuts, whatever runs the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import ParamSpec, TypeVar

import msgspec

from splittracr.experiment.codec import Codec, PictureCodec
from splittracr.experiment.profile import CodecProfile
from splittracr.measure.device import Device
from splittracr.measure.stopwatch import Busy
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.payload import Payload

P = ParamSpec("P")
T = TypeVar("T")

HEADER_BYTES = 256  # of a message, without the description of its payload


@dataclass
class Column:
    """A codec's measurements at one cut, one entry a frame."""

    bytes: list[int] = field(default_factory=list)
    encode_ms: list[float] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)


class Clock:
    """Times a call to its end on the device.

    This is busy time, as for an emulated slow edge: a profile describes the processor, not other
    load on it. A policy learns from its frames how much that load slows them down.
    """

    def __init__(self, device: Device) -> None:
        self._device = device

    def __call__(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
        busy = Busy(self._device)
        result = work(*args, **kwargs)
        return result, busy.seconds() * 1e3


def note(column: Column, size: int, encode_ms: float, decode_ms: float) -> None:
    """Add the measurements of one frame."""
    column.bytes.append(size)
    column.encode_ms.append(encode_ms)
    column.decode_ms.append(decode_ms)


def codec_profile(
    codec: Codec | PictureCodec,
    columns: Sequence[Column],
    shares: Mapping[Codec | PictureCodec, float],
) -> CodecProfile:
    """A codec's columns as they are kept; the first frame warmed up."""
    return CodecProfile(
        codec=str(codec),
        bytes=tuple(round(mean(column.bytes[1:])) for column in columns),
        encode_ms=tuple(typical(column.encode_ms) for column in columns),
        decode_ms=tuple(typical(column.decode_ms) for column in columns),
        agreement=shares.get(codec) if codec.lossy else 1.0,
    )


def typical(times: Sequence[float]) -> float:
    """The median without the first, which warmed up."""
    return round(median(times[1:]), 4)


def message_bytes(encoded: EncodedPayload) -> int:
    """Of a request with this payload, what describes it included."""
    described = len(msgspec.json.encode((encoded.header, encoded.codings)))
    return HEADER_BYTES + described + encoded.nbytes


def described_size(payload: Payload) -> int:
    """Of a payload as it is, what describes it included."""
    return payload.nbytes + len(msgspec.json.encode(payload.header()))
