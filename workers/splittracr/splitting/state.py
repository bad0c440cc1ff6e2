"""Whether a network keeps state between frames: compares its content before and after runs.

A graph runs the same operations for every frame, and both ends have a copy of it. So a network
whose answer depends on earlier frames has no graph.
"""

import contextlib
import copy
import hashlib
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from splittracr.splitting.compare import same_plain
from splittracr.splitting.live import as_buffer, raw_bytes

_INTERNALS = frozenset(vars(nn.Module())) - {"training"}
_DEPTH = 6
"""Depth to which containers and objects are searched."""

Run = Callable[[Any, Tensor], Any]
"""Runs a module on an input, always with the same random numbers."""


def separate(module: nn.Module) -> nn.Module:
    """A copy with the same parameters and buffers and attributes of its own.

    What a run of the copy, or a trace, sets as an attribute does not show in `module`. A module
    that cannot be copied is returned as it is.
    """
    tensors = [*module.parameters(), *module.buffers()]
    return _copied(module, {id(tensor): tensor for tensor in tensors})


def kept(module: nn.Module, example: Tensor, run: Run, within: str = "") -> str | None:
    """Return what of a network differs between frames, in words; None if it keeps no state.

    `within` is the path of the user's network in `module`; names start there.

    The network runs on `example`, on another input, and on `example` again. What has changed from
    the first run to the last is state. What only one run has changed is state in two cases: the
    outputs for `example` differ, or it changes the output for another input or for zeros. In all
    other cases the network remembers what it never reads.
    """
    parameters = {id(tensor): tensor for tensor in module.parameters()}
    subject = _copied(module, parameters)
    other = example.flatten().flip(0).reshape(example.shape)
    own = subject.get_submodule(within)
    before = _held(own)
    outputs, after = [], []
    for batch in (example, other, example):
        try:
            outputs.append(run(subject, batch))
        except Exception:  # noqa: BLE001 - the network's own code; capturing it tells why
            return None
        after.append(_held(own))
    names = _differences(after[0], after[2])
    if not names and not same_plain(outputs[0], outputs[2]):
        names = _differences(before, after[0]) + _differences(after[0], after[1])
    remembered = [] if names else _differences(before, after[0])
    if remembered:
        fresh = (_copied(module, parameters) for _ in range(2))
        zeros = torch.zeros_like(example)
        with contextlib.suppress(Exception):  # the network's own code may not take zeros
            if not same_plain(run(next(fresh), other), outputs[1]) or not same_plain(
                run(next(fresh), zeros), run(subject, zeros)
            ):
                names = remembered
    return ", ".join(dict.fromkeys(names[:3])) or None


def _copied(module: nn.Module, shared: dict[int, Any]) -> nn.Module:
    try:
        with torch.inference_mode(False), torch.no_grad():
            return copy.deepcopy(module, dict(shared))
    except Exception:  # noqa: BLE001 - a part of the user's cannot be copied, a lock or a file
        return module


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def _held(module: nn.Module) -> dict[str, Any]:
    """Everything that a run could change, by a readable name, as a value to compare."""
    held = {f"parameter {name}": _quick(value) for name, value in module.named_parameters()}
    held |= {f"buffer {name}": _frozen(value) for name, value in module.named_buffers()}
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in _INTERNALS:
                held[f"attribute {path}.{name}".replace(" .", " ")] = _frozen(value)
        held |= {name: _frozen(value) for name, value in _around(part)}
    return held


