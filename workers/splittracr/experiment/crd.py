"""The CustomResourceDefinition, made from the models of the manifest and of its status.

The API server wants a structural schema: every node has a type, nothing is referred to, and a
union is one object with rules (CEL) that say which keys go together. Rules and marks of the models
(`rules.py`, `marks.py`) become rules here. `make generate` writes the result to `crds/`.
"""

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from splittracr.experiment.marks import UNTIL_REPORT, Path, fixed, marked
from splittracr.experiment.spec import GROUP, KIND, LONGEST_NAME, VERSION, ExperimentSpec
from splittracr.experiment.status import ExperimentStatus
from splittracr.experiment.types import RULES_KEY

PLURAL = "splitexperiments"

Schema = dict[str, Any]

_COPIED = (
    "type",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
)
_RULE_KEYS = ("rule", "message", "messageExpression")
_READY_REASON = '.status.conditions[?(@.type=="Ready")].reason'


def definition() -> Schema:
    """The CustomResourceDefinition (apiextensions.k8s.io/v1)."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": _columns(),
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": "One split-computing study.",
                "required": ["spec"],
                RULES_KEY: [_named(), *_immutable()],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                    "spec": structural(ExperimentSpec),
                    # Before the operator has seen a study, kstatus reads it as in progress by this.
                    "status": structural(ExperimentStatus) | {"default": {"observedGeneration": 0}},
                },
            }
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            # Not in the category `all`: `kubectl delete all --all` clears a namespace of pods
            # and must not take the studies and their results along.
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["split", "splits"],
                "categories": ["splittracr"],
            },
            "versions": [version],
        },
    }


def text() -> str:
    """The definition as YAML."""
    return yaml.dump(definition(), Dumper=_Plain, sort_keys=False, width=100)


class _Plain(yaml.SafeDumper):
    """Writes a list that occurs twice in full, instead of an alias."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _named() -> Schema:
    return {
        "rule": f"!has(self.metadata.name) || size(self.metadata.name) <= {LONGEST_NAME}",
        "message": f"metadata.name has at most {LONGEST_NAME} characters",
    }


def _immutable() -> list[Schema]:
    """The rules by which fields that define a run stay fixed once the operator has started it.

    Fields with the mark LIVE may change while it runs. A wrong image or selector can be corrected
    until an edge has reported (UNTIL_REPORT).
    """
    return [
        *(_stays(*field, "startTime", "the study has started") for field in fixed(ExperimentSpec)),
        *(
            _stays(path, False, "progress", "an edge has reported")
            for path in marked(ExperimentSpec, UNTIL_REPORT)
        ),
    ]


def _stays(path: Path, optional: bool, sign: str, when: str) -> Schema:
    """The rule that a field is fixed once the status has `sign`."""
    field = ".".join(("spec", *path))
    return {
        "rule": f"!(has(oldSelf.status) && has(oldSelf.status.{sign})) || {_same(field, optional)}",
        "message": f"{field} stays as it is once {when}",
        "fieldPath": f".{field}",
    }


def _same(field: str, optional: bool) -> str:
    """The rule that a field has not changed; an optional one may be missing."""
    new, old = f"self.{field}", f"oldSelf.{field}"
    same = f"{new} == {old}"
    return f"has({new}) == has({old}) && (!has({new}) || {same})" if optional else same


def _columns() -> list[Schema]:
    def column(name: str, path: str, kind: str = "string", **more: object) -> Schema:
        return {"name": name, "type": kind, "jsonPath": path, **more}

    return [
        column("Model", ".spec.model.name"),
        column("Mode", ".spec.partition.mode"),
        column("State", ".status.state"),
        column("Cut", ".status.cut"),
        column("Progress", ".status.progress.summary"),
        column("P95", ".status.latency.p95"),
        column("Age", ".metadata.creationTimestamp", "date"),
        column("Nodes", ".status.placement", priority=1),
        column("Best Cut", ".status.bestCut.name", priority=1),
        column("Reason", _READY_REASON, priority=1),
    ]


