"""Frames: what is encoded is decoded, and nothing else gets past the decoder."""

import json
import math
import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.errors import ProtocolError
from splittracr.experiment.types import Cut, TensorSpec
from splittracr.wire.codec import NOTHING, EncodedPayload
from splittracr.wire.messages import (
    PROTOCOL,
    Attach,
    Cancel,
    Check,
    Checked,
    End,
    Failure,
    Goodbye,
    Hello,
    Identity,
    Message,
    Meter,
    Metered,
    OperationTime,
    Prepare,
    Prepared,
    Probe,
    Probed,
    Refusal,
    Reply,
    Request,
    Time,
    Timed,
    Welcome,
    ZoneTotal,
    decode,
)
from splittracr.wire.payload import Payload, PayloadHeader, TensorRef, check_live
from tests.wire.frames import frame, plain

IDENTITY = Identity(network="n", fingerprint="f", weights="w", batch=1, outputs="Reduced")
MESSAGES: list[Message] = [
    Hello(uid="u", edge="e", identity=IDENTITY),
    Welcome(end=End(device="cpu"), refused={"relu": "no"}, session="s", window=3),
    Welcome(end=End(classes_cached_at=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)), refused={}),
    Refusal(reason="no"),
    Request(id=1, cut=2),
    Reply(id=1, stages={"tail": 1.5}),
    Failure(id=1, reason="broken"),
    Attach(session="s"),
    Probe(id=3),
    Probed(id=3, receiving_ms=1.5),
    Check(id=4),
    Checked(id=4, received=7, written=2**40, reading=False),
    Meter(id=5),
    Metered(
        id=5,
        counter_id="a",
        now=7.5,
        zones=(ZoneTotal("gpu", "gpu-0", "nvml", "measured", 0.1, 12.5, readings=9, gaps=1),),
        samples=3,
        mean={"cpu_percent": 40.0},
        largest={"cpu_percent": 90.0},
        memory_bytes=2**30,
    ),
    Time(id=6),
    Timed(id=6, operations=(OperationTime(1.5, 2.5, 7),)),
    Prepare(id=7, cut=3),
    Prepared(id=7, reason="too large"),
    Cancel(ids=(1, 2)),
    Goodbye(reason="stopping"),
]
REF = TensorRef(buffer=0, dtype="float32", shape=(2,), strides=(1,), offset=0)
PAYLOAD = plain(Payload(({"tuple": [{"t": 0}, {"v": 3}]},), (REF,), (memoryview(b"12345678"),)))


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("payload", [NOTHING, PAYLOAD])
def test_every_message_survives(message: Message, payload: EncodedPayload) -> None:
    assert decode(frame(message, payload)) == (message, payload)


@given(st.binary(max_size=300))
def test_garbage_is_a_protocol_error(garbage: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(garbage)


@given(st.data())
def test_a_damaged_frame_is_a_protocol_error_or_still_well_formed(data: st.DataObject) -> None:
    damaged = bytearray(frame(data.draw(st.sampled_from(MESSAGES)), PAYLOAD))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    try:
        message, payload = decode(bytes(damaged))
    except ProtocolError:
        return
    assert decode(frame(message, payload)) == (message, payload)


KINDS = st.sampled_from(["t", "v", "tuple", "list", "dict", "size", "dtype", "device", "x"])
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.5, "float32", [["a", 1]]]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KINDS, inner, max_size=2),
    max_leaves=4,
)


@given(st.lists(st.dictionaries(KINDS, TREES, max_size=2), max_size=2))
def test_no_tree_of_values_escapes_the_check(values: list[dict[str, object]]) -> None:
    header = {
        "message": {"type": "request", "id": 1, "cut": 1},
        "payload": {"values": values, "tensors": [], "buffers": []},
    }
    try:
        _, payload = decode(framed(header))
    except ProtocolError:
        return
    assert "t" not in {kind for tree in payload.header.values for kind in tree}


def framed(header: object, body: bytes = b"", version: int = PROTOCOL) -> bytes:
    return written(json.dumps(header).encode(), body, version)


