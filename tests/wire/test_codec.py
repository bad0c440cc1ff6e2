"""Codecs keep structure always, and bits or at least their bounds as they promise."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from splittracr.data.datasets import open_dataset
from splittracr.experiment.codec import Blosc2, Codec, Lz4, PictureCodec, ValueCodec, Zstd
from splittracr.experiment.errors import ProtocolError
from splittracr.experiment.spec import DatasetSpec
from splittracr.splitting.live import pack, unpack
from splittracr.wire.codec import decode, encode, error_bounds
from splittracr.wire.lossless import Packer
from splittracr.wire.payload import Payload
from tests.wire.coded import ITEM_SIZES, as_bytes, as_numbers, payload_of
from tests.wire.frames import EMPTY

LOSSLESS = [None, Zstd(), Lz4(), Lz4(level=9), Blosc2(), Blosc2(inner="lz4", filter="bitshuffle")]
FLOATS = ["float32", "float16", "bfloat16", "float64"]
LOSSY = [ValueCodec.FLOAT16, ValueCodec.UINT8, ValueCodec.UINT4]

codecs = st.builds(Codec, st.sampled_from(ValueCodec), st.sampled_from(LOSSLESS))


@st.composite
def shapes(draw: st.DrawFn, least: int = 0, most: int = 6) -> tuple[list[int], list[int]]:
    """A shape and an order of its dimensions in memory."""
    shape = draw(st.lists(st.integers(least, most), max_size=4))
    return shape, draw(st.permutations(range(len(shape))))


@st.composite
def payloads(draw: st.DrawFn) -> Payload:
    """Any bits in any shapes, some of them repetitive."""
    parts = []
    for _ in range(draw(st.integers(0, 3))):
        dtype = draw(st.sampled_from(sorted(ITEM_SIZES)))
        shape, order = draw(shapes())
        size = math.prod(shape) * ITEM_SIZES[dtype]
        pattern = draw(st.binary(min_size=1, max_size=40))
        parts.append((dtype, shape, order, (pattern * size)[:size]))
    return payload_of(*parts)


@given(payloads(), st.sampled_from(LOSSLESS))
def test_lossless_codecs_keep_every_bit(payload: Payload, lossless: Zstd | None) -> None:
    encoded = encode(payload, Codec(ValueCodec.RAW, lossless))
    assert decode(encoded) == payload
    assert all(error_bounds(encoded, i).size == 0 for i in range(len(payload.buffers)))


@given(payloads(), codecs)
def test_structure_and_sizes_survive_any_codec(payload: Payload, codec: Codec) -> None:
    encoded = encode(payload, codec)
    decoded = decode(encoded)
    assert decoded.header() == payload.header() == encoded.header
    assert encoded.nbytes <= payload.nbytes
    for ref in payload.tensors:
        if ref.dtype not in FLOATS:
            assert decoded.buffers[ref.buffer] == payload.buffers[ref.buffer]


@st.composite
def numbers(draw: st.DrawFn, dtype: str) -> tuple[list[int], list[int], NDArray[np.float64]]:
    """A tensor of finite values whose channels differ in size and offset, some of them constant."""
    shape, order = draw(shapes(least=1, most=9))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    small, large = {"float16": (-24, 15), "float64": (-1000, 900)}.get(dtype, (-130, 120))
    kind = draw(st.sampled_from(["even", "offset", "close", "relu", "constant", "wild", "tiny"]))
    if kind == "tiny":
        large = small + 14
    exponents = random.integers(small, large, (*shape, 1, 1)[:2], endpoint=True)
    values = random.uniform(-1, 1, math.prod(shape)).reshape(shape)
    match kind:
        case "offset":
            values = 1 + values * 2.0**-12
        case "close":
            values = 1 + values * 2.0**-22
        case "relu":
            values = np.maximum(values, 0)
        case "constant":
            values = np.full(shape, 1 / 3)
        case "wild":
            values = values * 2.0 ** random.integers(-20, 1, values.shape)
    if len(shape) >= 2:
        values = values * 2.0 ** exponents.reshape(*shape[:2], *[1] * (len(shape) - 2))
    return shape, order, np.asarray(values)


@pytest.mark.parametrize("values", LOSSY)
@pytest.mark.parametrize("dtype", FLOATS)
@given(drawn=st.data(), lossless=st.sampled_from(LOSSLESS))
def test_lossy_codecs_keep_their_bounds(
    dtype: str, values: ValueCodec, drawn: st.DataObject, lossless: Zstd | None
) -> None:
    shape, order, content = drawn.draw(numbers(dtype))
    data = as_bytes(content.transpose(order).reshape(-1), dtype)
    encoded = encode(payload_of((dtype, shape, order, data)), Codec(values, lossless))
    (decoded,) = decode(encoded).buffers
    before, after = as_numbers(memoryview(data), dtype), as_numbers(decoded, dtype)
    bounds = error_bounds(encoded, 0) if encoded.codings[0].dtype else 0
    assert np.all(np.abs(before - after) <= bounds)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 1, 2, 0), (1, 0, 2, 3)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_each_channel_has_half_a_step_of_its_own_range(dtype: str, order: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    shape = (2, 5, 8, 9)
    ranges = 2.0 ** np.arange(-8, 12, 4).reshape(1, 5, 1, 1)
    data = as_bytes((random.uniform(-1, 1, shape) * ranges).transpose(order).reshape(-1), dtype)
    encoded = encode(payload_of((dtype, shape, order, data)), Codec(ValueCodec.UINT8))
    assert encoded.codings[0].groups is not None
    assert encoded.codings[0].groups[1] == 5
    (decoded,) = decode(encoded).buffers
    error = np.abs(as_numbers(memoryview(data), dtype) - as_numbers(decoded, dtype))
    inverse = np.argsort(order)
    by_channel = error.reshape([shape[dim] for dim in order]).transpose(inverse).max(axis=(0, 2, 3))
    rounding = {"float16": 2.0**-11, "bfloat16": 2.0**-9}.get(dtype, 2.0**-20)
    assert np.all(by_channel <= ranges.reshape(-1) * (1 / 255 + rounding))
    assert np.all(by_channel >= ranges.reshape(-1) / 255 * 0.8)


@pytest.mark.parametrize("shape", [(1, 512, 1, 1), (64, 1000), (500,), (1, 300, 2, 2)])
def test_one_range_for_all_where_channels_would_be_too_small(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(math.prod(shape))
    payload = payload_of(("float32", shape, range(len(shape)), as_bytes(values, "float32")))
    encoded = encode(payload, Codec(ValueCodec.UINT8))
    assert encoded.codings[0].groups == (1, 1, values.size)
    assert encoded.nbytes == values.size + 8


@pytest.mark.parametrize("values", LOSSY)
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_arrives_as_it_was(values: ValueCodec, odd: float) -> None:
    content = np.array([1.0, odd, -2.5, 0.0] * 10)
    payload = payload_of(("float32", (40,), (0,), as_bytes(content, "float32")))
    (decoded,) = decode(encode(payload, Codec(values))).buffers
    np.testing.assert_array_equal(as_numbers(decoded, "float32"), content)


@pytest.mark.parametrize("values", LOSSY)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_signalling_nan_is_no_alarm(dtype: str, values: ValueCodec) -> None:
    size = ITEM_SIZES[dtype]
    bits = {2: 0x7C01, 4: 0x7F800001, 8: 0x7FF0000000000001}[size].to_bytes(size, "little")
    payload = payload_of((dtype, (40,), (0,), bits * 40))
    (decoded,) = decode(encode(payload, Codec(values))).buffers
    assert np.all(np.isnan(np.frombuffer(decoded, dtype)))


def test_a_range_beyond_the_type_travels_raw() -> None:
    content = np.array([3e38, -3e38] * 20)
    payload = payload_of(("float32", (40,), (0,), as_bytes(content, "float32")))
    assert decode(encode(payload, Codec(ValueCodec.UINT8))) == payload


def test_float16_clamps_and_says_so() -> None:
    payload = payload_of(("float32", (3,), (0,), as_bytes(np.array([1e6, -1e6, 1]), "float32")))
    encoded = encode(payload, Codec(ValueCodec.FLOAT16))
    assert as_numbers(decode(encoded).buffers[0], "float32").tolist() == [65504, -65504, 1]
    assert error_bounds(encoded, 0).tolist() == [math.inf, math.inf, 2.0**-11]


def test_zeros_stay_zero_after_a_relu() -> None:
    content = np.maximum(np.random.default_rng(0).standard_normal(1000), 0)
    payload = payload_of(("float32", (1000,), (0,), as_bytes(content, "float32")))
    for values in LOSSY:
        decoded = as_numbers(decode(encode(payload, Codec(values))).buffers[0], "float32")
        assert np.all(decoded[content == 0] == 0)


@st.composite
def views(draw: st.DrawFn) -> list[Tensor]:
    """Views of one storage, one of another with gaps, and integers."""
    base = torch.randn(2, draw(st.integers(2, 5)), 5, 6)
    if draw(st.booleans()):
        base = base.to(memory_format=torch.channels_last)
    tensors = [base, base[:, 1:], base.permute(0, 2, 3, 1), base.select(1, 1)]
    chosen = draw(st.lists(st.sampled_from(range(len(tensors))), min_size=1, unique=True))
    return [tensors[i] for i in chosen] + [torch.randn(6, 8)[:, ::2], torch.arange(7)]


@given(views(), codecs)
@example([torch.randn(1, 3, 8, 8)], Codec(ValueCodec.UINT8))
def test_strides_and_sharing_survive(tensors: list[Tensor], codec: Codec) -> None:
    payload = pack(tensors)
    received = unpack(decode(encode(payload, codec)))
    plain = unpack(payload)
    assert [t.stride() for t in received] == [t.stride() for t in plain]
    for a, b in zip(received, plain, strict=True):
        assert a.shape == b.shape
        if not a.is_floating_point() or codec.values is ValueCodec.RAW:
            assert torch.equal(a, b)
        else:
            largest = (a - b).abs().max().item()
            assert largest <= {"float16": 2e-3, "uint8": 0.02, "uint4": 0.3}[codec.values]
    storages = [t.untyped_storage().data_ptr() for t in received]
    assert [storages.index(s) for s in storages] == [
        [t.untyped_storage().data_ptr() for t in plain].index(t.untyped_storage().data_ptr())
        for t in plain
    ]


def test_types_that_share_a_buffer_travel_raw() -> None:
    base = torch.randn(4, 6)
    payload = pack([base, base.view(torch.int32)])
    assert decode(encode(payload, Codec(ValueCodec.UINT8))) == payload


def test_pictures_and_integers_are_not_touched() -> None:
    payload = pack([torch.randint(0, 255, (1, 3, 9, 9), dtype=torch.uint8), torch.ones(3) > 0, 7])
    for values in LOSSY:
        assert decode(encode(payload, Codec(values))) == payload


def first_layer() -> Tensor:
    """AlexNet's first activation, weights drawn, of a photograph."""
    picture = open_dataset(DatasetSpec(), Path()).load(0).picture
    assert isinstance(picture, Image.Image)
    pixels = torch.from_numpy(np.asarray(picture.resize((224, 224)), np.float32).copy())
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(64, 3, 11, 11, generator=generator) / 19
    batch = (pixels.permute(2, 0, 1)[None] / 255 - 0.45) / 0.225
    return torch.nn.functional.conv2d(batch, weights, stride=4, padding=2).relu()


