"""A cluster with the operator in it, once for the session, and a namespace for each test.

KUBECONFIG names the cluster and SPLITTRACR_OPERATOR_IMAGE, SPLITTRACR_EDGE_IMAGE and
SPLITTRACR_SERVER_IMAGE the images, SPLITTRACR_EDGE_LITE_IMAGE that of edges without PyTorch. Two
nodes have the label splittracr.io/role, one `edge`, one `server`. Faults need a command that makes
them, in SPLITTRACR_CLUSTER_TOOL.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import OPERATOR, TOOL, apply, kubectl, run_pod, until
from tests.e2e.helm import HELM, IMAGES, LITE, Release

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            # The first test's time has the images' way to the nodes in it.
            item.add_marker(pytest.mark.timeout(900))


def missing() -> str | None:
    """Why these tests cannot run here."""
    if "KUBECONFIG" not in os.environ:
        return "no cluster: KUBECONFIG names one, see docs/kubernetes.md"
    if shutil.which("kubectl") is None:
        return "no kubectl"
    if shutil.which(HELM) is None:
        return f"no {HELM}"
    absent = [variable for variable in IMAGES.values() if variable not in os.environ]
    return f"no images: {', '.join(absent)}" if absent else None


RELEASE = Release("splittracr", OPERATOR)
"""The session's release."""

SESSION = (
    *("--set", "monitoring.enabled=true,monitoring.podSelector.matchLabels.app=prometheus"),
    # Tests cut off the edge: the operator runs on the other node.
    *("--set", r"nodeSelector.splittracr\.io/role=server"),
    *("--set", "edge.resources.requests.cpu=10m,edge.resources.requests.memory=64Mi"),
    *("--set", "server.resources.requests.cpu=10m,server.resources.requests.memory=64Mi"),
)
"""Its values besides the images: many studies share a small machine."""


def install() -> None:
    """Install the session's release, in a namespace of Pod Security's level `restricted`."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": OPERATOR, "labels": labels}
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    RELEASE.install(*SESSION)


@pytest.fixture(scope="session")
def operator() -> Iterator[None]:
    """The operator, installed from the chart and uninstalled at the end."""
    why = missing()
    if why is not None:
        pytest.skip(why)
    until("the removal of an earlier operator", _settled, 180)
    kubectl("delete", "namespace", OPERATOR, "--ignore-not-found", seconds=120)
    install()
    with scratch() as space:  # no test is to wait for gigabytes
        for role in ("edge", "server"):
            run_pod(space, os.environ[IMAGES[role]], ["true"], role, seconds=400)
        if LITE in os.environ:
            run_pod(space, os.environ[LITE], ["true"], "edge", seconds=400)
    yield
    if "SPLITTRACR_E2E_KEEP" not in os.environ:
        RELEASE.uninstall()
        kubectl("delete", "namespace", OPERATOR, seconds=120)


def _settled() -> bool:
    """Whether the operator's namespace is not on its way out, from the session before."""
    options = ("--ignore-not-found", "-o", "jsonpath={.status.phase}")
    return kubectl("get", "namespace", OPERATOR, *options) != "Terminating"


@contextlib.contextmanager
def scratch(level: str = "restricted") -> Iterator[str]:
    """A namespace that admits only pods which pass this level of Pod Security."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": level}
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    try:
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def namespace(operator: None) -> Iterator[str]:
    """A namespace of the test's own."""
    with scratch() as name:
        yield name


@pytest.fixture
def second_namespace(operator: None) -> Iterator[str]:
    """Another one."""
    with scratch() as name:
        yield name


@pytest.fixture
def claim(namespace: str) -> Iterator[str]:
    """A claim in the namespace, on a folder of the edge's node that is removed afterwards."""
    name, image = f"splittracr-{namespace}", os.environ[IMAGES["edge"]]
    node = {"hostPath": {"path": "/var/tmp"}}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": name,
            "hostPath": {"path": f"/var/tmp/{name}"},
        },
    }
    wanted = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "kept", "namespace": namespace},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": name,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    with scratch("privileged") as free:
        made = ["mkdir", "-m", "777", f"/volume/{name}"]
        run_pod(free, image, made, "edge", volume=node, root=True)
        apply(volume, wanted)
        try:
            yield "kept"
        finally:
            kubectl("delete", "persistentvolume", name, "--wait=false")
            command = ["rm", "-r", f"/volume/{name}"]
            run_pod(free, image, command, "edge", volume=node, root=True)


@pytest.fixture
def faults(operator: None) -> None:
    """Faults can be made."""
    if TOOL not in os.environ:
        pytest.skip(f"no faults: {TOOL} names no command that makes them")