def written(text: bytes, body: bytes = b"", version: int = PROTOCOL) -> bytes:
    return struct.pack("<3sBI", b"STr", version, len(text)) + text + body


def test_another_version_is_named() -> None:
    with pytest.raises(ProtocolError, match=f"peer speaks protocol 9, this end {PROTOCOL}"):
        decode(framed({}, version=9))


def test_unknown_keys_and_types_are_named() -> None:
    with pytest.raises(ProtocolError, match=r"unknown field `extra` - at `\$\.message`"):
        decode(framed({"message": {"type": "goodbye", "reason": "", "extra": 1}}))
    with pytest.raises(ProtocolError, match=r"'exec' - at `\$\.message\.type`"):
        decode(framed({"message": {"type": "exec", "code": "1"}}))


@pytest.mark.parametrize("size", [0, 7, 9, 2**40])
def test_sizes_are_checked_against_the_frame(size: int) -> None:
    header = {
        "message": {"type": "request", "id": 1, "cut": 1},
        "payload": {"values": [{"v": 1}], "tensors": [], "buffers": [size]},
    }
    with pytest.raises(ProtocolError, match=f"buffers of {size} bytes announced, 8 received"):
        decode(framed(header, b"12345678"))


def test_a_huge_header_is_refused_by_its_length() -> None:
    with pytest.raises(ProtocolError, match="a header of 4294967295 bytes"):
        decode(struct.pack("<3sBI", b"STr", PROTOCOL, 2**32 - 1) + b"{}")


