"""The chart on a real cluster: install, test, upgrade, roll back, move, uninstall.

The releases of these tests need the cluster for themselves: the session's own release is
uninstalled first, and is installed again after them.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e import helm
from tests.e2e.cluster import (
    OPERATOR,
    STUDY,
    Body,
    Failed,
    Study,
    apply,
    each_once,
    find,
    get,
    kubectl,
    raw,
    run,
    small,
    start,
    until,
)
from tests.e2e.conftest import RELEASE, install, scratch
from tests.e2e.helm import CHART, HELM, ROOT, Release


@pytest.fixture(scope="module")
def free(operator: None) -> Iterator[None]:
    """No operator runs in the cluster, and nothing of a release is left but the custom resource."""
    RELEASE.uninstall()
    yield
    install()


@pytest.fixture
def space(free: None) -> Iterator[str]:
    """A namespace for studies or releases."""
    with _release_namespace() as name:
        yield name


@pytest.fixture
def second_space(free: None) -> Iterator[str]:
    """A second namespace."""
    with _release_namespace() as name:
        yield name


@contextlib.contextmanager
def _release_namespace() -> Iterator[str]:
    """A namespace; at the end its releases are uninstalled, also after a failed test."""
    with scratch() as name:
        yield name
        for left in run(HELM, "list", "--short", "--namespace", name).split():
            Release(left, name).uninstall()


def workers(study: Study) -> dict[str, int]:
    """Restarts of each worker pod by uid."""
    return {
        pod["metadata"]["uid"]: sum(c["restartCount"] for c in pod["status"]["containerStatuses"])
        for pod in study.pods()
    }


def definition() -> Body:
    return get("crd", "default", STUDY)


HELD, HELD_FOLDER, SAMPLES = "held", "/opt/held", 2000

PICTURES = """
import time
from pathlib import Path

from PIL import Image

class Pictures:
    def __init__(self, count):
        self._count = count

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        if index >= 50 and not Path("/tmp/released").exists():
            time.sleep(0.5)
        return Image.new("RGB", (64, 64))
