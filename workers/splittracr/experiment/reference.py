"""The manifest's fields as a page, made from the same schema as the CustomResourceDefinition.

`make generate` writes it to `docs/manifest.md`.
"""

from collections.abc import Iterator
from typing import Any

from splittracr.experiment.crd import Schema, structural
from splittracr.experiment.spec import API_VERSION, KIND, ExperimentSpec
from splittracr.experiment.spec_values import PATTERNS

_INTRODUCTION = f"""\
# The manifest

A study is one YAML file of kind `{KIND}`. Its name, `spec.model.name` and what the
mode needs (`spec.partition.cut` for `Static`) are required; all other fields have defaults.

```yaml
apiVersion: {API_VERSION}
kind: {KIND}
metadata:
  name: first-study
spec:
  model:
    name: alexnet
  partition:
    cut: 5
```

Keys are camelCase, and names contain the unit. An unknown key is an error, and so is text in
place of a number. A key without a value counts as left out. On the command line
`--set spec.workload.samples=20` replaces a field.
"""


def markdown() -> str:
    """The page, in Markdown."""
    return "\n".join([_INTRODUCTION, *_section("spec", structural(ExperimentSpec))])


def _section(path: str, schema: Schema) -> Iterator[str]:
    """The fields of one object as a table, then its inner objects, each as a section."""
    fields = schema["properties"]
    inner = {name: field for name, field in fields.items() if "properties" in field}
    items = {
        name: field["items"]
        for name, field in fields.items()
        if "properties" in field.get("items", {})
    }
    yield from (f"## `{path}`", "", schema["description"], "")
    if len(inner) < len(fields):
        yield "| Field | Type | Default | Bounds | Meaning |"
        yield "|---|---|---|---|---|"
        required = schema.get("required", ())
        for name in (name for name in fields if name not in inner):
            yield _row(name, fields[name], required=name in required)
        yield ""
    rules = [rule["message"] for rule in schema.get("x-kubernetes-validations", ())]
    if rules:
        yield from (*(f"- {rule}" for rule in rules), "")
    for name, field in inner.items():
        yield from _section(f"{path}.{name}", field)
    for name, item in items.items():
        yield from _section(f"{path}.{name}[]", item)


def _row(name: str, field: Schema, *, required: bool) -> str:
    default = "required" if required else _code(field["default"]) if "default" in field else ""
    cells = (_code(name), _kind(field), default, _bounds(field), field.get("description", ""))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _kind(field: Schema) -> str:
    if "x-kubernetes-int-or-string" in field:
        return "integer or text"
    if "type" not in field:
        return "number or text"
    if field["type"] == "array":
        return f"list of {_kind(field['items'])}"
    kind: str = field["type"]
    return {"string": "text", "object": "mapping"}.get(kind, kind)


def _bounds(field: Schema) -> str:
    """The allowed values of a field, in words."""
    if "enum" in field:
        return ", ".join(_code(value) for value in field["enum"])
    if field.get("type") == "array":
        inner = _bounds(field["items"])
        return _range(field, "minItems", "maxItems", "items") + (f", each {inner}" if inner else "")
    if "pattern" in field:
        words = PATTERNS.get(field["pattern"], _code(field["pattern"]))
    else:
        words = _range(field, "minLength", "maxLength", "characters")
    both = (_range(field, "minimum", "maximum", ""), words)
    return " or ".join(text for text in both if text)


def _range(field: Schema, low: str, high: str, unit: str) -> str:
    if low not in field and high not in field:
        return ""
    if field.get(low) == field.get(high):
        return f"{field[low]} {unit}".rstrip()
    if low not in field:
        return f"up to {field[high]} {unit}".rstrip()
    return f"{field[low]} to {field[high]} {unit}".rstrip()


def _code(value: Any) -> str:
    return f"`{value}`"
