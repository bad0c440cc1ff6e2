"""Whether both ends have the same study and compute the same, and if not, the difference."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from splittracr.wire.messages import Identity, PartDigest, Summary

TOLERANCE = 0.01
"""Largest difference of two processors in the mean, mean size and rms of a tensor, relative to its
rms. One operation rounds by up to 6e-8 in float32, 5e-4 in TF32 and float16 and 4e-3 in bfloat16,
and that mostly cancels in means: between AVX-512 and no vector instructions ten networks differed
by 1e-6 at most in float32 and by 1.4e-3 in bfloat16. A smaller change of the code is found by its
source file only."""

_LONGEST = 64
_FIRST = ("network", "batch", "outputs")
_THEN = ("weights", "fingerprint", "settings")


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings by name as canonical JSON; a long value is there by its SHA-256."""
    return _canonical({name: _short(value) for name, value in settings.items()})


def parsed_settings(text: str) -> dict[str, Any]:
    """Settings by name; empty if the text of an unknown client is not JSON settings."""
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def difference(
    edge: Identity, server: Identity, ends: tuple[str, str] = ("the edge", "the server")
) -> str | None:
    """The difference of the two and both values, in words; None if they agree.

    Settings come first: the digests that follow differ because of them. Source files that differ
    are always named, since they may be the reason. `ends` name the two.
    """
    found = _first(edge, server, ends) or _behaviour(edge, server, ends)
    parts = [part for part in (found, _code(edge, server, ends)) if part]
    return "; ".join(parts) or None


def _first(edge: Identity, server: Identity, ends: tuple[str, str]) -> str | None:
    for name, theirs, ours in _compared(edge, server):
        if theirs != ours:
            return f"{name}: {ends[0]} has {theirs!r}, {ends[1]} {ours!r}"
    return None


def _compared(edge: Identity, server: Identity) -> Iterator[tuple[str, Any, Any]]:
    theirs, ours = parsed_settings(edge.settings), parsed_settings(server.settings)
    for name in ours:  # never the edge's own names: the refusal repeats them
        yield name, theirs.get(name), ours[name]
    for field in _FIRST:
        yield field, getattr(edge, field), getattr(server, field)
    for library, version in server.versions.items():
        yield f"version of {library}", edge.versions.get(library), version
    for field in _THEN:
        yield field, getattr(edge, field), getattr(server, field)


def _code(edge: Identity, server: Identity, ends: tuple[str, str]) -> str | None:
    """The source files that both ends use and that differ."""
    # A file of one end only is no difference: an edge's data set may import some.
    both = [name for name in server.code if name in edge.code]
    found = [name for name in both if edge.code[name] != server.code[name]]
    if not found:
        return None
    name, *more = found
    others = f" (and {len(more)} more file{'s' * (len(more) > 1)})" if more else ""
    return (
        f"source file {name}{others}: {ends[0]} has {edge.code[name]!r}, "
        f"{ends[1]} {server.code[name]!r}"
    )


def _behaviour(edge: Identity, server: Identity, ends: tuple[str, str]) -> str | None:
    """The first part of the network whose values differ."""
    exact = edge.processor == server.processor
    theirs = {part.name: part for part in edge.parts}
    for ours in server.parts:
        part = theirs.get(ours.name)
        if part is None:
            return f"{ours.name}: {ends[0]} did not compute it"
        if part.digest == ours.digest:
            continue
        if exact or (part.digest and ours.digest and not _agree(part, ours)):
            a, b = _shown(part, ours)
            return f"{ours.name}, computed from the same input: {ends[0]} has {a}, {ends[1]} {b}"
    return None


def _agree(one: PartDigest, other: PartDigest) -> bool:
    """Whether both may come from the same code on two processors."""
    return len(one.tensors) == len(other.tensors) and all(map(_close, one.tensors, other.tensors))


def _close(one: Summary, other: Summary) -> bool:
    if one.kind != other.kind:
        # The number of detections, for example, may depend on the last bit.
        return _without_sizes(one.kind) == _without_sizes(other.kind)
    largest = TOLERANCE * max(one.rms, other.rms)
    pairs = ((one.mean, other.mean), (one.size, other.size), (one.rms, other.rms))
    return all(abs(a - b) <= largest for a, b in pairs)


def _without_sizes(kind: str) -> str:
    return re.sub("[0-9]+(?=[],])", "", kind)


def _shown(one: PartDigest, other: PartDigest) -> tuple[str, str]:
    """Both values, as short as the difference allows."""
    for a, b in zip(one.tensors, other.tensors, strict=False):
        if a.kind != b.kind:
            return a.kind, b.kind
        if not _close(a, b):
            return _numbers(a), _numbers(b)
    return repr(one.digest), repr(other.digest)


def _numbers(summary: Summary) -> str:
    return f"{summary.kind} of mean {summary.mean:.6g} and rms {summary.rms:.6g}"


def _short(value: Any) -> Any:
    text = _canonical(value)
    if len(text) <= _LONGEST:
        return value
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
