import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from pydantic import BaseModel, Field, TypeAdapter

from splittracr.experiment import crd, document, manifest
from splittracr.experiment.crd import Schema
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.explain import models_in
from splittracr.experiment.spec import ExperimentSpec, SplitExperiment
from splittracr.experiment.status import ExperimentStatus
from splittracr.experiment.types import SpecModel
from tests.experiment.apiserver import ENVIRONMENT, Refused, admit, holds
from tests.experiment.studies import FULL, MINIMAL, spoilt_specs, study

MANUAL = Path(__file__).parents[2] / "docs" / "kubernetes.md"
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
VERSION = crd.definition()["spec"]["versions"][0]
SCHEMA: Schema = VERSION["schema"]["openAPIV3Schema"]
SPEC: Schema = SCHEMA["properties"]["spec"]
STATUS: Schema = SCHEMA["properties"]["status"]

ALLOWED = {
    "additionalProperties",
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "not",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
}


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}.*")


ALL = dict(nodes(SCHEMA))


def test_names() -> None:
    definition = crd.definition()
    names = definition["spec"]["names"]
    assert definition["metadata"]["name"] == f"{names['plural']}.{definition['spec']['group']}"
    assert names["singular"] == "splitexperiment"
    assert names["plural"] == "splitexperiments"
    assert names["categories"] == ["splittracr"]  # never `all`
    assert VERSION["subresources"] == {"status": {}}


@pytest.mark.parametrize("path", ALL)
def test_schema_is_structural(path: str) -> None:
    node = ALL[path]
    assert not node.keys() - ALLOWED
    quantity = "not" in node
    assert ("type" in node) + ("x-kubernetes-int-or-string" in node) + quantity == 1
    if quantity:
        assert node["x-kubernetes-preserve-unknown-fields"]
    assert ("items" in node) == (node.get("type") == "array")
    if "properties" in node:
        assert node["type"] == "object"
        assert set(node.get("required", ())) <= set(node["properties"])
    if node.get("x-kubernetes-list-type") == "map":
        assert set(node["x-kubernetes-list-map-keys"]) <= set(node["items"]["required"])
    if "enum" in node:
        assert len(set(node["enum"])) == len(node["enum"]) > 0


@pytest.mark.parametrize("path", [path for path in ALL if "default" in ALL[path]])
def test_default_satisfies_its_own_schema(path: str) -> None:
    default = ALL[path]["default"]
    assert "null" not in json.dumps(default)  # the API server takes none in a default
    admit(default, ALL[path])
    # The API server evaluates the rules on the default before it completes it.
    for rule in ALL[path].get("x-kubernetes-validations", ()):
        assert holds(rule["rule"], default)


@pytest.mark.parametrize("path", [path for path in ALL if path.startswith((".spec", ".status"))])
def test_everything_is_described_and_bounded(path: str) -> None:
    node = ALL[path]
    kinds = {node["type"]} if "type" in node else {"integer", "string"}
    assert "description" in node or path.endswith(("[]", ".*"))
    if "additionalProperties" in node:
        assert "maxProperties" in node
    if "integer" in kinds:
        assert {"minimum", "maximum"} <= node.keys()
    if "string" in kinds:
        assert {"maxLength", "enum"} & node.keys() or node.get("format") == "date-time"
    if "array" in kinds:
        assert "maxItems" in node
    assert "number" not in kinds


def test_only_free_arguments_keep_unknown_fields() -> None:
    """A quantity keeps no field: its node allows no key."""
    keeping = [path for path in ALL if "x-kubernetes-preserve-unknown-fields" in ALL[path]]
    free = [path for path in keeping if ALL[path].get("maxProperties") != 0]
    sources = ["persistentVolumeClaim", "configMap", "secret", "emptyDir", "nfs"]
    pod = [
        "affinity",
        "topologySpreadConstraints[]",
        "initContainers[].env[].valueFrom",
        "initContainers[].startupProbe",
        "env[].valueFrom",
        *(f"volumes[].{source}" for source in sources),
    ]
    assert free == [
        ".spec.model.args",
        ".spec.dataset.args",
        ".spec.dataset.transformArgs",
        ".spec.partition.cascade.model.args",
        ".spec.partition.cascade.classes",
        *(f".spec.edge.pod.{name}" for name in pod),
        *(f".spec.server.pod.{name}" for name in pod),
    ]