def test_sizes_on_a_real_activation() -> None:
    payload = pack([first_layer()])
    sizes = {
        name: encode(payload, Codec.parse(name)).nbytes / payload.nbytes
        for name in ("raw", "float16", "uint8", "uint4", "raw+zstd1", "uint8+zstd1")
    }
    assert payload.nbytes == 774_400
    assert sizes["raw"] == 1
    assert sizes["float16"] == 0.5
    assert sizes["uint8"] < 1 / 3.9
    assert sizes["uint4"] < 1 / 7.8
    assert sizes["raw+zstd1"] < 0.65
    assert sizes["uint8+zstd1"] < 0.2


def test_a_filter_sorts_by_the_true_element() -> None:
    """Slowly rising numbers: their upper bytes pack only once they are sorted together."""
    values = np.linspace(1, 1.9, 20_000) * np.random.default_rng(0).uniform(0.99, 1.01, 20_000)
    payload = payload_of(("float32", (20_000,), (0,), as_bytes(values, "float32")))
    sizes = [
        encode(payload, Codec(ValueCodec.RAW, Blosc2(filter=order))).nbytes
        for order in ("noshuffle", "shuffle")
    ]
    assert sizes[1] < 0.85 * sizes[0]


def test_what_does_not_pack_is_stored() -> None:
    data = np.random.default_rng(0).bytes(4000)
    payload = payload_of(("uint8", (4000,), (0,), data))
    for lossless in LOSSLESS:
        encoded = encode(payload, Codec(ValueCodec.RAW, lossless))
        packers = [coding.packer for coding in encoded.codings]
        assert packers == ([Packer.NONE] if lossless else [])
        assert encoded.buffers[0] == data


