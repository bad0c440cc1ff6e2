"""The CRD's schema is structural, bounded and described."""

import json

import pytest
import yaml
from pydantic import BaseModel, Field

from splittracr.experiment import crd
from tests.experiment.apiserver import admit, holds
from tests.experiment.definition import ALL, VERSION

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


def test_yaml_is_the_definition_without_aliases() -> None:
    assert yaml.safe_load(crd.text()) == crd.definition()
    assert "&id" not in crd.text()


class Either(BaseModel):
    value: int | bool = Field(default=0)


class Mixed(BaseModel):
    value: tuple[int, str] = Field(default=(1, "a"))


@pytest.mark.parametrize("model", [Either, Mixed])
def test_model_without_structural_schema_is_refused(model: type[BaseModel]) -> None:
    with pytest.raises(TypeError, match="no structural schema"):
        crd.structural(model)