CASCADE = {"model": {"name": "alexnet"}, "statistic": "Margin", "thresholdPerMillion": 1}

AT_EXITS = {"exits": "exits.safetensors", "statistic": "Margin", "thresholdPerMillion": 1}

RULES = [
    (path, rule)
    for path, node in ALL.items()
    for rule in node.get("x-kubernetes-validations", ())
    if path
]


_TAKES = {
    "string": ("string", "integer", "boolean"),
    "size": ("string", "array"),
}
"""The types that a function of CEL takes."""


def named(field: Any) -> tuple[str, str]:
    """Where an expression finds a field, as `.adaptive` or nothing, and the field."""
    inner = [str(one.children[1]) for one in field.children[0].find_data("member_dot")]
    return "".join(f".{key}" for key in inner), str(field.children[1])


@pytest.mark.parametrize(("path", "rule"), RULES)
def test_rule_compiles_and_speaks_of_fields_that_exist(path: str, rule: dict[str, str]) -> None:
    for expression in (rule["rule"], rule.get("messageExpression", rule["rule"])):
        tree = ENVIRONMENT.compile(expression)
        used = {named(field) for field in tree.find_data("member_dot")}
        assert used
        for inner, name in used:
            assert name in ALL[f"{path}{inner}"]["properties"]
        # The API server checks types, as the library that compiles here does not.
        for function, kinds in _TAKES.items():
            for key in re.findall(rf"\b{function}\(self\.(\w+)\)", expression):
                kind = ALL[f"{path}.{key}"].get("type")  # none of a number or text
                assert kind in (None, *kinds), (function, key)
    assert not rule["message"].endswith(".")
    assert len(rule["message"]) < 100


