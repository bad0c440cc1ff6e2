"""Suspension, deadlines, removal, and studies that cannot run."""

import os
import re
from functools import partial

import pytest

from tests.e2e.cluster import (
    OPERATOR,
    STUDY,
    Failed,
    Study,
    each_once,
    find,
    kubectl,
    paced,
    small,
    start,
    until,
)
from tests.e2e.conftest import RELEASE, SESSION

NOWHERE = {"nodeSelector": {"splittracr.io/role": "nowhere"}}


def alone(samples: int, **more: object) -> dict[str, object]:
    return small(samples, None, partition={"mode": "EdgeOnly"}, **more)


def test_suspended_and_resumed(namespace: str) -> None:
    study = start(namespace, "pausing", small(1200, suspend=True, workload=paced(1200)))
    study.wait_for("Suspended")
    assert study.children() == []
    study.patch({"suspend": False})
    done = study.wait_done(60)
    study.patch({"suspend": True})
    study.wait_for("Suspended")
    until("no pods", lambda: not study.pods(), 60)
    assert study.condition("Suspended")["status"] == "True"
    kept = study.done()
    assert kept >= done
    study.patch({"suspend": False})
    status = study.wait_for("Succeeded", "Failed", seconds=180)
    assert status["state"] == "Succeeded", status
    records = study.records()
    each_once(records, 1200)
    events = [e["message"] for e in find("events", namespace) if e["reason"] == "Measuring"]
    assert any("were recorded before" in message for message in events)


def test_deadlines_and_removal(namespace: str) -> None:
    late = start(namespace, "late", alone(100_000, activeDeadlineSeconds=60))
    nowhere = start(namespace, "nowhere", alone(1, edge={"pod": NOWHERE}, pendingDeadlineSeconds=5))
    short = start(namespace, "short", alone(3, ttlSecondsAfterFinished=1))
    condition = nowhere.wait_reason("PendingDeadlineExceeded")
    assert "didn't match Pod's node affinity/selector" in condition["message"]
    assert nowhere.state() == "Failed"
    short.wait_for("Succeeded")
    until("no children", lambda: not _of(short.namespace, "short"), 60)
    assert short.state() == "Succeeded"
    assert len(short.records()) == 3
    late.wait_reason("ActiveDeadlineExceeded", 180)
    assert late.state() == "Failed"
    assert 0 < late.done() < 100_000


def _with_pods(study: Study) -> bool:
    return len(study.pods()) == 2


def _without_pods(study: Study) -> bool:
    return not study.pods("edge")


def _of(namespace: str, study: str) -> list[str]:
    kinds = "pods,jobs,deployments,services,configmaps,secrets,networkpolicies"
    found = find(kinds, namespace, f"splittracr.io/study={study}")
    return [item["metadata"]["name"] for item in found]


def test_bad_input_ends_with_the_workers_own_sentence(namespace: str) -> None:
    unknown = start(namespace, "unknown", alone(1, model={"name": "alexnot", "weights": "none"}))
    beyond = start(namespace, "beyond", small(1, 5000))
    for study, part in ((unknown, "alexnet"), (beyond, "spec.partition.cut")):
        condition = study.wait_reason("InvalidInput", 120)
        assert part in condition["message"]
        assert study.state() == "Failed"
        until("no more pods", partial(_without_pods, study), 60)


def test_a_stalled_study_says_why_and_recovers(namespace: str) -> None:
    study = start(namespace, "node", alone(1, edge={"device": "cpu", "pod": NOWHERE}))
    gpu = {"device": "cpu", "pod": {"resources": {"limits": {"nvidia.com/gpu": 2}}}}
    greedy = start(namespace, "greedy", small(1, server=gpu))
    runtime = {"device": "cpu", "pod": {"runtimeClassName": "nothing"}}
    unknown = start(namespace, "runtime", small(1, server=runtime))
    assert "Insufficient nvidia.com/gpu" in greedy.wait_reason("Unschedulable")["message"]
    assert "nothing" in unknown.wait_reason("PodRefused")["message"]
    assert study.wait_reason("Unschedulable")["status"] == "False"
    assert study.condition("Stalled")["status"] == "True"
    for other in (greedy, unknown):
        kubectl("-n", namespace, "delete", STUDY, other.name)
    node = find("nodes", namespace, "splittracr.io/role=edge")[0]["metadata"]["name"]
    kubectl("label", "node", node, "splittracr.io/role=nowhere", "--overwrite")
    try:
        study.wait_for("Succeeded")
    finally:
        kubectl("label", "node", node, "splittracr.io/role=edge", "--overwrite")