def test_nothing_is_something_too() -> None:
    for lossless in LOSSLESS:
        assert decode(encode(EMPTY, Codec(ValueCodec.UINT8, lossless))) == EMPTY


def test_buffers_at_odd_addresses_decode() -> None:
    payload = pack([torch.randn(3, 5, 7)])
    for values in ValueCodec:
        encoded = encode(payload, Codec(values))
        shifted = memoryview(b"\0" + encoded.buffers[0])[1:]
        moved = type(encoded)(encoded.header, encoded.codings, (shifted,))
        assert decode(moved) == decode(encoded)


def test_threads_do_not_disturb_each_other() -> None:
    payload = pack([torch.randn(3, 50, 70).relu()])
    codec = Codec(ValueCodec.UINT8, Zstd())
    want = encode(payload, codec)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: encode(payload, codec), range(40)):
            assert got == want
        for decoded in pool.map(lambda _: decode(want), range(40)):
            assert decoded == decode(want)


@pytest.mark.parametrize("name", ["uint8", "png", "webp", "jpeg90", "webp90", "avif90", "png@50"])
def test_pictures_travel_as_files_and_arrive_as_pixels(name: str) -> None:
    shape = (2, 3, 40, 30)
    y, x = np.mgrid[:40, :30]
    one = np.stack([x * 6, y * 5, x + y]).astype(np.uint8)
    data = np.stack([one, one // 2]).tobytes()
    payload = payload_of(("uint8", shape, range(4), data))
    encoded = encode(payload, PictureCodec.parse(name))
    decoded = decode(encoded)
    assert decoded.header() == payload.header()
    error = np.abs(as_numbers(decoded.buffers[0], "uint8") - as_numbers(memoryview(data), "uint8"))
    lossless = name in ("uint8", "png", "webp")
    assert error.max() == 0 if lossless else 0 < error.mean() < 5
    assert (encoded.nbytes < len(data) / 2) == (name != "uint8")


def test_a_picture_codec_leaves_what_is_no_picture() -> None:
    png = PictureCodec.parse("png")
    for dtype, shape in (("float32", (1, 3, 4, 4)), ("uint8", (1, 4, 4, 4)), ("uint8", (3, 4, 4))):
        payload = payload_of((dtype, shape, range(len(shape)), bytes(1000)))
        assert encode(payload, png).buffers == payload.buffers


@pytest.mark.parametrize("sizes", [(1,), (10, 10), (3,) * 3, (2**40, 1)])
def test_sizes_of_pictures_that_do_not_fit_are_refused(sizes: tuple[int, ...]) -> None:
    payload = payload_of(("uint8", (2, 3, 4, 4), range(4), bytes(96)))
    encoded = encode(payload, PictureCodec.parse("png"))
    (coding,) = encoded.codings
    spoilt = structs.replace(coding, pictures=sizes)
    with pytest.raises(ProtocolError):
        decode(replace(encoded, codings=(spoilt,)))
