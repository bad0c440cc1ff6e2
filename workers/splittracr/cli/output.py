"""Standard output and standard error of the commands. An error of output never ends a command.

A study's results are files: a full device, a closed pipe or a terminal without a check mark must
not cost them. Output may contain text from file names, manifests and other machines, so control
characters in it are made visible.
"""

import codecs
import io
import os
import select
import sys
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from splittracr.results.visible import visible

PLAIN = "splittracr-plain"
"""The error handler of codecs that replaces what a terminal cannot show."""

_LOOKS_LIKE = {
    **dict(zip("✓✗×…–—−·µ“”‘’", "+xx.---.u\"\"''", strict=True)),
    **dict(zip("─━│┃╸╺", "--||--", strict=True)),
}

_ANY_LENGTH = 100_000  # columns

_failures: dict[int, OSError] = {}  # by file descriptor


def prepare() -> None:
    """Replace both streams, once, by ones that never raise. Streams of a test are left alone."""
    codecs.register_error(PLAIN, plain)
    for descriptor in (0, 1, 2):
        _keep_open(descriptor)
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _patient(1, sys.stdout)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _patient(2, sys.stderr)


def failure() -> OSError | None:
    """Why standard output is incomplete; None if it is complete or its reader has closed it."""
    if sys.stdout is not None:
        sys.stdout.flush()
    error = _failures.get(1)
    return None if isinstance(error, BrokenPipeError) else error


def console(*, stderr: bool = False) -> Console:
    """A console that does not interpret markup and shows control characters as symbols.

    A file or a pipe gets lines of any length, unless the variable COLUMNS limits them.
    """
    made = _Console(stderr=stderr, markup=False, emoji=False)
    if not (made.is_terminal or os.environ.get("COLUMNS")):
        made.width = _ANY_LENGTH
    return made


def complain(text: str) -> None:
    """Print an error on standard error."""
    console(stderr=True).print(Text.assemble(("Error", "bold red"), " ", text))


class _Console(Console):
    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)


def plain(error: UnicodeError) -> tuple[str, int]:
    """Replace letters that cannot be encoded by similar ASCII ones; an error handler of codecs."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_LOOKS_LIKE.get(letter, "?") for letter in letters), error.end


def _keep_open(descriptor: int) -> None:
    """Connect a closed descriptor to /dev/null, or the next file that is opened would get it."""
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)


def _patient(descriptor: int, stream: TextIO | None) -> TextIO:
    raw = _NeverRaising(descriptor)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),  # type: ignore[type-var]
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors=PLAIN,
        line_buffering=raw.isatty() or descriptor == 2,
        write_through=descriptor == 2,
    )


class _NeverRaising(io.RawIOBase):
    """Writes to a descriptor. After the first error it discards everything."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]
        size = memoryview(data).nbytes
        while self._descriptor not in _failures:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError as error:
                _failures[self._descriptor] = error
        return size
