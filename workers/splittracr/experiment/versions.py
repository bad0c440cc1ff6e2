"""Reading public files: `environment.json`, `summary.json`, records and profiles.

`schemaVersion` in a file counts the changes of all of them. Files of version 1 carry no number.
A reader accepts the version that it writes and the one before.
"""

from typing import Any, TypeVar

from pydantic_core import from_json

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.explain import validate
from splittracr.experiment.types import SCHEMA_KEY, SCHEMA_VERSION, Versioned

_PREVIOUS = SCHEMA_VERSION - 1
_UNNUMBERED = 1
_SHOWN = 60  # characters of a file that holds something else

V = TypeVar("V", bound=Versioned)


def parse(model: type[V], text: str | bytes, file: str, what: str) -> V:
    """The model in the text (JSON) of `file`, which may be of the previous version.

    `what` is the expected content. Raises InvalidInput with the name of the file: for another
    version with both versions, else with the wrong key.
    """
    try:
        content = from_json(text)
    except ValueError as error:
        raise _other(text, file, f"{what} (JSON: {error})") from error
    if not isinstance(content, dict):
        raise _other(text, file, what)
    current = _current(model, content, file)
    try:
        return validate(model, current, origin="")
    except InvalidInput as error:
        field = f"{error.field} of {file} ({what})" if error.field else file
        raise InvalidInput(field, error.value, error.expected) from error


def _current(model: type[V], content: dict[str, Any], file: str) -> dict[str, Any]:
    """The content with the keys of the current version."""
    found = content.get(SCHEMA_KEY, _UNNUMBERED)
    if found == SCHEMA_VERSION:
        return content
    if found == _PREVIOUS:
        return {**model.upgraded(content), SCHEMA_KEY: SCHEMA_VERSION}
    expected = f"version {SCHEMA_VERSION} or the previous one, {_PREVIOUS}"
    raise InvalidInput(f"{SCHEMA_KEY} of {file}", found, expected)


def _other(text: str | bytes, file: str, expected: str) -> InvalidInput:
    begins = text[:_SHOWN]
    return InvalidInput(
        file, begins.decode(errors="replace") if isinstance(begins, bytes) else begins, expected
    )
