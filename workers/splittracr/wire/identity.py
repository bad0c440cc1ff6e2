"""Whether both ends mean the same study, and what differs where they do not."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from splittracr.wire.messages import Identity

_LONGEST = 64


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings by name as canonical JSON; a long value is there by its SHA-256."""
    return _canonical({name: _short(value) for name, value in settings.items()})


def difference(edge: Identity, server: Identity) -> str | None:
    """What the two differ in and what each has, in words; None where they agree.

    Settings come first: the digests that follow differ because of them.
    """
    for name, theirs, ours in _compared(edge, server):
        if theirs != ours:
            return f"{name}: the edge has {theirs!r}, the server {ours!r}"
    return None


def _compared(edge: Identity, server: Identity) -> Iterator[tuple[str, Any, Any]]:
    theirs, ours = _parsed(edge.settings), _parsed(server.settings)
    for name in ours:  # never the edge's own names: whoever refuses repeats them
        yield name, theirs.get(name), ours[name]
    for field in Identity.__struct_fields__:
        yield field, getattr(edge, field), getattr(server, field)


def _parsed(text: str) -> dict[str, Any]:
    """Settings by name; none where a stranger's text is something else."""
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _short(value: Any) -> Any:
    text = _canonical(value)
    if len(text) <= _LONGEST:
        return value
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
