"""Checks of tracr's values: each returns None, or the expectation as a phrase."""

from collections.abc import Callable
from typing import Any

Check = Callable[[Any], str | None]

MAX_TEXT = 200
MAX_NAME = 100
MAX_PATH = 2000


def text(longest: int = MAX_TEXT) -> Check:
    """Text in one line that is not empty."""

    def check(value: Any) -> str | None:
        fits = isinstance(value, str) and value.strip() and value.isprintable()
        if fits and len(value) <= longest:
            return None
        return f"text of 1 to {longest} characters, in one line"

    return check


def integer(low: int, high: int) -> Check:
    """An integer from `low` to `high`."""

    def check(value: Any) -> str | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return None if fits else f"an integer from {low} to {high}"

    return check


def number(low: float, high: float) -> Check:
    """A number from `low` to `high`."""

    def check(value: Any) -> str | None:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        return None if fits and low <= value <= high else f"a number from {low:g} to {high:g}"

    return check


def boolean(value: Any) -> str | None:
    """True or false."""
    return None if isinstance(value, bool) else "true or false"


def identifier(value: Any) -> str | None:
    """A name in Python."""
    fits = isinstance(value, str) and value.isascii() and value.isidentifier()
    return None if fits and len(value) <= MAX_NAME else "a name in Python"


def word(*known: str) -> Check:
    """One of some words, in any case."""

    def check(value: Any) -> str | None:
        fits = isinstance(value, str) and value.lower() in {one.lower() for one in known}
        return None if fits else "one of " + ", ".join(known)

    return check


def either(*inner: Check) -> Check:
    """A value that passes one of the checks."""

    def check(value: Any) -> str | None:
        expected = [one(value) for one in inner]
        return None if None in expected else " or ".join(map(str, expected))

    return check


def listed(inner: Check, what: str, min_items: int = 0, max_items: int = 100_000) -> Check:
    """A list of values that pass `inner`; `what` describes it."""

    def check(value: Any) -> str | None:
        fits = isinstance(value, list) and min_items <= len(value) <= max_items
        return None if fits and not any(map(inner, value)) else what

    return check


def mapping(value: Any) -> str | None:
    """A mapping."""
    return None if isinstance(value, dict) else "a mapping"
