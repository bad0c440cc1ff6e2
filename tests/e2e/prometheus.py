"""A Prometheus in the cluster, configured as in docs/install.md."""

import contextlib
import itertools
import json
import os
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.e2e.cluster import apply, kubectl, raw, until

IMAGE = "SPLITTRACR_PROMETHEUS_IMAGE"
LABELS = {"app": "prometheus"}

_PAGE = Path(__file__).parents[2] / "docs" / "install.md"


def documented() -> str:
    """The configuration that the page on installation gives, with a shorter interval."""
    text = _PAGE.read_text()
    block = text[text.index("    scrape_configs:\n") :]
    lines = itertools.takewhile(lambda line: not line or line.startswith("    "), block.split("\n"))
    shown = textwrap.dedent("\n".join(lines))
    assert "scrape_interval: 5s" in shown
    return shown.replace("scrape_interval: 5s", "scrape_interval: 2s\n    scrape_timeout: 2s")


class Prometheus:
    """One that runs in `namespace`; asked by way of the API server."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.path = f"/api/v1/namespaces/{namespace}/services/prometheus:web/proxy"

    def query(self, text: str) -> list[dict[str, Any]]:
        """The series of an instant query."""
        answer = json.loads(raw(f"{self.path}/api/v1/query?query={quote(text)}"))
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def targets(self) -> list[dict[str, Any]]:
        """The active targets."""
        answer = json.loads(raw(f"{self.path}/api/v1/targets?state=active"))
        found: list[dict[str, Any]] = answer["data"]["activeTargets"]
        return found

    @contextlib.contextmanager
    def at_loopback(self) -> Iterator[str]:
        """Its URL on this machine, through `kubectl proxy`."""
        command = ["kubectl", "proxy", "--port=0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                address = re.search(r"127\.0\.0\.1:[0-9]+", process.stdout.readline())
                assert address is not None
                yield f"http://{address[0]}{self.path}"
            finally:
                process.terminate()


@contextlib.contextmanager
def prometheus(namespace: str) -> Iterator[Prometheus]:
    """Run one in a namespace that is there."""
    account = {"name": "prometheus", "namespace": namespace}
    role = f"prometheus-{namespace}"
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
    rbac = "rbac.authorization.k8s.io/v1"
    apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
        {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": role}, "rules": rules},
        {
            "apiVersion": rbac,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": role},
            "roleRef": reference,
            "subjects": [{"kind": "ServiceAccount", **account}],
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": account,
            "data": {"prometheus.yml": documented()},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": account,
            "spec": {"selector": LABELS, "ports": [{"name": "web", "port": 9090}]},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**account, "labels": LABELS},
            "spec": _pod(),
        },
    )
    try:
        kubectl(
            *("-n", namespace, "wait", "pod/prometheus", "--for=condition=Ready"),
            "--timeout=180s",
            seconds=200,
        )
        made = Prometheus(namespace)
        until("an answer of Prometheus", lambda: made.query("up") is not None, 60)
        yield made
    finally:
        kubectl("delete", "clusterrolebinding,clusterrole", role)


def _pod() -> dict[str, Any]:
    return {
        "serviceAccountName": "prometheus",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "prometheus",
                "image": os.environ[IMAGE],
                "args": [
                    "--config.file=/etc/prometheus/prometheus.yml",
                    "--storage.tsdb.path=/data",
                ],
                "ports": [{"name": "web", "containerPort": 9090}],
                "readinessProbe": {"httpGet": {"path": "/-/ready", "port": "web"}},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "config", "mountPath": "/etc/prometheus"},
                    {"name": "data", "mountPath": "/data"},
                ],
            }
        ],
        "volumes": [
            {"name": "config", "configMap": {"name": "prometheus"}},
            {"name": "data", "emptyDir": {}},
        ],
    }
