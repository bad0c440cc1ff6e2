import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment import manifest
from splittracr.experiment.pods import CONTAINERS, RESERVED_PATH, VOLUMES
from splittracr.security import mint
from splittracr_operator import children, names
from splittracr_operator.keys import Keys
from splittracr_operator.network_policies import edge_policy, server_policy
from splittracr_operator.objects import Manifest
from splittracr_operator.settings import EdgeDefaults, PolicySettings, Settings
from splittracr_operator.study import Study
from tests.control.studies import ALL, NOW, SETTINGS, UID, settings, study

AUTHORITY = "the authority"
MANIFESTS = Path(__file__).parent / "manifests"
KEYS = Keys(b"k" * 32)
FULL: dict[str, Any] = {
    "edge": {
        "replicas": 3,
        "pod": {
            "image": "registry.example/own-edge:2",
            "imagePullPolicy": "Always",
            "imagePullSecrets": ["registry"],
            "nodeSelector": {"site": "roof"},
            "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {}}}],
            "volumes": [
                {"name": "pictures", "nfs": {"server": "nas", "path": "/p"}},
                {"name": "key", "secret": {"secretName": "key"}},
            ],
            "volumeMounts": [{"name": "pictures", "mountPath": "/pictures", "readOnly": True}],
            "labels": {"team": "vision", "app.kubernetes.io/name": "other"},
            "annotations": {"sidecar.istio.io/inject": "true"},
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
                {"maxSkew": 2, "topologyKey": "rack", "labelSelector": {"matchLabels": {"a": "b"}}},
            ],
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsUser": 1234,
                "fsGroup": 4321,
                "fsGroupChangePolicy": "OnRootMismatch",
                "supplementalGroups": [5, 6],
            },
            "containerSecurityContext": {"readOnlyRootFilesystem": False},
            "initContainers": [
                {
                    "name": "fetch",
                    "command": ["fetch", "--to", "/pictures"],
                    "env": [{"name": "A", "value": "1"}],
                    "resources": {"requests": {"cpu": "100m"}},
                    "securityContext": {"runAsUser": 99, "readOnlyRootFilesystem": True},
                    "volumeMounts": [{"name": "pictures", "mountPath": "/pictures"}],
                },
                {
                    "name": "agent",
                    "image": "registry.example/agent:3",
                    "imagePullPolicy": "IfNotPresent",
                    "args": ["--quiet"],
                    "restartPolicy": "Always",
                    "startupProbe": {"exec": {"command": ["ready"]}},
                },
            ],
        },
    },
    "server": {
        "pod": {
            "runtimeClassName": "nvidia",
            "resources": {"limits": {"nvidia.com/gpu": 1}},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"x": 1}},
            "serviceAccountName": "worker",
            "priorityClassName": "high",
        }
    },
    "results": {"claim": "results"},
    "activeDeadlineSeconds": 600,
    "backoffLimit": 2,
}


def without_manifest(made: Manifest) -> Manifest:
    """Replace the manifest in the ConfigMap, which another test compares."""
    if made["kind"] != "ConfigMap":
        return made
    return {**made, "data": {k: v for k, v in made["data"].items() if k != "manifest.yaml"}}


@pytest.mark.parametrize(
    "name", ["minimal", "full", "official-weights", "edge-only", "plain", "defaults", "openshift"]
)
def test_whole_manifests(name: str) -> None:
    """Compare with files, which show the complete children of a study."""
    given_study, chosen = {
        "minimal": (study(), SETTINGS),
        "full": (study(**FULL), SETTINGS),
        "official-weights": (study(model={"name": "alexnet"}), SETTINGS),
        "edge-only": (study(partition={"mode": "EdgeOnly"}), SETTINGS),
        "plain": (study(transport={"security": "Plain"}), SETTINGS),
        "defaults": (study(), ALL),
        "openshift": (
            study(),
            settings(fixed_user_ids=False, network_policy=PolicySettings(enabled=False)),
        ),
    }[name]
    made = [without_manifest(m) for m in children.everything(given_study, chosen, AUTHORITY)]
    expected = list(yaml.safe_load_all((MANIFESTS / f"{name}.yaml").read_text()))
    assert made == expected


