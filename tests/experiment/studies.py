"""Manifests as data: a small valid one, and strategies that draw valid and spoilt ones."""

import copy
import functools
import operator
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from splittracr.experiment.crd import Schema, structural
from splittracr.experiment.spec import ExperimentSpec
from tests.experiment.apiserver import defaulted, holds

MINIMAL: dict[str, Any] = {
    "apiVersion": "splittracr.io/v1alpha1",
    "kind": "SplitExperiment",
    "metadata": {"name": "study"},
    "spec": {"model": {"name": "alexnet"}, "partition": {"cut": 3}},
}
FULL: dict[str, Any] = {
    **MINIMAL,
    "spec": {
        "model": {"name": "alexnet", "inputSize": [224, 160], "args": {"deep": [None, 1.5]}},
        "dataset": {"source": "Folder", "path": "pictures"},
        "postprocess": {"topK": 3},
        "partition": {"mode": "Sweep", "cuts": [0, "relu", 7]},
        "transport": {
            "heartbeatSeconds": 5,
            "security": "Plain",
            "link": {
                "phases": [
                    {
                        "durationSeconds": 3,
                        "uplinkKilobitsPerSecond": 5000,
                        "downlinkKilobitsPerSecond": 20000,
                    }
                ],
                "uplinkPercent": 30,
                "roundTripMilliseconds": 40,
            },
        },
        "workload": {
            "samples": 4,
            "arrival": {"mode": "Open", "framesPerMinute": 60, "process": "Poisson"},
        },
        "edge": {"device": "cpu", "replicas": 3},
        "server": {
            "device": "cuda:1",
            "pod": {
                "image": "registry.example/server:1",
                "nodeSelector": {"gpu": "yes"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {}},
                "runtimeClassName": "nvidia",
                "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "4Gi"}},
                "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {}}}],
                "labels": {"team": "vision"},
                "annotations": {"sidecar.istio.io/inject": "true"},
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone"}],
                "terminationGracePeriodSeconds": 5,
                "securityContext": {"runAsUser": 1234, "supplementalGroups": [5, 6]},
                "containerSecurityContext": {"readOnlyRootFilesystem": False},
                "initContainers": [
                    {
                        "name": "fetch",
                        "command": ["fetch"],
                        "restartPolicy": "Always",
                        "startupProbe": {"exec": {"command": ["ready"]}},
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    }
                ],
                "volumes": [
                    {"name": "data", "emptyDir": {}},
                    {"name": "key", "secret": {"secretName": "key"}},
                ],
                "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}],
            },
        },
        "results": {"outputs": "Raw", "claim": "results"},
        "suspend": True,
        "activeDeadlineSeconds": 60,
        "ttlSecondsAfterFinished": 0,
    },
}


def study(**spec: Any) -> dict[str, Any]:
    """The minimal manifest with whole parts of its spec replaced."""
    return {**MINIMAL, "spec": {**MINIMAL["spec"], **spec}}


letters = st.characters(exclude_categories=["Cs"])
texts = st.text(letters, max_size=12)
scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 2**40]) | texts
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


def valid_studies() -> st.SearchStrategy[dict[str, Any]]:
    """Whole manifests that satisfy the schema and its rules."""
    return _values(SPEC).map(lambda spec: {**MINIMAL, "spec": spec})


@st.composite
def spoilt_specs(draw: st.DrawFn) -> dict[str, Any]:
    """A spec with one to three changes of any kind; it may or may not be valid still."""
    spec: dict[str, Any] = copy.deepcopy(draw(st.sampled_from([MINIMAL, FULL]))["spec"])
    for _ in range(draw(st.integers(1, 3))):
        *parents, name = draw(st.sampled_from(PATHS))
        part = spec
        for parent in parents:
            if not isinstance(part.get(parent), dict):
                part[parent] = {}
            part = part[parent]
        match draw(st.sampled_from(["remove", "change", "fill", "add"])):
            case "remove":
                part.pop(name, None)
            case "change":
                part[name] = draw(plain)
            case "fill":
                part[name] = draw(_values_at((*parents, name)))
            case _:
                part[draw(texts)] = draw(plain)
    return spec


def _paths(schema: Schema) -> Iterator[tuple[str, ...]]:
    for name, field in schema.get("properties", {}).items():
        yield (name,)
        yield from ((name, *inner) for inner in _paths(field))


SPEC = structural(ExperimentSpec)
PATHS = tuple(_paths(SPEC))


@functools.cache
def _values_at(path: tuple[str, ...]) -> st.SearchStrategy[Any]:
    schema = SPEC
    for name in path:
        schema = schema["properties"][name]
    return _values(schema)


def _values(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that satisfy one node of a structural schema."""
    if "x-kubernetes-int-or-string" in schema:
        return st.integers(schema["minimum"], schema["maximum"]) | _texts(schema)
    if "not" in schema:
        numbers = st.floats(schema["minimum"], schema["maximum"]) | st.integers(0, 9)
        return numbers | _texts(schema)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "string":
            return _texts(schema)
        case "boolean":
            return st.booleans()
        case "array":
            low, high = schema.get("minItems", 0), schema["maxItems"]
            keys = schema.get("x-kubernetes-list-map-keys", ())
            return st.lists(
                _values(schema["items"]),
                min_size=low,
                max_size=min(high, 4),
                unique_by=tuple(map(operator.itemgetter, keys)) or None,
            )
        case _:
            return _objects(schema)


def _texts(schema: Schema) -> st.SearchStrategy[str]:
    if "pattern" in schema:
        drawn = st.from_regex(schema["pattern"].replace("$", r"\Z"))
        return drawn.filter(lambda text: len(text) <= schema["maxLength"])
    return st.text(letters, min_size=schema.get("minLength", 0), max_size=8)


def _objects(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    if "additionalProperties" in schema:
        return st.dictionaries(texts, _values(schema["additionalProperties"]), max_size=3)
    if "properties" not in schema:
        return st.dictionaries(texts, plain, max_size=3)
    required = set(schema.get("required", ()))
    fields = {name: _values(field) for name, field in schema["properties"].items()}
    objects = st.fixed_dictionaries(
        {name: fields[name] for name in sorted(required)},
        optional={name: field for name, field in fields.items() if name not in required},
    )
    rules = [rule["rule"] for rule in schema.get("x-kubernetes-validations", ())]

    def broken(value: dict[str, Any]) -> list[str]:
        whole = defaulted(value, schema) if rules else value
        return [rule for rule in rules if not holds(rule, whole)]

    def corrected(value: dict[str, Any]) -> dict[str, Any]:
        """Without the keys that break a rule: those it asks for first, then all it names."""
        for pattern in (r"has\(self\.(\w+)\)", r"self\.(\w+)", r"self\.(\w+)"):
            named = {key for rule in broken(value) for key in re.findall(pattern, rule)}
            value = {k: v for k, v in value.items() if k in required or k not in named}
        return value

    return objects.map(corrected).filter(lambda value: not broken(value))
