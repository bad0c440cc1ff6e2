"""The `Profile` of an edge without PyTorch: heads, tails and codecs, timed here and now."""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from splittracr.backends.columns import (
    Clock,
    Coded,
    Column,
    agreements,
    codec_profile,
    judged_cuts,
    note,
    reply_bytes,
    request_bytes,
)
from splittracr.experiment.codec import Codec, PictureCodec
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import ExperimentSpec
from splittracr.measure import machine
from splittracr.wire import codec as codecs
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.pictures import decode_picture, encode_picture

if TYPE_CHECKING:
    from splittracr.backends.onnx.lite_network import LiteNetwork

Array = NDArray[Any]


def profile(
    own: "LiteNetwork",
    spec: ExperimentSpec,
    batches: Sequence[Array],
    names: Sequence[str],
    picture_names: Sequence[str],
    judged: Sequence[Array],
) -> Profile:
    """Measure `own` on `batches`; the first one also warms up."""
    clock = Clock(own.device)
    offered = own.proof.offered()
    heads, tails = [0.0] * len(own.proof.cuts), [0.0] * len(own.proof.cuts)
    columns = {name: [Column() for _ in own.proof.cuts] for name in names}
    for k in range(len(own.proof.cuts)):
        if k in offered:
            heads[k], tails[k] = _halves(own, k, batches, clock)
        for batch in [batches[0], *batches]:
            _codecs(own, k, batch, {name: columns[name][k] for name in names}, clock)
    pictures = _pictures(own, batches, picture_names, clock)
    lossy = [codec for codec in map(Codec.parse, names) if codec.lossy]
    shares = agreements(
        own.postprocessor.ranking,
        own.reduce,
        judged,
        lambda batch: own.tail(0, [batch]),
        lambda batch: _coded(own, batch, lossy, list(pictures)),
    )
    reduce_ms, reply_bytes = _reduction(own, batches, clock)
    versions = {k: v for k, v in machine.versions().items() if k == "python"}
    return Profile(
        network=own.network.name,
        weights=own.network.weights,
        input=tuple(batches[0].shape),
        dtype=spec.model.dtype.value,
        device=str(own.device),
        threads=own.device.threads,
        runtime=own.runtime,
        processor=machine.processor(),
        cores=machine.cores(),
        capability=own.device.capability,
        versions=versions | {"onnxruntime": onnxruntime.__version__},
        frames=len(batches),
        cuts=tuple(cut.name for cut in own.proof.cuts),
        refused=tuple(own.proof.refused),
        live_bytes=tuple(cut.bytes for cut in own.proof.cuts),
        memory_bytes=own.model.memory_bytes,
        op_ms=own.proof.op_ms,
        heads_ms=tuple(heads),
        tails_ms=tuple(tails),
        reduce_ms=reduce_ms,
        reply_bytes=reply_bytes,
        codecs=tuple(
            codec_profile(Codec.parse(name), by_cut, shares) for name, by_cut in columns.items()
        ),
        picture_codecs=tuple(codec_profile(c, [column], shares) for c, column in pictures.items()),
    )


def _halves(
    own: "LiteNetwork", cut: int, batches: Sequence[Array], clock: Clock
) -> tuple[float, float]:
    """Milliseconds of the head and of the tail."""
    times = []
    for batch in [batches[0], *batches]:
        live, head = clock(own.head, cut, batch)
        _, tail = clock(own.tail, cut, live)
        times.append((head, tail))
    heads, tails = zip(*times[1:], strict=True)
    return round(median(heads), 4), round(median(tails), 4)


def _codecs(
    own: "LiteNetwork", cut: int, batch: Array, columns: dict[str, Column], clock: Clock
) -> None:
    if own.proof.cuts[cut].name in own.proof.refused:
        for column in columns.values():
            note(column, 0, 0.0, 0.0)
        return
    live = own.head(cut, batch)
    for name, column in columns.items():
        codec = Codec.parse(name)
        encoded, encode_ms = clock(_encoded, own, live, codec)
        _, decode_ms = clock(_decoded_live, own, encoded)
        note(column, request_bytes(cut, encoded), encode_ms, decode_ms)


def _encoded(
    own: "LiteNetwork", live: Sequence[Any], codec: Codec | PictureCodec
) -> EncodedPayload:
    return codecs.encode(own.pack(live), codec)


def _decoded_live(own: "LiteNetwork", encoded: EncodedPayload) -> list[Any]:
    return own.unpack(codecs.decode(encoded))


def _pictures(
    own: "LiteNetwork", batches: Sequence[Array], names: Sequence[str], clock: Clock
) -> dict[PictureCodec, Column]:
    """Picture codecs on the frames; none if the input is no picture."""
    if batches[0].dtype != np.uint8 or batches[0].shape[1] != 3:
        return {}
    wanted = {PictureCodec.parse(name): Column() for name in names}
    for batch in [batches[0], *batches]:
        for codec, column in wanted.items():
            encoded, encode_ms = clock(_encoded, own, own.head(0, batch), codec)
            _, decode_ms = clock(_decoded_live, own, encoded)
            note(column, request_bytes(0, encoded), encode_ms, decode_ms)
    return wanted


def _decoded(parts: Sequence[bytes], shape: Sequence[int]) -> Array:
    _, channels, height, width = shape
    return np.stack([decode_picture(part, (channels, height, width)) for part in parts])


def _reduction(own: "LiteNetwork", batches: Sequence[Array], clock: Clock) -> tuple[float, int]:
    """Milliseconds of the reduction, and the bytes of a reply."""
    last, times, size = own.proof.last, [], 0
    for batch in [batches[0], *batches]:
        reduced, elapsed = clock(own.reduce, own.tail(last, own.head(last, batch)))
        times.append(elapsed)
        size = reply_bytes(own.pack([[dict(one) for one in reduced]]))
    return round(median(times[1:]), 4), size


def _coded(
    own: "LiteNetwork", batch: Array, lossy: Sequence[Codec], pictures: Sequence[PictureCodec]
) -> Iterator[Coded]:
    """The output behind each lossy codec at each cut that is tried."""
    for picture in pictures:
        if picture.lossy:
            pixels = _decoded(encode_picture(batch, picture), batch.shape)
            yield picture, 0, own.tail(0, [pixels])
    for k in judged_cuts(own.proof):
        live = own.head(k, batch)
        for codec in lossy:
            decoded = _decoded_live(own, _encoded(own, live, codec))
            yield codec, k, own.tail(k, decoded)
