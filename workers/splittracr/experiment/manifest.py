"""Text to `SplitExperiment` and back. Reads no file: the caller has the text.

A manifest means here what it means to the API server: keys are camelCase, numbers are numbers
(`"3"` is text), a key without a value is a key left out, and a key twice is an error.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from splittracr.experiment.errors import InvalidInput, nearest
from splittracr.experiment.spec import PATTERNS, UNIONS, SplitExperiment

MAX_VALUES = 100_000
MAX_DEPTH = 50

M = TypeVar("M", bound=BaseModel)


def parse(text: str, overrides: Sequence[str] = (), origin: str = "manifest") -> SplitExperiment:
    """The study that `text` (YAML) describes, after `path=value` overrides.

    An override's value is YAML too, so `spec.workload.samples=3` is a number. Raises
    InvalidInput naming the first field that is wrong.
    """
    data = _load(text, origin)
    if not isinstance(data, dict):
        raise InvalidInput(origin, _short(data), "a mapping with apiVersion, kind and spec")
    for override in overrides:
        _override(data, override)
    return from_object(data)


def from_object(data: Mapping[str, Any]) -> SplitExperiment:
    """The study in an object as the API server hands it out; its status is left out.

    Raises InvalidInput naming the first field that is wrong.
    """
    written = {key: value for key, value in data.items() if key != "status"}
    return _validate(SplitExperiment, written, "manifest")


def parse_as(model: type[M], text: str, origin: str) -> M:
    """Any closed model from YAML `text`, by the same rules as a manifest.

    Raises InvalidInput naming the first field that is wrong, or `origin` if it is the whole text.
    """
    data = _load(text, origin)
    if not isinstance(data, dict):
        keys = ", ".join(_fields([model]))
        raise InvalidInput(origin, _short(data), f"a mapping with keys such as {keys}")
    return _validate(model, data, origin)


def dump(experiment: SplitExperiment) -> str:
    """The manifest as YAML, every default written out."""
    return yaml.safe_dump(
        experiment.model_dump(mode="json", by_alias=True, exclude_none=True), sort_keys=False
    )


# ------------------------------------------------------------------------------------- reading


def _validate(model: type[M], data: Mapping[str, Any], origin: str) -> M:
    plain = _without_nulls(data, [model])
    try:
        # By way of JSON: there a strict model takes a text for an enum, but not for a number.
        return model.model_validate_json(
            json.dumps(plain), strict=True, by_alias=True, by_name=False
        )
    except ValidationError as error:
        raise _explain(error, plain, model, origin) from error


class _Loader(yaml.SafeLoader):
    """YAML as kubectl reads it: dates stay text and a key may stand only once."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                problem = f"the key {key.value!r} stands there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add((key.tag, str(key.value)))
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# What PyYAML lets through besides its own error: `0b_`, `!!int ""`, `!!bool x`, `[[[[[[...`.
_LOADING = (yaml.YAMLError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def _load(text: str, origin: str) -> Any:
    try:
        data = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except _LOADING as error:
        raise InvalidInput(origin, _short(text), f"YAML ({_problem(error)})") from error
    _require_json(data, origin)
    return data


def _problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.MarkedYAMLError) and mark is not None:
        return f"line {mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())


def _require_json(data: Any, origin: str) -> None:
    """Refuse what JSON cannot carry to the API server, and what would never end."""
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
    """Every value in `data` with its path and depth; without end where `data` holds itself."""
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
    """`data` less the known keys that stand there without a value; what is free stays as it is."""
    fields = _fields(models)

    def inner(key: str, value: Any) -> Any:
        if key in fields and isinstance(value, dict):
            return _without_nulls(value, _models_in(fields[key].annotation))
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
                "--set", override, f"a mapping at {inner}, there is {_short(target)!r}"
            )
    target[keys[-1]] = _load(text, "--set")


# ----------------------------------------------------------------------------------- explaining


def _explain(
    error: ValidationError, data: Mapping[str, Any], model: type[BaseModel], origin: str
) -> InvalidInput:
    """The first problem in the words of this project: path as written, value, expectation."""
    problems = error.errors(include_url=False)
    # A misspelt key leaves its field missing too; the spelling is what the user wants to hear of.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    location = problem["loc"]
    path = _written(location, data)
    match problem["type"]:
        case "extra_forbidden":
            key = str(location[-1])
            expected = f"a known key, {nearest(key, _keys_at(model, location[:-1]))}"
            return InvalidInput(_join(path), key, expected)
        case "missing":
            return InvalidInput(_join([*path, location[-1]]), None, "a value, it is required")
        case "union_tag_not_found":
            return InvalidInput(_join([*path, "mode"]), None, "a value, it is required")
        case "union_tag_invalid":
            expected = f"one of {problem['ctx']['expected_tags']}"
            return InvalidInput(_join([*path, "mode"]), problem["ctx"]["tag"], expected)
    # A value that fits no part of a union has a problem with each of them.
    same = [p for p in problems if _written(p["loc"], data) == path]
    field = next((part for part in reversed(path) if isinstance(part, str)), "")
    if len(same) > 1 and field in UNIONS:
        expected = UNIONS[field]
    else:
        expected = " or ".join(dict.fromkeys(expectation(p) for p in same))
    return InvalidInput(_join(path) or origin, _short(problem["input"]), expected)


def expectation(problem: Mapping[str, Any]) -> str:
    """What was expected where pydantic found `problem`, as a phrase."""
    context = problem.get("ctx", {})
    phrases = {
        "enum": "one of {expected}",
        "literal_error": "{expected}",
        "greater_than_equal": "a number of at least {ge}",
        "less_than_equal": "a number of at most {le}",
        "string_too_short": "text that is not empty",
        "string_too_long": "text of at most {max_length} characters",
        "too_short": "a list of at least {min_length}",
        "too_long": "a list of at most {max_length}",
        "value_error": "that {error}",
    }
    if problem["type"] == "string_pattern_mismatch":
        return PATTERNS.get(context["pattern"], f"text that matches {context['pattern']}")
    phrase = phrases.get(problem["type"])
    if phrase is None:
        return str(problem["msg"]).removeprefix("Input should be ")
    return phrase.format(**context)


def _written(location: Sequence[int | str], data: Any) -> list[int | str]:
    """The parts of pydantic's `location` that lead through `data`; its marks of variants do not."""
    path: list[int | str] = []
    for part in location:
        known = dict(enumerate(data)) if isinstance(data, list) else data
        if isinstance(known, dict) and part in known:
            path.append(part)
            data = known[part]
    return path


def _join(path: Sequence[int | str]) -> str:
    """`spec.partition.cuts[1]`."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")


def _keys_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Names of the fields of the model at pydantic's `location` in `model`."""
    models: list[type[BaseModel]] = [model]
    for part in location:
        fields = _fields(models)
        if part in fields:
            models = _models_in(fields[str(part)].annotation)
        elif isinstance(part, str):  # the tag of a variant; an index leads to the same models
            models = [m for m in models if part in get_args(m.model_fields["mode"].annotation)]
    return list(_fields(models))


def _fields(models: Sequence[type[BaseModel]]) -> dict[str, FieldInfo]:
    """The fields of the models by their names in a manifest."""
    return {f.alias or name: f for model in models for name, f in model.model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def _short(value: object, limit: int = 80) -> object:
    text = value if isinstance(value, str) else repr(value)
    return value if len(text) <= limit else text[:limit] + "…"