CHANGES = [
    {"model": {"name": "vgg11"}},
    {"model": {"name": "alexnet", "args": {"deep": [2]}}},
    {"partition": {"mode": "EdgeOnly"}},
    {"workload": {"samples": 4}},
    {"edge": {"replicas": 2}},
    {"server": {"maxEdges": 2}},
    {"results": {"claim": "other"}},
    {"partition": {"cut": 3, "onServerLoss": "Fail"}},
    {"transport": {"security": "Plain"}},
    {"transport": {"link": {"uplinkKilobitsPerSecond": 1, "downlinkKilobitsPerSecond": 1}}},
]
LIVE = [
    {"suspend": True},
    {"partition": {"cut": 4}},
    {"partition": {"cut": 3, "deadlineMilliseconds": 50}},
    {"transport": {"codec": "uint8"}},
    {"activeDeadlineSeconds": 1},
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_defines_a_run_stays_once_it_has_started(change: dict[str, Any]) -> None:
    stored = admit(study(), SCHEMA)
    admit(study(**change), SCHEMA, old=stored)
    started = {**stored, "status": {"startTime": "2026-01-02T03:04:05Z"}}
    with pytest.raises(Refused, match="stays as it is once the study has started"):
        admit(study(**change), SCHEMA, old=started)


@pytest.mark.parametrize("role", ["edge", "server"])
def test_pods_may_change_until_an_edge_has_reported(role: str) -> None:
    status: dict[str, Any] = {"startTime": "2026-01-02T03:04:05Z"}
    started = {**admit(study(), SCHEMA), "status": status}
    changed = study(**{role: {"pod": {"image": "other"}}})
    admit(changed, SCHEMA, old=started)
    reported = {**started, "status": {**status, "progress": {"done": 0}}}
    with pytest.raises(Refused, match=rf"{role}\.pod stays as it is once an edge has reported"):
        admit(changed, SCHEMA, old=reported)
    admit(study(suspend=True), SCHEMA, old=reported)


@pytest.mark.parametrize("change", LIVE)
def test_the_rest_may_change_while_it_runs(change: dict[str, Any]) -> None:
    stored = admit(study(), SCHEMA)
    admit(study(**change), SCHEMA, old={**stored, "status": {"startTime": "2026-01-02T03:04:05Z"}})


def test_every_field_either_defines_a_run_or_may_change() -> None:
    rules = ALL[""]["x-kubernetes-validations"]
    paths = [rule["fieldPath"].split(".") for rule in rules if "fieldPath" in rule]
    immutable = {path[2] for path in paths}
    live = {"suspend"} | {
        "activeDeadlineSeconds",
        "pendingDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
    }
    assert immutable | live == SPEC["properties"].keys()
    for role in ("edge", "server"):
        fields = {path[3] for path in paths if path[2] == role}
        assert fields == SPEC["properties"][role]["properties"].keys()


def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            yield from models(inner)


def test_no_model_has_a_validator_that_the_api_server_lacks() -> None:
    own = SpecModel.__pydantic_decorators__.model_validators.keys()
    for model in models(ExperimentSpec):
        assert model.__pydantic_decorators__.model_validators.keys() == own, model


def test_each_rule_of_a_model_is_in_the_schema_of_its_object() -> None:
    def objects(schema: Any) -> Iterator[list[str]]:
        if isinstance(schema, dict):
            yield [rule["message"] for rule in schema.get("x-kubernetes-validations", ())]
            for inner in schema.values():
                yield from objects(inner)

    found = list(objects(SPEC))
    rules = [m.rules for m in models(ExperimentSpec) if issubclass(m, SpecModel) and m.rules]
    assert rules
    for of_one in rules:
        assert [rule.text for rule in of_one] in found


def test_columns_lead_to_fields() -> None:
    columns = VERSION["additionalPrinterColumns"]
    names = ["Model", "Mode", "State", "Cut", "Progress", "P95", "Age"]
    assert [column["name"] for column in columns if "priority" not in column] == names
    for column in columns:
        path = column["jsonPath"].replace('[?(@.type=="Ready")]', "[]")
        assert path == ".metadata.creationTimestamp" or ALL[path]["type"] == column["type"]


def test_yaml_is_the_definition_without_aliases() -> None:
    assert yaml.safe_load(crd.text()) == crd.definition()
    assert "&id" not in crd.text()


# -------------------------------------------------------------------- one meaning in both places


LINK = {"uplinkKilobitsPerSecond": 5000, "downlinkKilobitsPerSecond": 20000}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_study_is_accepted_by_both(path: Path) -> None:
    data = yaml.safe_load(path.read_text())
    assert data["metadata"]["name"] == path.stem
    same_study(data)


ADAPTIVE = {
    "policy": "Deadline",
    "objective": "Weighted",
    "latencyWeight": 3,
    "energyWeight": 1,
    "computeMilliwatts": 5000,
    "transmitMilliwatts": 1200,
    "agreementPercent": 97,
    "accuracyPercent": 99,
    "accuracyFile": "rate.json",
    "codecs": ["raw", "uint8+zstd1"],
    "pictureCodecs": ["png", "jpeg90"],
}


@pytest.mark.parametrize(
    "partition",
    [
        {"mode": "Adaptive"},
        {"mode": "Adaptive", "adaptive": {}},
        {"mode": "Adaptive", "adaptive": {"policy": "Hedge", "objective": "Throughput"}},
        {"mode": "Adaptive", "cuts": [0, "relu"], "adaptive": ADAPTIVE},
    ],
)
def test_adaptive_study_is_accepted_by_both(partition: dict[str, Any]) -> None:
    same_study(study(partition=partition))


@pytest.mark.parametrize(
    "data",
    [
        MINIMAL,
        FULL,
        study(edge=None, workload={"arrival": None}),
        study(
            transport={
                "link": {"phases": [{**LINK, "durationSeconds": 1, "roundTripMilliseconds": None}]}
            }
        ),
        study(transport={"link": LINK}),
    ],
)
def test_valid_study_is_accepted_by_both(data: dict[str, Any]) -> None:
    same_study(data)


def same_study(data: dict[str, Any]) -> SplitExperiment:
    """The API server's defaults change nothing: what it stores is the study that was written."""
    stored = admit(data, SCHEMA)
    assert manifest.from_object(stored) == manifest.from_object(data)
    return manifest.from_object(data)


OUTAGE = {
    "durationSeconds": 30,
    "uplinkKilobitsPerSecond": 0,
    "downlinkKilobitsPerSecond": 0,
}
WATTS = {"computeMilliwatts": 5000, "transmitMilliwatts": 1200}
UPLINK_ONLY = OUTAGE | {"uplinkKilobitsPerSecond": 1000}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"partition": {"mode": "Cascade", "cut": 1}},
            "cascade goes with mode Cascade, which needs it, or Adaptive, and only with them",
        ),
        (
            {"partition": {"mode": "Cascade", "cascade": CASCADE}},
            "cut goes with mode Static or Cascade",
        ),
        (
            {"partition": {"mode": "Static", "cut": 1, "cascade": CASCADE}},
            "cascade goes with mode Cascade, which needs it, or Adaptive, and only with them",
        ),
        (
            {"partition": {"mode": "Adaptive", "cascade": AT_EXITS}},
            "in mode Adaptive a cascade has a small model, not exits",
        ),
        (
            {
                "partition": {
                    "mode": "Adaptive",
                    "cascade": CASCADE,
                    "adaptive": {"policy": "Bandit"},
                }
            },
            "policy Bandit cannot decide on a cascade: take Adaptive, Deadline or Hedge",
        ),
        (
            {"partition": {"mode": "Cascade", "cut": 1, "cascade": CASCADE | {"exits": "a"}}},
            "a cascade has a small model or exits, one of both",
        ),
        (
            {"partition": {"mode": "Cascade", "cut": 1, "cascade": AT_EXITS | {"classes": {}}}},
            "classes goes with model, and only with it",
        ),
        *(
            (
                {"partition": {"mode": "Cascade", "cut": 1, "cascade": CASCADE | keys}},
                f"{words} (",
            )
            for words, keys in (
                (
                    "recalibrate goes with maxDisagreementPerMillion, the promise, and audits of "
                    "it",
                    {"recalibrate": 400},
                ),
                (
                    "recalibrate goes with maxDisagreementPerMillion, the promise, and audits of "
                    "it",
                    {"recalibrate": 400, "maxDisagreementPerMillion": 50_000, "auditPercent": 0},
                ),
                (
                    "recalibrate is at least 5,000,000 / maxDisagreementPerMillion: fewer pictures "
                    "prove no such promise",
                    {"recalibrate": 99, "maxDisagreementPerMillion": 50_000},
                ),
            )
        ),
        ({"partition": {}}, "cut goes with mode Static or Cascade"),
        ({"partition": {"cut": 1, "layer": 1}}, "cut goes with mode Static or Cascade"),
        (
            {"partition": {"mode": "EdgeOnly", "layer": 1}},
            "cut goes with mode Static or Cascade, and only with them; layer may stand",
        ),
        (
            {"partition": {"mode": "Sweep", "cut": 1}},
            "cut goes with mode Static or Cascade",
        ),
        (
            {"partition": {"mode": "EdgeOnly", "cuts": [1]}},
            "cuts goes with mode Sweep or Adaptive, and only with them",
        ),
        (
            {"partition": {"mode": "EdgeOnly", "adaptive": {}}},
            "adaptive goes with mode Adaptive, and only with it",
        ),
        (
            {"partition": {"mode": "Adaptive", "adaptive": {"accuracyFile": "rate.json"}}},
            "accuracyFile goes with accuracyPercent, and only with it",
        ),
        (
            {"partition": {"mode": "Adaptive", "adaptive": {"objective": "Weighted"}}},
            "weights go with objective Weighted",
        ),
        (
            {"partition": {"mode": "Adaptive", "adaptive": {"latencyWeight": 1}}},
            "weights go with objective Weighted",
        ),
        (
            {"edge": {"power": {"transmitMilliwatts": 900, "nanojoulesPerBit": 40}}},
            "sending costs transmitMilliwatts or nanojoulesPerBit, not both",
        ),
        *(
            (
                {
                    "partition": {
                        "mode": "Adaptive",
                        "adaptive": {**WATTS, "policy": "Hedge", **one},
                    }
                },
                "policy Hedge computes twice: no objective with energy goes with it",
            )
            for one in (
                {"objective": "Energy"},
                {"objective": "Weighted", "latencyWeight": 9, "energyWeight": 1},
            )
        ),
        *(
            (
                {"partition": {"mode": "Adaptive", "adaptive": {"policy": "Bandit", **one}}},
                "policy Bandit learns latencies and goes with objective Latency only",
            )
            for one in (
                {"objective": "Throughput"},
                {"objective": "Energy", **WATTS},
                {"objective": "Weighted", "latencyWeight": 1},
            )
        ),
        *(
            (
                {"partition": {"mode": "Adaptive", **one}},
                "in mode Adaptive deadlines and hedges are the policy's",
            )
            for one in ({"deadlineMilliseconds": 9}, {"hedgeDelayMilliseconds": 0})
        ),
        ({"dataset": {"source": "Class"}}, "class goes with source Class, and only with it"),
        ({"workload": {"samples": 6, "batchSize": 4}}, "samples is a multiple of batchSize"),
        *(
            ({"transport": {"link": link}}, "a link has either both rates, or a trace, or phases")
            for link in (
                {},
                {"uplinkKilobitsPerSecond": 5000},
                {"trace": "bus.csv", "downlinkKilobitsPerSecond": 5000},
                {"trace": "bus.csv", "phases": [OUTAGE, UPLINK_ONLY]},
            )
        ),
        (
            {"transport": {"link": {"phases": [OUTAGE, UPLINK_ONLY]}}},
            "phases have a rate above zero both ways at some time",
        ),
        (
            {"dataset": {"source": "LabelledFolder"}},
            "path goes with source Folder, LabelledFolder, Coco, Yolo or Masks, and only with them",
        ),
        (
            {"dataset": {"source": "Coco", "path": "pictures"}},
            "annotations goes with source Coco or Masks, which need it, or Yolo, "
            "and only with them",
        ),
        (
            {"dataset": {"source": "Folder", "path": "pictures", "annotations": "boxes.json"}},
            "annotations goes with source Coco or Masks, which need it, or Yolo, "
            "and only with them",
        ),
    ],
)
def test_both_refuse_with_the_same_words(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as refused:
        admit(study(**spec), SCHEMA)
    _, _, said = str(refused.value).partition(": ")
    assert said.startswith(message)
    with pytest.raises(InvalidInput) as invalid:
        manifest.from_object(study(**spec))
    assert str(invalid.value).endswith(f"expected that {said}")


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ({"partition": {}}, "mode is Static, cut is missing, layer is missing"),
        ({"partition": {"mode": "Sweep", "cut": 1}}, "mode is Sweep, cut is 1, layer is missing"),
        (
            {"partition": {"mode": "Sweep", "cut": "relu"}},
            "mode is Sweep, cut is relu, layer is missing",
        ),
        ({"workload": {"samples": 10, "batchSize": 3}}, "samples is 10, batchSize is 3"),
        ({"dataset": {"source": "Folder"}}, "source is Folder, path is missing"),
        ({"dataset": {"class": "a:B"}}, "source is Samples, class is a:B"),
        (
            {"partition": {"mode": "Adaptive", "hedgeDelayMilliseconds": 0}},
            "deadlineMilliseconds is missing, hedgeDelayMilliseconds is 0",
        ),
    ],
)
def test_a_broken_rule_shows_the_values(spec: dict[str, Any], values: str) -> None:
    with pytest.raises(Refused, match=rf"\({values}\)$"):
        admit(study(**spec), SCHEMA)