def _around(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Attributes of a module's own class, and objects that its `forward` names or encloses."""
    kind = type(module)
    if kind.__module__.partition(".")[0] in ("torch", "torchvision"):
        return
    for name, value in vars(kind).items():
        if _is_data(value) and not name.startswith("__"):
            yield f"class attribute {kind.__name__}.{name}", value
    forward = getattr(kind.forward, "__wrapped__", kind.forward)
    code = getattr(forward, "__code__", None)
    if code is None:
        return
    for name, cell in zip(code.co_freevars, forward.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not yet filled
            if _is_data(cell.cell_contents):
                yield f"variable {name} around {kind.__name__}.forward", cell.cell_contents
    for value in filter(_is_data, forward.__defaults__ or ()):
        yield f"default argument of {kind.__name__}.forward", value
    for name in code.co_names:
        value = forward.__globals__.get(name)
        if _is_data(value):
            yield f"global {kind.__module__}.{name}", value


def _is_data(value: Any) -> bool:
    kinds = (
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        list,
        tuple,
        dict,
        set,
        deque,
        Tensor,
        np.ndarray,
        Iterator,
    )
    return isinstance(value, kinds)


def _quick(tensor: Tensor) -> Any:
    """A checksum of a tensor that may be large, and torch's count of writes to it."""
    version = None if tensor.is_inference() else tensor._version
    if tensor.layout is not torch.strided or tensor.dtype.itemsize == 1 or not tensor.numel():
        return version, _frozen(tensor)
    flat, size = tensor.detach().flatten(), tensor.dtype.itemsize
    width = {2: torch.int16, 4: torch.int32}.get(size, torch.int64)
    if flat.numel() * size % 8 == flat.storage_offset() * size % 8 == 0:
        width = torch.int64  # whole words, which torch adds up several times as fast
    return version, int(flat.view(width).sum(dtype=torch.int64))


def _frozen(value: Any, depth: int = _DEPTH) -> Any:
    """A value that compares equal as long as nothing in `value` changes."""
    kind = type(value).__qualname__
    match value:
        case Tensor():
            return kind, str(value.dtype), tuple(value.shape), _digest(value)
        case np.ndarray():
            return kind, str(value.dtype), value.shape, hash(value.tobytes())
        case None | bool() | int() | float() | complex() | str() | bytes():
            return kind, repr(value)
        case torch.Generator():
            return kind, _digest(value.get_state())
        case random.Random():
            return kind, hash(value.getstate())
        case np.random.Generator():
            return kind, repr(value.bit_generator.state)
        case nn.Module():
            return kind  # its parts are checked by themselves
        case _ if depth == 0 or _is_code(value):
            return kind
        case Mapping():
            items = list(value.items())
            return kind, tuple((repr(k), _frozen(v, depth - 1)) for k, v in items)
        case tuple() | list() | deque():
            return kind, tuple(_frozen(part, depth - 1) for part in value)
        case AbstractSet():
            return kind, tuple(sorted(map(repr, value)))
        case _:
            return kind, _frozen(_inside(value), depth)


def _is_code(value: Any) -> bool:
    """Classes, Python modules, and torch's own callables, whose caches are no state."""
    if isinstance(value, (type, ModuleType)):
        return True
    return callable(value) and type(value).__module__.partition(".")[0] == "torch"


def _inside(value: Any) -> Any:
    """The content of an object that is no container."""
    match value:
        case MethodType():
            return [value.__self__]
        case FunctionType():
            return list(_enclosed(value))
        case GeneratorType():
            frame = value.gi_frame
            return frame and [frame.f_lasti, frame.f_locals, value.gi_yieldfrom]
        case _:
            return getattr(value, "__dict__", None) or _reduced(value)


def _enclosed(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not yet filled
            yield cell.cell_contents


def _reduced(value: Any) -> tuple[Any, ...]:
    """What `pickle` would store of an object without attributes, such as an iterator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns about iterators
        try:
            made = value.__reduce_ex__(2)
        except Exception:  # noqa: BLE001 - an open file or a lock, say, or the user's own code
            return ()
    return made if isinstance(made, tuple) else ()


def _digest(tensor: Tensor) -> str:
    if tensor.is_nested or tensor.is_quantized or tensor.is_meta:
        return repr(tensor.layout)
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.dtype.itemsize == 1:
        tensor = tensor.detach().view(torch.uint8)
    return hashlib.sha256(as_buffer(raw_bytes(tensor))).hexdigest()
