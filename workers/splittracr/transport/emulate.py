"""Reads the emulated link of a manifest, with its trace from disk."""

import hashlib
from pathlib import Path

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import LinkSpec
from splittracr.planning.emulated_link import Conditions
from splittracr.planning.emulation import Direction, conditions
from splittracr.planning.traces import parse_trace

_MAX_BYTES = 2**26


def sender_conditions(link: LinkSpec | None, direction: Direction, base: Path) -> Conditions | None:
    """Return the conditions of the emulated link from this end; None if no link is emulated.

    A trace's relative path starts at `base`. Raises InvalidInput if it cannot be read.
    """
    if link is None:
        return None
    if link.trace is None:
        return conditions(link, direction)
    return conditions(link, direction, parse_trace(*_read(link.trace, base)))


def trace_digest(link: LinkSpec | None, base: Path) -> str | None:
    """Return a digest of the trace's content; None without a trace. Raises as the above."""
    if link is None or link.trace is None:
        return None
    text, _ = _read(link.trace, base)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _read(trace: str, base: Path) -> tuple[str, str]:
    """The text of a trace and its path."""
    field = "spec.transport.link.trace"
    path = base / trace
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidInput(field, trace, f"a file of at most {_MAX_BYTES} bytes")
        return path.read_text("utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InvalidInput(field, str(path), f"a readable trace ({reason})") from error