def mounted(path: str) -> dict[str, Any]:
    return {"volumeMounts": [{"name": "a", "mountPath": path}]}


@pytest.mark.parametrize(
    "pod",
    [
        {"labels": {"a/b": ""}, "annotations": {"a": "x y\nz"}},
        {"labels": {"app.kubernetes.io/part-of": "lab"}},
        mounted("/data"),
        mounted("/tmp/inner"),
        mounted("/tmpfs"),
        mounted("/etc/splittracr-other"),
        mounted("/var/lib/splittracr2"),
        {"volumes": [{"name": "edge", "secret": {}}], "initContainers": [{"name": "tmp"}]},
        {"securityContext": {"fsGroup": 0, "runAsUser": 1}},
        {"terminationGracePeriodSeconds": 0},
    ],
)
def test_pods_that_both_accept(pod: dict[str, Any]) -> None:
    for role in ("edge", "server"):
        same_study(study(**{role: {"pod": pod}}))


def test_pod_settings_of_the_manual_are_accepted_by_both() -> None:
    (text,) = re.findall(r"```yaml\n(pod:\n.*?)```", MANUAL.read_text(), re.DOTALL)
    (loaded,) = document.load(text)
    pod = loaded["pod"]
    assert pod.keys() >= {"labels", "topologySpreadConstraints", "initContainers", "volumes"}
    assert pod["volumes"][1]["secret"]["defaultMode"] == 0o440
    same_study(study(edge={"pod": pod}))


