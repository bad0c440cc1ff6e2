"""Live values keep values, strides and sharing on their way through bytes."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from splittracr.experiment.errors import ProtocolError
from splittracr.splitting.live import pack, unpack
from splittracr.splitting.prove import same, through_wire
from splittracr.wire import codec, messages
from splittracr.wire.payload import ALIGNMENT, Payload, TensorRef

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


@st.composite
def views(draw: st.DrawFn) -> list[Tensor]:
    """A few views of one or two storages: slices, permutations, expansions, empty ones."""
    tensors = []
    for _ in range(draw(st.integers(1, 2))):
        shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
        dtype = draw(st.sampled_from(DTYPES))
        base = torch.randint(0, 100, shape).to(dtype)
        for _ in range(draw(st.integers(1, 3))):
            view = base
            for dim in range(view.dim()):
                step = draw(st.integers(1, 2))
                start = draw(st.integers(0, view.shape[dim]))
                view = view[(slice(None),) * dim + (slice(start, None, step),)]
            view = view.permute(draw(st.permutations(range(view.dim()))))
            if draw(st.booleans()):
                view = view.unsqueeze(0).expand(3, *view.shape)
            tensors.append(view)
    return tensors


@given(views())
def test_values_survive(tensors: list[Tensor]) -> None:
    assert same(through_wire(tensors), tensors)


@given(views())
def test_sharing_survives(tensors: list[Tensor]) -> None:
    """Writing through one received view shows in another exactly where it does at the origin."""
    received = through_wire(tensors)
    for i, tensor in enumerate(tensors):
        if tensor.numel() and 0 not in tensor.stride():
            tensor.zero_()
            received[i].zero_()
            assert same(received, tensors)


@given(views())
def test_no_more_is_sent_than_the_storages_hold(tensors: list[Tensor]) -> None:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    assert pack(tensors).nbytes <= sum(storages.values())


def test_strides_survive_where_there_are_no_gaps() -> None:
    for tensor in (
        torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.rand(4, 5).t(),
        torch.rand(1, 4).expand(3, 4),
        torch.rand(6, 4)[2:4],
    ):
        (received,) = through_wire([tensor])
        assert received.stride() == tensor.stride()


def test_everything_else_travels_in_the_header() -> None:
    values: list[Any] = [
        3,
        None,
        True,
        2.5,
        "name",
        (1, (2, torch.ones(2))),
        [torch.zeros(1), 4],
        {"a": torch.ones(1), "b": (5,)},
        torch.Size([1, 3]),
        torch.Size([2, -1]),  # a shape that a view completes
        torch.bfloat16,
        torch.device("cpu"),
    ]
    received = through_wire(values)
    assert same(received, values)
    assert [type(v) for v in received] == [type(v) for v in values]


def test_what_cannot_travel_is_a_type_error() -> None:
    for value in (object(), torch.eye(2).to_sparse(), {1: 2}, slice(1)):
        with pytest.raises(TypeError, match="cannot cross a cut"):
            pack([value])


def _complex() -> Tensor:
    return torch.complex(torch.arange(6.0).reshape(2, 3), torch.arange(1.0, 7.0).reshape(2, 3))


@pytest.mark.parametrize(
    "lazy",
    [
        lambda: _complex().conj(),
        lambda: _complex().conj().imag,
        lambda: _complex().conj().t(),
        lambda: _complex().conj()[:, ::2],
        lambda: torch._neg_view(torch.arange(4.0)),
        lambda: torch._neg_view(torch.arange(4.0))[1:],
        lambda: torch._neg_view(_complex().conj()),
        lambda: _complex().to(torch.complex128).mH,
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_what_torch_has_put_off_is_done(lazy: Any, nested: bool) -> None:
    tensor = lazy()
    (received,) = through_wire([{"a": (tensor,)} if nested else tensor])
    made = received["a"][0] if nested else received
    assert torch.equal(made, tensor)
    assert made.tolist() == tensor.tolist()
    assert not made.is_conj()
    assert not made.is_neg()
    assert same(made, tensor)
    assert not same(made, made + 1)


def test_bits_are_compared_by_what_they_mean() -> None:
    assert not same(_complex().conj(), _complex())
    assert not same(torch._neg_view(torch.ones(2)), torch.ones(2))
    assert same(torch._neg_view(torch.ones(2)), -torch.ones(2))


class Marked(Tensor):
    """A tensor that is more than its memory."""


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested"),
        (
            lambda: torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged),
            "torch.jagged",
        ),
        (lambda: torch.eye(2).to_sparse(), "torch.sparse_coo"),
        (lambda: torch.eye(2).to_sparse_csr(), "torch.sparse_csr"),
        (lambda: torch.eye(2).to_mkldnn(), "torch._mkldnn"),
        (lambda: torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.quint8), "quint8"),
        (lambda: torch.zeros(4, dtype=torch.uint8).view(vars(torch)["uint4"]), "uint4"),
        (lambda: torch.zeros(4, dtype=torch.uint8).view(vars(torch)["int2"]), "int2"),
        (lambda: torch.zeros(4, dtype=torch.uint8).view(torch.bits1x8), "bits1x8"),
        (lambda: torch.ones(2, device="meta"), "meta"),
        (lambda: torch.ones(2).as_subclass(Marked), "Marked"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_that_is_more_than_its_memory_is_refused_by_name(make: Any, word: str) -> None:
    with pytest.raises(TypeError, match=f"^a {re.escape(word)} tensor cannot cross a cut$"):
        pack([[make()]])


def test_a_parameter_is_a_tensor() -> None:
    (received,) = through_wire([torch.nn.Parameter(torch.ones(2))])
    assert received.tolist() == [1, 1]


def test_received_memory_is_writable_and_its_own() -> None:
    origin = torch.ones(4)
    payload = pack([origin])
    (received,) = unpack(payload)
    received.add_(1)
    assert origin.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "ref",
    [
        {"shape": (5,), "strides": (1,), "offset": 0},
        {"shape": (4,), "strides": (1,), "offset": 4},
        {"shape": (2,), "strides": (4,), "offset": 0},
        {"shape": (1,), "strides": (1,), "offset": 2},
        {"shape": (2**40, 2**40), "strides": (1, 1), "offset": 0},
    ],
)
def test_a_view_outside_its_buffer_is_refused(ref: dict[str, Any]) -> None:
    buffer = memoryview(bytes(16))
    bad = TensorRef(buffer=0, dtype="float32", **ref)
    with pytest.raises(ProtocolError, match="outside"):
        unpack(Payload(({"t": 0},), (bad,), (buffer,)))


def test_an_unknown_dtype_is_refused() -> None:
    for dtype in ("nn", "float33", "__doc__"):
        bad = TensorRef(buffer=0, dtype=dtype, shape=(1,), strides=(1,), offset=0)
        with pytest.raises(ProtocolError, match="unknown dtype"):
            unpack(Payload(({"t": 0},), (bad,), (memoryview(bytes(16)),)))


def arrived(frame: bytes, shift: int) -> memoryview:
    """A frame in writable memory, `shift` bytes beyond a multiple of 64."""
    room = np.empty(len(frame) + 128, np.uint8)
    place = room[-room.ctypes.data % ALIGNMENT + shift :][: len(frame)]
    place[:] = np.frombuffer(frame, np.uint8)
    return place.data


@pytest.mark.parametrize(
    ("take", "shift", "shared"), [(True, 0, True), (False, 0, False), (True, 4, False)]
)
def test_a_tensor_stays_where_it_arrived_if_that_may_be_and_is_aligned(
    take: bool, shift: int, shared: bool
) -> None:
    sent = torch.randn(3, 5)
    parts = messages.encode(messages.Request(id=1, cut=2), codec.encode(pack([sent])))
    frame = arrived(b"".join(parts), shift)
    payload = codec.decode(messages.decode(frame)[1])
    (made,) = unpack(payload, take=take)
    assert torch.equal(made, sent)
    assert made.data_ptr() % ALIGNMENT == 0
    made.zero_()
    assert (bytes(frame[-sent.nbytes :]) == bytes(sent.nbytes)) is shared


def test_memory_that_cannot_be_written_to_is_not_taken() -> None:
    payload = Payload(
        ({"t": 0},), (TensorRef(0, "uint8", (64,), (1,), 0),), (memoryview(bytes(64)),)
    )
    (made,) = unpack(payload, take=True)
    made.fill_(1)
    assert bytes(payload.buffers[0]) == bytes(64)


def test_numbers_of_numpy_travel_as_plain_ones() -> None:
    payload = pack([np.float64(0.5), True, 3])
    text = messages.encode(messages.Request(id=1, cut=2), codec.encode(payload))
    assert unpack(codec.decode(messages.decode(b"".join(text))[1])) == [0.5, True, 3]


def test_numbers_that_are_not_finite_travel() -> None:
    text = messages.encode(
        messages.Request(id=1, cut=2), codec.encode(pack([math.inf, -math.inf, math.nan]))
    )
    made = unpack(codec.decode(messages.decode(b"".join(text))[1]))
    assert made[:2] == [math.inf, -math.inf]
    assert math.isnan(made[2])


def test_text_that_no_header_takes_is_refused_where_it_is_packed() -> None:
    with pytest.raises(UnicodeEncodeError):
        pack(["\ud800"])