@pytest.mark.parametrize("depth", [33, 100_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    tree = '{"tuple":[' * depth + '{"v":1}' + "]}" * depth
    text = (
        '{"message":{"type":"request","id":1,"cut":1},'
        f'"payload":{{"values":[{tree}],"tensors":[],"buffers":[]}}}}'
    )
    with pytest.raises(ProtocolError, match=r"not a tree|not valid"):
        decode(written(text.encode()))


def test_a_header_that_is_no_text_is_refused() -> None:
    with pytest.raises(ProtocolError, match="not valid"):
        decode(written(b'{"message":{"type":"goodbye","reason":"\xff"}}'))


@pytest.mark.parametrize(
    "message",
    [
        {"type": "request", "id": -1, "cut": 1},
        {"type": "request", "id": 2**63, "cut": 1},
        {"type": "request", "id": 1.5, "cut": 1},
        {"type": "request", "id": "1", "cut": 1},
        {"type": "reply", "id": 1, "stages": {"tail": -0.1}},
        {"type": "reply", "id": 1, "stages": {"tail": math.nan}},
        {"type": "reply", "id": 1, "stages": {"tail": math.inf}},
        {"type": "reply", "id": 1, "stages": {}, "batch": 0},
        {"type": "refusal", "reason": "x" * 4097},
        {"type": "cancel", "ids": list(range(4097))},
        {"type": "welcome", "end": {}, "refused": {}, "window": 4097},
    ],
)
def test_what_is_out_of_bounds_is_refused(message: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="a header is not valid"):
        decode(framed({"message": message}))


def test_a_profile_that_is_none_is_refused_in_one_line() -> None:
    message = {"type": "welcome", "end": {}, "refused": {}, "profile": {"network": 1}}
    with pytest.raises(
        ProtocolError, match=r"profile at network: .* - at `\$\.message\.profile`"
    ) as raised:
        decode(framed({"message": message}))
    assert "\n" not in str(raised.value)


CUT = Cut(
    index=1,
    name="relu",
    live=(TensorSpec(name="relu", shape=(1, 8), dtype="float32", bytes=32),),
    bytes=32,
    work=0.5,
)


@pytest.mark.parametrize(
    ("shape", "dtype", "variable", "fits"),
    [
        ((1, 8), "float32", False, True),
        ((1, 9), "float32", False, False),
        ((1, 9), "float32", True, True),
        ((8,), "float32", True, False),
        ((1, 8), "float16", True, False),
    ],
)
def test_live_tensors_are_checked_against_the_cut(
    shape: tuple[int, ...], dtype: str, variable: bool, fits: bool
) -> None:
    ref = TensorRef(buffer=0, dtype=dtype, shape=shape, strides=shape, offset=0)
    if fits:
        check_live(alive([ref], 4 * math.prod(shape)), CUT, variable)
        return
    with pytest.raises(ProtocolError, match=r"live tensor relu at cut relu is float32 \[1, 8\]"):
        check_live(alive([ref], 36), CUT, variable)


def alive(tensors: list[TensorRef], size: int) -> PayloadHeader:
    """One value a tensor, all in one buffer."""
    values = tuple({"t": i} for i in range(len(tensors)))
    return PayloadHeader(values=values, tensors=tuple(tensors), buffers=(size,))


def test_a_fixed_shape_bounds_the_memory_of_a_request() -> None:
    ref = TensorRef(buffer=0, dtype="float32", shape=(1, 8), strides=(8, 1), offset=0)
    with pytest.raises(ProtocolError, match="cut relu has 32 bytes, the request would have 33"):
        check_live(alive([ref], 33), CUT, False)


def test_a_missing_live_tensor_is_named() -> None:
    with pytest.raises(ProtocolError, match="cut relu has 1 live tensors, the request 0"):
        check_live(alive([], 0), CUT, False)


@pytest.mark.parametrize("values", [(), ({"v": 1},), ({"list": [{"t": 0}, {"t": 0}]},)])
def test_every_live_tensor_belongs_to_one_value(values: tuple[dict[str, object], ...]) -> None:
    ref = TensorRef(buffer=0, dtype="float32", shape=(1, 8), strides=(8, 1), offset=0)
    header = PayloadHeader(values=values, tensors=(ref,), buffers=(32,))
    with pytest.raises(ProtocolError, match="do not hold each tensor once"):
        check_live(header, CUT, False)


def cut_of(shape: tuple[int, ...], sent: int, index: int = 1) -> Cut:
    size = 4 * math.prod(shape)
    live = (TensorSpec(name="x", shape=shape, dtype="float32", bytes=size),)
    return Cut(index=index, name="x", live=live, bytes=sent, work=0.5)


def view(*shape: int) -> TensorRef:
    strides = (0,) * len(shape)
    return TensorRef(buffer=0, dtype="float32", shape=shape, strides=strides, offset=0)


def test_a_few_bytes_cannot_pose_as_a_huge_tensor() -> None:
    cut = cut_of((1, 4, 2, 2), 64)
    check_live(alive([view(1, 4, 2, 2)], 4), cut, True)  # no more than the example
    check_live(alive([view(1, 4, 5, 5)], 400), cut, True)
    with pytest.raises(ProtocolError, match="would have 400 bytes"):
        check_live(alive([view(1, 4, 5, 5)], 399), cut, True)
    with pytest.raises(ProtocolError, match="would have"):
        check_live(alive([view(64, 7, 200000, 200000)], 1), cut, True)


def test_an_expanded_example_allows_expanded_views_up_to_the_limit() -> None:
    cut = cut_of((1, 4, 2, 2), 4)
    check_live(alive([view(1, 4, 5, 5)], 4), cut, True, limit=400)
    with pytest.raises(ProtocolError, match="the request may have 399"):
        check_live(alive([view(1, 4, 5, 5)], 4), cut, True, limit=399)


def test_an_empty_example_does_not_disable_the_bound() -> None:
    with pytest.raises(ProtocolError, match="would have"):
        check_live(alive([view(10**6, 4)], 4), cut_of((0, 4), 0), True)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 4, 4, 4)])
def test_pictures_of_any_size_keep_batch_and_channels(shape: tuple[int, ...]) -> None:
    cut = cut_of((1, 3, 8, 8), 768, index=0)
    check_live(alive([view(1, 3, 4, 4)], 192), cut, True)
    with pytest.raises(ProtocolError, match="live tensor x at cut x is"):
        check_live(alive([view(*shape)], 4096), cut, True)
