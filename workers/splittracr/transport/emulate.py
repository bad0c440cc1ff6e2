"""Reads the emulated link of a manifest, with its trace from disk."""

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
    field = "spec.transport.link.trace"
    path = base / link.trace
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidInput(field, link.trace, f"a file of at most {_MAX_BYTES} bytes")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InvalidInput(field, str(path), f"a readable trace ({reason})") from error
    return conditions(link, direction, parse_trace(text, str(path)))
