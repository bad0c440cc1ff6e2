"""The CustomResourceDefinition, made from the models of the manifest and of its status.

The API server wants a structural schema: every node has a type, nothing is referred to, and a
union is one object with rules (CEL) that say which keys go together. The rules here are the
models' validators once more, with the same words. `make generate` writes the result to `crds/`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from splittracr.experiment.pods import (
    CONTAINERS,
    ONE_SOURCE,
    OWN_CONTAINER,
    OWN_KEYS,
    OWN_MOUNT,
    OWN_VOLUME,
    RESERVED_KEYS,
    RESERVED_PATH,
    VOLUMES,
    InitContainer,
    PodSpec,
    Volume,
    VolumeMount,
)
from splittracr.experiment.rules import Rule
from splittracr.experiment.spec import (
    ADAPTIVE_DECIDES,
    ADAPTIVE_NEEDS_ADAPTIVE,
    BANDIT_LEARNS_LATENCY,
    CLASS_NEEDS_CLASS,
    CUT_NEEDS_STATIC,
    CUTS_NEED_SWEEP,
    ENERGY_NEEDS_WATTS,
    GROUP,
    HEDGE_COMPUTES_TWICE,
    KIND,
    LONGEST_NAME,
    ONE_LINK,
    PATH_NEEDS_FOLDER,
    SOME_RATE,
    VERSION,
    WEIGHTS_NEED_WEIGHTED,
    WHOLE_BATCHES,
    AdaptiveSpec,
    DatasetSpec,
    EdgeSpec,
    ExperimentSpec,
    LinkSpec,
    PartitionSpec,
    ServerSpec,
    WorkloadSpec,
)
from splittracr.experiment.status import ExperimentStatus

PLURAL = "splitexperiments"

Schema = dict[str, Any]

RULES: Mapping[str, Sequence[tuple[str, Rule]]] = {
    DatasetSpec.__name__: (
        ("(self.source in ['Folder', 'LabelledFolder']) == has(self.path)", PATH_NEEDS_FOLDER),
        ("(self.source == 'Class') == has(self.class)", CLASS_NEEDS_CLASS),
    ),
    LinkSpec.__name__: (
        (
            "(has(self.uplinkKilobitsPerSecond) && has(self.downlinkKilobitsPerSecond) ? 1 : "
            "has(self.uplinkKilobitsPerSecond) || has(self.downlinkKilobitsPerSecond) ? 2 : 0) + "
            "(has(self.trace) ? 1 : 0) + "
            "(has(self.phases) && size(self.phases) > 0 ? 1 : 0) == 1",
            ONE_LINK,
        ),
        (
            "!has(self.phases) || size(self.phases) == 0 || "
            "(self.phases.exists(p, p.uplinkKilobitsPerSecond > 0) && "
            "self.phases.exists(p, p.downlinkKilobitsPerSecond > 0))",
            SOME_RATE,
        ),
    ),
    PartitionSpec.__name__: (
        ("(self.mode == 'Static') == has(self.cut)", CUT_NEEDS_STATIC),
        (
            "self.mode in ['Sweep', 'Adaptive'] || !has(self.cuts) || size(self.cuts) == 0",
            CUTS_NEED_SWEEP,
        ),
        ("self.mode == 'Adaptive' || !has(self.adaptive)", ADAPTIVE_NEEDS_ADAPTIVE),
        (
            "self.mode != 'Adaptive' || "
            "(!has(self.deadlineMilliseconds) && !has(self.hedgeDelayMilliseconds))",
            ADAPTIVE_DECIDES,
        ),
    ),
    AdaptiveSpec.__name__: (
        (
            "(self.objective == 'Weighted') == "
            "(self.latencyWeight > 0 || self.throughputWeight > 0 || self.energyWeight > 0)",
            WEIGHTS_NEED_WEIGHTED,
        ),
        (
            "(self.objective != 'Energy' && self.energyWeight == 0) || "
            "(has(self.computeMilliwatts) && has(self.transmitMilliwatts))",
            ENERGY_NEEDS_WATTS,
        ),
        (
            "self.policy != 'Hedge' || (self.objective != 'Energy' && self.energyWeight == 0)",
            HEDGE_COMPUTES_TWICE,
        ),
        ("self.policy != 'Bandit' || self.objective == 'Latency'", BANDIT_LEARNS_LATENCY),
    ),
    Volume.__name__: (
        (
            "[has(self.persistentVolumeClaim), has(self.configMap), has(self.secret), "
            "has(self.emptyDir), has(self.nfs)].exists_one(there, there)",
            ONE_SOURCE,
        ),
        (f"!(self.name in {list(VOLUMES)})", OWN_VOLUME),
    ),
    VolumeMount.__name__: ((f"!self.mountPath.matches('{RESERVED_PATH}')", OWN_MOUNT),),
    InitContainer.__name__: ((f"!(self.name in {list(CONTAINERS)})", OWN_CONTAINER),),
    PodSpec.__name__: (
        (
            " && ".join(
                f"(!has(self.{field}) || "
                f"self.{field}.all(key, !key.startsWith('{RESERVED_KEYS[0]}') && "
                f"!key.startsWith('{RESERVED_KEYS[1]}')))"
                for field in ("labels", "annotations")
            ),
            OWN_KEYS,
        ),
    ),
    WorkloadSpec.__name__: (
        ("!has(self.samples) || self.samples % self.batchSize == 0", WHOLE_BATCHES),
    ),
}
"""Rules in CEL and in words, by the name of the model whose validator says the same."""

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
_DEFINING = ("model", "dataset", "postprocess", "workload", "results")
_DEFINING_PARTITION = ("mode", "cuts", "maxCuts", "repeats", "seed", "adaptive", "onServerLoss")
_DEFINING_TRANSPORT = (
    "security",
    "connectTimeoutSeconds",
    "heartbeatSeconds",
    "maxMessageMebibytes",
    "link",
)
_DEFINING_WORKERS = {
    role: [field.alias or name for name, field in model.model_fields.items() if name != "pod"]
    for role, model in (("edge", EdgeSpec), ("server", ServerSpec))
}
_OPTIONAL = {"cuts", "adaptive", "onServerLoss", "link"}
_READY_REASON = '.status.conditions[?(@.type=="Ready")].reason'


def definition() -> Schema:
    """The whole CustomResourceDefinition (apiextensions.k8s.io/v1)."""
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
                "x-kubernetes-validations": [_named(), *_immutable()],
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
    """Writes the same list twice where it stands twice, instead of an alias."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _named() -> Schema:
    return {
        "rule": f"!has(self.metadata.name) || size(self.metadata.name) <= {LONGEST_NAME}",
        "message": f"metadata.name has at most {LONGEST_NAME} characters",
    }


