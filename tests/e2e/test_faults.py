"""Faults in the middle of a run: nothing is lost, nothing is recorded twice."""

import contextlib
import hashlib
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from splittracr.experiment.errors import SplittracrError
from splittracr.results.archive import unpack
from splittracr_operator import client
from tests.e2e.cluster import (
    OPERATOR,
    STUDY,
    Study,
    each_once,
    fault,
    find,
    get,
    kubectl,
    paced,
    proxied,
    small,
    start,
    until,
)

SAMPLES = 1500
"""Enough for half of the samples to be left when the first progress is seen."""

pytestmark = pytest.mark.usefixtures("faults")


@contextlib.contextmanager
def in_the_middle(namespace: str, name: str, samples: int = SAMPLES) -> Iterator[Study]:
    """A study with some samples done and most still to do; it has to succeed all the same."""
    study = start(namespace, name, small(samples, workload=paced(samples)))
    done = study.wait_done(samples // 20, 180)
    assert done < samples // 2
    yield study
    status = study.wait_for("Succeeded", "Failed", seconds=240)
    assert status["state"] == "Succeeded", status
    until("results", lambda: study.status().get("results"), 60)
    each_once(study.records(), samples)
    assert study.done() == samples


def test_server_container_killed(namespace: str) -> None:
    with in_the_middle(namespace, "server-killed") as study:
        assert fault("pods-kill", "gpu-1", namespace, "server-killed-server").strip() == "1"
        until("the server started again", lambda: restarts(study, "server") == 1, 60)
    assert {r["finished_on"] for r in study.records()} == {"server"}


def test_edge_container_killed(namespace: str) -> None:
    with in_the_middle(namespace, "edge-killed") as study:
        assert fault("pods-kill", "edge-1", namespace, "edge-killed-edge").strip() == "1"
        until("the edge started again", lambda: restarts(study, "edge") == 1, 60)
    events = find("events", namespace)
    (message,) = [e["message"] for e in events if e["reason"] == "EdgeRestarted"]
    assert "restarted (1): it was killed by signal 9" in message
    (edge,) = (w for w in study.status()["workers"] if w["role"] == "edge")
    assert edge["restarts"] == 1


def test_logs_stay_with_the_records(namespace: str, tmp_path: Path) -> None:
    """Also those of a container that was killed. An archive that was damaged is refused by name."""
    with in_the_middle(namespace, "logged") as study:
        assert fault("pods-kill", "edge-1", namespace, "logged-edge").strip() == "1"
        until("the edge started again", lambda: restarts(study, "edge") == 1, 60)
    described = {a["name"]: a for a in study.status()["results"]["archives"]}
    assert described.keys() == {"edge-0", "logs"}
    ended = ("wait", "--for=condition=complete", "job/logged-edge", "--timeout=60s")
    kubectl("-n", namespace, *ended)  # a pod deleted before would be replaced and send again
    kubectl("-n", namespace, "delete", "pods", "--all")
    found = client.archives(namespace, "logged")
    for name, archive in described.items():
        digest = hashlib.sha256(found[name]).hexdigest()
        assert (archive["bytes"], archive["sha256"]) == (len(found[name]), digest)
    unpack(found["logs"], tmp_path)
    logs = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kinds = {re.sub(r"(-[0-9a-z]{8,10})?-[0-9a-z]{5}(?=\.)", "", name) for name in logs}
    assert kinds == {"logged-edge-0.log", "logged-edge-0.1.log", "logged-server.log"}
    kept = {name.endswith(".1.log"): text for name, text in logs.items() if "edge" in name}
    assert '"event": "finished"' in kept[False]
    assert '"event": "finished"' not in kept[True]
    assert '"event": "progress"' in kept[True]

    path = f"/var/lib/splittracr/{study.body()['metadata']['uid']}/edge-0.tar.gz"
    damage = ["python", "-c", f"open({path!r}, 'ab').write(b'x')"]
    kubectl("-n", OPERATOR, "exec", "deploy/splittracr-operator", "--", *damage)
    with pytest.raises(SplittracrError, match="the archive edge-0 of logged is damaged"):
        client.archives(namespace, "logged")


def test_edge_out_of_memory(namespace: str) -> None:
    pod = {"resources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "96Mi"}}}
    spec = small(10, edge={"device": "cpu", "pod": pod}, backoffLimit=1)
    study = start(namespace, "hungry", spec)
    status = study.wait_for("Failed", seconds=240)
    message = study.condition("Succeeded")["message"]
    assert "was OOMKilled (limit 96Mi), 2 times" in message
    (edge,) = (w for w in status["workers"] if w["role"] == "edge")
    last = edge["lastTermination"]
    assert (last["reason"], last["exitCode"], last["memoryLimit"]) == ("OOMKilled", 137, "96Mi")
    assert [e["reason"] for e in find("events", namespace)].count("EdgeRestarted") >= 1


def test_edge_container_killed_while_its_settings_are_refused(namespace: str) -> None:
    with in_the_middle(namespace, "refused", 2 * SAMPLES) as study:
        study.patch({"partition": {"cut": 5000}})
        study.wait_degraded("True")
        assert fault("pods-kill", "edge-1", namespace, "refused-edge").strip() == "1"
        until("the edge started again", lambda: restarts(study, "edge") == 1, 60)
        assert study.condition("Degraded")["status"] == "True"
    assert {r["cut_index"] for r in study.records()} == {8}
    assert study.condition("Degraded")["status"] == "False"


@pytest.mark.parametrize(
    ("lost", "replaced"),
    [
        ("secret", "edge"),
        ("secret", "server"),
        ("configmap", "edge"),  # it owns the secret, which goes with it
    ],
)
def test_credentials_deleted_and_a_pod_replaced(namespace: str, lost: str, replaced: str) -> None:
    with in_the_middle(namespace, "bereft", 2 * SAMPLES) as study:
        uid = study.body()["metadata"]["uid"]
        names = {"secret": f"bereft-secret-{uid[:8]}", "configmap": "bereft-manifest"}
        before = get("secret", namespace, names["secret"])["metadata"]["uid"]
        kubectl("-n", namespace, "delete", lost, names[lost])
        (pod,) = study.pods(replaced)
        kubectl("-n", namespace, "delete", "pod", pod["metadata"]["name"], "--wait=false")
        gone = pod["metadata"]["uid"]
        until(f"another {replaced} is ready", partial(_replaced, study, replaced, gone), 180)
        until("another secret is there", partial(_another, namespace, names["secret"], before), 60)
    reasons = {event["reason"] for event in find("events", namespace)}
    assert reasons.isdisjoint({"ContainerRefused", "InvalidInput"})


def _another(namespace: str, name: str, uid: str) -> bool:
    """Whether there is a secret of this name with another uid. The node may have cached the old."""
    found = find("secrets", namespace)
    return any(s["metadata"]["name"] == name and s["metadata"]["uid"] != uid for s in found)


def _replaced(study: Study, role: str, uid: str) -> bool:
    """Whether another pod than the one with this uid is ready."""
    return any(
        pod["metadata"]["uid"] != uid and condition["status"] == "True"
        for pod in study.pods(role)
        for condition in pod["status"].get("conditions", ())
        if condition["type"] == "Ready"
    )


def test_orphans_make_room_for_a_study_of_the_same_name(namespace: str) -> None:
    first = start(namespace, "again", small(10 * SAMPLES))
    first.wait_for("Running", seconds=180)
    uid = first.body()["metadata"]["uid"]
    kubectl("-n", namespace, "delete", STUDY, "again", "--cascade=orphan")
    second = start(namespace, "again", small(5))
    second.wait_for("Succeeded", seconds=240)
    each_once(second.records(), 5)
    left = find("jobs,deployments", namespace, f"splittracr.io/uid={uid}")
    assert left == []


def test_edge_cut_off(namespace: str) -> None:
    study = start(namespace, "cut-off", small(20 * SAMPLES))
    study.wait_for("Running", seconds=180)
    fault("cut", "edge-1")
    try:
        condition = study.wait_reason("EdgeUnreachable", 120)
        assert "edge-0 on node edge-1 has not answered since" in condition["message"]
    finally:
        fault("heal", "edge-1")
    study.wait_for("Running", seconds=120)
    (pod,) = study.pods("edge")
    seconds = {t.get("key"): t.get("tolerationSeconds") for t in pod["spec"]["tolerations"]}
    assert seconds["node.kubernetes.io/unreachable"] == 86400


def test_operator_killed(namespace: str) -> None:
    with in_the_middle(namespace, "operator-killed"):
        before = operator_restarts()
        killed = [
            fault("pods-kill", node, OPERATOR, "splittracr-operator").strip()
            for node in ("edge-1", "gpu-1")
        ]
        assert sorted(killed) == ["0", "1"]
        until("the operator started again", lambda: operator_restarts() > before, 60)


def test_api_server_restarted(namespace: str) -> None:
    with in_the_middle(namespace, "api-restarted"):
        fault("restart", "apiserver")


def test_cable_cut_for_30_seconds(namespace: str) -> None:
    with in_the_middle(namespace, "cable-cut") as study:
        fault("cut", "gpu-1")
        try:
            time.sleep(30)  # the fault itself
        finally:
            fault("heal", "gpu-1")
        assert study.done() < SAMPLES


def test_the_cut_follows_the_cable(namespace: str) -> None:
    fault("rate", "gpu-1", "100mbit")
    try:
        # For processors that take 1 to 60 ms a picture: the input takes 12 ms, then 2.4 s.
        slow = {"device": "cpu", "slowdownPercent": 2000}
        model = {"name": "squeezenet1_1", "weights": "none"}
        partition = {"mode": "Adaptive"}
        spec = small(200, None, model=model, partition=partition, edge=slow)
        study = start(namespace, "adaptive", spec)
        study.wait_done(10, 180)
        fast = study.status()["cut"]
        fault("rate", "gpu-1", "500kbit")
        until("another cut", lambda: other(study, fast), 60)
        series = f'{{outcome="ok",study="adaptive",study_namespace="{namespace}"}}'
        assert f"splittracr_study_samples_total{series}" in proxied("/metrics").decode()
        decision = study.status()["decision"]
        assert decision["switches"] >= 1
        assert {"since", "reason", "predicted", "measured"} <= decision.keys()
        fault("rate", "gpu-1", "100mbit")
        until("the first cut again", lambda: study.status()["cut"] == fast, 60)
    finally:
        fault("rate", "gpu-1", "off")
    status = study.wait_for("Succeeded", "Failed", seconds=240)
    assert status["state"] == "Succeeded", status
    each_once(study.records(), 200)


def other(study: Study, cut: str) -> str | None:
    now: str = study.status()["cut"]
    return now if now != cut else None


def restarts(study: Study, role: str) -> int:
    return sum(
        status["restartCount"]
        for pod in study.pods(role)
        for status in pod["status"].get("containerStatuses", ())
    )


def operator_restarts() -> int:
    pods = find("pods", OPERATOR, "app.kubernetes.io/name=splittracr-operator")
    return sum(s["restartCount"] for p in pods for s in p["status"].get("containerStatuses", ()))
