"""What a manifest says of its pods, on a cluster whose namespaces are restricted."""

from typing import Any

import pytest

from tests.e2e.cluster import Failed, apply, each_once, kubectl, small, start

PICTURE = "from PIL import Image; Image.new('RGB', (64, 64), 'red').save('/pictures/red.png')"
CHECK = "import os; assert open('/secrets/word').read() == 'sesame'; assert 4321 in os.getgroups()"


def test_pod_settings(namespace: str) -> None:
    secret = {"kind": "Secret", "apiVersion": "v1", "stringData": {"word": "sesame"}}
    apply({**secret, "metadata": {"name": "kept", "namespace": namespace}})
    mounts = {"volumeMounts": [{"name": "pictures", "mountPath": "/pictures"}]}
    pod: dict[str, Any] = {
        "labels": {"team": "vision"},
        "annotations": {"note": "a study"},
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
            }
        ],
        "terminationGracePeriodSeconds": 5,
        "securityContext": {"runAsUser": 1234, "fsGroup": 4321},
        "volumes": [
            {"name": "pictures", "emptyDir": {}},
            {"name": "secrets", "secret": {"secretName": "kept", "defaultMode": 0o440}},
        ],
        "initContainers": [
            {"name": "fetch", "command": ["python3", "-c", PICTURE], **mounts},
            {
                "name": "check",
                "command": ["python3", "-c", CHECK],
                "volumeMounts": [{"name": "secrets", "mountPath": "/secrets", "readOnly": True}],
            },
        ],
        **mounts,
    }
    edge = {"device": "cpu", "pod": pod}
    spec = small(4, edge=edge, dataset={"source": "Folder", "path": "/pictures"})
    study = start(namespace, "settings", spec)
    status = study.wait_for("Succeeded", "Failed", "Stalled", seconds=240)
    assert status["state"] == "Succeeded", status
    each_once(study.records(), 4)
    assert {record["name"] for record in study.records()} == {"red.png"}
    (made,) = study.pods("edge")
    assert made["metadata"]["labels"]["team"] == "vision"
    assert made["metadata"]["annotations"]["note"] == "a study"
    (constraint,) = made["spec"]["topologySpreadConstraints"]
    uid = study.body()["metadata"]["uid"]
    assert constraint["labelSelector"]["matchLabels"]["splittracr.io/uid"] == uid
    assert made["spec"]["terminationGracePeriodSeconds"] == 5


def test_an_init_container_that_fails_is_named(namespace: str) -> None:
    pod = {"initContainers": [{"name": "fetch", "command": ["false"]}]}
    study = start(namespace, "failing", small(4, edge={"device": "cpu", "pod": pod}))
    study.wait_for("Stalled", seconds=180)
    condition = study.wait_reason("InitContainerFailed", 60)
    assert "init container fetch" in condition["message"]


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (
            {"labels": {"splittracr.io/role": "server"}},
            "no key of labels begins with splittracr.io/",
        ),
        ({"annotations": {"splittracr.io/x": "y"}}, "no key of annotations begins with"),
        ({"labels": {"a": "no spaces"}}, "spec.edge.pod.labels.a"),
        ({"initContainers": [{"name": "edge"}]}, "is not called edge or server (name is edge)"),
        ({"volumes": [{"name": "tmp", "emptyDir": {}}]}, "(name is tmp)"),
        ({"volumeMounts": [{"name": "a", "mountPath": "/tmp/"}]}, "(mountPath is /tmp/)"),
        (
            {"volumes": [{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}]},
            "Duplicate value",
        ),
        ({"securityContext": {"runAsUser": 0}}, "should be greater than or equal to 1"),
    ],
)
def test_the_api_server_refuses(namespace: str, pod: dict[str, Any], words: str) -> None:
    with pytest.raises(Failed) as refused:
        start(namespace, "refused", small(4, edge={"device": "cpu", "pod": pod}))
    assert words in str(refused.value)
    assert "refused" not in kubectl("-n", namespace, "get", "splits", "-o", "name")
