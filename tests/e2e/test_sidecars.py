"""Containers that others add to workers' pods: they neither block a study nor decide about it."""

import os
from typing import Any

import pytest

from tests.e2e.cluster import Study, each_once, find, kubectl, small, start, until
from tests.e2e.helm import IMAGES
from tests.e2e.webhook import injecting

SAMPLES = 300
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
NEVER = {"exec": {"command": ["false"]}, "periodSeconds": 1}
STALLED = {"ContainerRefused", "ImagePullFailed", "InitContainerFailed", "PodRefused"}


def sidecar(*command: str, **more: Any) -> dict[str, Any]:
    """A container of the edge's image, which every node has."""
    return {
        "name": "sidecar",
        "image": os.environ[IMAGES["edge"]],
        "command": command,
        "securityContext": RESTRICTED,
        **more,
    }


def native(*command: str, **more: Any) -> dict[str, Any]:
    return sidecar(*command, **more) | {"name": "native", "restartPolicy": "Always"}


def undisturbed(study: Study) -> None:
    """The study has succeeded, and no restart of a sidecar counted as one of a worker."""
    status = study.wait_for("Succeeded", "Failed", seconds=240)
    assert status["state"] == "Succeeded", status
    assert [worker["restarts"] for worker in status["workers"]] == [0] * len(status["workers"])
    reasons = {event["reason"] for event in find("events", study.namespace)}
    assert {"Completed", "Measuring"} <= reasons
    assert not reasons & (STALLED | {"EdgeRestarted", "ServerRestarted"})
    until("results", lambda: study.status().get("results"), 60)
    each_once(study.records(), SAMPLES)


def restarts(study: Study, name: str) -> int:
    """How often Kubernetes has started the sidecar of this name again, in all pods."""
    kinds = ("containerStatuses", "initContainerStatuses")
    statuses = [s for pod in study.pods() for kind in kinds for s in pod["status"].get(kind, ())]
    return sum(status["restartCount"] for status in statuses if status["name"] == name)


def ready(study: Study) -> set[str]:
    """The readiness of the pods."""
    conditions = [c for pod in study.pods() for c in pod["status"].get("conditions", ())]
    return {c["status"] for c in conditions if c["type"] == "Ready"}


def test_a_sidecar_that_keeps_running(namespace: str) -> None:
    with injecting(namespace, beside=[sidecar("sleep", "86400", readinessProbe=NEVER)]):
        study = start(namespace, "sleeps", small(SAMPLES, backoffLimit=0))
        study.wait_for("Running", seconds=180)
        assert ready(study) == {"False"}
        undisturbed(study)
        # It ignores SIGTERM: the pod is deleted after its grace period.
        until("deleted pods", lambda: not study.pods(), 90)
        (job,) = find("jobs", namespace)
        assert job["spec"]["suspend"] is True


def test_a_native_sidecar_that_keeps_running(namespace: str) -> None:
    with injecting(namespace, native=[native("sleep", "86400", readinessProbe=NEVER)]):
        study = start(namespace, "sleeps", small(SAMPLES, backoffLimit=0))
        undisturbed(study)
        ended = lambda: study.pods("edge")[0]["status"]["phase"] == "Succeeded"  # noqa: E731
        until("the edge's pod has ended by itself", ended, 90)
        (pod,) = study.pods("edge")
        log = kubectl("-n", namespace, "logs", pod["metadata"]["name"])
        assert log
        assert study.state() == "Succeeded"


@pytest.mark.parametrize("code", [1, 2])
def test_ones_that_end_again_and_again(namespace: str, code: int) -> None:
    # Kubernetes starts the worker once the native sidecar has run.
    at_once, later = ("sh", "-c", f"exit {code}"), ("sh", "-c", f"sleep 3; exit {code}")
    with injecting(namespace, beside=[sidecar(*at_once)], native=[native(*later)]):
        study = start(namespace, "restarts", small(SAMPLES, backoffLimit=0))
        again = lambda: min(restarts(study, name) for name in ("sidecar", "native")) >= 2  # noqa: E731
        until("both have started again", again, 120)
        undisturbed(study)
        until("deleted pods", lambda: not study.pods(), 90)