def test_only_the_edge_downloads_the_small_model_of_a_cascade() -> None:
    small = {"model": {"name": "alexnet"}, "statistic": "Margin", "thresholdPerMillion": 1}
    given_study = study(partition={"mode": "Cascade", "cut": 5, "cascade": small})
    download = {"ports": [{"protocol": "TCP", "port": 443}]}
    assert download in edge_policy(given_study, SETTINGS)["spec"]["egress"]
    assert download not in server_policy(given_study, SETTINGS)["spec"]["egress"]


def test_the_workers_read_the_manifest_with_its_uid() -> None:
    text = children.manifest_map(study(), SETTINGS, AUTHORITY)["data"]["manifest.yaml"]
    assert manifest.parse(text) == study().experiment
    assert manifest.parse(text).metadata.uid == UID


def test_the_secret_is_owned_by_the_config_map() -> None:
    tls = mint(children.server_hosts(study()), NOW)
    reference = {"name": "alexnet-manifest", "uid": "map"}
    made = children.secret(study(), KEYS, tls, reference)
    (owner,) = made["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "v1", "kind": "ConfigMap", **reference}
    assert UID[:8] in made["metadata"]["name"]
    assert set(made["data"]) == {"token", "control-token", "ca.crt", "tls.crt", "tls.key"}
    assert len(set(made["data"].values())) == 5
    plain = children.secret(study(), KEYS, None, reference)
    assert set(plain["data"]) == {"token", "control-token"}
    used = [
        variable["valueFrom"]["secretKeyRef"]["name"]
        for child in children.everything(study(), SETTINGS, AUTHORITY)
        if child["kind"] in ("Job", "Deployment")
        for variable in child["spec"]["template"]["spec"]["containers"][0]["env"]
        if "secretKeyRef" in variable.get("valueFrom", {})
    ]
    assert set(used) == {made["metadata"]["name"]}


def test_edges_outside_have_no_job_and_reach_the_server() -> None:
    service = {"type": "NodePort", "host": "192.0.2.7"}
    given = study(edge={"replicas": 0, "outside": 2}, server={"service": service})
    made = {m["metadata"]["name"]: m for m in children.everything(given, SETTINGS, AUTHORITY)}
    assert list(made) == [f"alexnet-{end}" for end in ("manifest", "server")]
    kinds = [m["kind"] for m in children.everything(given, SETTINGS, AUTHORITY)]
    assert kinds == ["ConfigMap", "NetworkPolicy", "Service", "Deployment"]
    assert children.server_service(given)["spec"]["type"] == "NodePort"
    policy = children.everything(given, SETTINGS, AUTHORITY)[1]
    assert policy["spec"]["ingress"][0] == {"ports": [{"protocol": "TCP", "port": 8765}]}
    inside = ["alexnet-server", "alexnet-server.lab", "alexnet-server.lab.svc"]
    assert children.server_hosts(given) == [*inside, "192.0.2.7"]
    assert children.server_hosts(study()) == inside
    ended = [m["kind"] for m in children.remains(given, SETTINGS, AUTHORITY, stop=True)]
    assert ended == ["ConfigMap"]


def test_edges_in_pods_and_outside_are_numbered_in_this_order() -> None:
    mixed = study(edge={"replicas": 2, "outside": 2})
    assert mixed.inside == ["edge-0", "edge-1"]
    assert mixed.outside == ["edge-2", "edge-3"]
    assert mixed.edges == [*mixed.inside, *mixed.outside]
    assert children.edge_job(mixed, SETTINGS)["spec"]["completions"] == 2


def test_edges_without_pytorch_have_an_image_of_their_own() -> None:
    here = settings(edge=EdgeDefaults(image="full:1", lite_image="lite:1"))
    light = {"edge": {"runtime": "OnnxRuntime"}}

    def image(given: Study, operator: Settings = here) -> object:
        containers = children.edge_job(given, operator)["spec"]["template"]["spec"]["containers"]
        return containers[0]["image"]

    assert image(study(**light)) == "lite:1"
    assert image(study()) == "full:1"
    assert image(study(**light), settings(edge=EdgeDefaults(image="full:1"))) == "full:1"
    own = {"edge": {"runtime": "OnnxRuntime", "pod": {"image": "own:1"}}}
    assert image(study(**own)) == "own:1"
    server = children.server_deployment(study(**light), here)["spec"]["template"]
    assert server["spec"]["containers"][0]["image"] == SETTINGS.server.image


@pytest.mark.parametrize("failed", [True, False])
def test_nothing_holds_a_gpu_after_the_end(failed: bool) -> None:
    left = children.remains(study(**FULL), SETTINGS, AUTHORITY, stop=failed)
    assert {m["kind"] for m in left} == {"ConfigMap", "NetworkPolicy", "Job"}
    assert next(m for m in left if m["kind"] == "Job")["spec"]["suspend"] is failed


def restricted(template: Manifest) -> None:
    """The rules of Pod Security's level `restricted` for fields of these pods."""
    spec = template["spec"]
    assert len(spec["containers"]) == 1
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()


@pytest.mark.parametrize("given_study", [study(), study(**FULL)])
def test_pods_are_restricted_and_have_no_access_to_the_api_server(given_study: Any) -> None:
    for child in children.everything(given_study, SETTINGS, AUTHORITY):
        if child["kind"] in ("Job", "Deployment"):
            restricted(child["spec"]["template"])
            assert child["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("chosen", [SETTINGS, ALL])
@pytest.mark.parametrize("given_study", [study(), study(partition={"mode": "EdgeOnly"})])
def test_a_manifest_cannot_take_the_names_of_the_operator(given_study: Any, chosen: Any) -> None:
    for child in children.everything(given_study, chosen, AUTHORITY):
        if child["kind"] in ("Job", "Deployment"):
            spec = child["spec"]["template"]["spec"]
            (container,) = spec["containers"]
            assert container["name"] in CONTAINERS
            assert {volume["name"] for volume in spec["volumes"]} <= set(VOLUMES)
            paths = [mount["mountPath"] for mount in container["volumeMounts"]]
            for path in (*paths, container["terminationMessagePath"]):
                assert re.search(RESERVED_PATH, path)
                assert re.search(RESERVED_PATH, f"{path}/")


def digests(given_study: Study, chosen: Settings = SETTINGS) -> list[str]:
    """Digests of the pod settings of the edges and of the server."""
    made = children.everything(given_study, chosen, AUTHORITY)
    templates = [m["spec"]["template"] for m in made if m["kind"] in ("Job", "Deployment")]
    return [template["metadata"]["annotations"][names.POD_SETTINGS] for template in templates]


def test_pod_settings_are_those_of_the_study_alone() -> None:
    edge, server = digests(study())
    assert edge != server
    assert digests(study(), ALL) == [edge, server]
    assert digests(study(edge={"pod": {"affinity": {}}}, backoffLimit=2)) == [edge, server]
    other, same = digests(study(edge={"pod": {"image": "other"}}))
    assert (other != edge, same) == (True, server)


labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?", fullmatch=True)
study_names = st.lists(labels, min_size=1, max_size=4).map(".".join).filter(lambda n: len(n) < 254)


@given(study_names, study_names)
def test_names_are_dns_labels_and_differ(first: str, second: str) -> None:
    for name in (first, second):
        made = names.child(name, "server")
        assert len(made) <= 52
        assert made[0].isalpha()
        assert made[-1].isalnum()
        assert set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert len(names.label(name)) <= 63
    assert (names.child(first, "edge") == names.child(second, "edge")) == (first == second)


def test_valid_names_stay_unchanged() -> None:
    assert names.child("alexnet", "edge") == "alexnet-edge"


def test_tokens_differ_by_purpose_and_study_and_return_after_a_restart() -> None:
    made = {k(u) for k in (KEYS.session, KEYS.control) for u in ("a", "b")}
    assert len(made) == 4
    assert Keys(b"k" * 32).session("a") == KEYS.session("a")
    assert Keys(b"o" * 32).session("a") != KEYS.session("a")


def test_workers_listen_on_both_ip_families() -> None:
    made = {m["kind"]: m for m in children.everything(study(), SETTINGS, AUTHORITY)}
    for kind, role in (("Job", "edge"), ("Deployment", "server")):
        (container,) = made[kind]["spec"]["template"]["spec"]["containers"]
        overrides = [argument for argument in container["args"] if argument.startswith("spec.")]
        text = manifest.dump(study().experiment)
        spec = manifest.parse(text, overrides).spec
        assert getattr(spec, role).host == "::"
