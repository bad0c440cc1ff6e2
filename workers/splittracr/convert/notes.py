"""Outcomes for keys of tracr."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Fate(StrEnum):
    """The kind of outcome."""

    CARRIED = "Carried over"
    REPLACED = "Replaced"
    DROPPED = "Dropped"
    ADDED = "Not there, so that tracr's default counts"


@dataclass(frozen=True)
class Outcome:
    """What happens to a key: its fate, the fields it sets by their paths below `spec`, and why."""

    fate: Fate
    sets: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Note:
    """The outcome for one key, named as in `model.split_layer`, with its value."""

    key: str
    value: Any
    outcome: Outcome


def carried(path: str, value: Any, reason: str = "") -> Outcome:
    """The value is at `path` now."""
    return Outcome(Fate.CARRIED, {path: value}, reason)


def replaced(reason: str, **sets: Any) -> Outcome:
    """Something else replaces it; `sets` has fields with `__` for the dots in their paths."""
    return Outcome(
        Fate.REPLACED, {key.replace("__", "."): value for key, value in sets.items()}, reason
    )


def dropped(reason: str) -> Outcome:
    """Nothing replaces it."""
    return Outcome(Fate.DROPPED, reason=reason)
