"""Data classes and named tuples as names and fields, and back.

A peer's bytes name a class but cannot choose freely: only a class of which this process has sent or
proven a value is created, without its constructor.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch.utils import _pytree

from splittracr.experiment.errors import ProtocolError

_known: dict[str, type[Any]] = {}


def parts(value: Any) -> dict[str, Any] | None:
    """The fields of a data class or a named tuple; None if `value` is neither.

    The class is known from then on. A data class that is also a collection does not count, since
    its fields are not its whole content.
    """
    kind: type[Any] = type(value)
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        found = dict(zip(kind._fields, value, strict=True))
    elif _is_plain(value):
        found = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if kind not in _pytree.SUPPORTED_NODES:  # so that its tensors are compared, too
            names = [field.name for field in dataclasses.fields(value)]
            _pytree.register_dataclass(kind, field_names=names, drop_field_names=[])
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
        expected = tuple(getattr(kind, "_fields", ()))
        if tuple(fields) == expected:
            return tuple.__new__(kind, fields.values())
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
