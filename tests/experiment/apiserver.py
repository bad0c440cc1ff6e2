"""What an API server does with a custom object before it stores it, as far as its schema goes.

In this order: nulls are dropped, defaults are set, unknown keys are refused (kubectl asks for
that), types and bounds are checked as JSON schema, and the CEL rules are evaluated; those that
speak of `oldSelf` only at an update.
"""

import functools
from collections.abc import Iterator
from typing import Any

import celpy
import jsonschema
from celpy.adapter import json_to_cel
from celpy.celtypes import ListType, StringType

Schema = dict[str, Any]
# Made once and early: it raises the interpreter's recursion limit, which Hypothesis watches.
ENVIRONMENT = celpy.Environment()


class Refused(Exception):
    """The API server would not store the object."""


def admit(value: Any, schema: Schema, old: Any = None) -> Any:
    """`value` as it would be stored, in place of `old` if there is one; raises Refused.

    Only rules about the old value at the top are evaluated.
    """
    stored = defaulted(value, schema)
    for path, inner, node in _nodes(stored, schema):
        known = node.get("properties")
        unknown = set(inner) - set(known) if known and isinstance(inner, dict) else None
        if unknown:
            raise Refused(f"{path}: unknown keys {sorted(unknown)}")
    problem = next(jsonschema.Draft7Validator(_json_schema(schema)).iter_errors(stored), None)
    if problem is not None:
        raise Refused(f"{problem.json_path}: {problem.message}")
    for path, inner, node in _nodes(stored, schema):
        if node.get("x-kubernetes-list-type") == "map":
            keys = [
                tuple(item.get(key) for key in node["x-kubernetes-list-map-keys"]) for item in inner
            ]
            if len(set(keys)) < len(keys):
                raise Refused(f"{path}: Duplicate value")
        for rule in node.get("x-kubernetes-validations", ()):
            if "oldSelf" in rule["rule"] and old is None:
                continue
            if not holds(rule["rule"], inner, old):
                raise Refused(f"{path}: {_said(rule, inner)}")
    return stored


def holds(rule: str, value: Any, old: Any = None) -> bool:
    """Whether the CEL expression `rule` is true of `self`, the value, and of `oldSelf`."""
    names = {"self": json_to_cel(value), "oldSelf": json_to_cel(old)}
    return bool(_program(rule).evaluate(names))


def _said(rule: Schema, value: Any) -> str:
    """The message of a broken rule."""
    if "messageExpression" not in rule:
        return str(rule["message"])
    said = _program(rule["messageExpression"]).evaluate({"self": json_to_cel(value)})
    if not isinstance(said, str):  # the API server would use the message
        raise TypeError(f"{rule['messageExpression']}: {said!r} is no text")
    return said


@functools.cache
def _program(rule: str) -> celpy.Runner:
    return ENVIRONMENT.program(ENVIRONMENT.compile(rule), functions={"format": _format})


def _format(text: StringType, values: ListType) -> StringType:
    """CEL's `format`, which celpy does not have, of text alone."""
    return StringType(text % tuple(values))


def defaulted(value: Any, schema: Schema) -> Any:
    """The value without nulls and with the defaults of the schema, at any depth."""
    if isinstance(value, list) and "items" in schema:
        return [defaulted(item, schema["items"]) for item in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    known = schema["properties"]
    stored = {key: inner for key, inner in value.items() if inner is not None or key not in known}
    stored |= {k: f["default"] for k, f in known.items() if k not in stored and "default" in f}
    return {key: defaulted(inner, known.get(key, {})) for key, inner in stored.items()}


def _nodes(value: Any, schema: Schema, path: str = "") -> Iterator[tuple[str, Any, Schema]]:
    yield path, value, schema
    if isinstance(value, dict):
        for key, field in schema.get("properties", {}).items():
            if key in value:
                yield from _nodes(value[key], field, f"{path}.{key}")
    elif isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            yield from _nodes(item, schema["items"], f"{path}[{number}]")


def _json_schema(schema: Schema) -> Schema:
    """`schema` in words that a JSON schema validator knows."""
    node = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if "x-kubernetes-int-or-string" in schema:
        node["type"] = ["integer", "string"]
    if "pattern" in node:  # Python's $ also matches before a last line break, Go's does not
        node["pattern"] = node["pattern"].replace("$", r"\Z")
    if "properties" in node:
        node["properties"] = {k: _json_schema(f) for k, f in node["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in node:
            node[key] = _json_schema(node[key])
    return node
