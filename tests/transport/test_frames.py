"""Frames without a socket."""

import contextlib
import struct
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.errors import ProtocolError
from splittracr.splitting.live import pack, unpack
from splittracr.transport.frames import Arrival, FrameReader, Opcode, header, masked
from splittracr.wire import codec, messages

KEYS = st.one_of(st.just(b""), st.binary(min_size=4, max_size=4))
SIZES = st.one_of(
    st.integers(0, 300), st.sampled_from([4095, 4096, 4097, 16383, 16384, 65535, 65536, 70001])
)


def read(data: bytes, splits: Sequence[int] = (), limit: int = 2**20) -> list[bytes]:
    """The messages in `data`, which arrives cut at `splits`."""
    found: list[bytes] = []
    reader = FrameReader(
        limit, lambda arrival: found.append(bytes(arrival.data)), lambda *_: None, lambda: 0.0
    )
    for start, end in zip((0, *splits), (*splits, len(data)), strict=True):
        feed(reader, data[start:end])
    return found


def feed(reader: FrameReader, data: bytes) -> None:
    while data:
        room = reader.buffer()
        assert len(room) > 0
        count = min(len(room), len(data))
        room[:count] = data[:count]
        reader.received(count)
        data = data[count:]


def frame(body: bytes, key: bytes = b"", opcode: int = Opcode.BINARY) -> bytes:
    return header(opcode, len(body), key) + bytes(masked(key, body) if key else body)


@given(st.lists(st.tuples(SIZES, KEYS), max_size=4), st.data())
def test_messages_come_out_as_they_went_in_however_they_are_cut(
    parts: list[tuple[int, bytes]], draw: st.DataObject
) -> None:
    bodies = [bytes((i + j) % 251 for j in range(size)) for i, (size, _) in enumerate(parts)]
    data = b"".join(frame(body, key) for body, (_, key) in zip(bodies, parts, strict=True))
    splits = sorted(draw.draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=6)))
    assert read(data, [at for at in splits if at < len(data)]) == bodies


@given(st.integers(100, 70_000), st.integers(0, 20_000), KEYS)
def test_a_large_payload_can_be_used_where_it_arrived(size: int, before: int, key: bytes) -> None:
    sent = torch.arange(size, dtype=torch.int32)
    parts = messages.encode(messages.Request(id=1, cut=2), codec.encode(pack([sent])))
    found: list[memoryview] = []
    reader = FrameReader(
        2**20, lambda arrival: found.append(arrival.data), lambda *_: None, lambda: 0.0
    )
    feed(reader, frame(bytes(before)) + frame(b"".join(parts), key))
    _, payload = messages.decode(found[1])
    (made,) = unpack(codec.decode(payload), take=True)
    assert torch.equal(made, sent)
    if len(found[1]) > 2**14:  # smaller ones are copied out of the place where heads are read
        made.zero_()
        assert not any(bytes(found[1][-made.nbytes :]))


@given(st.binary(max_size=64), KEYS)
def test_frames_arrive_byte_by_byte(body: bytes, key: bytes) -> None:
    data = frame(body, key)
    assert read(data, range(1, len(data))) == [body]


@pytest.mark.parametrize("key", [b"", b"mask"])
def test_what_came_of_a_long_frame_is_not_taken_for_a_short_one(key: bytes) -> None:
    data = frame(bytes(70_000), key)
    for at in range(1, 300):
        assert read(data, [at]) == [bytes(70_000)]


@given(
    st.binary(max_size=6000),
    st.binary(min_size=4, max_size=4),
    st.binary(max_size=14),
    st.integers(0, 6000),
)
def test_a_mask_is_the_standards(body: bytes, key: bytes, first: bytes, at: int) -> None:
    expected = first + bytes(byte ^ key[i % 4] for i, byte in enumerate(body))
    assert masked(key, body[:at], body[at:], after=first) == expected


@given(st.binary(max_size=400))
def test_only_a_protocol_error_comes_of_garbage(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        read(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (frame(b"hello", opcode=Opcode.TEXT), "a text frame"),
        (frame(b"x", opcode=Opcode.CONTINUATION), "a fragment"),
        (b"\x02\x01x", "a fragment"),
        (frame(b"x", opcode=3), "unknown kind 3"),
        (b"\xc2\x01x", "an extension"),
        (header(Opcode.BINARY, 2**20 + 1), "1048577 bytes announced, the limit is 1048576"),
        (struct.pack("!BBQ", 0x82, 127, 2**64 - 1), "18446744073709551615 bytes announced"),
        (header(Opcode.PING, 126), "a control frame of 126 bytes"),
    ],
)
def test_what_is_refused(data: bytes, expected: str) -> None:
    with pytest.raises(ProtocolError, match=expected):
        read(data)


def test_control_frames_are_told_apart_from_messages() -> None:
    found: list[tuple[Opcode, bytes]] = []
    reader = FrameReader(
        100, lambda *_: None, lambda opcode, body: found.append((opcode, body)), lambda: 0.0
    )
    feed(reader, frame(b"are you there", b"mask", Opcode.PING) + frame(b"", b"", Opcode.CLOSE))
    assert found == [(Opcode.PING, b"are you there"), (Opcode.CLOSE, b"")]


@given(st.integers(40_000, 400_000), st.integers(100, 16_000), st.integers(1, 10**9), KEYS)
def test_how_long_a_message_takes_is_seen_from_all_but_its_first_bytes(
    size: int, at_first: int, bytes_per_second: int, key: bytes
) -> None:
    data, now = frame(bytes(size), key), 0.0
    arrived: list[Arrival] = []
    reader = FrameReader(2**20, arrived.append, lambda *_: None, lambda: now)
    feed(reader, data[:at_first])
    now = (len(data) - at_first) / bytes_per_second
    feed(reader, data[at_first:])
    (arrival,) = arrived
    assert arrival.size_on_wire == len(data)
    assert arrival.receiving_ms == pytest.approx(len(data) / bytes_per_second * 1e3)


def test_what_comes_in_one_piece_says_nothing_of_the_pace() -> None:
    arrived: list[Arrival] = []
    reader = FrameReader(2**20, arrived.append, lambda *_: None, iter([1.0, 2.0]).__next__)
    feed(reader, frame(b"abc"))
    assert arrived[0].receiving_ms == 0.0
