"""Live values to bytes and back, with strides and shared storage intact.

Tensors that share storage are sent once, as the stretch of it that they touch, and rebuilt as
views of one copy: later operations may write through one and read through the other. A tensor
that shares memory with no other and leaves gaps in its storage is sent without them, in the same
order of strides. Everything that is no tensor travels in the header.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from splittracr.experiment.errors import ProtocolError
from splittracr.splitting import records
from splittracr.wire.payload import ALIGNMENT, Payload, TensorRef, Tree

_NUMPY = {
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.float32, torch.float64),
}
"""Types whose memory numpy shows as it is."""

_SENT = frozenset(
    found
    for name in (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
    if (found := getattr(torch, name, None)) is not None
)
"""Types with one value in each element of memory; others pack several into one byte."""


def pack(values: Sequence[Any]) -> Payload:
    """The values as a payload whose buffers may be views of the tensors' own memory.

    Takes tensors (dense, any device but meta), None, bool, int, float, str, dtypes, devices, and
    tuples, lists, string-keyed dicts, data classes and named tuples of these; raises TypeError for
    others. A conjugation or negation that torch has deferred is done first, so that memory holds
    the tensor's values.
    """
    tensors: list[Tensor] = []
    trees = tuple(_to_tree(value, tensors) for value in values)
    places = [_place(tensor) for tensor in tensors]
    refs: dict[int, TensorRef] = {}
    buffers: list[memoryview] = []
    for group in _by_storage(places):
        members = [places[i] for i in group]
        first = members[0]
        if len(members) == 1 and first.high - first.low > first.nbytes:  # it leaves gaps
            first = _place(first.tensor.clone(memory_format=torch.preserve_format))
            members = [first]
        alignment = max(place.dtype.itemsize for place in members)
        low = min(place.low for place in members) // alignment * alignment
        high = max(place.high for place in members)
        for i, place in zip(group, members, strict=True):
            refs[i] = place.reference(len(buffers), low)
        buffers.append(_bytes(first, low, high))
    return Payload(trees, tuple(refs[i] for i in range(len(tensors))), tuple(buffers))


def unpack(
    payload: Payload,
    device: torch.device | str = "cpu",
    *,
    take: bool = False,
    user: torch.cuda.Stream | None = None,
) -> list[Any]:
    """The values, in their own memory on `device`. Raises ProtocolError if a tensor would reach
    outside its buffer.

    With `take` they may use the payload's memory: writing to them spoils it. `user` is the stream
    that will use them, if it is another one than the current.
    """
    storages = [_storage(buffer, device, take) for buffer in payload.buffers]
    if user is not None:
        for storage in storages:
            storage.record_stream(user)  # its memory is not reused before that stream is done
    tensors = [_view(ref, storages) for ref in payload.tensors]
    return [_from_tree(tree, tensors, torch.device(device)) for tree in payload.values]


def raw_bytes(tensor: Tensor) -> Tensor:
    """The elements in order of indices as one flat uint8 tensor on the same device."""
    # Even a contiguous tensor may have odd strides in dimensions of size 1: clone makes them plain.
    plain = resolved(tensor.detach()).clone(memory_format=torch.contiguous_format)
    return plain.flatten().view(torch.uint8)


def resolved(tensor: Tensor) -> Tensor:
    """The tensor, after a conjugation or negation that torch has deferred."""
    return tensor.resolve_conj().resolve_neg()


def as_buffer(flat: Tensor) -> memoryview:
    """A flat uint8 tensor's memory, copied to the host if it is elsewhere."""
    if not flat.is_cuda:
        return memoryview(flat.cpu().numpy())  # type: ignore[arg-type]
    host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
    host.copy_(flat, non_blocking=True)
    torch.cuda.current_stream(flat.device).synchronize()
    return memoryview(host.numpy())  # type: ignore[arg-type]


def _to_tree(value: Any, tensors: list[Tensor]) -> Tree:
    match value:
        case Tensor():
            obstacle = _obstacle(value)
            if obstacle is not None:
                raise TypeError(f"a {obstacle} tensor cannot cross a cut")
            tensors.append(resolved(value.detach()))
            return {"t": len(tensors) - 1}
        case None | bool():
            return {"v": value}
        case float() if not math.isfinite(value):
            return {"f": str(float(value))}  # no number of JSON
        case int() | float() | str():  # subclasses, too, such as numpy's, which no header takes
            _ = isinstance(value, str) and value.encode()  # ValueError if no header can hold it
            plain = next(kind for kind in (int, float, str) if isinstance(value, kind))
            return {"v": plain(value)}
        case torch.dtype():
            return {"dtype": _name(value)}
        case torch.device():
            return {"device": None}  # the receiver's own
        case torch.Size():
            return {"size": list(value)}
        case tuple() if records.tuple_fields(type(value)) is None:
            return {"tuple": [_to_tree(v, tensors) for v in value]}
        case list():
            return {"list": [_to_tree(v, tensors) for v in value]}
        case dict() if all(isinstance(k, str) for k in value):
            return {"dict": [[k, _to_tree(v, tensors)] for k, v in value.items()]}
        case _:
            return _to_record(value, tensors)


