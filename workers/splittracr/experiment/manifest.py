"""Text to `SplitExperiment` and back. Reads no file: the caller has the text.

A manifest means the same here as at the API server: keys are camelCase, numbers are numbers (`"3"`
is text), a key without a value is a key left out, and a duplicate key is an error. Other objects in
the same text are ignored, so that a file may hold all objects of a study in a cluster.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from splittracr.experiment import document
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.explain import explain, fields_of, models_in, short
from splittracr.experiment.spec import KIND, SplitExperiment

MAX_VALUES = 100_000
MAX_DEPTH = 50

_OBJECT = "a mapping with apiVersion, kind and spec"
_TEMPLATE = re.compile(r"\{\{.*?\}\}")
"""An action of a Go template, as in the files of a Helm chart."""

M = TypeVar("M", bound=BaseModel)


def parse(text: str, overrides: Sequence[str] = (), origin: str = "manifest") -> SplitExperiment:
    """The study that `text` (YAML) describes, after `path=value` overrides.

    An override's value is YAML too, so `spec.workload.samples=3` is a number. Raises
    InvalidInput naming the first field that is wrong, or if there are several studies.
    """
    return parse_all(text, overrides, origin)[0]


def parse_all(
    text: str, overrides: Sequence[str] = (), origin: str = "manifest"
) -> tuple[SplitExperiment, tuple[str, ...]]:
    """As `parse`; also returns `kind name` of each object that is no study."""
    documents = _documents(text, origin)
    objects = [one for found in documents for one in _items(found, origin)]
    if not objects:
        raise InvalidInput(origin, nothing(text, documents), _OBJECT)
    for one in objects:
        if not isinstance(one, dict):
            raise InvalidInput(origin, short(one), _OBJECT)
    studies = [one for one in objects if one.get("kind") == KIND]
    if len(studies) > 1:
        names = ", ".join(str(_name(one)) for one in studies)
        raise InvalidInput(origin, f"{len(studies)} studies", f"one; they are {names}")
    if not studies:  # if there is one object, its own error is more precise
        studies = objects[:1]
        if len(objects) > 1:
            found = ", ".join(str(one.get("kind")) for one in objects)
            raise InvalidInput(origin, found, f"an object of kind {KIND}")
    data = studies[0]
    for override in overrides:
        _override(data, override)
    others = tuple(f"{one.get('kind')} {_name(one)}" for one in objects if one is not data)
    return from_object(data), others


def _items(found: Any, origin: str) -> list[Any]:
    """The objects in a document: those of a List, or itself."""
    if not isinstance(found, dict) or found.get("kind") != "List":
        return [found]
    items = found.get("items")
    if not isinstance(items, list | None):
        raise InvalidInput(f"items of {origin}", short(items), "a list of objects")
    return items or []


def nothing(text: str, documents: Sequence[Any] = ()) -> str:
    """A description of a text without any object."""
    if documents:
        return "a List without items"
    return "only comments and empty documents" if text.strip() else "an empty file"


def _name(data: Mapping[str, Any]) -> object:
    metadata = data.get("metadata")
    return metadata.get("name") if isinstance(metadata, dict) else None


def from_object(data: Mapping[str, Any]) -> SplitExperiment:
    """The study in an object as the API server hands it out; its status is left out.

    Raises InvalidInput naming the first field that is wrong.
    """
    kind = data.get("kind")
    if isinstance(kind, str) and kind != KIND:
        raise InvalidInput("kind", short(kind), KIND)
    _check_labels(data.get("metadata"))
    written = {key: value for key, value in data.items() if key != "status"}
    return _validate(SplitExperiment, written, "manifest")


def parse_as(model: type[M], text: str, origin: str) -> M:
    """Any closed model from YAML `text`, by the same rules as a manifest.

    Raises InvalidInput naming the first field that is wrong, or `origin` if it is the whole text.
    """
    data = load(text, origin)
    if not isinstance(data, dict):
        keys = ", ".join(fields_of(model))
        got = nothing(text) if data is None else short(data)
        raise InvalidInput(origin, got, f"a mapping with keys such as {keys}")
    return _validate(model, data, origin)


def _check_labels(metadata: Any) -> None:
    """Refuse what the API server refuses in the metadata that no run uses."""
    for key in ("labels", "annotations"):
        texts = metadata.get(key) if isinstance(metadata, dict) else None
        if not isinstance(texts, dict | None):
            raise InvalidInput(f"metadata.{key}", short(texts), "a mapping from text to text")
        for name, value in (texts or {}).items():
            if not isinstance(value, str):
                quotes = "" if isinstance(value, dict | list | None) else ": put it in quotes"
                expected = f"a valid string{quotes}"
                raise InvalidInput(f"metadata.{key}.{name}", short(value), expected)


def dump(experiment: SplitExperiment) -> str:
    """The manifest as YAML, every default written out."""
    return document.dump(experiment.model_dump(mode="json", by_alias=True, exclude_none=True))


# ------------------------------------------------------------------------------------- reading


def _validate(model: type[M], data: Mapping[str, Any], origin: str) -> M:
    plain = _without_nulls(data, [model])
    try:
        # By way of JSON: there a strict model takes a text for an enum, but not for a number.
        return model.model_validate_json(
            json.dumps(plain), strict=True, by_alias=True, by_name=False
        )
    except ValidationError as error:
        raise explain(error, plain, model, origin) from error


# What PyYAML lets through besides its own error: `0b_`, `!!int ""`, `!!bool x`, `[[[[[[...`.
_LOADING = (yaml.YAMLError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def _documents(text: str, origin: str) -> list[Any]:
    """The documents in `text`."""
    try:
        documents = list(document.load(text))
    except _LOADING as error:
        expected = f"YAML ({_problem(error)})"
        template = _TEMPLATE.search(text)
        if template is None:
            raise InvalidInput(origin, short(text), expected) from error
        expected += "; this looks like a Helm template, which `helm template` renders"
        raise InvalidInput(origin, short(template[0]), expected) from error
    for data in documents:
        _require_json(data, origin)
    return documents


def load(text: str, origin: str) -> Any:
    """The one value in `text`, as YAML by the rules of a manifest; nothing is null.

    Raises InvalidInput that names `origin`.
    """
    documents = _documents(text, origin)
    if len(documents) > 1:
        raise InvalidInput(origin, short(text), "one value")
    return documents[0] if documents else None


def _problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.MarkedYAMLError) and mark is not None:
        return f"line {mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())


def _require_json(data: Any, origin: str) -> None:
    """Refuse values that JSON cannot carry to the API server, and endless ones."""
    for seen, (path, value, depth) in enumerate(_values(data)):
        where = path.lstrip(".") or origin
        if seen > MAX_VALUES or depth > MAX_DEPTH:
            expected = f"at most {MAX_VALUES} values, nested at most {MAX_DEPTH} deep"
            raise InvalidInput(origin, "more", expected)
        if isinstance(value, dict):
            for key in value:
                _require_text(where, key, "a key that is text")
        elif isinstance(value, float) and not math.isfinite(value):
            raise InvalidInput(where, value, "a finite number")
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InvalidInput(where, "a huge integer", "an integer of at most 64 bits")
        elif not isinstance(value, list | float | int | None):
            _require_text(where, value, "text, a number, true, false, a list or a mapping")


def _values(data: Any) -> Iterator[tuple[str, Any, int]]:
    """Every value in `data` with its path and depth; endless if `data` contains itself."""
    waiting = [("", data, 0)]
    while waiting:
        path, value, depth = waiting.pop()
        yield path, value, depth
        if isinstance(value, dict):
            waiting += [(f"{path}.{key}", inner, depth + 1) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{path}[{at}]", inner, depth + 1) for at, inner in enumerate(value)]


def _require_text(where: str, value: object, expected: str) -> None:
    if not isinstance(value, str):
        raise InvalidInput(where, value, expected)
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise InvalidInput(where, value, "Unicode text without half surrogates")


def _without_nulls(data: Mapping[str, Any], models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """`data` without known keys that have no value; free parts stay as they are."""
    fields = fields_of(*models)

    def inner(key: str, value: Any) -> Any:
        if key in fields and isinstance(value, dict):
            return _without_nulls(value, models_in(fields[key].annotation))
        if isinstance(value, list):
            return [inner(key, item) if isinstance(item, dict) else item for item in value]
        return value

    return {
        key: inner(key, value)
        for key, value in data.items()
        if value is not None or key not in fields
    }


def _override(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InvalidInput("--set", override, "path=value, such as spec.workload.samples=20")
    target: Any = data
    for depth, key in enumerate(keys[:-1]):
        if target.get(key) is None:
            target[key] = {}
        target = target[key]
        if not isinstance(target, dict):
            inner = ".".join(keys[: depth + 1])
            raise InvalidInput(
                "--set", override, f"a mapping at {inner}, there is {short(target)!r}"
            )
    target[keys[-1]] = load(text, "--set")
