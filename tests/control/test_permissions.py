from pathlib import Path

import pytest
import yaml

from splittracr_operator.cluster import Permission, permission

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


def test_nobody_may_read_secrets_but_the_operators_own() -> None:
    """What the operator really asks for is compared with its role on a cluster (tests/e2e)."""
    bodies = list(yaml.safe_load_all(DEPLOY.read_text()))
    (cluster_role,) = (b for b in bodies if b["kind"] == "ClusterRole")
    secrets = [rule for rule in cluster_role["rules"] if "secrets" in rule["resources"]]
    assert [rule["verbs"] for rule in secrets] == [["create"]]
    assert all("*" not in rule["verbs"] + rule["resources"] for rule in cluster_role["rules"])
    role = next(b for b in bodies if b["kind"] == "Role")
    assert role["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": ["splittracr-operator-key"],
            "verbs": ["get"],
        },
        # Also where no ClusterRoleBinding gives it: the key is made at the first start.
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
    ]
