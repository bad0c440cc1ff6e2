"""A cluster with the operator in it, once for the session, and a namespace for each test.

KUBECONFIG names the cluster and SPLITTRACR_OPERATOR_IMAGE, SPLITTRACR_EDGE_IMAGE and
SPLITTRACR_SERVER_IMAGE the images. Two nodes have the label splittracr.io/role, one `edge`, one
`server`. Faults need a command that makes them, in SPLITTRACR_CLUSTER_TOOL.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from splittracr.cli.chart import CHART, OLDEST
from tests.e2e.cluster import OPERATOR, TOOL, apply, kubectl, run, run_pod, until

ROOT = Path(__file__).parents[2]
_IMAGES = {name: f"SPLITTRACR_{name.upper()}_IMAGE" for name in ("operator", "edge", "server")}


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
        return "no cluster: KUBECONFIG names one, docs/kubernetes.md says how to get one"
    for tool in ("kubectl", "helm"):
        if shutil.which(tool) is None:
            return f"no {tool}"
    absent = [variable for variable in _IMAGES.values() if variable not in os.environ]
    return f"no images: {', '.join(absent)}" if absent else None


def documents() -> list[dict[str, object]]:
    """The chart's objects, with this session's images and a store on an empty volume."""
    options = ["--set=crds.enabled=false,tests.enabled=false,persistence.enabled=false"]
    options += [f"--kube-version={OLDEST}"]
    for name, variable in _IMAGES.items():
        repository, tag = image_parts(os.environ[variable])
        prefix = "image" if name == "operator" else f"{name}.image"
        options += [f"--set-string={prefix}.repository={repository}"]
        options += [f"--set-string={prefix}.{'digest' if ':' in tag else 'tag'}={tag}"]
    text = run("helm", "template", "splittracr", str(ROOT / CHART), "-n", OPERATOR, *options)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": OPERATOR, "labels": labels}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    return [namespace, *(body for body in yaml.safe_load_all(text) if body)]


def image_parts(reference: str) -> tuple[str, str]:
    """Repository and tag, or digest, of an image."""
    repository, _, digest = reference.partition("@")
    if digest:
        return repository, digest
    folder, slash, name = reference.rpartition("/")
    name, _, tag = name.partition(":")
    return f"{folder}{slash}{name}", tag or "latest"


@pytest.fixture(scope="session")
def operator() -> Iterator[None]:
    """The operator, installed as its manifests say and removed at the end."""
    why = missing()
    if why is not None:
        pytest.skip(why)
    until("the removal of an earlier operator", _settled, 180)
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    until("the custom resource", lambda: kubectl("get", "splits", "-A") is not None, 30)
    apply(*documents())
    kubectl("-n", OPERATOR, "rollout", "restart", "deploy/splittracr-operator")
    kubectl("-n", OPERATOR, "rollout", "status", "deploy/splittracr-operator", seconds=180)
    with _namespace() as scratch:  # no test is to wait for gigabytes
        for role in ("edge", "server"):
            run_pod(scratch, os.environ[_IMAGES[role]], ["true"], role, seconds=400)
    yield
    if "SPLITTRACR_E2E_KEEP" not in os.environ:
        kubectl("delete", "namespace", OPERATOR, seconds=120)


def _settled() -> bool:
    """Whether the operator's namespace is not on its way out, from the session before."""
    options = ("--ignore-not-found", "-o", "jsonpath={.status.phase}")
    return kubectl("get", "namespace", OPERATOR, *options) != "Terminating"


@contextlib.contextmanager
def _namespace(level: str = "restricted") -> Iterator[str]:
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
    with _namespace() as name:
        yield name


@pytest.fixture
def second_namespace(operator: None) -> Iterator[str]:
    """Another one."""
    with _namespace() as name:
        yield name


@pytest.fixture
def claim(namespace: str) -> Iterator[str]:
    """A claim in the namespace, on a folder of the edge's node that is removed afterwards."""
    name, image = f"splittracr-{namespace}", os.environ[_IMAGES["edge"]]
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
    with _namespace("privileged") as free:
        made = ["mkdir", "-m", "777", f"/volume/{name}"]
        run_pod(free, image, made, "edge", volume=node, root=True)
        apply(volume, wanted)
        try:
            yield "kept"
        finally:
            kubectl("delete", "persistentvolume", name, "--wait=false")
            gone = ["rm", "-r", f"/volume/{name}"]
            run_pod(free, image, gone, "edge", volume=node, root=True)


@pytest.fixture
def faults(operator: None) -> None:
    """Faults can be made."""
    if TOOL not in os.environ:
        pytest.skip(f"no faults: {TOOL} names no command that makes them")
