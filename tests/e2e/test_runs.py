"""Studies that run as they should."""

import json
import time
from datetime import datetime
from statistics import median

import numpy as np
import pytest

from tests.e2e.cluster import (
    Failed,
    each_once,
    find,
    kubectl,
    paced,
    proxied,
    run_pod,
    small,
    start,
    until,
)

GPU = {
    "device": "cpu",
    "pod": {"runtimeClassName": "nvidia", "resources": {"limits": {"nvidia.com/gpu": 1}}},
}


def milliseconds(text: str) -> float:
    return float(text.removesuffix("ms"))


def test_a_study_from_apply_to_succeeded(namespace: str) -> None:
    started = time.monotonic()
    study = start(namespace, "static", small(200, server=GPU))
    until(
        "both pods running",
        lambda: [p["status"]["phase"] for p in study.pods()] == ["Running"] * 2,
        90,
    )
    running = time.monotonic() - started
    edge, server = study.pods("edge")[0]["spec"], study.pods("server")[0]["spec"]
    study.wait_done(1, 90)
    first = time.monotonic() - started
    print(f"both pods running after {running:.1f} s, first sample after {first:.1f} s")
    assert (edge["nodeName"], server["nodeName"]) == ("edge-1", "gpu-1")
    assert server["runtimeClassName"] == "nvidia"
    assert server["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert not edge["automountServiceAccountToken"]
    assert not server["automountServiceAccountToken"]

    status = study.wait_for("Succeeded", "Failed")
    assert status["state"] == "Succeeded", status
    assert status["placement"] == "edge-1 -> gpu-1"
    records = study.records()
    each_once(records, 200)
    assert {r["finished_on"] for r in records} == {"server"}
    totals = [r["total_ms"] for r in records]
    for key, share in (("p50", 0.5), ("p95", 0.95)):
        assert milliseconds(status["bestCut"][key]) == pytest.approx(
            float(np.quantile(totals, share)), rel=1e-3
        )
    assert status["progress"] == {
        **status["progress"],
        "done": 200,
        "total": 200,
        "failed": 0,
        "summary": "200/200",
    }
    assert status["traffic"]["bytesUp"] == sum(r["bytes_up"] for r in records)
    assert status["bestCut"]["name"] == records[0]["cut"] == status["cut"]
    until("the server released", lambda: not find("deployments", namespace), 20)
    columns = kubectl("-n", namespace, "get", "splits").split("\n")[0]
    wide = ["NAME", "MODEL", "MODE", "STATE", "CUT", "PROGRESS", "P95", "AGE"]
    assert columns.split() == wide


def test_sweeps_in_two_namespaces_and_three_edges(namespace: str, second_namespace: str) -> None:
    sweep = small(20, None, partition={"mode": "Sweep", "maxCuts": 3})
    first = start(namespace, "sweep", sweep)
    second = start(second_namespace, "sweep", sweep)
    several = start(namespace, "several", small(60, edge={"device": "cpu", "replicas": 3}))
    for study in (first, second):
        status = study.wait_for("Succeeded", "Failed", seconds=240)
        assert status["state"] == "Succeeded", status
        records = study.records()
        assert len({(r["trial"], r["sample"]) for r in records}) == len(records) == 60
        cuts: dict[str, list[float]] = {}
        for record in records:
            cuts.setdefault(record["cut"], []).append(record["total_ms"])
        medians = {cut: median(values) for cut, values in cuts.items()}
        assert status["bestCut"]["name"] == min(medians, key=medians.__getitem__)
    status = several.wait_for("Succeeded", "Failed", seconds=240)
    assert status["state"] == "Succeeded", status
    each_once(several.records(), 60, edges=3)
    assert {r["edge"] for r in several.records()} == {"edge-0", "edge-1", "edge-2"}
    assert status["progress"]["summary"] == "180/180"


def test_edge_only_needs_no_server(namespace: str) -> None:
    study = start(namespace, "alone", small(50, None, partition={"mode": "EdgeOnly"}))
    study.wait_done(1)
    assert not find("deployments,services", namespace, "splittracr.io/uid")
    status = study.wait_for("Succeeded", "Failed")
    assert status["state"] == "Succeeded", status
    each_once(study.records(), 50)


def test_the_cut_moves_without_a_restart(namespace: str) -> None:
    study = start(namespace, "live", small(1200, 3, workload=paced(1200)))
    study.wait_done(50)
    before = study.status()
    study.patch({"partition": {"cut": 5000}})
    refused = study.wait_degraded("True")
    assert refused["reason"] == "SettingsRefused"
    assert "spec.partition.cut: got 5000" in refused["message"]
    study.patch({"partition": {"cut": 12}, "transport": {"codec": "uint8"}})
    changed = until("another cut", lambda: study.status().get("cut") != before["cut"], 30)
    assert changed
    study.wait_degraded("False")
    status = study.wait_for("Succeeded", "Failed", seconds=240)
    assert status["state"] == "Succeeded", status
    records = study.records()
    each_once(records, 1200)
    assert {r["cut_index"] for r in records} == {3, 12}
    assert {pod["restarts"] for pod in status["workers"]} == {0}
    reasons = [e["reason"] for e in find("events", namespace)]
    assert reasons.count("SettingsChanged") == 1
    with pytest.raises(Failed, match="stays as it is once the study has started"):
        study.patch({"workload": {"samples": 5}})


def test_results_on_a_claim_stay_there(namespace: str, claim: str) -> None:
    results = {"pictures": 0, "claim": claim}
    study = start(namespace, "kept", small(30, 3, results=results, edge={"replicas": 2}))
    status = study.wait_for("Succeeded", "Failed")
    assert status["state"] == "Succeeded", status
    results = status["results"]
    assert (results["edges"], results["claim"]) == (["edge-0", "edge-1"], claim)
    image = study.pods("edge")[0]["spec"]["containers"][0]["image"]
    kubectl("-n", namespace, "delete", "split", "kept")
    volume = {"persistentVolumeClaim": {"claimName": claim}}
    everything = ["sh", "-c", "cat /volume/*/*/records.jsonl"]
    output = run_pod(namespace, image, everything, "edge", volume=volume)
    each_once([json.loads(line) for line in output.splitlines()], 30, edges=2)


def test_strangers_are_kept_out(namespace: str) -> None:
    study = start(namespace, "guarded", small(100_000, 3))
    study.wait_done(1)
    image = study.pods("server")[0]["spec"]["containers"][0]["image"]
    server = study.pods("server")[0]["status"]["podIP"]
    edge = study.pods("edge")[0]["status"]["podIP"]
    ports = {"session": (server, 8765), "server": (server, 9090), "edge": (edge, 9090)}
    assert _connects(namespace, image, ports) == dict.fromkeys(ports, False)
    # The same pod connects once no policy forbids it.
    kubectl("-n", namespace, "delete", "networkpolicy", "--all", "--wait=false")
    until("repaired policies", lambda: len(find("networkpolicies", namespace)) == 2, 20)
    assert study.wait_done(study.done() + 1) > 0  # a worker still gets through
    study.patch({"suspend": True})


def _connects(namespace: str, image: str, targets: dict[str, tuple[str, int]]) -> dict[str, bool]:
    """Whether a pod without an owner can connect to each address."""
    program = (
        "import json, socket, sys\n"
        "def opens(at):\n"
        "    try:\n"
        "        socket.create_connection(tuple(at), 3).close()\n"
        "        return True\n"
        "    except OSError:\n"
        "        return False\n"
        "print(json.dumps({k: opens(v) for k, v in json.loads(sys.argv[1]).items()}))\n"
    )
    command = ["python3", "-c", program, json.dumps(targets)]
    answer: dict[str, bool] = json.loads(run_pod(namespace, image, command, "server"))
    return answer


def test_health_and_metrics(operator: None) -> None:
    assert json.loads(proxied("/healthz"))["seconds_since_last_turn"] < 5
    text = proxied("/metrics").decode()
    assert "splittracr_operator_reconcile_seconds_count" in text
    assert 'splittracr_studies{state="Running"}' in text


def test_a_finished_study_has_its_times(namespace: str) -> None:
    study = start(namespace, "timed", small(5, None, partition={"mode": "EdgeOnly"}))
    study.wait_for("Succeeded")
    ended = datetime.fromisoformat(study.status()["completionTime"])
    assert ended >= datetime.fromisoformat(study.status()["startTime"])
