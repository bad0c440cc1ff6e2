"""The exception tree.

SplittracrError            everything this project raises on purpose
├── InvalidInput           a value from the user cannot be used: names field, value, expectation
├── CutRefused             a cut exists but is not proven exact, or is below spec.model.exactness
├── CaptureError           a network could not be turned into a graph
├── ProtocolError          the peer broke the wire protocol
├── HandshakeRefused       the peer is sound but has something else (network, weights, token)
├── FrameFailed            one frame could not be finished; the session continues
├── Abandoned              a computation was abandoned: the other end had the result first
├── AllFailed              every sample of the study failed
├── Stopped                the study was stopped before its last frame
├── LeftEarly              the user's code called sys.exit, or raised what is no Exception
└── ServerLost             the server is lost, or never answered
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum

from splittracr.experiment.contracts import ExitCode


class SplittracrError(Exception):
    """Base of all errors raised on purpose; its text is one paragraph for users."""

    exit_code = ExitCode.FAILED


class InvalidInput(SplittracrError):
    """A value from the user that cannot be used.

    `field` is the path as the user wrote it (`spec.model.name`, `--set`, `dataset.path`),
    `value` the value there (None: nothing; of an enum: its value), `expected` completes
    "expected ...".
    """

    exit_code = ExitCode.INVALID_INPUT

    def __init__(self, field: str, value: object, expected: str) -> None:
        got = "nothing" if value is None else repr(_plain(value))
        super().__init__(f"{field}: got {got}, expected {expected}")
        self.field, self.value, self.expected = field, value, expected


class Untrusted(InvalidInput):
    """The server cannot be trusted: its certificate is not what the edge expects."""


class CutRefused(SplittracrError):
    """The named cut is not proven exact, or is below spec.model.exactness."""


class CaptureError(SplittracrError):
    """Neither torch.fx nor torch.export could capture the network as a graph."""


class ProtocolError(SplittracrError):
    """The peer sent something the protocol does not allow at this point."""


class HandshakeRefused(SplittracrError):
    """The peer refused the session and named the difference."""


class FrameFailed(SplittracrError):
    """One frame could not be finished; the next one may be."""


class Abandoned(SplittracrError):
    """A computation was abandoned: the other end had the result first."""


class AllFailed(SplittracrError):
    """The study recorded all its samples, and every one failed."""

    exit_code = ExitCode.ALL_FAILED


class Stopped(SplittracrError):
    """The study was stopped before its last frame."""


class LeftEarly(SplittracrError):
    """The user's code called sys.exit, or raised an exception that is no Exception."""


class ServerLost(SplittracrError):
    """There is no server that answers."""


def _plain(value: object) -> object:
    """The value as a user writes it, without the names of Python's enums."""
    match value:
        case Enum():
            return value.value
        case list():
            return [_plain(item) for item in value]
        case tuple():
            return tuple(_plain(item) for item in value)
        case dict():
            return {_plain(key): _plain(item) for key, item in value.items()}
    return value


def reason(error: BaseException) -> str:
    """One line for an exception: its text, with its type before it unless the text is enough.

    Errors of this project and of the operating system need no type.
    """
    text = _OBJECT.sub(r"\1", _SSL.sub("", " ".join(str(error).split())))
    if not text:
        return type(error).__name__
    if isinstance(error, SplittracrError | OSError):
        return text
    return f"{type(error).__name__}: {text}"


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Name `path` in errors of the operating system that name no file, such as those of writing."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


_SSL = re.compile(r" ssl:(<[^>]*>|\w+)")
"""What aiohttp puts into the text of an error: an object of Python's."""

_OBJECT = re.compile(r"<([\w.]+) object at 0x[0-9a-f]+>")


def of_system(error: OSError) -> str:
    """The reason, with the file if it is known: `No space left on device (out/records.jsonl)`."""
    what = why(error)
    return what if error.filename is None else f"{what} ({error.filename})"


def why(error: Exception) -> str:
    """The system's message for an error, without file and number; its own text if it has none."""
    return getattr(error, "strerror", None) or reason(error)


_NAMED = 3


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more: `a, b, c and 2 more`."""
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more


def similar(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names that look like `name`, closest first; often none."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.4)


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A phrase that lists the known names closest to `name`: "one of: a, b, c"."""
    names = sorted(known)
    close = similar(name, names, count) or names[:count]
    return "one of: " + ", ".join(close) + (", …" if len(names) > len(close) else "")
