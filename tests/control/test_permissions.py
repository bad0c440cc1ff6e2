from pathlib import Path

import pytest
import yaml

from splittracr_operator.connection import Permission, permission
from splittracr_operator.selftest import REVIEWS, permissions

DEPLOY = Path(__file__).parents[2] / "deploy" / "operator.yaml"


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api/v1/pods?labelSelector=x", ("", "pods", "list")),
        ("GET", "/api/v1/namespaces/lab/pods/a/log?tailLines=3", ("", "pods/log", "get")),
        ("GET", "/apis/apps/v1/deployments", ("apps", "deployments", "list")),
        ("POST", "/apis/batch/v1/namespaces/lab/jobs", ("batch", "jobs", "create")),
        ("DELETE", "/apis/batch/v1/namespaces/lab/jobs/a", ("batch", "jobs", "delete")),
        ("GET", "/api/v1/namespaces/lab/secrets/a", ("", "secrets", "get")),
        (
            "PATCH",
            "/apis/splittracr.io/v1alpha1/namespaces/lab/splitexperiments/a/status",
            ("splittracr.io", "splitexperiments/status", "patch"),
        ),
    ],
)
def test_permission_of_a_request(method: str, path: str, expected: tuple[str, str, str]) -> None:
    assert permission(method, path) == Permission(*expected)


def rules(kind: str, name: str) -> list[dict[str, list[str]]]:
    """Rules of an installed role of the operator."""
    bodies = yaml.safe_load_all(DEPLOY.read_text())
    (role,) = [b for b in bodies if b["kind"] == kind and b["metadata"]["name"] == name]
    found: list[dict[str, list[str]]] = role["rules"]
    return found


def test_the_operator_has_the_permissions_that_it_needs_and_no_others() -> None:
    """A test on a cluster compares the actual requests with the roles (tests/e2e)."""
    granted = [
        Permission(group, resource, verb)
        for rule in rules("ClusterRole", "splittracr-system:splittracr-operator")
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]
    assert sorted(granted) == sorted(permissions())
    assert [p.verb for p in granted if p.resource == "secrets"] == ["create"]
    assert all("*" not in permission for permission in granted)


def test_the_operator_may_read_no_secret_but_its_own() -> None:
    assert rules("Role", "splittracr-operator") == [
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": ["splittracr-operator-key"],
            "verbs": ["get"],
        },
        # Also without a ClusterRoleBinding: the operator creates its key at the first start.
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
    ]


def test_rights_for_users_are_those_of_the_reviews() -> None:
    granted = [
        Permission(rule["apiGroups"][0], rule["resources"][0], rule["verbs"][0])
        for rule in rules("ClusterRole", "splittracr-system:splittracr-operator-reviews")
    ]
    assert tuple(granted) == REVIEWS
