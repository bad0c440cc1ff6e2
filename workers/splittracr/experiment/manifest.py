"""Text to `SplitExperiment` and back. Reads no file: the caller has the text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from splittracr.experiment.errors import InvalidInput, nearest
from splittracr.experiment.spec import SplitExperiment

_TAGS = re.compile(r"^(Closed|Open|int|constrained-str|function-.*)$")


def parse(text: str, overrides: Sequence[str] = (), origin: str = "manifest") -> SplitExperiment:
    """The study that `text` (YAML) describes, after `path=value` overrides.

    An override's value is YAML too, so `spec.workload.samples=3` is a number. Raises
    InvalidInput naming the first field that is wrong.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput(origin, _short(text), f"YAML ({_one_line(error)})") from error
    if not isinstance(data, dict):
        raise InvalidInput(origin, _short(data), "a mapping with apiVersion, kind and spec")
    for override in overrides:
        _override(data, override)
    data.pop("status", None)
    try:
        return SplitExperiment.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as error:
        raise _explain(error, data) from error


def dump(experiment: SplitExperiment) -> str:
    """The manifest as YAML, every default written out."""
    return yaml.safe_dump(
        experiment.model_dump(mode="json", by_alias=True, exclude_none=True), sort_keys=False
    )


def _override(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InvalidInput("--set", override, "path=value, such as spec.workload.samples=20")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput("--set", override, f"a YAML value ({_one_line(error)})") from error
    target: Any = data
    for depth, key in enumerate(keys[:-1]):
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            inner = ".".join(keys[: depth + 1])
            raise InvalidInput("--set", override, f"a mapping at {inner}, there is {target!r}")
    target[keys[-1]] = value


def _explain(error: ValidationError, data: Mapping[str, Any]) -> InvalidInput:
    """The first problem in the words of this project: path as written, value, expectation."""
    problem = error.errors(include_url=False)[0]
    path = [part for part in problem["loc"] if not _TAGS.match(str(part))]
    field = ".".join(str(part) for part in path) or "manifest"
    match problem["type"]:
        case "extra_forbidden":
            known = _keys_at(path[:-1])
            return InvalidInput(field, path[-1], f"a known key, {nearest(str(path[-1]), known)}")
        case "missing":
            return InvalidInput(field, None, "a value, the field is required")
        case "value_error":
            return InvalidInput(
                field, _short(problem["input"]), str(problem["ctx"]["error"])
            )
        case "enum" | "literal_error":
            return InvalidInput(field, problem["input"], f"one of {problem['ctx']['expected']}")
        case _:
            text = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            return InvalidInput(field, _short(problem["input"]), text)


def _keys_at(path: Sequence[Any]) -> list[str]:
    """Names of the fields of the model at `path`, found by walking the models' annotations."""
    model: Any = SplitExperiment
    for part in path:
        field = next(
            (f for n, f in model.model_fields.items() if part in (f.alias, n)), None
        )
        options = getattr(field and field.annotation, "__args__", None) or (
            field and field.annotation,
        )
        found = [o for o in options if hasattr(o, "model_fields")]
        if not found:
            return []
        model = found[0]
    return [f.alias or n for n, f in model.model_fields.items()]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _short(value: object, limit: int = 80) -> object:
    text = value if isinstance(value, str) else repr(value)
    return value if len(text) <= limit else text[:limit] + "…"
