"""Constants of a graph as text that is the same in every process and on every processor."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from splittracr.splitting.live import as_buffer, raw_bytes

_MODULE_INTERNALS = frozenset(vars(nn.Module())) - {"training"}
_SIMPLE = (int, float, complex, str, bytes, type(None))


def canonical(value: Any) -> str:
    """A text that distinguishes constants: numbers by value, tensors by their bytes, functions and
    classes by qualified name, modules by their settings, and others by their class only.

    A device is only called one: both ends have their own.
    """
    kind = _qualified(type(value))
    match value:
        case Enum():
            return f"{kind}.{value.name}"
        case Tensor():
            digest = hashlib.sha256(as_buffer(raw_bytes(value.to_dense()))).hexdigest()
            return f"tensor({value.dtype},{list(value.shape)},{digest})"
        case nn.Module():
            return describe(value)
        case torch.device():
            return "device"
        case torch.dtype() | torch.memory_format() | torch.layout():
            return str(value)
        case int() | float() | complex() | str() | bytes() | None | range():
            return f"{kind}({value!r})"
        case torch._ops.OpOverload():
            return str(value)
        case _:
            parts = _parts(value)
            if parts is not None:
                return f"{kind}({','.join(parts)})"
            return _qualified(value) if hasattr(value, "__qualname__") else kind


def _parts(value: Any) -> list[str] | None:
    """The parts of a value that has parts."""
    match value:
        case slice():
            parts: Iterable[Any] = (value.start, value.stop, value.step)
        case tuple() | list():
            parts = value
        case Mapping():
            parts = value.items()
        case AbstractSet():
            return sorted(map(canonical, value))
        case functools.partial():
            parts = (value.func, value.args, value.keywords)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            parts = [getattr(value, field.name) for field in dataclasses.fields(value)]
        case _:
            return None
    return [canonical(part) for part in parts]


def describe(module: nn.Module) -> str:
    """A module's settings and those of its parts: the text that torch prints for its own modules,
    and all simple attributes of others.

    Parameters and buffers are left to the digest of the weights.
    """
    return ";".join(f"{path}={_settings(part)}" for path, part in module.named_modules())


def _settings(module: nn.Module) -> str:
    text = f"{_qualified(type(module))}({module.extra_repr()})"
    if type(module).__module__.startswith("torch.nn.") and not any(module.children()):
        return text
    attributes = {
        key: value
        for key, value in vars(module).items()
        if key not in _MODULE_INTERNALS and _is_simple(value)
    }
    return text + ",".join(f"{key}={canonical(attributes[key])}" for key in sorted(attributes))


def _is_simple(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_simple, value))
    if isinstance(value, dict):
        return all(map(_is_simple, [*value.keys(), *value.values()]))
    return isinstance(value, (*_SIMPLE, Enum, torch.dtype))


def _qualified(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', thing)}"