def _immutable() -> list[Schema]:
    """What defines a run stays as it is once the operator has started it.

    The cut, the codecs, deadlines and suspension may change while it runs; a wrong image or
    selector can be put right as long as no edge has come so far as to report.
    """
    fields = [f"spec.{name}" for name in _DEFINING]
    fields += [f"spec.partition.{name}" for name in _DEFINING_PARTITION]
    fields += [f"spec.transport.{name}" for name in _DEFINING_TRANSPORT]
    fields += [f"spec.{role}.{name}" for role, names in _DEFINING_WORKERS.items() for name in names]
    pods = [f"spec.{role}.pod" for role in _DEFINING_WORKERS]
    return [
        *(_stays(field, "startTime", "the study has started") for field in fields),
        *(_stays(field, "progress", "an edge has reported") for field in pods),
    ]


def _stays(field: str, sign: str, when: str) -> Schema:
    """The rule that a field is fixed once the status has `sign`."""
    return {
        "rule": f"!(has(oldSelf.status) && has(oldSelf.status.{sign})) || {_same(field)}",
        "message": f"{field} stays as it is once {when}",
        "fieldPath": f".{field}",
    }


def _same(field: str) -> str:
    """The rule that a field has not changed; an optional one may be missing."""
    new, old = f"self.{field}", f"oldSelf.{field}"
    same = f"{new} == {old}"
    if field.rpartition(".")[2] not in _OPTIONAL:
        return same
    return f"has({new}) == has({old}) && (!has({new}) || {same})"


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

    Raises TypeError where the model holds something that has none, such as a union without a
    discriminator.
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
        node |= _int_or_string(schema["anyOf"])
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
    if schema["title"] in RULES:
        node["x-kubernetes-validations"] = [
            _validation(cel, rule) for cel, rule in RULES[schema["title"]]
        ]
    return node


def _validation(cel: str, rule: Rule) -> Schema:
    """A rule; its message shows no values only where the expression that does cannot be used."""
    made = {"rule": cel, "message": rule.text}
    return made if rule.expression is None else made | {"messageExpression": rule.expression}


def _int_or_string(options: Sequence[Schema]) -> Schema:
    if sorted(option.get("type", "") for option in options) != ["integer", "string"]:
        raise TypeError(f"no structural schema for the union {options}")
    bounds = {key: value for option in options for key, value in option.items() if key in _COPIED}
    return {"x-kubernetes-int-or-string": True} | _without(bounds, "type")


def _items(schema: Schema, definitions: Schema) -> Schema:
    kinds = [_node(item, definitions) for item in schema.get("prefixItems", [schema.get("items")])]
    if any(kind != kinds[0] for kind in kinds):
        raise TypeError(f"no structural schema for a tuple of different things: {kinds}")
    return kinds[0]


def _union(schema: Schema, definitions: Schema) -> Schema:
    """One object for all variants: the tag is required, rules tie the other keys to it.

    The variants' own defaults cannot stand in the schema, the API server would set them for
    every tag; they are told in the description and the models fill them in.
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
        "x-kubernetes-validations": rules,
    }


def _optional(field: Schema, where: str) -> Schema:
    """A variant's field without its default, which moves to the description."""
    default = field.get("default")
    told = f"With {where} only" + ("." if default is None else f"; {default} where left out.")
    return _without(field, "default") | {"description": f"{field['description']} {told}"}


def _without(schema: Schema, name: str) -> Schema:
    return {key: value for key, value in schema.items() if key != name}


def _goes_with(key: str, tag: str, name: str, *, required: bool) -> Schema:
    if required:
        rule = f"(self.{tag} == '{name}') == has(self.{key})"
        return {"rule": rule, "message": f"{key} goes with {tag} {name}, and only with it"}
    rule = f"self.{tag} == '{name}' || !has(self.{key})"
    return {"rule": rule, "message": f"{key} goes with {tag} {name} only"}


def _default(schema: Schema, node: Schema) -> Any:
    """The field's default; of an object only what its own fields do not set by themselves.

    An object with rules has its whole default: the API server holds the rules against a default
    before it completes it.
    """
    default = schema.get("default")
    if not isinstance(default, dict):
        return default
    fields = node["properties"]
    return {
        key: value
        for key, value in _given(default).items()
        if value not in ({}, [])
        and ("x-kubernetes-validations" in node or "default" not in fields[key])
    }


def _given(default: Schema) -> Schema:
    """A default without nulls, at any depth: the API server takes none."""
    return {
        key: _given(value) if isinstance(value, dict) else value
        for key, value in default.items()
        if value is not None
    }
