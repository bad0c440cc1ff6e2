from pathlib import Path
from typing import Any

import pytest
import yaml

from splittracr.experiment import manifest
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.types import SpecModel
from splittracr_operator.settings import Config, Settings
from tests.control.studies import ALL, ALL_KEYS

ROOT = Path(__file__).parents[2]
MINIMAL: dict[str, Any] = {"edge": {"image": "edge:1"}, "server": {"image": "server:1"}}


def read(folder: Path, content: object) -> Settings:
    file = folder / "config.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    variables = {"SPLITTRACR_CONFIG": str(file), "SPLITTRACR_OPERATOR_NAMESPACE": "operators"}
    return Settings.read(variables)


def test_all_but_the_images_has_a_default(tmp_path: Path) -> None:
    made = read(tmp_path, MINIMAL)
    assert (made.namespace, made.service, made.port) == ("operators", "splittracr-operator", 8080)
    assert made.key_secret == "splittracr-operator-key"
    assert made.pod_labels == {"app.kubernetes.io/name": "splittracr-operator"}
    assert (made.poll_seconds, made.resync_seconds, made.keep_deleted_days) == (2, 60, 7)
    assert (made.watch_namespaces, made.fixed_user_ids) == ((), True)
    assert (made.network_policy.enabled, made.monitoring) == (True, None)
    assert made.edge.resources.requests == {"cpu": "250m", "memory": "512Mi"}
    assert made.server.resources.requests == {"cpu": "500m", "memory": "1Gi"}
    assert made.store_url == "https://splittracr-operator.operators.svc:8443/v1/results"
    assert made.plain_store_url == "http://splittracr-operator.operators.svc:8080/v1/results"


def test_keys_without_a_value_are_left_out(tmp_path: Path) -> None:
    empty = "monitoring:\nwatchNamespaces:\nedge: {image: a, nodeSelector: , journal: }\n"
    assert read(tmp_path, f"{empty}server: {{image: b}}") == read(
        tmp_path, {"edge": {"image": "a"}, "server": {"image": "b"}}
    )


def test_the_example_has_every_key_and_no_default() -> None:
    def compare(made: SpecModel, written: dict[str, Any]) -> None:
        for name, field in type(made).model_fields.items():
            assert field.alias in written, f"{name} is missing in {ALL_KEYS.name}"
            value = getattr(made, name)
            if isinstance(value, SpecModel) and name not in ("network_policy", "resources"):
                if name not in ("pod_selector", "namespace_selector"):
                    compare(value, written[field.alias])
            elif name != "network_policy" and (made, name) != (ALL.server, "node_selector"):
                assert value != field.get_default(call_default_factory=True), name

    written = yaml.safe_load(ALL_KEYS.read_text())
    compare(Config.model_validate({n: getattr(ALL, n) for n in Config.model_fields}), written)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge": {}}, "config.yaml: edge.image: got nothing, expected a value, it is required"),
        ({"server": None}, "config.yaml: server: got nothing, expected a value, it is required"),
        ({"ports": 1}, "ports: got 'ports', expected a known key, one of: port"),
        ({"namespace": "a"}, "namespace: got 'namespace', expected a known key"),
        (
            {"server": {"image": "a", "journal": {"emptyDir": {}}}},
            "server.journal: got 'journal', expected a known key",
        ),
        (
            {"edge": {"image": "a", "tolerations": [{"effekt": "x"}]}},
            "edge.tolerations[0].effekt: got 'effekt', expected a known key, one of: effect",
        ),
        ({"port": 70000}, "config.yaml: port: got 70000, expected a number of at most 65535"),
        ({"port": "8080"}, "config.yaml: port: got '8080', expected a valid integer"),
        (
            {"edge": {"image": "a", "resources": {"requests": {"cpu": "half"}}}},
            "edge.resources.requests.cpu: got 'half', expected a valid integer or a quantity",
        ),
        (
            {
                "edge": {
                    "image": "a",
                    "resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "1000Mi"}},
                }
            },
            "expected that requests.memory, 1Gi, is at most limits.memory, 1000Mi",
        ),
        (
            {"edge": {"image": "a", "weightCache": {"emptyDir": {}, "nfs": {}}}},
            "edge.weightCache: got {'emptyDir': {}, 'nfs': {}}, expected that it is one volume",
        ),
        (
            {"edge": {"image": "a", "journal": {"name": "x"}}},
            "edge.journal: got {'name': 'x'}, expected that it is one volume source",
        ),
        (
            {"edge": {"image": "a", "imagePullPolicy": "Sometimes"}},
            "edge.imagePullPolicy: got 'Sometimes', expected 'Always', 'IfNotPresent' or 'Never'",
        ),
        ({"watchNamespaces": ["Team_A"]}, "watchNamespaces[0]: got 'Team_A', expected lower-case"),
    ],
)
def test_errors_name_file_field_value_and_expectation(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, {**MINIMAL, **change})
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/config.yaml: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config.yaml: got 'an empty file', expected a mapping with keys such as service"),
        ("- edge", "config.yaml: got ['edge'], expected a mapping"),
        ("edge: {", "config.yaml: got 'edge: {', expected YAML (line 1"),
        ("port: 1\nport: 2", "the key 'port' occurs twice"),
    ],
)
def test_errors_of_the_whole_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)


def test_errors_of_the_variables(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"edge: \xff")
    for given, message in (
        (None, "SPLITTRACR_CONFIG: got nothing, expected the path"),
        (str(tmp_path / "none"), "(No such file or directory)"),
        (str(tmp_path), "(Is a directory)"),
        (str(tmp_path / "latin"), "(it is not UTF-8)"),
    ):
        with pytest.raises(InvalidInput) as caught:
            Settings.read({} if given is None else {"SPLITTRACR_CONFIG": given})
        assert message in str(caught.value)
        assert str(caught.value).startswith("SPLITTRACR_CONFIG: ")
    with pytest.raises(InvalidInput, match="SPLITTRACR_OPERATOR_NAMESPACE: got nothing"):
        Settings.read({"SPLITTRACR_CONFIG": str(ALL_KEYS)})


def test_the_installed_configuration_fits_the_other_manifests() -> None:
    bodies = list(yaml.safe_load_all((ROOT / "deploy" / "operator.yaml").read_text()))
    by_kind = {body["kind"]: body for body in bodies if body["kind"] != "Role"}
    made = manifest.parse_as(Config, by_kind["ConfigMap"]["data"]["config.yaml"], "config.yaml")
    service, pod = by_kind["Service"], by_kind["Deployment"]["spec"]["template"]
    assert service["metadata"]["name"] == made.service
    assert [(p["name"], p["port"]) for p in service["spec"]["ports"]] == [
        ("results", made.results_port),
        ("metrics", made.port),
    ]
    assert pod["metadata"]["labels"].items() >= made.pod_labels.items()
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": made.port, "results": made.results_port}
    variables = {variable["name"]: variable for variable in container["env"]}
    assert variables.keys() == {"SPLITTRACR_CONFIG", "SPLITTRACR_OPERATOR_NAMESPACE"}
    (mount,) = (m for m in container["volumeMounts"] if m["name"] == "config")
    assert variables["SPLITTRACR_CONFIG"]["value"] == f"{mount['mountPath']}/config.yaml"
    named = [r["resourceNames"] for b in bodies if b["kind"] == "Role" for r in b["rules"][:1]]
    assert named == [
        [made.key_secret],
        ["extension-apiserver-authentication"],
        [made.service],
    ]
