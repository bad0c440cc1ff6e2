"""Values for the rights of the operator and of users."""

import re

import pytest

from tests.chart.render import (
    CLUSTER_WIDE,
    Body,
    Refused,
    config_of,
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