@pytest.mark.parametrize(
    ("pod", "path", "words"),
    [
        *(
            (mounted(mount), "pod.volumeMounts[0]", f"(mountPath is {mount})")
            for mount in (
                "/tmp",
                "//tmp//",
                "/dev/termination-log",
                "/etc/splittracr",
                "/etc/splittracr/",
                "/etc/splittracr/inner",
                "/etc/splittracr-tls",
                "/var/lib/splittracr/edge-0",
                "/var/cache/splittracr",
            )
        ),
        *(
            ({"volumes": [{"name": name, "emptyDir": {}}]}, "pod.volumes[0]", f"(name is {name})")
            for name in ("tmp", "manifest", "results", "tls", "weight-cache")
        ),
        (
            {"volumes": [{"name": "a"}]},
            "pod.volumes[0]",
            "persistentVolumeClaim, configMap, secret",
        ),
        *(
            ({"initContainers": [{"name": name}]}, "pod.initContainers[0]", f"(name is {name})")
            for name in ("edge", "server")
        ),
        (
            {"initContainers": [{"name": "a", **mounted("/tmp")}]},
            "pod.initContainers[0].volumeMounts[0]",
            "(mountPath is /tmp)",
        ),
        *(
            ({field: {key: "x"}}, "pod", f"batch.kubernetes.io/ ({key} does)")
            for field in ("labels", "annotations")
            for key in ("splittracr.io/role", "batch.kubernetes.io/job-name")
        ),
        ({"labels": {"a": "no spaces"}}, "pod.labels.a", "no spaces"),
        ({"labels": {"a": "x" * 64}}, "pod.labels.a", ""),
        ({"initContainers": [{"name": "with.dot"}]}, "pod.initContainers[0].name", "with.dot"),
        ({"securityContext": {"runAsUser": 0}}, "pod.securityContext.runAsUser", ""),
        (
            {"securityContext": {"privileged": True}},
            "pod.securityContext.privileged",
            "a known key",
        ),
        ({"terminationGracePeriodSeconds": -1}, "pod.terminationGracePeriodSeconds", ""),
        ({"volumes": [{"name": "a", "hostPath": {}}]}, "pod.volumes[0].hostPath", "a known key"),
    ],
)
def test_pods_that_both_refuse(pod: dict[str, Any], path: str, words: str) -> None:
    data = study(edge={"pod": pod})
    with pytest.raises(InvalidInput) as invalid:
        manifest.from_object(data)
    assert invalid.value.field == f"spec.edge.{path}"
    assert words in str(invalid.value)
    with pytest.raises(Refused):
        admit(data, SCHEMA)


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        ({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "a", "secret": {}}]}, "name"),
        ({"initContainers": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}, "name"),
        (
            {"volumeMounts": [{"name": n, "mountPath": "/data"} for n in ("a", "b")]},
            "mountPath",
        ),
    ],
)
def test_both_refuse_an_item_that_is_there_twice(pod: dict[str, Any], words: str) -> None:
    data = study(edge={"pod": pod})
    with pytest.raises(
        InvalidInput, match=rf"each item has a {words} of its own \(.* is there twice\)"
    ):
        manifest.from_object(data)
    with pytest.raises(Refused, match="Duplicate value"):
        admit(data, SCHEMA)