"""
"""A data set whose pictures come slowly, two a second, until the study is released."""


def held_study(namespace: str) -> Study:
    """A study with its first samples, which goes on for long until `finish_held`.

    So it lasts longer than what helm does meanwhile, on a machine of any speed.
    """
    metadata = {"name": HELD, "namespace": namespace}
    data = {"held_pictures.py": PICTURES}
    apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    pod = {
        "env": [{"name": "PYTHONPATH", "value": HELD_FOLDER}],
        "volumes": [{"name": HELD, "configMap": {"name": HELD}}],
        "volumeMounts": [{"name": HELD, "mountPath": HELD_FOLDER, "readOnly": True}],
    }
    pictures = {
        "source": "Class",
        "class": "held_pictures:Pictures",
        "args": {"count": SAMPLES},
    }
    spec = small(SAMPLES, dataset=pictures, edge={"device": "cpu", "pod": pod})
    study = start(namespace, "long", spec)
    study.wait_done(50, 180)
    return study


def finish_held(study: Study) -> None:
    assert study.state() == "Running"
    job = f"job/{study.name}-edge"
    kubectl("-n", study.namespace, "exec", job, "--", "touch", "/tmp/released")
    finish(study)
    each_once(study.records(), SAMPLES)


def finish(study: Study) -> None:
    status = study.wait_for("Succeeded", "Failed", seconds=300)
    assert status["state"] == "Succeeded", status


def test_install_upgrade_roll_back_uninstall(space: str, second_space: str, tmp_path: Path) -> None:
    release = Release("splittracr", space)
    notes = release.install()
    assert "kubectl apply" in notes
    assert "FAIL" not in release.test()

    study = held_study(second_space)
    before = workers(study)
    assert set(before.values()) == {0}
    release.install(
        *("--set", "server.resources.requests.cpu=300m"),
        *("--set", "edge.podLabels.team=vision"),
        *("--set", "pollSeconds=3"),
        chart=_with_another_column(tmp_path),
    )
    columns = definition()["spec"]["versions"][0]["additionalPrinterColumns"]
    assert "Edges" in [column["name"] for column in columns]
    assert "FAIL" not in release.test()
    release.rollback()
    kubectl("-n", space, "rollout", "status", "deploy/splittracr-operator", seconds=120)
    assert "FAIL" not in release.test()
    assert workers(study) == before
    finish_held(study)
    assert study.status()["results"]["service"] == f"{space}/splittracr-operator"

    another = start(second_space, "another", small(5))
    finish(another)
    release.uninstall()
    assert definition()["metadata"]["name"] == STUDY
    assert {"long", "another"} <= {s["metadata"]["name"] for s in find(STUDY, second_space)}
    until("no operator", lambda: not find("deployments", space), 60)


def _with_another_column(folder: Path) -> Path:
    """A copy of the chart whose custom resource has one more printer column."""
    copy = shutil.copytree(CHART, folder / "splittracr")
    file = copy / "templates" / "crd.yaml"
    text = file.read_text()
    old = "    additionalPrinterColumns:\n"
    assert old in text
    column = "    - {name: Edges, type: integer, jsonPath: .spec.edge.replicas, priority: 1}\n"
    file.write_text(text.replace(old, old + column))
    return copy


def test_two_scoped_releases(space: str, second_space: str) -> None:
    releases = [Release("one", space), Release("two", second_space)]
    for release in releases:
        let_review(release)
        release.install(
            *("--set", "rbac.scoped=true"),
            *("--set", f"watchNamespaces={{{release.namespace}}}"),
            *("--set", f"crds.enabled={'true' if release is releases[0] else 'false'}"),
        )
        assert "FAIL" not in release.test()
    cluster_wide = [
        role["metadata"]["name"]
        for role in find("clusterroles", "default")
        if "splittracr" in role["metadata"]["name"] and "operator" in role["metadata"]["name"]
    ]
    assert cluster_wide == []
    studies = [start(release.namespace, "scoped", small(10)) for release in releases]
    for study in studies:
        finish(study)
        assert study.status()["results"]["service"].startswith(f"{study.namespace}/")
        each_once(study.records(), 10)
    for release in releases:
        release.uninstall()
        forbid_review(release)


def let_review(release: Release) -> None:
    """The steps for a cluster administrator in the notes of a scoped release."""
    name = f"{release.name}-splittracr-operator"
    account = f"--serviceaccount={release.namespace}:{name}"
    for kind, *role in (
        ("clusterrolebinding", "--clusterrole=system:auth-delegator"),
        ("rolebinding", "--role=extension-apiserver-authentication-reader", "-n=kube-system"),
    ):
        kubectl("create", kind, f"{release.namespace}-reviews", *role, account)


def forbid_review(release: Release) -> None:
    """Remove the permissions of `let_review`."""
    kubectl("delete", "clusterrolebinding", f"{release.namespace}-reviews")
    kubectl("delete", "rolebinding", "-n", "kube-system", f"{release.namespace}-reviews")


def test_one_binding_for_two_namespaces(space: str, second_space: str) -> None:
    """A namespace without the binding waits for it; the other one is served meanwhile."""
    release = Release("bound", space)
    let_review(release)
    options = ("--set", "rbac.scoped=true", "--set", f"watchNamespaces={{{space},{second_space}}}")
    release.install(*options)
    (binding,) = find("rolebindings", second_space, "app.kubernetes.io/instance=bound")
    unbind(binding)
    kubectl("-n", space, "rollout", "restart", BOUND)
    kubectl("-n", space, "rollout", "status", BOUND, seconds=120)
    waits = start(second_space, "waits", small(10))
    served = start(space, "served", small(10))
    finish(served)
    each_once(served.records(), 10)
    until("the metric", lambda: denied(space) == [second_space], 30)
    log = kubectl("-n", space, "logs", BOUND)
    assert f"namespace {second_space} cannot be read, its studies wait" in log
    assert waits.children() == []
    bind(binding)
    finish(waits)
    each_once(waits.records(), 10)
    assert denied(space) == []

    late = held_study(second_space)
    unbind(binding)
    until("the metric", lambda: denied(space) == [second_space], 120)
    bind(binding)
    finish_held(late)
    release.uninstall()
    forbid_review(release)


BOUND = "deploy/bound-splittracr-operator"


def unbind(binding: Body) -> None:
    metadata = binding["metadata"]
    kubectl("-n", metadata["namespace"], "delete", "rolebinding", metadata["name"])


def bind(binding: Body) -> None:
    """Make a binding that was deleted once more."""
    metadata = {key: binding["metadata"][key] for key in ("name", "namespace", "labels")}
    apply({**binding, "metadata": metadata})


def denied(space: str) -> list[str]:
    """Namespaces that the operator of release `bound` may not read, by its own metrics."""
    service = "services/bound-splittracr-operator:metrics"
    shown = raw(f"/api/v1/namespaces/{space}/{service}/proxy/metrics").decode()
    return re.findall(r'splittracr_operator_namespace_denied\{namespace="(.*?)"\} 1', shown)


def test_from_a_registry_signed(space: str, second_space: str, tmp_path: Path) -> None:
    """Packaged, signed, verified, pushed and installed; the cluster reaches no other registry."""
    registry = os.environ.get("CLUSTER_REGISTRY")
    if registry is None or shutil.which("gpg") is None:
        pytest.skip("no registry (CLUSTER_REGISTRY) or no gpg")
    ring = _key_ring(tmp_path)
    run(
        *(HELM, "package", str(CHART), "--destination", str(tmp_path)),
        *("--sign", "--key", "tests@splittracr.example", "--keyring", str(ring / "secring.gpg")),
    )
    (package,) = tmp_path.glob("splittracr-*.tgz")
    run(HELM, "verify", str(package), "--keyring", str(ring / "pubring.gpg"))
    broken = tmp_path / "broken" / package.name
    broken.parent.mkdir()
    broken.write_bytes(package.read_bytes() + b"\0")
    shutil.copy(f"{package}.prov", f"{broken}.prov")
    with pytest.raises(Failed, match=r"sha256|checksum|digest"):
        run(HELM, "verify", str(broken), "--keyring", str(ring / "pubring.gpg"))
    run(HELM, "push", str(package), f"oci://{registry}/charts", "--plain-http")
    version = package.name.removeprefix("splittracr-").removesuffix(".tgz")
    release = Release("pulled", space)
    release.install(
        *("--version", version, "--plain-http", "--set-string", f"global.imageRegistry={registry}"),
        chart=f"oci://{registry}/charts/splittracr",
    )
    study = start(second_space, "pulled", small(5))
    finish(study)
    hosts = {c["image"].split("/")[0] for pod in study.pods() for c in pod["spec"]["containers"]}
    assert hosts == {registry}
    release.uninstall()


def _key_ring(folder: Path) -> Path:
    """Key rings in the format that helm reads, in a folder that they have for themselves."""
    home = folder / "gnupg"
    home.mkdir(mode=0o700)

    def gpg(*arguments: str) -> bytes:
        done = subprocess.run(
            ["gpg", "--homedir", str(home), "--batch", "--passphrase", "", *arguments],
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    try:
        gpg("--quick-generate-key", "SplitTracr tests <tests@splittracr.example>", "rsa2048")
        (home / "secring.gpg").write_bytes(gpg("--export-secret-keys"))
        (home / "pubring.gpg").write_bytes(gpg("--export"))
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
    return home


def test_from_kubectl_to_helm(second_space: str) -> None:
    """A cluster that was installed with kubectl moves to helm while a study runs."""
    bodies = [body for body in yaml.safe_load_all(deployed()) if body is not None]
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    text = "\n---\n".join(json.dumps(body) for body in bodies)
    kubectl("apply", "--server-side", "-f", "-", stdin=text)
    kubectl("-n", OPERATOR, "rollout", "status", "deploy/splittracr-operator", seconds=180)
    study = held_study(second_space)
    before = workers(study)
    release = Release("splittracr", OPERATOR)
    with pytest.raises(Failed, match=r"exist|ownership|conflict"):
        release.install(adopt=False)
    release.install()
    assert "FAIL" not in release.test()
    assert workers(study) == before
    finish_held(study)
    release.uninstall()
    until("no operator", lambda: not find("deployments", OPERATOR), 60)


def deployed() -> str:
    """`deploy/` with this session's images and an empty store."""
    return run(
        *(HELM, "template", "splittracr", str(CHART), "--namespace", OPERATOR),
        *("--set", "crds.enabled=false", "--set", "persistence.enabled=false"),
        *("--set", "tests.enabled=false", "--kube-version", "1.30.0"),
        *helm.images(),
    )


