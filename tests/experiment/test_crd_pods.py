"""Settings of pods, by the models and by the API server."""

import re
from pathlib import Path
from typing import Any

import pytest

from splittracr.experiment import document, manifest
from splittracr.experiment.errors import InvalidInput
from tests.experiment.apiserver import Refused, admit
from tests.experiment.definition import SCHEMA, same_study
from tests.experiment.studies import study

MANUAL = Path(__file__).parents[2] / "docs" / "kubernetes.md"


def mounted(path: str) -> dict[str, Any]:
    return {"volumeMounts": [{"name": "a", "mountPath": path}]}


@pytest.mark.parametrize(
    "pod",
    [
        {"labels": {"a/b": ""}, "annotations": {"a": "x y\nz"}},
        {"labels": {"app.kubernetes.io/part-of": "lab"}},
        mounted("/data"),
        mounted("/tmp/inner"),
        mounted("/tmpfs"),
        mounted("/etc/splittracr-other"),
        mounted("/var/lib/splittracr2"),
        {"volumes": [{"name": "edge", "secret": {}}], "initContainers": [{"name": "tmp"}]},
        {"securityContext": {"fsGroup": 0, "runAsUser": 1}},
        {"terminationGracePeriodSeconds": 0},
    ],
)
def test_pods_that_both_accept(pod: dict[str, Any]) -> None:
    for role in ("edge", "server"):
        same_study(study(**{role: {"pod": pod}}))


def test_pod_settings_of_the_manual_are_accepted_by_both() -> None:
    (text,) = re.findall(r"```yaml\n(pod:\n.*?)```", MANUAL.read_text(), re.DOTALL)
    (loaded,) = document.load(text)
    pod = loaded["pod"]
    assert pod.keys() >= {"labels", "topologySpreadConstraints", "initContainers", "volumes"}
    assert pod["volumes"][1]["secret"]["defaultMode"] == 0o440
    same_study(study(edge={"pod": pod}))


@pytest.mark.parametrize(
    ("pod", "path", "words"),
    [
        *(
            (mounted(mount), "pod.volumeMounts[0]", f"(mountPath is {mount})")
            for mount in (
                "/tmp",
                "//tmp//",
                "/dev/termination-log",
                "/etc/splittracr",
                "/etc/splittracr/",
                "/etc/splittracr/inner",
                "/etc/splittracr-tls",
                "/var/lib/splittracr/edge-0",
                "/var/cache/splittracr",
            )
        ),
        *(
            ({"volumes": [{"name": name, "emptyDir": {}}]}, "pod.volumes[0]", f"(name is {name})")
            for name in ("tmp", "manifest", "results", "tls", "weight-cache")
        ),
        (
            {"volumes": [{"name": "a"}]},
            "pod.volumes[0]",
            "persistentVolumeClaim, configMap, secret",
        ),
        *(
            ({"initContainers": [{"name": name}]}, "pod.initContainers[0]", f"(name is {name})")
            for name in ("edge", "server")
        ),
        (
            {"initContainers": [{"name": "a", **mounted("/tmp")}]},
            "pod.initContainers[0].volumeMounts[0]",
            "(mountPath is /tmp)",
        ),
        *(
            ({field: {key: "x"}}, "pod", f"batch.kubernetes.io/ ({key} does)")
            for field in ("labels", "annotations")
            for key in ("splittracr.io/role", "batch.kubernetes.io/job-name")
        ),
        ({"labels": {"a": "no spaces"}}, "pod.labels.a", "no spaces"),
        ({"labels": {"a": "x" * 64}}, "pod.labels.a", ""),
        ({"initContainers": [{"name": "with.dot"}]}, "pod.initContainers[0].name", "with.dot"),
        ({"securityContext": {"runAsUser": 0}}, "pod.securityContext.runAsUser", ""),
        (
            {"securityContext": {"privileged": True}},
            "pod.securityContext.privileged",
            "a known key",
        ),
        ({"terminationGracePeriodSeconds": -1}, "pod.terminationGracePeriodSeconds", ""),
        ({"volumes": [{"name": "a", "hostPath": {}}]}, "pod.volumes[0].hostPath", "a known key"),
    ],
)
def test_pods_that_both_refuse(pod: dict[str, Any], path: str, words: str) -> None:
    data = study(edge={"pod": pod})
    with pytest.raises(InvalidInput) as invalid:
        manifest.from_object(data)
    assert invalid.value.field == f"spec.edge.{path}"
    assert words in str(invalid.value)
    with pytest.raises(Refused):
        admit(data, SCHEMA)


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        ({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "a", "secret": {}}]}, "name"),
        ({"initContainers": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}, "name"),
        (
            {"volumeMounts": [{"name": n, "mountPath": "/data"} for n in ("a", "b")]},
            "mountPath",
        ),
    ],
)
def test_both_refuse_an_item_that_is_there_twice(pod: dict[str, Any], words: str) -> None:
    data = study(edge={"pod": pod})
    with pytest.raises(
        InvalidInput, match=rf"each item has a {words} of its own \(.* is there twice\)"
    ):
        manifest.from_object(data)
    with pytest.raises(Refused, match="Duplicate value"):
        admit(data, SCHEMA)