@pytest.mark.parametrize(
    "arrival",
    [
        {},
        {"inFlight": 1},
        {"mode": "Open"},
        {"mode": "Closed", "seed": 1},
        {"mode": "Closed", "framesPerMinute": 1},
        {"mode": "Open", "framesPerMinute": 1, "inFlight": 1},
        {"mode": "Half"},
    ],
)
def test_both_refuse_a_mixed_up_arrival(arrival: dict[str, Any]) -> None:
    data = study(workload={"arrival": arrival})
    with pytest.raises(Refused):
        admit(data, SCHEMA)
    with pytest.raises(InvalidInput):
        manifest.from_object(data)


@given(spoilt_specs())
def test_both_agree_on_any_study(spec: dict[str, Any]) -> None:
    data = {**MINIMAL, "spec": spec}
    try:
        manifest.from_object(data)
    except InvalidInput:
        with pytest.raises(Refused):
            admit(data, SCHEMA)
    else:
        same_study(data)


def test_status_of_the_model_is_accepted() -> None:
    status = {
        "observedGeneration": 2,
        "state": "Running",
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "observedGeneration": 2,
                "lastTransitionTime": "2026-01-02T03:04:05Z",
                "reason": "WorkersReady",
                "message": "Both workers are ready.",
            }
        ],
        "startTime": "2026-01-02T03:04:05Z",
        "progress": {"done": 40, "failed": 1, "unanswered": 0, "total": 100, "summary": "40/100"},
        "cut": "features.5",
        "bestCut": {"name": "features.2", "p50": "9.1ms", "p95": "12ms"},
        "latency": {"p50": "9.5ms", "p95": "12.3ms"},
        "placement": "edge-1 -> gpu-1",
        "workers": [
            {
                "name": "study-edge-0",
                "role": "edge",
                "node": "edge-1",
                "outside": False,
                "ready": True,
                "restarts": 0,
            }
        ],
    }
    parsed = TypeAdapter(ExperimentStatus).validate_python(status)
    written = parsed.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert admit(written, STATUS) == written == status