@pytest.fixture
def monitoring_kinds() -> Iterator[None]:
    """The Prometheus operator's kinds, from its Go module, unless the cluster has them."""
    names = [f"{plural}.monitoring.coreos.com" for plural in MONITORING]
    if {crd["metadata"]["name"] for crd in find("crds", "default")}.issuperset(names):
        yield
        return
    if shutil.which("go") is None:
        pytest.skip("no kinds of the Prometheus operator, and no go to get them")
    module = json.loads(run("go", "mod", "download", "-json", PROMETHEUS_OPERATOR, seconds=120))
    folder = Path(module["Dir"]) / "example" / "prometheus-operator-crd"
    files = [str(folder / f"monitoring.coreos.com_{plural}.yaml") for plural in MONITORING]
    kubectl("apply", "--server-side", *(f"--filename={file}" for file in files))
    kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in names))
    yield
    kubectl("delete", "crd", *names)


MONITORING = ("servicemonitors", "podmonitors", "prometheusrules")
PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"


def test_the_api_server_takes_all_options(free: None, monitoring_kinds: None) -> None:
    with contextlib.ExitStack() as stack:
        names = [stack.enter_context(scratch()) for _ in range(3)]
        rendered = run(
            *(HELM, "template", "all", str(CHART), "--kube-version", "1.30.0"),
            *("--values", str(CHART / "ci" / "all-options-values.yaml")),
            *("--set", f"namespaceOverride={names[0]},watchNamespaces={{{names[1]},{names[2]}}}"),
            *(
                "--set",
                "tests.enabled=false",
            ),  # a pod needs its account, which a dry run does not make
        )
        options = ("--server-side", "--force-conflicts", "--dry-run=server", "-o", "name")
        shown = kubectl("apply", *options, "-f", "-", stdin=rendered).split()
    kinds = {name.split("/")[0] for name in shown}
    assert {f"{plural.removesuffix('s')}.monitoring.coreos.com" for plural in MONITORING} <= kinds
    bodies = [body for body in yaml.safe_load_all(rendered) if body]
    assert len(shown) == len(bodies)


def test_bad_values_are_refused_in_a_sentence(space: str) -> None:
    release = Release("bad", space)
    for options, expected in (
        (("--set", "persitence.enabled=false"), "persitence"),
        (("--set", "image.digest=sha256:abc"), "digest"),
        (("--set", "replicas=2"), "replicas"),
        (("--set", "persistence.enabled=true"), "StorageClass"),
        (
            ("--set", "persistence.enabled=true", "--set", "persistence.existingClaim=nothing"),
            "claim nothing",
        ),
        (("--set", "existingKeySecret=nothing"), "Secret nothing"),
        (("--set", "rbac.scoped=true"), "watchNamespaces"),
        (
            (
                *("--set", "serviceMonitor.enabled=true"),
                *("--set", "serviceMonitor.renderMode=failIfMissing"),
            ),
            "ServiceMonitor",
        ),
    ):
        with pytest.raises(Failed, match=expected):
            release.install(*options)
        assert find("deployments", space) == []
