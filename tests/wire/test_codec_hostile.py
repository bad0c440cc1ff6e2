"""What a peer may send instead of an encoded payload: a ProtocolError, and no memory for it."""

import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import lz4.block  # type: ignore[import-untyped]
import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.codec import Blosc2, Codec, Lz4, ValueCodec, Zstd
from splittracr.experiment.errors import ProtocolError
from splittracr.wire.codec import BufferCoding, EncodedPayload, decode, encode
from splittracr.wire.lossless import Packer
from splittracr.wire.payload import Payload, PayloadHeader, TensorRef
from tests.wire.coded import payload_of

STAGES = [None, Zstd(), Lz4(), Blosc2(), Blosc2(inner="blosclz", filter="bitshuffle")]
GIBIBYTE = 2**30


def activation(count: int = 1280) -> Payload:
    values = np.maximum(np.random.default_rng(0).standard_normal(count, dtype=np.float32), 0)
    rounded = np.round(values * 4) / 4
    return payload_of(("float32", (1, 5, count // 40, 8), (0, 1, 2, 3), rounded.tobytes()))


def with_coding(encoded: EncodedPayload, **changes: object) -> EncodedPayload:
    (coding,) = encoded.codings or (BufferCoding(ValueCodec.RAW, Packer.NONE, encoded.nbytes),)
    changed = msgspec.convert({**msgspec.to_builtins(coding), **changes}, BufferCoding)
    return replace(encoded, codings=(changed,))


def with_bytes(encoded: EncodedPayload, data: bytes) -> EncodedPayload:
    return with_coding(replace(encoded, buffers=(memoryview(data),)), size=len(data))


def claiming(encoded: EncodedPayload, size: int) -> EncodedPayload:
    header = encoded.header
    changed = PayloadHeader(values=header.values, tensors=header.tensors, buffers=(size,))
    return replace(encoded, header=changed)


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """Fail where more bytes are taken at once than this."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("values", ValueCodec)
@given(data=st.data())
def test_damage_is_a_protocol_error_or_a_payload_of_the_announced_sizes(
    values: ValueCodec, stage: Zstd | None, data: st.DataObject
) -> None:
    encoded = encode(activation(), Codec(values, stage))
    damaged = bytearray(encoded.buffers[0])
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1) | st.integers(0, 39))
        damaged[at] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.just(len(damaged)) | st.integers(0, len(damaged))) :]
    damaged += data.draw(st.just(b"") | st.binary(max_size=9))
    try:
        payload = decode(with_bytes(encoded, bytes(damaged)))
    except ProtocolError:
        return
    assert payload.header() == encoded.header


sizes = st.sampled_from([0, 1, 2, 5, 8, 64, 256, 1280, 5120, 2**30, 2**40, 2**48 - 1])


@given(st.data())
def test_no_description_gets_past_unless_it_fits(data: st.DataObject) -> None:
    codec = Codec(data.draw(st.sampled_from(ValueCodec)), data.draw(st.sampled_from(STAGES)))
    encoded = encode(activation(), codec)
    changes: dict[str, object] = {}
    if data.draw(st.booleans()):
        changes["values"] = data.draw(st.sampled_from(ValueCodec))
    if data.draw(st.booleans()):
        changes["packer"] = data.draw(st.sampled_from(Packer))
    if data.draw(st.booleans()):
        changes["size"] = data.draw(sizes)
    if data.draw(st.booleans()):
        changes["dtype"] = data.draw(st.sampled_from([None, "float16", "float32", "float64"]))
    if data.draw(st.booleans()):
        changes["groups"] = data.draw(st.none() | st.tuples(sizes, sizes, sizes))
    changed = with_coding(encoded, **changes)
    if data.draw(st.booleans()):
        changed = claiming(changed, data.draw(sizes))
    with at_most(400_000):
        try:
            payload = decode(changed, limit=10_000)
        except ProtocolError:
            return
    assert payload.header() == changed.header


@pytest.mark.parametrize(
    ("packer", "bomb"),
    [
        (Packer.ZSTD, zstandard.ZstdCompressor().compress(bytes(2**26))),
        (Packer.LZ4, lz4.block.compress(bytes(2**26), store_size=False)),
        (Packer.NONE, b"x"),
    ],
)
@pytest.mark.parametrize("announced", [5000, 2**26, GIBIBYTE, 2**40])
def test_bombs_are_refused_before_memory_is_taken(
    packer: Packer, bomb: bytes, announced: int
) -> None:
    encoded = with_bytes(encode(activation(), Codec()), bomb)
    encoded = claiming(with_coding(encoded, packer=packer), announced)
    with at_most(400_000), pytest.raises(ProtocolError):
        decode(encoded, limit=2**20)


@pytest.mark.parametrize("claimed", [5119, 5121, GIBIBYTE, 2**40])
def test_a_zstd_frame_may_not_claim_more_than_is_announced(claimed: int) -> None:
    body = zstandard.ZstdCompressor().compress(bytes(5120))
    assert zstandard.frame_content_size(body) == 5120
    frame = struct.pack("<IBQ", 0xFD2FB528, 0xE0, claimed) + body[7:]
    assert zstandard.frame_content_size(frame) == claimed
    encoded = with_coding(encode(activation(), Codec()), packer=Packer.ZSTD)
    with at_most(400_000), pytest.raises(ProtocolError, match=f"claims {claimed} bytes"):
        decode(with_bytes(encoded, frame))


def test_a_zstd_frame_of_unknown_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(5120))
    encoded = with_coding(encode(activation(), Codec()), packer=Packer.ZSTD)
    with pytest.raises(ProtocolError, match="claims"):
        decode(with_bytes(encoded, frame))


@pytest.mark.parametrize(
    ("at", "byte"),
    [
        (0, 9),  # version of the chunk
        (2, 0xC5),  # a packer from a plug-in
        (16, 3),  # a filter that is not ours
        (16, 35),  # a filter from a plug-in
        (17, 1),  # a second filter
        (22, 36),  # a plug-in by number
        (24, 1),  # a filter's parameter
        (30, 1),  # blocks of different lengths
        (31, 0x01),  # a dictionary
        (31, 0x08),  # a chunk in a file
        (31, 0x40),  # memory that is not initialised
        (31, 0x80),  # an instrumented packer
        (4, 1),  # more bytes than announced
        (12, 1),  # fewer bytes than received
        (11, 0x7F),  # blocks larger than the chunk
    ],
)
def test_a_chunk_may_use_only_what_this_protocol_writes(at: int, byte: int) -> None:
    encoded = encode(activation(), Codec(ValueCodec.RAW, Blosc2()))
    assert encoded.codings[0].packer is Packer.BLOSC2
    chunk = bytearray(encoded.buffers[0])
    chunk[at] = byte
    with pytest.raises(ProtocolError, match="Blosc2 chunk"):
        decode(with_bytes(encoded, bytes(chunk)))


PARAMETERS = [
    (np.nan, 0.1),
    (0, np.nan),
    (np.inf, 0.1),
    (0, np.inf),
    (0, -0.1),
    (3e38, 1e37),
    (-np.inf, np.inf),
]


@pytest.mark.parametrize("values", [ValueCodec.UINT8, ValueCodec.UINT4])
@pytest.mark.parametrize(("low", "step"), PARAMETERS)
def test_a_low_or_step_that_is_not_finite_is_refused(
    values: ValueCodec, low: float, step: float
) -> None:
    encoded = encode(activation(), Codec(values))
    data = bytearray(encoded.buffers[0])
    data[8:12], data[28:32] = struct.pack("<f", low), struct.pack("<f", step)
    with pytest.raises(ProtocolError, match="low and step"):
        decode(with_bytes(encoded, bytes(data)))


def test_any_float16_may_arrive() -> None:
    every = np.arange(2**16, dtype=np.uint16)
    for dtype in ("float32", "float64"):
        data = np.ones(2**16, dtype).tobytes()
        encoded = encode(
            payload_of((dtype, (2**16,), (0,), data)), Codec(values=ValueCodec.FLOAT16)
        )
        (decoded,) = decode(with_bytes(encoded, every.tobytes())).buffers
        got = np.frombuffer(decoded, dtype)
        np.testing.assert_array_equal(got, every.view(np.float16).astype(np.float64))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"size": 3}, "3 bytes announced"),
        ({"dtype": None}, "coded as None"),
        ({"dtype": "float64"}, "coded as float64"),
        ({"groups": None}, "something else"),
        ({"groups": (1, 5, 257)}, "do not make"),
        ({"groups": (2**40, 2**40, 2**40)}, "do not make"),
        ({"groups": (0, 0, 0)}, "do not make"),
        ({"groups": (1, 1280, 1)}, "would not have made"),
        ({"groups": (1, 1, 1280)}, "bytes, expected"),
        ({"values": "raw"}, "as if it were coded"),
        ({"values": "uint4"}, "bytes, expected"),
        ({"packer": "zstd"}, "zstd"),
        ({"packer": "lz4"}, "lz4"),
        ({"packer": "blosc2"}, "blosc2"),
    ],
)
def test_every_inconsistency_is_named(changes: dict[str, object], reason: str) -> None:
    encoded = encode(activation(), Codec(ValueCodec.UINT8))
    with pytest.raises(ProtocolError, match=reason):
        decode(with_coding(encoded, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"values": "uint2"},
        {"packer": "gzip"},
        {"dtype": "int8"},
        {"size": -1},
        {"groups": (1, -1, 3)},
        {"groups": (1, 2)},
        {"code": "print()"},
    ],
)
def test_descriptions_are_closed(changes: dict[str, Any]) -> None:
    coding = {"values": "raw", "packer": "none", "size": 1}
    msgspec.convert(coding, BufferCoding)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(coding | changes, BufferCoding)


def test_descriptions_survive_json() -> None:
    for values in ValueCodec:
        (coding,) = encode(activation(), Codec(values, Zstd())).codings
        text = msgspec.json.encode(coding)
        assert msgspec.json.decode(text, type=BufferCoding) == coding


def test_counts_and_limits_are_checked() -> None:
    encoded = encode(activation(), Codec())
    with pytest.raises(ProtocolError, match="1 buffers announced, 2 described, 1 received"):
        decode(replace(encoded, codings=with_coding(encoded).codings * 2))
    with pytest.raises(ProtocolError, match="1 buffers announced, 0 described, 0 received"):
        decode(replace(encoded, buffers=()))
    with pytest.raises(ProtocolError, match="the limit is 5119"):
        decode(encoded, limit=5119)
    assert decode(encoded, limit=5120) == activation()


def test_a_tensor_of_another_buffer_is_refused() -> None:
    encoded = encode(activation(), Codec())
    ref = TensorRef(buffer=1, dtype="float32", shape=(1,), strides=(1,), offset=0)
    header = PayloadHeader(values=({"t": 0},), tensors=(ref,), buffers=(5120,))
    with pytest.raises(ProtocolError, match="names buffer 1 of 1"):
        decode(replace(encoded, header=header))