# ---------------------------------------------------------------------- what has no such schema


class Either(BaseModel):
    value: int | bool = Field(default=0)


class Mixed(BaseModel):
    value: tuple[int, str] = Field(default=(1, "a"))


@pytest.mark.parametrize("model", [Either, Mixed])
def test_model_without_structural_schema_is_refused(model: type[BaseModel]) -> None:
    with pytest.raises(TypeError, match="no structural schema"):
        crd.structural(model)


def test_a_new_study_reads_as_in_progress() -> None:
    """A tool that knows kstatus compares the generations; that of an object begins with 1."""
    assert STATUS["default"] == {"observedGeneration": 0}
    assert ExperimentStatus.model_validate(STATUS["default"]).conditions == ()


@pytest.mark.parametrize(("length", "accepted"), [(200, True), (201, False), (252, False)])
def test_a_name_is_as_long_as_its_folder_of_results_allows(length: int, accepted: bool) -> None:
    body = study() | {"metadata": {"name": "a" * length}}
    if accepted:
        admit(body, SCHEMA)
        manifest.from_object(body)
        return
    with pytest.raises(Refused, match=r"metadata\.name has at most 200 characters"):
        admit(body, SCHEMA)
    with pytest.raises(InvalidInput, match=r"metadata\.name"):
        manifest.from_object(body)