def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of `model`.

    Raises TypeError if the model has a part without one, such as a union without a discriminator.
    """
    document = model.model_json_schema(by_alias=True)
    return _node(document, document.get("$defs", {}))


def _node(schema: Schema, definitions: Schema) -> Schema:
    schema = _resolved(schema, definitions)
    node: Schema = {}
    if "description" in schema:
        node["description"] = " ".join(schema["description"].split())
    node |= {key: schema[key] for key in _COPIED if key in schema}
    if "const" in schema:
        node["enum"] = [schema["const"]]
    if "discriminator" in schema:
        node |= _union(schema, definitions)
    elif "anyOf" in schema:
        node |= _number_or_text(schema["anyOf"])
    elif "properties" in schema:
        node |= _object(schema, definitions)
    elif isinstance(values := schema.get("additionalProperties"), dict):
        node["additionalProperties"] = _node(values, definitions)
    elif schema["type"] == "object":
        node["x-kubernetes-preserve-unknown-fields"] = True
    elif schema["type"] == "array":
        node["items"] = _items(schema, definitions)
    default = _default(schema, node)
    return node if default in (None, []) else node | {"default": default}


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    """`schema` without references and without "or null", which the API server drops by itself."""
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        return _resolved(target | _without(schema, "$ref"), definitions)
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) == 1:
        return _resolved(options[0] | _without(schema, "anyOf"), definitions)
    return schema | {"anyOf": options} if options else schema


def _object(schema: Schema, definitions: Schema) -> Schema:
    node: Schema = {"required": schema["required"]} if "required" in schema else {}
    node["properties"] = {
        name: _node(field, definitions) for name, field in schema["properties"].items()
    }
    if RULES_KEY in schema:
        node[RULES_KEY] = [  # pydantic sorts keys
            {key: rule[key] for key in _RULE_KEYS if key in rule} for rule in schema[RULES_KEY]
        ]
    return node


def _number_or_text(options: Sequence[Schema]) -> Schema:
    """The node of an integer or text, or of any number or text.

    The API server has a name for the former only. For the latter no node has a type, and all other
    types are refused one by one: no item and no key, and no value of `enum`.
    """
    bounds = {key: value for option in options for key, value in option.items() if key in _COPIED}
    limits = _without(bounds, "type")
    match sorted(option.get("type", "") for option in options):
        case ["integer", "string"]:
            return {"x-kubernetes-int-or-string": True} | limits
        case ["number", "string"]:
            others = {"maxItems": 0, "maxProperties": 0, "not": {"enum": [True, False, {}, []]}}
            return {"x-kubernetes-preserve-unknown-fields": True} | limits | others
    raise TypeError(f"no structural schema for the union {options}")


def _items(schema: Schema, definitions: Schema) -> Schema:
    kinds = [_node(item, definitions) for item in schema.get("prefixItems", [schema.get("items")])]
    if any(kind != kinds[0] for kind in kinds):
        raise TypeError(f"no structural schema for a tuple of different things: {kinds}")
    return kinds[0]


def _union(schema: Schema, definitions: Schema) -> Schema:
    """One object for all variants: the tag is required, rules tie the other keys to it.

    The variants' own defaults cannot be in the schema, since the API server would set them for
    every tag. The description states them, and the models fill them in.
    """
    tag = schema["discriminator"]["propertyName"]
    variants = {
        name: _node({"$ref": reference}, definitions)
        for name, reference in schema["discriminator"]["mapping"].items()
    }
    first = next(iter(variants.values()))["properties"][tag]
    properties: Schema = {tag: {**_without(first, "default"), "enum": list(variants)}}
    rules = []
    for name, variant in variants.items():
        for key, field in variant["properties"].items():
            if key == tag:
                continue
            if key in properties:
                raise TypeError(f"two variants of a union share the key {key}")
            properties[key] = _optional(field, f"{tag} {name}")
            required = key in variant.get("required", ())
            rules.append(_goes_with(key, tag, name, required=required))
    return {
        "type": "object",
        "required": [tag],
        "properties": properties,
        RULES_KEY: rules,
    }


def _optional(field: Schema, where: str) -> Schema:
    """A variant's field without its default, which moves to the description."""
    default = field.get("default")
    note = f"With {where} only" + ("." if default is None else f"; {default} if left out.")
    return _without(field, "default") | {"description": f"{field['description']} {note}"}


def _without(schema: Schema, name: str) -> Schema:
    return {key: value for key, value in schema.items() if key != name}


def _goes_with(key: str, tag: str, name: str, *, required: bool) -> Schema:
    if required:
        rule = f"(self.{tag} == '{name}') == has(self.{key})"
        return {"rule": rule, "message": f"{key} goes with {tag} {name}, and only with it"}
    rule = f"self.{tag} == '{name}' || !has(self.{key})"
    return {"rule": rule, "message": f"{key} goes with {tag} {name} only"}


def _default(schema: Schema, node: Schema) -> Any:
    """The field's default; of an object only the values that its own fields do not set.

    An object with rules has its whole default: the API server checks the rules on a default before
    it completes it.
    """
    default = schema.get("default")
    if not isinstance(default, dict):
        return default
    fields = node["properties"]
    return {
        key: value
        for key, value in _given(default).items()
        if value not in ({}, []) and (RULES_KEY in node or "default" not in fields[key])
    }


def _given(default: Schema) -> Schema:
    """A default without nulls, at any depth: the API server accepts none."""
    return {
        key: _given(value) if isinstance(value, dict) else value
        for key, value in default.items()
        if value is not None
    }
