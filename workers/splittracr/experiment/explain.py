"""One text for an error of pydantic: the path as written, the value, and the expectation."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import from_json

from splittracr.experiment.errors import InvalidInput, nearest
from splittracr.experiment.spec_values import PATTERNS, UNIONS

M = TypeVar("M", bound=BaseModel)


def parse_json(model: type[M], text: str | bytes, origin: str) -> M:
    """The model in a JSON text.

    Raises InvalidInput that names the first wrong field, or `origin` if the whole text is wrong.
    """
    try:
        data = from_json(text)
    except ValueError as error:
        raise InvalidInput(origin, short(text), f"JSON ({error})") from error
    return validate(model, data, origin)


def validate(
    model: type[M], data: Any, origin: str, options: Mapping[str, tuple[str, object]] | None = None
) -> M:
    """The model of `data`. Raises InvalidInput as `parse_json` does.

    `options` maps the beginning of a path to the option of a command that sets it, and the user's
    text there: the error shows these.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = explain(error, data, model, origin)
        set_by = (shown for path, shown in (options or {}).items() if found.field.startswith(path))
        field, value = next(set_by, (found.field, found.value))
        raise InvalidInput(field, value, found.expected) from error


def explain(error: ValidationError, data: Any, model: type[BaseModel], origin: str) -> InvalidInput:
    """The first problem that pydantic found in `data`; it has `origin` for all of the data."""
    problems = error.errors(include_url=False)
    # A misspelt key leaves its field missing, too; the error should be about the spelling.
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
        expected = " or ".join(dict.fromkeys(_expectation(p) for p in same))
    return InvalidInput(_join(path) or origin, short(problem["input"]), expected)


def _expectation(problem: Mapping[str, Any]) -> str:
    """The expectation behind `problem` of pydantic, as a phrase."""
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
    if problem["type"] == "string_type" and isinstance(problem["input"], bool | int | float):
        return "a valid string: put it in quotes"
    if phrase is None:
        return str(problem["msg"]).removeprefix("Input should be ")
    return phrase.format(**context)


def _written(location: Sequence[int | str], data: Any) -> list[int | str]:
    """The parts of pydantic's `location` that are keys or indices of `data`; its marks of variants
    are left out.
    """
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
        fields = fields_of(*models)
        if part in fields:
            models = models_in(fields[str(part)].annotation)
        elif isinstance(part, str):  # the tag of a variant; an index leads to the same models
            models = [m for m in models if part in _tags(m)] or models
    return list(fields_of(*models))


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """Tags of a variant of a union."""
    field = model.model_fields.get("mode")
    return get_args(field.annotation) if field else ()


def fields_of(*models: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of the models by their keys."""
    return {f.alias or name: f for model in models for name, f in model.model_fields.items()}


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field with this annotation may hold, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in models_in(inner)]


def short(value: object, limit: int = 80) -> object:
    """The value, or the beginning of its text if that is longer than `limit`."""
    text = value if isinstance(value, str) else repr(value)
    return value if len(text) <= limit else text[:limit] + "…"
