"""What the values do, one switch after the other."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from splittracr.cli.chart import OLDEST
from splittracr.experiment import crd
from splittracr_operator.settings import Settings
from tests.chart.render import (
    FOLDER,
    MONITORING,
    Body,
    Refused,
    config_of,
    helm,
    is_test,
    needs_helm,
    of_kind,
    one,
    pod_of,
    render,
)

pytestmark = needs_helm

ALL_OPTIONS = FOLDER / "ci" / "all-options-values.yaml"
DIGEST = f"sha256:{'0' * 64}"
KEEP = {"helm.sh/resource-policy": "keep"}
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace"}
IMAGES = ("image", "edge.image", "server.image")
MONITORS = {
    "serviceMonitor": "ServiceMonitor",
    "podMonitor": "PodMonitor",
    "prometheusRule": "PrometheusRule",
}


def images(bodies: list[Body]) -> list[str]:
    config = config_of(bodies)
    (container,) = pod_of(bodies)["spec"]["containers"]
    return [container["image"], config["edge"]["image"], config["server"]["image"]]


def named(bodies: list[Body]) -> set[tuple[str, str, str]]:
    """Kind, namespace (empty: cluster-wide) and name of each object."""
    found = [(b["kind"], b["metadata"].get("namespace", ""), b["metadata"]["name"]) for b in bodies]
    assert len(found) == len(set(found))
    return set(found)


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


def reads_users_authority(body: Body) -> bool:
    """Whether it lets the operator read the API server's authority for client certificates."""
    space: str = body["metadata"].get("namespace", "")
    return body["kind"] in ("Role", "RoleBinding") and space == "kube-system"


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


# ---------------------------------------------------------------- edges outside of the cluster


def joins(**values: object) -> dict[str, Any]:
    return {"results": {"join": values}}


def test_no_address_outside_unless_asked_for() -> None:
    bodies = render()
    assert [body["spec"].get("type") for body in of_kind(bodies, "Service")] == [None]
    assert "joinAddress" not in config_of(bodies)


@pytest.mark.parametrize(
    ("values", "address", "port"),
    [
        (
            {"type": "NodePort", "host": "192.0.2.7", "nodePort": 30443},
            "192.0.2.7:30443",
            {"nodePort": 30443},
        ),
        ({"type": "LoadBalancer", "host": "tower.example"}, "tower.example:9443", {}),
    ],
)
def test_edges_outside_reach_the_results_port_and_no_metrics(
    values: dict[str, object], address: str, port: Body, tmp_path: Path
) -> None:
    bodies = render({**joins(**values), "resultsPort": 9443})
    service = one(bodies, "Service", "splittracr-operator-join")["spec"]
    assert service["type"] == values["type"]
    assert service["ports"] == [{"name": "results", "port": 9443, "targetPort": "results", **port}]
    assert service["selector"] == one(bodies, "Service", "splittracr-operator")["spec"]["selector"]
    config = config_of(bodies)
    assert config["joinAddress"] == address
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    environment = {"SPLITTRACR_CONFIG": str(file), "SPLITTRACR_OPERATOR_NAMESPACE": "somewhere"}
    assert Settings.read(environment).store_hosts[-1] == values["host"]
    results = one(bodies, "NetworkPolicy")["spec"]["ingress"][0]
    assert results == {"ports": [{"protocol": "TCP", "port": 9443}]}


def test_a_way_from_outside_needs_its_address() -> None:
    with pytest.raises(Refused, match=r"results\.join\.type needs results\.join\.host"):
        render(joins(type="LoadBalancer"))
    with pytest.raises(Refused, match=r"NodePort needs results\.join\.nodePort"):
        render(joins(type="NodePort", host="192.0.2.7"))


# -------------------------------------------------------------------------------------- sensors


def sensor_of(values: dict[str, Any]) -> list[Body]:
    bodies = render({"sensor": {"enabled": True, **values}})
    return [b for b in bodies if b["metadata"]["name"] == "splittracr-sensor"]


def test_without_the_switch_nothing_of_the_sensors_is_there() -> None:
    assert of_kind(render(), "DaemonSet") == []
    assert "sensor" not in config_of(render())