def test_a_wrong_image_is_put_right(namespace: str) -> None:
    def images(edge: str, server: str) -> dict[str, object]:
        pods = {"edge": edge, "server": server}
        return {role: {"device": "cpu", "pod": {"image": pods[role]}} for role in pods}

    nothing = "10.90.0.1:5000/nobody/nothing:1"
    study = start(namespace, "image", small(20, **images(nothing, nothing)))
    assert "nothing" in study.wait_reason("ImagePullFailed")["message"]
    right = (os.environ[f"SPLITTRACR_{role}_IMAGE"] for role in ("EDGE", "SERVER"))
    start(namespace, "image", small(20, **images(*right)))
    status = study.wait_for("Succeeded", "Failed")
    assert status["state"] == "Succeeded", status
    each_once(study.records(), 20)
    with pytest.raises(Failed, match=r"edge\.pod stays as it is once an edge has reported"):
        study.patch({"edge": {"pod": {"image": nothing}}})


def test_a_wrong_default_image_is_put_right(namespace: str) -> None:
    nowhere = (f"{role}.image.tag=nowhere" for role in ("edge", "server"))
    try:
        RELEASE.install(*SESSION, *(part for tag in nowhere for part in ("--set-string", tag)))
        study = start(namespace, "default", small(20))
        assert "nowhere" in study.wait_reason("ImagePullFailed")["message"]
    finally:
        RELEASE.install(*SESSION)
    status = study.wait_for("Succeeded", "Failed")
    assert status["state"] == "Succeeded", status
    each_once(study.records(), 20)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"partition": {"mode": "Sweep", "cut": 1}}, "(mode is Sweep, cut is 1, layer is missing)"),
        (
            {"partition": {"mode": "Sweep", "cut": "relu"}},
            "(mode is Sweep, cut is relu, layer is missing)",
        ),
        ({"partition": {}}, "(mode is Static, cut is missing, layer is missing)"),
        ({"partition": None}, "spec.partition: Required value"),
        ({"workload": {"samples": 10, "batchSize": 3}}, "(samples is 10, batchSize is 3)"),
        ({"dataset": {"source": "Folder"}}, "(source is Folder, path is missing)"),
        (
            {"partition": {"mode": "Adaptive", "adaptive": {"latencyWeight": 1}}},
            "(objective is Latency, latencyWeight is 1, throughputWeight is 0, energyWeight is 0)",
        ),
        ({"model": {"name": "alexnet", "sise": 3}}, 'unknown field "spec.model.sise"'),
        ({"backoffLimit": -1}, "should be greater than or equal to 0"),
    ],
)
def test_the_api_server_refuses_a_bad_manifest(
    namespace: str, spec: dict[str, object], message: str
) -> None:
    with pytest.raises(Failed, match=re.escape(message)):
        start(namespace, "bad", small(1, **spec))


def test_deleted_with_and_without_the_operator(namespace: str) -> None:
    first, second = (start(namespace, name, small(100_000)) for name in ("first", "second"))
    for study in (first, second):
        until("pods", partial(_with_pods, study), 60)
    kubectl("-n", namespace, "delete", STUDY, "first", seconds=20)
    until("nothing of it", lambda: not _of(namespace, "first"), 90)
    kubectl("-n", OPERATOR, "scale", "deploy/splittracr-operator", "--replicas=0")
    try:
        kubectl("-n", namespace, "delete", STUDY, "second", seconds=20)
        until("nothing of it", lambda: not _of(namespace, "second"), 90)
    finally:
        kubectl("-n", OPERATOR, "scale", "deploy/splittracr-operator", "--replicas=1")
        kubectl("-n", OPERATOR, "rollout", "status", "deploy/splittracr-operator")
