"""What the values do, one switch after the other."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from splittracr.cli.chart import OLDEST
from splittracr.experiment import crd
from splittracr_operator.settings import Settings
from tests.chart.render import (
    CLUSTER_WIDE,
    FOLDER,
    Body,
    Refused,
    config_of,
    helm,
    is_test,
    named,
    needs_helm,
    of_kind,
    one,
    pod_of,
    reads_users_authority,
    render,
)

pytestmark = needs_helm

ALL_OPTIONS = FOLDER / "ci" / "all-options-values.yaml"
DIGEST = f"sha256:{'0' * 64}"
KEEP = {"helm.sh/resource-policy": "keep"}
IMAGES = ("image", "edge.image", "server.image")


def images(bodies: list[Body]) -> list[str]:
    config = config_of(bodies)
    (container,) = pod_of(bodies)["spec"]["containers"]
    return [container["image"], config["edge"]["image"], config["server"]["image"]]


# --------------------------------------------------------------------------------------- defaults


@pytest.mark.parametrize("files", [(), (ALL_OPTIONS,)])
def test_lint(files: tuple[Path, ...]) -> None:
    options = [f"--values={file}" for file in files]
    helm("lint", "--strict", f"--kube-version={OLDEST}", *options, str(FOLDER))


def test_defaults_install_one_operator_with_its_rights_store_and_definition() -> None:
    installed = sorted(body["kind"] for body in render() if not is_test(body))
    assert installed == sorted(
        ["CustomResourceDefinition", "ServiceAccount", "Deployment", "Service", "ConfigMap"]
        + ["ClusterRole"] * 4
        + ["ClusterRoleBinding"] * 2
        + ["Role"] * 3
        + ["RoleBinding"] * 2
        + ["PersistentVolumeClaim", "NetworkPolicy"]
    )
    assert images(render()) == [
        f"splittracr-{part}:{chart()['appVersion']}" for part in ("operator", "edge", "server")
    ]


def chart() -> Body:
    found: Body = yaml.safe_load((FOLDER / "Chart.yaml").read_text())
    return found


def test_every_object_is_in_the_namespace_of_the_release_and_labelled() -> None:
    for body in render({"commonLabels": {"team": "edge"}}, namespace="lab"):
        if body["kind"] not in CLUSTER_WIDE and not reads_users_authority(body):
            assert body["metadata"]["namespace"] == "lab"
        labels = body["metadata"]["labels"]
        assert labels["team"] == "edge"
        assert labels["app.kubernetes.io/part-of"] == "splittracr"


def test_operators_pod_is_restricted() -> None:
    spec = pod_of(render())["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_selectors_meet_the_operators_pod_only() -> None:
    bodies = render()
    labels = pod_of(bodies)["metadata"]["labels"].items()
    selectors = [
        one(bodies, "Service")["spec"]["selector"],
        one(bodies, "Deployment")["spec"]["selector"]["matchLabels"],
        one(bodies, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        config_of(bodies)["podLabels"],
    ]
    tests = [body for body in bodies if body["kind"] == "Pod"]
    assert len(tests) == 2
    for selector in selectors:
        assert selector.items() <= labels
        assert all(not selector.items() <= b["metadata"]["labels"].items() for b in tests)


def test_a_change_of_the_configuration_restarts_the_operator() -> None:
    def checksum(values: dict[str, Any]) -> str:
        found: str = pod_of(render(values))["metadata"]["annotations"]["checksum/config"]
        return found

    assert checksum({}) == checksum({"podLabels": {"a": "b"}})
    assert checksum({}) != checksum({"results": {"keepDeletedDays": 8}})


def test_all_options_render() -> None:
    bodies = render(files=[ALL_OPTIONS], release="rel")
    names = {name for _, _, name in named(bodies)}
    assert {"rel-extra", "studies-extra", "studies-operator"} <= names


def test_all_options_leave_no_value_out() -> None:
    def paths(values: Body, given: Body, prefix: str = "") -> set[str]:
        found: set[str] = set()
        for key, default in values.items():
            if key not in given:
                found.add(f"{prefix}{key}")
            elif isinstance(default, dict) and default and isinstance(given[key], dict):
                found |= paths(default, given[key], f"{prefix}{key}.")
        return found

    values = yaml.safe_load((FOLDER / "values.yaml").read_text())
    missing = paths(values, yaml.safe_load(ALL_OPTIONS.read_text()))
    missing -= {"edge.image.digest", "server.image.tag", "persistence.existingClaim"}
    missing -= {"enabled", "podSecurityContext", "securityContext"}
    assert {path for path in missing if not path.startswith("resources.")} == set()


# ------------------------------------------------------------------------------ custom resource


def test_definition_is_the_one_of_the_model_and_is_kept() -> None:
    body = one(render(), "CustomResourceDefinition")
    assert body["metadata"].pop("annotations") == KEEP
    del body["metadata"]["labels"]
    assert body == crd.definition()


def test_definition_may_be_left_out_or_not_be_kept() -> None:
    assert of_kind(render({"crds": {"enabled": False}}), "CustomResourceDefinition") == []
    for keep in (True, False):
        values = {"crds": {"keep": keep, "annotations": {"a": "b"}}}
        metadata = one(render(values), "CustomResourceDefinition")["metadata"]
        assert metadata["annotations"] == {"a": "b", **(KEEP if keep else {})}


# --------------------------------------------------------------------------------------- images


@pytest.mark.parametrize(
    ("given", "registry", "expected"),
    [
        ({"repository": "a/b", "tag": "1"}, "", "a/b:1"),
        ({"repository": "a/b", "tag": "1", "registry": "r.example"}, "", "r.example/a/b:1"),
        ({"repository": "a/b", "tag": "1", "registry": "r.example"}, "g:5000", "g:5000/a/b:1"),
        ({"repository": "r.example/a/b", "tag": "1"}, "", "r.example/a/b:1"),
        ({"repository": "r.example/a/b", "tag": "1"}, "g:5000", "g:5000/a/b:1"),
        ({"repository": "localhost/a", "tag": "1"}, "g:5000", "g:5000/a:1"),
        ({"repository": "r:5000/a", "tag": "1", "registry": "s"}, "g/mirror", "g/mirror/a:1"),
        ({"repository": "a", "tag": "1", "digest": DIGEST}, "g:5000", f"g:5000/a@{DIGEST}"),
    ],
)
def test_image_references(given: Body, registry: str, expected: str) -> None:
    values = {
        "global": {"imageRegistry": registry},
        "image": given,
        "edge": {"image": given},
        "server": {"image": given},
    }
    assert images(render(values)) == [expected] * 3


def test_pull_secrets_reach_operator_tests_and_workers() -> None:
    bodies = render({"global": {"imagePullSecrets": ["first", {"name": "second"}]}})
    expected = [{"name": "first"}, {"name": "second"}]
    assert pod_of(bodies)["spec"]["imagePullSecrets"] == expected
    for pod in (body for body in bodies if body["kind"] == "Pod"):
        assert pod["spec"]["imagePullSecrets"] == expected
    config = config_of(bodies)
    assert config["edge"]["imagePullSecrets"] == config["server"]["imagePullSecrets"]
    assert config["edge"]["imagePullSecrets"] == ["first", "second"]


# ------------------------------------------------------------------------------- configuration


def test_configuration_by_default() -> None:
    version = chart()["appVersion"]
    assert config_of(render()) == {
        "service": "splittracr-operator",
        "podLabels": {"app.kubernetes.io/name": "splittracr-operator"},
        "keySecret": "splittracr-operator-key",
        "port": 8080,
        "resultsPort": 8443,
        "clientCertificates": True,
        "watchNamespaces": [],
        "keepDeletedDays": 7,
        "pollSeconds": 2,
        "resyncSeconds": 60,
        "fixedUserIds": True,
        "networkPolicy": {"enabled": True},
        "scrapeAnnotations": True,
        "edge": {
            "image": f"splittracr-edge:{version}",
            "imagePullPolicy": "IfNotPresent",
            "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}},
            "tolerationSeconds": 86400,
        },
        "server": {
            "image": f"splittracr-server:{version}",
            "imagePullPolicy": "IfNotPresent",
            "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}},
        },
    }


@pytest.mark.parametrize("files", [[], [ALL_OPTIONS]], ids=["defaults", "all options"])
def test_the_operator_understands_the_configuration(files: list[Path], tmp_path: Path) -> None:
    config = config_of(render(files=files))
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    environment = {"SPLITTRACR_CONFIG": str(file), "SPLITTRACR_OPERATOR_NAMESPACE": "somewhere"}
    settings = Settings.read(environment)
    assert settings.service == config["service"]
    assert settings.edge.image == config["edge"]["image"]


def test_configuration_with_all_options() -> None:
    given = yaml.safe_load(ALL_OPTIONS.read_text())
    config = config_of(render(files=[ALL_OPTIONS]))
    assert config["watchNamespaces"] == ["team-a", "team-b"]
    assert (config["pollSeconds"], config["resyncSeconds"], config["port"]) == (5, 120, 9000)
    assert config["keySecret"] == "kept-key"
    assert config["fixedUserIds"] is False
    monitoring = given["monitoring"]
    del monitoring["enabled"]
    assert config["monitoring"] == monitoring
    for role, worker in (("edge", given["edge"]), ("server", given["server"])):
        same = ("nodeSelector", "tolerations", "affinity", "runtimeClassName", "priorityClassName")
        for key in (*same, "weightCache"):
            assert config[role][key] == worker[key]
        assert config[role]["labels"] == worker["podLabels"]
        assert config[role]["annotations"] == worker["podAnnotations"]
        assert config[role]["imagePullPolicy"] == worker["image"]["pullPolicy"]
    assert config["edge"]["journal"] == given["edge"]["journal"]
    assert config["edge"]["tolerationSeconds"] == 7200000
    assert config["edge"]["liteImage"] == "registry.example:5000/splittracr-edge-lite:0.1.0"
    # Quantities are text: the operator's models take no fractions.
    assert config["edge"]["resources"] == {
        "requests": {"cpu": "0.5", "memory": "1Gi"},
        "limits": {"memory": "2Gi"},
    }
    assert config["server"]["resources"] == {
        "requests": {"cpu": "2", "memory": "4Gi"},
        "limits": {"nvidia.com/gpu": "1"},
    }


def test_operator_reads_the_file_that_is_mounted() -> None:
    bodies = render()
    spec = pod_of(bodies)["spec"]
    (container,) = spec["containers"]
    environment = {variable["name"]: variable for variable in container["env"]}
    (volume,) = [v for v in spec["volumes"] if v["name"] == "config"]
    (mount,) = [m for m in container["volumeMounts"] if m["name"] == "config"]
    (file,) = one(bodies, "ConfigMap", volume["configMap"]["name"])["data"]
    assert environment["SPLITTRACR_CONFIG"]["value"] == f"{mount['mountPath']}/{file}"
    field = {"fieldRef": {"fieldPath": "metadata.namespace"}}
    assert environment["SPLITTRACR_OPERATOR_NAMESPACE"]["valueFrom"] == field


def test_results_and_edges_find_the_operator() -> None:
    bodies = render({"port": 9000, "resultsPort": 9443})
    config, service = config_of(bodies), one(bodies, "Service")
    assert service["metadata"]["name"] == config["service"]
    assert service["spec"]["ports"] == [
        {"name": "results", "port": config["resultsPort"], "targetPort": "results"},
        {"name": "metrics", "port": config["port"], "targetPort": "http"},
    ]
    (container,) = pod_of(bodies)["spec"]["containers"]
    assert container["ports"] == [
        {"name": "http", "containerPort": 9000},
        {"name": "results", "containerPort": 9443},
    ]
    rule = one(bodies, "Role", "splittracr-results")["rules"][0]
    assert rule["resourceNames"] == [config["service"]]
    with pytest.raises(Refused, match="port and resultsPort are the same"):
        render({"port": 9000, "resultsPort": 9000})


# ---------------------------------------------------------------------------------- persistence


def results_volume(bodies: list[Body]) -> Body:
    volumes: list[Body] = pod_of(bodies)["spec"]["volumes"]
    (volume,) = [volume for volume in volumes if volume["name"] == "results"]
    return volume


def test_claim_is_kept() -> None:
    given = {"size": "5Gi", "storageClass": "fast", "annotations": {"a": "b"}}
    claim = one(render({"persistence": given}), "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"a": "b", **KEEP}
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"] == {"requests": {"storage": "5Gi"}}
    assert "storageClassName" not in one(render(), "PersistentVolumeClaim")["spec"]
    name = results_volume(render())["persistentVolumeClaim"]["claimName"]
    assert name == claim["metadata"]["name"]


def test_existing_claim_or_none() -> None:
    bodies = render({"persistence": {"existingClaim": "mine"}})
    assert of_kind(bodies, "PersistentVolumeClaim") == []
    assert results_volume(bodies)["persistentVolumeClaim"] == {"claimName": "mine"}
    bodies = render({"persistence": {"enabled": False}})
    assert of_kind(bodies, "PersistentVolumeClaim") == []
    assert results_volume(bodies)["emptyDir"] == {}


# ---------------------------------------------------------------------------- the operator's pod


def test_openshift_sets_no_ids() -> None:
    bodies = render({"openshift": {"enabled": True}})
    pods = [pod_of(bodies), *(body for body in bodies if body["kind"] == "Pod")]
    assert len(pods) == 3
    for pod in pods:
        assert pod["spec"]["securityContext"] == {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    assert config_of(bodies)["fixedUserIds"] is False


def test_disruption_budget_is_off_unless_asked_for() -> None:
    assert of_kind(render(), "PodDisruptionBudget") == []
    bodies = render({"podDisruptionBudget": {"enabled": True}})
    selector = one(bodies, "PodDisruptionBudget")["spec"]["selector"]
    assert selector == one(bodies, "Deployment")["spec"]["selector"]


def test_own_labels_and_annotations_are_never_replaced() -> None:
    labels = {"app.kubernetes.io/name": "other", "tier": "control"}
    annotations = {"checksum/config": "other", "a": "b"}
    template = pod_of(
        render({"podLabels": labels, "commonLabels": labels, "podAnnotations": annotations})
    )
    metadata = template["metadata"]
    assert metadata["labels"]["app.kubernetes.io/name"] == "splittracr-operator"
    assert metadata["labels"]["tier"] == "control"
    assert len(metadata["annotations"]["checksum/config"]) == 64
    assert metadata["annotations"]["a"] == "b"


def test_names() -> None:
    def operator(values: Body, release: str) -> str:
        name: str = one(render(values, release=release), "Deployment")["metadata"]["name"]
        return name

    assert operator({}, "splittracr") == "splittracr-operator"
    assert operator({}, "lab") == "lab-splittracr-operator"
    assert operator({"nameOverride": "split"}, "lab") == "lab-split-operator"
    assert operator({"fullnameOverride": "x"}, "lab") == "x-operator"
    assert len(operator({}, "a" * 53)) <= 52
    bodies = [
        body
        for body in render({"namespaceOverride": "elsewhere"})
        if not reads_users_authority(body)
    ]
    assert {b["metadata"].get("namespace", "elsewhere") for b in bodies} == {"elsewhere"}


# ------------------------------------------------------------------------------------- helm test


def test_only_pods_are_hooks_and_their_logs_stay() -> None:
    """`helm test --logs` takes every hook for a pod, and Helm 3 reads logs after deletions."""
    bodies = [body for body in render() if is_test(body)]
    kinds = [body["kind"] for body in bodies]
    assert sorted(kinds) == ["Pod", "Pod", "Role", "RoleBinding", "ServiceAccount"]
    for body in bodies:
        annotations = body["metadata"].get("annotations", {})
        assert ("helm.sh/hook" in annotations) == (body["kind"] == "Pod")
        policy = annotations.get("helm.sh/hook-delete-policy", "before-hook-creation")
        assert policy == "before-hook-creation"
    assert not any(is_test(body) for body in render({"tests": {"enabled": False}}))


def test_helm_test_runs_as_users_and_as_the_operator() -> None:
    bodies = render({"watchNamespaces": ["team-a"], "port": 9000})
    pods = {body["metadata"]["name"]: body["spec"] for body in bodies if body["kind"] == "Pod"}
    (role,) = [body for body in bodies if is_test(body) and body["kind"] == "Role"]
    assert role["rules"] == [
        {"apiGroups": ["splittracr.io"], "resources": ["splitexperiments"], "verbs": ["create"]}
    ]
    api, rights = pods["splittracr-test-api"], pods["splittracr-test-permissions"]
    assert api["serviceAccountName"] == "splittracr-test"
    assert api["containers"][0]["args"] == [
        "--namespace=splittracr-system",
        "--url=http://splittracr-operator.splittracr-system.svc:9000",
        "--store=https://splittracr-operator.splittracr-system.svc:8443",
    ]
    assert rights["serviceAccountName"] == "splittracr-operator"
    assert rights["containers"][0]["args"] == [
        "--namespace=splittracr-system",
        "--key-secret=splittracr-operator-key",
        "--reviews",
        "--watch=team-a",
    ]


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replicas": 2}, "/replicas"),
        ({"persistance": {"enabled": False}}, "persistance"),
        ({"edge": {"runtimeclassName": "nvidia"}}, "runtimeclassName"),
        ({"server": {"journal": {"emptyDir": {}}}}, "journal"),
        ({"image": {"digest": "sha256:12"}}, "/image/digest"),
        ({"edge": {"image": {"digest": "0" * 64}}}, "/edge/image/digest"),
        ({"global": {"imageRegistry": "https://r.example"}}, "imageRegistry"),
        ({"serviceMonitor": {"renderMode": "always"}}, "/serviceMonitor/renderMode"),
        ({"serviceMonitor": {"interval": "30"}}, "/serviceMonitor/interval"),
        ({"results": {"keepDeletedDays": "7"}}, "/results/keepDeletedDays"),
        ({"results": {"readers": [{"kind": "Role", "name": "a"}]}}, "/results/readers/0/kind"),
        ({"pollSeconds": 0}, "/pollSeconds"),
        ({"watchNamespaces": "team-a"}, "/watchNamespaces"),
        ({"edge": {"weightCache": {"emptyDir": {}, "nfs": {}}}}, "/edge/weightCache"),
        ({"resources": {"limits": {"memory": "1 Gi"}}}, "/resources/limits/memory"),
        ({"tolerations": [{"key": "a", "efect": "NoSchedule"}]}, "efect"),
    ],
)
def test_schema_refuses_and_names_the_value(values: Body, named: str) -> None:
    with pytest.raises(Refused) as refused:
        render(values)
    text = str(refused.value)
    assert "values don't meet the specifications of the schema" in text
    assert named in text or named.strip("/").replace("/", ".") in text


def test_values_of_other_charts_may_be_global() -> None:
    assert named(render({"global": {"other": 1}})) == named(render())


def test_as_a_dependency(tmp_path: Path) -> None:
    """Values of the parent go to it, others are its own, and a condition turns it off."""
    version = chart()["version"]
    dependency = {"name": "splittracr", "version": version, "condition": "splittracr.enabled"}
    parent = {"apiVersion": "v2", "name": "lab", "version": "1.0.0", "dependencies": [dependency]}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(parent))
    (tmp_path / "values.yaml").write_text("global: {imageRegistry: r.example, other: {a: 1}}\n")
    shutil.copytree(FOLDER, tmp_path / "charts" / "splittracr")
    bodies = render(release="lab", folder=tmp_path)
    assert images(bodies)[0].startswith("r.example/splittracr-operator:")
    assert render({"splittracr": {"enabled": False}}, release="lab", folder=tmp_path) == []
    with pytest.raises(Refused, match="persistance"):
        render({"splittracr": {"persistance": {}}}, release="lab", folder=tmp_path)
