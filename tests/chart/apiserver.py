"""An API server with a few objects and nothing else, for the look-ups of a chart."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

_RESOURCES = {
    "v1": {
        "ConfigMap": "configmaps",
        "Namespace": "namespaces",
        "Node": "nodes",
        "PersistentVolumeClaim": "persistentvolumeclaims",
        "Pod": "pods",
        "Secret": "secrets",
        "Service": "services",
        "ServiceAccount": "serviceaccounts",
    },
    "apiextensions.k8s.io/v1": {"CustomResourceDefinition": "customresourcedefinitions"},
    "apps/v1": {"Deployment": "deployments"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
    "rbac.authorization.k8s.io/v1": {
        "ClusterRole": "clusterroles",
        "ClusterRoleBinding": "clusterrolebindings",
        "Role": "roles",
        "RoleBinding": "rolebindings",
    },
    "storage.k8s.io/v1": {"StorageClass": "storageclasses"},
}
_WHOLE = {"Namespace", "Node", "StorageClass", "ClusterRole", "ClusterRoleBinding"}
_WHOLE |= {"CustomResourceDefinition"}
"""Kinds without a namespace."""

KUBE_SYSTEM = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}}


@contextmanager
def serving(kubeconfig: Path, *objects: Mapping[str, Any]) -> Iterator[None]:
    """Serve the objects and the namespace kube-system; `kubeconfig` is written."""
    pages = _pages((KUBE_SYSTEM, *objects))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = pages.get(self.path.partition("?")[0])
            missing = {"kind": "Status", "apiVersion": "v1", "reason": "NotFound"}
            content = json.dumps(missing if found is None else found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        cluster = {"server": f"http://127.0.0.1:{server.server_port}"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "users": [{"name": "test", "user": {}}],
        }
        kubeconfig.write_text(yaml.safe_dump(config))
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _pages(objects: tuple[Mapping[str, Any], ...]) -> dict[str, Any]:
    """Answers by path."""
    groups = [version.split("/") for version in _RESOURCES if "/" in version]
    pages: dict[str, Any] = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [
                {
                    "name": group,
                    "versions": [{"groupVersion": f"{group}/{version}", "version": version}],
                }
                for group, version in groups
            ],
        },
    }
    for version, kinds in _RESOURCES.items():
        root = f"/{'apis' if '/' in version else 'api'}/{version}"
        pages[root] = {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": version,
            "resources": [
                {
                    "name": plural,
                    "singularName": kind.lower(),
                    "kind": kind,
                    "namespaced": kind not in _WHOLE,
                    "verbs": ["get", "list", "create", "patch"],
                }
                for kind, plural in kinds.items()
            ],
        }
        for kind, plural in kinds.items():
            items = [body for body in objects if body["kind"] == kind]
            listed = {"kind": f"{kind}List", "apiVersion": version, "metadata": {}, "items": items}
            pages[f"{root}/{plural}"] = listed
            for body in items:
                metadata = body["metadata"]
                space = metadata.get("namespace")
                folder = f"{root}/namespaces/{space}" if space else root
                pages[f"{folder}/{plural}/{metadata['name']}"] = body
    return pages