def _to_record(value: Any, tensors: list[Tensor]) -> Tree:
    parts = records.parts(value)
    if parts is None:
        raise TypeError(f"a {type(value).__name__} cannot cross a cut")
    fields = [[name, _to_tree(part, tensors)] for name, part in parts.items()]
    return {"record": [records.name(type(value)), fields]}


def _obstacle(tensor: Tensor) -> str | None:
    """The property of the tensor that shape, strides and memory do not describe; None
    without one.
    """
    kind = type(tensor)
    if tensor.is_nested and tensor.layout is torch.strided:
        return "nested"
    if tensor.layout is not torch.strided:
        return str(tensor.layout)
    if kind is not Tensor and kind.__torch_function__ is not torch._C._disabled_torch_function_impl:
        return kind.__name__
    if tensor.dtype not in _SENT:
        return _name(tensor.dtype)
    return "meta" if tensor.is_meta else None


def _from_tree(tree: Tree, tensors: Sequence[Tensor], device: torch.device) -> Any:
    ((kind, content),) = tree.items()
    match kind:
        case "t":
            return tensors[content]
        case "v":
            return content
        case "f":
            return float(content)
        case "dtype":
            return _dtype(content)
        case "device":
            return device
        case "size":
            return torch.Size(content)
        case "tuple":
            return tuple(_from_tree(v, tensors, device) for v in content)
        case "list":
            return [_from_tree(v, tensors, device) for v in content]
        case "dict":
            return {k: _from_tree(v, tensors, device) for k, v in content}
        case "record":
            name, fields = content
            return records.made(name, {k: _from_tree(v, tensors, device) for k, v in fields})
        case _:
            raise ProtocolError(f"unknown kind of value {kind!r}")


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ProtocolError(f"unknown dtype {name!r}")
    return found


class _Place(NamedTuple):
    """A tensor, and the bytes `[low, high)` that it touches in its storage.

    Each property of a tensor is read once: between two passes of a network every read is expensive.
    """

    tensor: Tensor
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    low: int
    high: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def reference(self, buffer: int, low: int) -> TensorRef:
        return TensorRef(buffer, _name(self.dtype), self.shape, self.strides, self.low - low)


def _place(tensor: Tensor) -> _Place:
    shape, strides, dtype = tuple(tensor.shape), tensor.stride(), tensor.dtype
    reach = _reach(shape, strides)
    low = int(tensor.storage_offset()) * dtype.itemsize if reach else 0
    return _Place(tensor, dtype, shape, strides, low, low + reach * dtype.itemsize)


def _reach(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last one in memory."""
    if 0 in shape:
        return 0
    return sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1


@cache
def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _by_storage(places: Sequence[_Place]) -> list[list[int]]:
    """Positions grouped by shared storage; an empty tensor is a separate group."""
    if len(places) == 1:
        return [[0]]
    groups: dict[tuple[torch.device, int], list[int]] = {}
    for i, place in enumerate(places):
        tensor = place.tensor
        pointer = tensor.untyped_storage().data_ptr() if place.nbytes else -i - 1
        groups.setdefault((tensor.device, pointer), []).append(i)
    return list(groups.values())


def _bytes(place: _Place, low: int, high: int) -> memoryview:
    """The bytes `[low, high)` of the tensor's storage."""
    tensor = place.tensor
    own = (low, high) == (place.low, place.high)
    if own and place.dtype in _NUMPY and tensor.is_cpu and tensor.is_contiguous():
        return tensor.numpy().reshape(-1).view(np.uint8).data  # with the fewest calls
    raw = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    if high > low:
        raw = raw.set_(tensor.untyped_storage(), low, (high - low,))  # type: ignore[call-overload]
    return as_buffer(raw)


def _storage(buffer: memoryview, device: torch.device | str, take: bool) -> Tensor:
    """The buffer as flat bytes, aligned as torch does it: kernels may depend on that."""
    content = np.frombuffer(buffer, np.uint8)
    to_cuda = torch.device(device).type == "cuda"
    storage = torch.from_numpy(content) if take and not buffer.readonly and not to_cuda else None
    if storage is None or storage.data_ptr() % ALIGNMENT:
        # Only pinned memory is copied to a GPU while the processor goes on.
        storage = torch.empty(len(buffer), dtype=torch.uint8, pin_memory=to_cuda)
        storage.numpy()[:] = content
    return storage if str(device) == "cpu" else storage.to(device, non_blocking=to_cuda)


def _view(ref: TensorRef, storages: Sequence[Tensor]) -> Tensor:
    dtype = _dtype(ref.dtype)
    size, reach = dtype.itemsize, _reach(ref.shape, ref.strides)
    storage = storages[ref.buffer]
    if ref.offset % size or ref.offset + reach * size > storage.numel():
        raise ProtocolError(f"a tensor {ref.shape} reaches outside its {storage.numel()} bytes")
    return torch.empty(0, dtype=dtype, device=storage.device).set_(
        storage.untyped_storage(), ref.offset // size, ref.shape, ref.strides
    )
