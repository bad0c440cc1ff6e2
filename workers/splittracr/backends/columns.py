"""Columns of a profile while they are measured: codecs at cuts, whatever runs the model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any, ParamSpec, TypeVar

from splittracr.backends.protocol import Input, Output
from splittracr.data import agreement
from splittracr.data.agreement import Agreed, Ranking
from splittracr.experiment.codec import Codec, PictureCodec
from splittracr.experiment.contracts import SERVER
from splittracr.experiment.errors import FrameFailed
from splittracr.experiment.profile import CodecProfile
from splittracr.experiment.types import MEASURED
from splittracr.measure.device import Device
from splittracr.measure.stopwatch import Busy
from splittracr.splitting.proof import Proof
from splittracr.wire import codec as codecs
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.messages import Reply, Request, encoded_size
from splittracr.wire.payload import Payload

P = ParamSpec("P")
T = TypeVar("T")

_AGREEMENT_CUTS = 6

Coded = tuple[Codec | PictureCodec, int, Output]
"""A lossy codec, the index of a cut, and the output of the model with that codec there."""


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


def request_bytes(cut: int, encoded: EncodedPayload) -> int:
    """Bytes of a request with this payload, as records count them in `bytes_up`."""
    return encoded_size(Request(id=1, cut=cut), encoded)


def reply_bytes(reduced: Payload) -> int:
    """Bytes of a reply with this payload and the server's stages."""
    stages = dict.fromkeys(MEASURED[SERVER], 1 / 3)  # with as many digits as measured times
    return encoded_size(Reply(id=1, stages=stages), codecs.encode(reduced))


def judged_cuts(proof: Proof) -> list[int]:
    """The cuts at which lossy codecs are judged: about six, evenly spread."""
    offered = [k for k in proof.offered() if 0 < k < proof.last]
    return offered[:: -(-len(offered) // _AGREEMENT_CUTS) or 1]


def agreements(
    ranking: Ranking,
    reduce: Callable[[Output], Sequence[Any]],
    batches: Iterable[Input],
    exact: Callable[[Input], Output],
    coded: Callable[[Input], Iterable[Coded]],
) -> dict[Codec | PictureCodec, float]:
    """By lossy codec the share of first classes, detections or pixels that survive it, the lowest
    of the cuts that are tried. Empty if nothing is judged, or results have none of them.

    `exact` gives the output of a batch without a codec, `coded` those with each codec.
    """
    kept: dict[tuple[Codec | PictureCodec, int], Agreed] = {}
    for batch in batches:
        results = reduce(exact(batch))
        if agreement.results(ranking, results, results) is None:
            return {}
        for codec, cut, output in coded(batch):
            try:
                found = agreement.results(ranking, results, reduce(output))
            except FrameFailed:  # the codec has left no result at all
                found = None
            found = found or agreement.none_of(ranking, results)
            kept[codec, cut] = kept.get((codec, cut), Agreed()) + found
    shares: dict[Codec | PictureCodec, float] = {}
    for (codec, _), agreed in kept.items():
        shares[codec] = min(shares.get(codec, 1.0), round(agreed.share, 4))
    return shares
