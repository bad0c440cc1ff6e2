"""Live values to bytes and back, with strides and shared storage intact.

Tensors that share storage are sent once, as the stretch of it that they touch, and rebuilt as
views of one copy: later operations may write through one and read through the other. A tensor
that shares with nobody and leaves gaps in its storage is sent without them, in the same order of
strides. Everything that is no tensor travels in the header.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splittracr.experiment.errors import ProtocolError
from splittracr.wire.payload import Payload, TensorRef, Tree


def pack(values: Sequence[Any]) -> Payload:
    """The values as a payload whose buffers may be views of the tensors' own memory.

    Takes tensors (dense, any device), None, bool, int, float, str, dtypes, devices, and tuples,
    lists and string-keyed dicts of these; raises TypeError for anything else.
    """
    tensors: list[Tensor] = []
    trees = tuple(_to_tree(value, tensors) for value in values)
    refs: dict[int, TensorRef] = {}
    buffers: list[memoryview] = []
    for group in _by_storage(tensors):
        members = [tensors[i] for i in group]
        low, high = _stretch(members)
        if len(members) == 1 and high - low > members[0].nbytes:  # it leaves gaps
            members = [members[0].clone(memory_format=torch.preserve_format)]
            low, high = _stretch(members)
        for i, tensor in zip(group, members, strict=True):
            refs[i] = _reference(tensor, len(buffers), low)
        buffers.append(_bytes(members[0], low, high))
    return Payload(trees, tuple(refs[i] for i in range(len(tensors))), tuple(buffers))


def unpack(payload: Payload, device: torch.device | str = "cpu") -> list[Any]:
    """The values, in memory of their own on `device`. Raises ProtocolError where a tensor would
    reach outside its buffer.
    """
    storages = [_own(buffer, device) for buffer in payload.buffers]
    tensors = [_view(ref, storages) for ref in payload.tensors]
    return [_from_tree(tree, tensors, torch.device(device)) for tree in payload.values]


def raw_bytes(tensor: Tensor) -> Tensor:
    """The elements in order of indices as one flat uint8 tensor on the same device."""
    # Even a contiguous tensor may have odd strides in dimensions of size 1: clone makes them plain.
    plain = tensor.detach().clone(memory_format=torch.contiguous_format)
    return plain.flatten().view(torch.uint8)


def as_buffer(flat: Tensor) -> memoryview:
    """A flat uint8 tensor's memory, copied to the host where it is elsewhere."""
    return memoryview(flat.cpu().numpy())  # type: ignore[arg-type]


def _to_tree(value: Any, tensors: list[Tensor]) -> Tree:
    match value:
        case Tensor():
            if value.layout is not torch.strided or value.is_quantized:
                raise TypeError(f"a {value.layout} tensor cannot cross a cut")
            tensors.append(value.detach())
            return {"t": len(tensors) - 1}
        case None | bool() | int() | float() | str():
            return {"v": value}
        case torch.dtype():
            return {"dtype": str(value).removeprefix("torch.")}
        case torch.device():
            return {"device": None}  # the receiver's own
        case torch.Size():
            return {"size": list(value)}
        case tuple():
            return {"tuple": [_to_tree(v, tensors) for v in value]}
        case list():
            return {"list": [_to_tree(v, tensors) for v in value]}
        case dict() if all(isinstance(k, str) for k in value):
            return {"dict": [[k, _to_tree(v, tensors)] for k, v in value.items()]}
        case _:
            raise TypeError(f"a {type(value).__name__} cannot cross a cut")


def _from_tree(tree: Tree, tensors: Sequence[Tensor], device: torch.device) -> Any:
    ((kind, content),) = tree.items()
    match kind:
        case "t":
            return tensors[content]
        case "v":
            return content
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
        case _:
            raise ProtocolError(f"unknown kind of value {kind!r}")


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ProtocolError(f"unknown dtype {name!r}")
    return found


def _by_storage(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Positions grouped by the storage they share; an empty tensor is a group of its own."""
    groups: dict[tuple[torch.device, int], list[int]] = {}
    for i, tensor in enumerate(tensors):
        pointer = tensor.untyped_storage().data_ptr() if tensor.numel() else -i - 1
        groups.setdefault((tensor.device, pointer), []).append(i)
    return list(groups.values())


def _stretch(tensors: Sequence[Tensor]) -> tuple[int, int]:
    """First and last byte, `[low, high)`, that the tensors touch in their storage."""
    if not tensors[0].numel():
        return 0, 0
    stretches = [_touched(tensor) for tensor in tensors]
    alignment = max(t.element_size() for t in tensors)
    low = min(low for low, _ in stretches)
    return low // alignment * alignment, max(high for _, high in stretches)


def _touched(tensor: Tensor) -> tuple[int, int]:
    start = int(tensor.storage_offset()) * tensor.element_size()
    if tensor.is_contiguous():
        return start, start + tensor.nbytes
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return start, start + reach * tensor.element_size()


def _reference(tensor: Tensor, buffer: int, low: int) -> TensorRef:
    return TensorRef(
        buffer=buffer,
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        strides=tensor.stride(),
        offset=int(tensor.storage_offset()) * tensor.element_size() - low if tensor.numel() else 0,
    )


def _bytes(tensor: Tensor, low: int, high: int) -> memoryview:
    raw = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    if high > low:
        raw = raw.set_(tensor.untyped_storage(), low, (high - low,))  # type: ignore[call-overload]
    return as_buffer(raw)


def _own(buffer: memoryview, device: torch.device | str) -> Tensor:
    """A writable, aligned copy: received memory is read-only and the tail may write in place."""
    storage = torch.empty(len(buffer), dtype=torch.uint8)
    storage.numpy()[:] = np.frombuffer(buffer, dtype=np.uint8)
    return storage.to(device)


def _view(ref: TensorRef, storages: Sequence[Tensor]) -> Tensor:
    dtype = _dtype(ref.dtype)
    empty = 0 in ref.shape
    size = dtype.itemsize
    reach = (
        0 if empty else sum((n - 1) * s for n, s in zip(ref.shape, ref.strides, strict=True)) + 1
    )
    storage = storages[ref.buffer]
    if ref.offset % size or ref.offset + reach * size > storage.numel():
        raise ProtocolError(f"a tensor {ref.shape} reaches outside its {storage.numel()} bytes")
    return torch.empty(0, dtype=dtype, device=storage.device).set_(
        storage.untyped_storage(), ref.offset // size, ref.shape, ref.strides
    )
