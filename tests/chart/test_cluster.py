"""What the chart looks up in a cluster: missing claims, classes and secrets, and warnings."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from splittracr.cli.chart import NAMESPACE
from tests.chart.apiserver import serving
from tests.chart.render import FOLDER, Refused, helm, needs_helm

pytestmark = needs_helm

Object = Mapping[str, Any]


def made(kind: str, name: str, **metadata: Any) -> Object:
    version = "storage.k8s.io/v1" if kind == "StorageClass" else "v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **metadata}}


DEFAULT = "storageclass.kubernetes.io/is-default-class"
CLASS = made("StorageClass", "local-path", annotations={DEFAULT: "true"})
OTHER_CLASS = made("StorageClass", "slow", annotations={DEFAULT: "false"})
EDGE = made("Node", "pi", labels={"splittracr.io/role": "edge"})
SERVER = made("Node", "tower", labels={"splittracr.io/role": "server"})
CLAIM = made("PersistentVolumeClaim", "mine", namespace=NAMESPACE)
KEY = made("Secret", "kept", namespace=NAMESPACE)


def notes(folder: Path, *objects: Object, **values: str) -> str:
    """The notes of an installation into a cluster with the objects."""
    config = folder / "kubeconfig"
    options = [f"--set={key.replace('_', '.')}={value}" for key, value in values.items()]
    options += ["--dry-run=server", "--disable-openapi-validation", f"--namespace={NAMESPACE}"]
    with serving(config, *objects):
        shown = helm("install", "splittracr", str(FOLDER), *options, KUBECONFIG=str(config))
    return shown.partition("\nNOTES:\n")[2]


def test_nothing_is_missing(tmp_path: Path) -> None:
    shown = notes(tmp_path, CLASS, EDGE, SERVER)
    assert "kubectl label node" in shown
    assert "kubectl get secret splittracr-operator-key -n splittracr-system" in shown
    assert "WARNING" not in shown


def test_no_default_class(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no default StorageClass .* set persistence\.storageClass"):
        notes(tmp_path, OTHER_CLASS)
    for way_out in ({"persistence_storageClass": "slow"}, {"persistence_enabled": "false"}):
        notes(tmp_path, OTHER_CLASS, **way_out)
    # A release of namespaces only looks up nothing outside of them.
    notes(tmp_path, rbac_scoped="true", watchNamespaces="{lab}", crds_enabled="false")


def test_a_claim_of_an_earlier_release_needs_no_class(tmp_path: Path) -> None:
    annotations = {
        "meta.helm.sh/release-name": "splittracr",
        "meta.helm.sh/release-namespace": NAMESPACE,
    }
    labels = {"app.kubernetes.io/managed-by": "Helm"}
    kept = {"namespace": NAMESPACE, "annotations": annotations, "labels": labels}
    notes(tmp_path, made("PersistentVolumeClaim", "splittracr-results", **kept))


@pytest.mark.parametrize(
    ("value", "there"), [("persistence_existingClaim", CLAIM), ("existingKeySecret", KEY)]
)
def test_what_is_named_has_to_be_there(value: str, there: Object, tmp_path: Path) -> None:
    name = there["metadata"]["name"]
    notes(tmp_path, CLASS, there, **{value: name})
    path, words = value.replace("_", "."), f"{name}, which is missing in namespace {NAMESPACE}"
    with pytest.raises(Refused, match=f"{re.escape(path)} names the .*{re.escape(words)}"):
        notes(tmp_path, CLASS, **{value: name})


def test_warnings_of_nodes(tmp_path: Path) -> None:
    shown = notes(tmp_path, CLASS, EDGE)
    assert "WARNING: no node has the label splittracr.io/role=server" in shown
    assert "role=edge: the" not in shown
    anywhere = {f"{role}_nodeSelector_disk": "ssd" for role in ("edge", "server")}
    assert "WARNING" not in notes(tmp_path, CLASS, **anywhere)


def test_namespaces_to_watch_have_to_be_there(tmp_path: Path) -> None:
    team = made("Namespace", "team-a")
    notes(tmp_path, CLASS, team, watchNamespaces="{team-a}")
    with pytest.raises(Refused, match="watchNamespaces names the namespace team-b, which is miss"):
        notes(tmp_path, CLASS, team, watchNamespaces="{team-a,team-b}")


def test_a_class_that_is_missing_may_be_that_of_a_volume_made_by_hand(tmp_path: Path) -> None:
    warning = "WARNING: the cluster has no StorageClass by-hand"
    assert warning in notes(tmp_path, CLASS, persistence_storageClass="by-hand")
    there = notes(tmp_path, CLASS, persistence_storageClass=CLASS["metadata"]["name"])
    assert "StorageClass" not in there


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({"persistence_enabled": "false"}, "persistence.enabled is false"),
        ({"podMonitor_enabled": "true"}, "the cluster has no kind PodMonitor"),
        ({"podMonitor_enabled": "true"}, "keep Prometheus from scraping the pods"),
    ],
)
def test_warnings_of_values(values: dict[str, str], warning: str, tmp_path: Path) -> None:
    assert warning in notes(tmp_path, CLASS, EDGE, SERVER, **values)


ANNOTATED = "NetworkPolicies keep Prometheus from scraping"


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ({}, f"NOTE: pods carry scrape annotations, but {ANNOTATED} workers."),
        ({"networkPolicy_apiServerCIDRs": "{10.0.0.1/32}"}, f"{ANNOTATED} operator and workers."),
        ({"monitoring_enabled": "true"}, None),
        ({"networkPolicy_enabled": "false"}, None),
        # Without the kind nothing is rendered, and annotations stay the way to be scraped.
        ({"serviceMonitor_enabled": "true"}, f"{ANNOTATED} workers."),
    ],
)
def test_note_on_scrape_annotations(
    values: dict[str, str], note: str | None, tmp_path: Path
) -> None:
    shown = notes(tmp_path, CLASS, EDGE, SERVER, **values)
    assert "splittracr-operator was installed in namespace" in shown
    assert note in shown if note else ANNOTATED not in shown
