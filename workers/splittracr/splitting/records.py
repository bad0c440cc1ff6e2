"""Data classes and named tuples as names and fields, and back.

The results of torch's functions with several outputs, such as `max`, count as named tuples.

A peer's bytes name a class but cannot choose freely: only a class of which this process has sent or
proven a value is created, without its constructor.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils import _pytree

from splittracr.experiment.errors import ProtocolError

_known: dict[str, type[Any]] = {}


def tuple_fields(kind: type[Any]) -> tuple[str, ...] | None:
    """The fields of a class of named tuples, None for any other class."""
    if kind.__module__ == torch.return_types.__name__:
        return tuple(kind.__match_args__)
    return getattr(kind, "_fields", None) if issubclass(kind, tuple) else None


def parts(value: Any) -> dict[str, Any] | None:
    """The fields of a data class or a named tuple; None if `value` is neither.

    The class is known from then on. A data class that is also a collection does not count, since
    its fields are not its whole content.
    """
    kind: type[Any] = type(value)
    names = tuple_fields(kind)
    if names is not None:
        found = dict(zip(names, value, strict=True))
    elif _is_plain(value):
        found = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if kind not in _pytree.SUPPORTED_NODES:  # so that its tensors are compared, too
            _pytree.register_dataclass(kind, field_names=list(found), drop_field_names=[])
    else:
        return None
    _known[name(kind)] = kind
    return found


def name(kind: type) -> str:
    """The name of a class on the wire."""
    return f"{kind.__module__}:{kind.__qualname__}"


def made(called: str, fields: Mapping[str, Any]) -> Any:
    """A value of the class `called` with these fields.

    Raises ProtocolError if the class is unknown or has other fields.
    """
    kind = _known.get(called)
    if kind is None:
        raise ProtocolError(f"a value of the unknown class {called[:80]!r}")
    if issubclass(kind, tuple):
        if tuple(fields) == tuple_fields(kind):
            own = hasattr(kind, "_fields")  # torch's are made by their constructor only
            return tuple.__new__(kind, fields.values()) if own else kind(fields.values())
    else:
        expected = tuple(field.name for field in dataclasses.fields(kind))
        if tuple(fields) == expected:
            value = object.__new__(kind)
            for field, part in fields.items():
                object.__setattr__(value, field, part)  # frozen ones refuse any other way
            return value
    raise ProtocolError(f"fields of {called[:80]!r} that it does not have")


def _is_plain(value: Any) -> bool:
    is_data = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return is_data and not isinstance(value, Mapping | tuple | list | str | bytes | int | float)
