"""What codecs need beside this package, by name: codecs of other packages, formats of pictures.

Another package registers its codecs in this process or as entry points. It is imported when its
codec is used for the first time. Some builds of Pillow lack the formats `webp` and `avif`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Protocol, TypeVar

from splittracr.experiment.codec import OPTIONAL_FORMATS, is_named, optional_part
from splittracr.experiment.errors import FrameFailed, InvalidInput, ProtocolError, nearest, reason
from splittracr.experiment.spec import AdaptiveSpec, ExperimentSpec
from splittracr.wire import pictures
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
    """The name of every codec of other packages, and the version of its package, "" if unknown.

    Also the formats of pictures that Pillow may lack, each with the version "": any version reads
    what another one writes.
    """
    entries = entry_points(group=GROUP)
    found = {entry.name: entry.dist.version if entry.dist else "" for entry in entries}
    formats = [one.value for one in OPTIONAL_FORMATS if pictures.is_available(one)]
    return found | dict.fromkeys((*_registered, *formats), "")


def used(spec: ExperimentSpec) -> dict[str, str]:
    """Those of them that the codecs of a manifest need.

    Raises InvalidInput, which names the field, for one that is not installed or cannot be created.
    """
    adaptive = spec.partition.adaptive or AdaptiveSpec()
    named = [(name, "spec.partition.adaptive.codecs") for name in adaptive.codecs]
    named += [(name, "spec.partition.adaptive.pictureCodecs") for name in adaptive.picture_codecs]
    named.append((spec.transport.codec, "spec.transport.codec"))
    named.append((spec.transport.picture_codec, "spec.transport.pictureCodec"))
    for name, field in named:
        check(name, field)
    known = installed()
    parts = [optional_part(name) for name, _ in named]
    return {part: known[part] for part in parts if part is not None}


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
    part, known = optional_part(name), installed()
    if part is None:
        return
    if not is_named(name):
        if part not in known:
            expected = (
                f"a codec without {part}: this Pillow was built without it, its wheels have it"
            )
            raise InvalidInput(field, name, expected)
        return
    if name not in known:
        others = [one for one in known if is_named(one)]
        expected = nearest(name, others) if others else "a codec of a package that is installed"
        raise InvalidInput(field, name, expected)
    try:
        _created(name)
    except Exception as error:  # another package's code may raise anything
        expected = f"a codec that can be created ({reason(error)})"
        raise InvalidInput(field, name, expected) from error


def is_usable(name: str) -> bool:
    """Whether the codec `name` can be used here; another package's one may fail all the same."""
    return optional_part(name) in (None, *installed())


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