def test_sensors_read_files_of_the_node_and_can_change_nothing() -> None:
    spec = one(sensor_of({}), "DaemonSet")["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounts["sys"] == {"name": "sys", "mountPath": "/host/sys", "readOnly": True}
    assert "--sys=/host/sys" in container["args"]
    assert {v["name"]: set(v) - {"name"} for v in spec["volumes"]} == {
        "sys": {"hostPath"},
        "tmp": {"emptyDir"},
    }


def test_sensors_run_where_workers_do_unless_a_selector_says_otherwise() -> None:
    spec = one(sensor_of({}), "DaemonSet")["spec"]["template"]["spec"]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = terms["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": "splittracr.io/role", "operator": "Exists"}]
    selector = {"site": "lab"}
    spec = one(sensor_of({"nodeSelector": selector}), "DaemonSet")["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == selector
    assert "affinity" not in spec


def test_sensors_answer_workers_of_their_own_node_alone() -> None:
    bodies = sensor_of({"port": 9500})
    template = one(bodies, "DaemonSet")["spec"]["template"]
    (container,) = template["spec"]["containers"]
    service, policy = one(bodies, "Service")["spec"], one(bodies, "NetworkPolicy")["spec"]
    assert service["internalTrafficPolicy"] == "Local"
    assert service["ports"] == [{"name": "sensor", "port": 9500, "targetPort": "sensor"}]
    assert container["ports"] == [{"name": "sensor", "containerPort": 9500}]
    assert "--port=9500" in container["args"]
    labels = template["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 9500}]
    (peer,) = rule["from"]
    assert peer["podSelector"]["matchLabels"] == {
        "app.kubernetes.io/name": "splittracr",
        "app.kubernetes.io/managed-by": "splittracr-operator",
    }
    operator = one(render({"sensor": {"enabled": True}}), "Deployment")
    assert (
        not service["selector"].items()
        <= operator["spec"]["template"]["metadata"]["labels"].items()
    )


def test_the_operator_learns_where_the_sensors_are(tmp_path: Path) -> None:
    config = config_of(render({"sensor": {"enabled": True, "port": 9500}}))
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    environment = {"SPLITTRACR_CONFIG": str(file), "SPLITTRACR_OPERATOR_NAMESPACE": "lab"}
    assert Settings.read(environment).sensor_url == "http://splittracr-sensor.lab.svc:9500"


# ---------------------------------------------------------------------------------- permissions


def test_watched_namespaces_get_a_binding_each_instead_of_the_cluster() -> None:
    bodies = render({"watchNamespaces": ["team-a", "team-b"]})
    (reviews,) = of_kind(bodies, "ClusterRoleBinding")
    assert reviews["roleRef"]["name"] == "splittracr-system:splittracr-operator-reviews"
    bindings = [b for b in of_kind(bodies, "RoleBinding") if not reads_users_authority(b)]
    bound = {b["metadata"]["namespace"]: b["roleRef"] for b in bindings}
    assert set(bound) == {"team-a", "team-b", "splittracr-system"}
    assert bound["team-a"]["kind"] == "ClusterRole"
    assert bound["team-a"]["name"] in {
        b["metadata"]["name"] for b in of_kind(bodies, "ClusterRole")
    }


def test_scoped_needs_no_object_of_the_cluster() -> None:
    values = {"watchNamespaces": ["team-a"], "rbac": {"scoped": True}, "crds": {"enabled": False}}
    bodies = render(values)
    assert not {body["kind"] for body in bodies} & CLUSTER_WIDE
    (role,) = [b for b in of_kind(bodies, "Role") if b["metadata"]["namespace"] == "team-a"]
    everywhere = one(render(), "ClusterRole", "splittracr-system:splittracr-operator")
    assert role["rules"] == everywhere["rules"]
    (binding,) = [
        b for b in of_kind(bodies, "RoleBinding") if b["metadata"]["namespace"] == "team-a"
    ]
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == (
        "Role",
        role["metadata"]["name"],
    )


def test_scoped_without_namespaces_is_refused_with_a_sentence() -> None:
    with pytest.raises(Refused, match=re.escape("rbac.scoped needs watchNamespaces: name the")):
        render({"rbac": {"scoped": True}})


def test_two_releases_share_no_object() -> None:
    def scoped(release: str, namespace: str, watched: str) -> set[tuple[str, str, str]]:
        rbac = {"scoped": True}
        values = {"watchNamespaces": [watched], "rbac": rbac, "crds": {"enabled": False}}
        return named(render(values, release=release, namespace=namespace))

    first = scoped("splittracr", "one", "shared")
    assert not first & scoped("splittracr", "two", "shared")
    assert not first & scoped("second", "one", "shared")
    whole = named(render(namespace="one"))
    assert whole & named(render(namespace="two")) == {
        ("CustomResourceDefinition", "", "splitexperiments.splittracr.io")
    }


def test_two_releases_in_one_namespace_select_their_own_pods() -> None:
    first, second = render(), render(release="second")
    labels = pod_of(second)["metadata"]["labels"]
    selector = one(first, "Service")["spec"]["selector"]
    assert not selector.items() <= labels.items()


def test_an_existing_key_is_read_and_never_made() -> None:
    bodies = render({"existingKeySecret": "kept"})
    assert config_of(bodies)["keySecret"] == "kept"
    (rule,) = one(bodies, "Role", "splittracr-operator")["rules"]
    assert (rule["resourceNames"], rule["verbs"]) == (["kept"], ["get"])


def test_readers_are_bound_to_the_results() -> None:
    readers = [{"kind": "Group", "name": "lab"}, {"kind": "ServiceAccount", "name": "notebook"}]
    binding = one(render({"results": {"readers": readers}}), "RoleBinding", "splittracr-results")
    assert binding["roleRef"]["name"] == "splittracr-results"
    assert binding["subjects"] == [
        {"kind": "Group", "name": "lab", "apiGroup": "rbac.authorization.k8s.io"},
        {"kind": "ServiceAccount", "name": "notebook", "namespace": "splittracr-system"},
    ]


@pytest.mark.parametrize("off", ["view", "edit", "admin"])
def test_rights_of_users_by_aggregation(off: str) -> None:
    def aggregated(values: Body) -> set[str]:
        return {
            label.rpartition("-")[2]
            for body in of_kind(render(values), "ClusterRole")
            for label in body["metadata"]["labels"]
            if label.startswith("rbac.authorization.k8s.io/aggregate-to-")
        }

    assert aggregated({}) == {"view", "edit", "admin"}
    assert aggregated({"rbac": {"aggregate": {off: False}}}) == {"view", "edit", "admin"} - {off}


def test_users_certificates_are_a_choice() -> None:
    (role,) = filter(reads_users_authority, of_kind(render(), "Role"))
    assert role["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": ["extension-apiserver-authentication"],
            "verbs": ["get"],
        }
    ]
    without = render({"results": {"clientCertificates": False}})
    assert not list(filter(reads_users_authority, without))
    assert config_of(without)["clientCertificates"] is False


@pytest.mark.parametrize("role", ["view", "edit"])
def test_users_of_kubernetes_roles_may_get_results(role: str) -> None:
    made = one(render(), "ClusterRole", f"splittracr-system:splittracr-operator-{role}")
    (rule,) = [r for r in made["rules"] if "splitexperiments/results" in r["resources"]]
    assert "get" in rule["verbs"]


def test_without_roles() -> None:
    bodies = render({"rbac": {"create": False}})
    kinds = {body["kind"] for body in bodies}
    assert not kinds & {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
    # Nothing lets the other test create studies.
    tests = [(body["kind"], body["metadata"]["name"]) for body in bodies if is_test(body)]
    assert tests == [("Pod", "splittracr-test-permissions")]


def test_another_service_account() -> None:
    given = {"create": False, "name": "mine"}
    bodies = render({"serviceAccount": given})
    assert of_kind(bodies, "ServiceAccount") == []
    assert pod_of(bodies)["spec"]["serviceAccountName"] == "mine"
    for binding in of_kind(bodies, "ClusterRoleBinding") + of_kind(bodies, "RoleBinding"):
        assert [subject["name"] for subject in binding["subjects"]] == ["mine"]
    with pytest.raises(Refused, match=re.escape("needs serviceAccount.name")):
        render({"serviceAccount": {"create": False}})


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


# -------------------------------------------------------------------------------------- network


def test_network_policy_of_the_operator() -> None:
    spec = one(render(), "NetworkPolicy")["spec"]
    results, metrics = spec["ingress"]
    assert results["ports"] == [{"protocol": "TCP", "port": 8443}]
    edges, tests = results["from"]
    assert edges["podSelector"]["matchLabels"]["splittracr.io/role"] == "edge"
    assert tests.keys() == {"podSelector"}
    assert metrics == {"ports": [{"protocol": "TCP", "port": 8080}]}
    dns, server, edges = spec["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert {port["port"] for port in server["ports"]} == {443, 6443, 8443, 16443}
    assert [port["port"] for port in edges["ports"]] == [9090]
    off = render({"networkPolicy": {"enabled": False}})
    assert of_kind(off, "NetworkPolicy") == []
    assert config_of(off)["networkPolicy"] == {"enabled": False}


def test_network_policy_of_watched_namespaces() -> None:
    """A pod elsewhere that copies the labels of workers is no peer."""
    policy = {"apiServerCIDRs": ["10.0.0.1/32"]}

    def peers(watched: list[str]) -> tuple[Body, Body]:
        bodies = render({"watchNamespaces": watched, "networkPolicy": policy})
        spec = one(bodies, "NetworkPolicy")["spec"]
        (edge,) = spec["egress"][2]["to"]
        return spec["ingress"][1]["from"][1], edge

    name = {"key": "kubernetes.io/metadata.name", "operator": "In"}
    pods = {
        "matchLabels": {
            "app.kubernetes.io/name": "splittracr",
            "app.kubernetes.io/managed-by": "splittracr-operator",
        }
    }
    everywhere: Body = {"namespaceSelector": {}, "podSelector": pods}
    assert peers([]) == (everywhere, everywhere)
    watched = {"matchExpressions": [{**name, "values": ["team-a", "team-b"]}]}
    expected = {"namespaceSelector": watched, "podSelector": pods}
    assert peers(["team-a", "team-b"]) == (expected, expected)


def test_network_policy_with_known_api_servers() -> None:
    policy = {"apiServerCIDRs": ["10.0.0.1/32"], "apiServerPorts": [6443]}
    block = {"ipBlock": {"cidr": "10.0.0.1/32"}}
    spec = one(render({"networkPolicy": policy}), "NetworkPolicy")["spec"]
    ingress = spec["ingress"][1]
    assert ingress["from"][0] == block
    assert len(ingress["from"]) == 3  # workers and tests besides
    assert spec["egress"][1]["to"] == [block]
    everybody = {"enabled": True, "podSelector": {"matchLabels": {"a": "b"}}}
    opened = render({"networkPolicy": policy, "monitoring": everybody})
    peers = one(opened, "NetworkPolicy")["spec"]["ingress"][1]["from"]
    peer = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}
    assert peers[3:] == [peer]
    assert config_of(opened)["monitoring"] == peer


def test_tests_may_reach_the_operator() -> None:
    bodies = render({"networkPolicy": {"apiServerCIDRs": ["10.0.0.1/32"]}})
    peers = one(bodies, "NetworkPolicy")["spec"]["ingress"][1]["from"]
    selectors = [
        peer["podSelector"]["matchLabels"]
        for peer in peers
        if len(peer) == 1 and "podSelector" in peer
    ]
    (selector,) = selectors
    pods = [body for body in bodies if body["kind"] == "Pod"]
    assert pods
    for pod in pods:
        assert selector.items() <= pod["metadata"]["labels"].items()


# ----------------------------------------------------------------------------------- monitoring


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with alerts and dashboards of this test."""
    folder = tmp_path_factory.mktemp("chart") / "splittracr"
    shutil.copytree(FOLDER, folder)
    for made in ("files", "dashboards"):
        shutil.rmtree(folder / made, ignore_errors=True)
        (folder / made).mkdir()
    rule = {"alert": "Late", "expr": "a > 1", "annotations": {"summary": "{{ $labels.study }}"}}
    recorded = {"record": "a:b", "expr": "sum(a)"}
    groups = [{"name": "studies", "rules": [{**rule, "labels": {"severity": "page"}}, recorded]}]
    (folder / "files" / "alerts.yaml").write_text(yaml.safe_dump({"groups": groups}))
    (folder / "dashboards" / "my_board.json").write_text('{"title": "{{study}} $x"}')
    return folder


@pytest.mark.parametrize(("value", "kind"), MONITORS.items())
def test_render_modes(value: str, kind: str, stocked: Path) -> None:
    def shown(mode: str, api_versions: tuple[str, ...]) -> int:
        values = {value: {"enabled": True, "renderMode": mode}}
        return len(of_kind(render(values, api_versions=api_versions, folder=stocked), kind))

    assert of_kind(render(api_versions=MONITORING, folder=stocked), kind) == []
    for mode in ("skipIfMissing", "failIfMissing", "alwaysRender"):
        assert shown(mode, MONITORING) == 1
    assert shown("skipIfMissing", ()) == 0
    assert shown("alwaysRender", ()) == 1
    with pytest.raises(Refused, match=f"The cluster has no kind {kind}"):
        shown("failIfMissing", ())


@pytest.mark.parametrize("on", [(), ("serviceMonitor",), ("podMonitor",), tuple(MONITORS)])
def test_annotations_or_monitors_never_both(on: tuple[str, ...]) -> None:
    bodies = render({value: {"enabled": True} for value in on}, api_versions=MONITORING)
    monitors = of_kind(bodies, "ServiceMonitor") + of_kind(bodies, "PodMonitor")
    annotations = {
        key: text
        for key, text in pod_of(bodies)["metadata"]["annotations"].items()
        if key.startswith("prometheus.io/")
    }
    scraped = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8080",
        "prometheus.io/path": "/metrics",
    }
    assert annotations == ({} if monitors else scraped)
    assert config_of(bodies)["scrapeAnnotations"] is not bool(monitors)


def test_monitors_select_operator_and_workers() -> None:
    more = {
        "interval": "30s",
        "scrapeTimeout": "5s",
        "honorLabels": True,
        "relabelings": [{"targetLabel": "a"}],
        "metricRelabelings": [{"action": "drop"}],
    }
    given = {"enabled": True, "labels": {"release": "prometheus"}, **more}
    values = {"serviceMonitor": given, "podMonitor": {**given, "podTargetLabels": ["site"]}}
    bodies = render(values, api_versions=MONITORING)
    service = one(bodies, "ServiceMonitor")
    labels = one(bodies, "Service")["metadata"]["labels"]
    assert service["metadata"]["labels"]["release"] == "prometheus"
    assert service["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["endpoints"] == [{"port": "metrics", "path": "/metrics", **more}]
    pods = one(bodies, "PodMonitor")["spec"]
    assert pods["podMetricsEndpoints"] == [{"port": "metrics", "path": "/metrics", **more}]
    assert pods["podTargetLabels"] == ["site"]
    assert pods["namespaceSelector"] == {"any": True}
    watching = render({**values, "watchNamespaces": ["team-a"]}, api_versions=MONITORING)
    spec = one(watching, "PodMonitor")["spec"]
    assert spec["namespaceSelector"] == {"matchNames": ["team-a"]}


def test_alerts_come_from_the_file(stocked: Path) -> None:
    given = {"enabled": True, "labels": {"release": "p"}, "additionalLabels": {"team": "edge"}}
    body = one(
        render({"prometheusRule": given}, api_versions=MONITORING, folder=stocked), "PrometheusRule"
    )
    assert body["metadata"]["labels"]["release"] == "p"
    (group,) = body["spec"]["groups"]
    alert, recorded = group["rules"]
    assert alert["labels"] == {"severity": "page", "team": "edge"}
    assert alert["annotations"] == {"summary": "{{ $labels.study }}"}
    assert recorded == {"record": "a:b", "expr": "sum(a)"}


def test_dashboards_come_from_the_files(stocked: Path) -> None:
    given = {"enabled": True, "folder": "Split", "annotations": {"a": "b"}}
    bodies = render({"grafanaDashboard": given}, folder=stocked)
    body = one(bodies, "ConfigMap", "splittracr-dashboard-my-board")
    assert body["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert body["metadata"]["annotations"] == {"a": "b", "grafana_folder": "Split"}
    assert body["data"] == {"my_board.json": '{"title": "{{study}} $x"}'}
    assert len(of_kind(render(folder=stocked), "ConfigMap")) == 1


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
