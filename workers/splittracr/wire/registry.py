"""Codecs of other packages, by name: those registered in this process and those of entry points.

A package is imported when its codec is used for the first time.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Protocol, TypeVar

from splittracr.experiment.codec import is_named
from splittracr.experiment.errors import FrameFailed, InvalidInput, ProtocolError, nearest, reason
from splittracr.experiment.spec import AdaptiveSpec, ExperimentSpec
from splittracr.wire.payload import TensorRef

GROUP = "splittracr.codecs"
"""Entry-point group in which another package names its factories."""


class BufferCodec(Protocol):
    """Makes a buffer of live tensors smaller, and back. Several threads call it at once."""

    def encode(self, data: memoryview, tensors: Sequence[TensorRef]) -> bytes | None:
        """The buffer `data`, encoded; None to send it as it is.

        `tensors` are the views of the buffer: dtype, shape, strides in elements, offset in bytes.
        A result that is not smaller than `data` is not used.
        """

    def decode(self, data: memoryview, size: int, tensors: Sequence[TensorRef]) -> bytes:
        """The `size` bytes of the buffer that was encoded into `data`.

        `data` comes from the other end and may be anything. Raises ValueError if it is wrong.
        """


Factory = Callable[[], BufferCodec]
"""Makes a codec; often its class."""

F = TypeVar("F", bound=Factory)

_registered: dict[str, Factory] = {}


def register(name: str) -> Callable[[F], F]:
    """Decorator that makes a factory known as `name` in this process.

    Raises ValueError for a name without a dot: those are the built-in codecs'.
    """
    if not is_named(name):
        raise ValueError(f"{name!r} cannot be registered, expected a name such as acme.topk")

    def remember(factory: F) -> F:
        _registered[name] = factory
        _created.cache_clear()
        return factory

    return remember


def installed() -> dict[str, str]:
    """The name of every codec of other packages, and the version of its package, "" if unknown."""
    entries = entry_points(group=GROUP)
    found = {entry.name: entry.dist.version if entry.dist else "" for entry in entries}
    return found | dict.fromkeys(_registered, "")


def used(spec: ExperimentSpec) -> dict[str, str]:
    """Those of them that a manifest names.

    Raises InvalidInput, which names the field, for one that is not installed or cannot be created.
    """
    adaptive = spec.partition.adaptive or AdaptiveSpec()
    named = [(name, "spec.partition.adaptive.codecs") for name in adaptive.codecs]
    named.append((spec.transport.codec, "spec.transport.codec"))
    names = {name: field for name, field in named if is_named(name)}
    for name, field in names.items():
        check(name, field)
    known = installed()
    return {name: known[name] for name in names}


def mismatch(edge: Mapping[str, str], server: Mapping[str, str]) -> str | None:
    """Why the server cannot decode codecs of the edge; None if it can. Names and versions."""
    for name, version in edge.items():
        if name not in server:
            return f"the server lacks codec {name!r} of the edge"
        if version != server[name]:
            return (
                f"edge and server differ in the version of codec {name!r}: "
                f"the edge has {version!r}, the server {server[name]!r}"
            )
    return None


def check(name: str, field: str) -> None:
    """Raise InvalidInput, which names the field, unless the codec `name` can be used here."""
    known = installed()
    if name not in known:
        expected = nearest(name, known) if known else "a codec of a package that is installed"
        raise InvalidInput(field, name, expected)
    try:
        _created(name)
    except Exception as error:  # another package's code may raise anything
        expected = f"a codec that can be created ({reason(error)})"
        raise InvalidInput(field, name, expected) from error


def encode(name: str, data: memoryview, tensors: Sequence[TensorRef]) -> memoryview | None:
    """The buffer by the codec `name`; None if that does not make it smaller.

    Raises FrameFailed if the codec does not exist, or fails.
    """
    try:
        made = _created(name).encode(data, tensors)
    except Exception as error:
        raise FrameFailed(f"codec {name}: {reason(error)}") from error
    return None if made is None or len(made) >= len(data) else memoryview(made).cast("B")


def decode(name: str, data: memoryview, size: int, tensors: Sequence[TensorRef]) -> memoryview:
    """The `size` bytes of the buffer. Raises ProtocolError if the codec is missing or fails."""
    try:
        made = _created(name).decode(data, size, tensors)
    except Exception as error:
        raise ProtocolError(f"codec {name}: {reason(error)}") from error
    if len(made) != size:
        raise ProtocolError(f"codec {name} made {len(made)} bytes, expected {size}")
    return memoryview(made).cast("B")


@cache
def _created(name: str) -> BufferCodec:
    if name in _registered:
        return _registered[name]()
    for entry in entry_points(group=GROUP, name=name):
        factory: Factory = entry.load()
        return factory()
    raise LookupError(f"no package offers it in the entry-point group {GROUP}")
