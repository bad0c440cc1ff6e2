"""The edge's node cut off for minutes, or rebooted, in the middle of a study."""

import json
import os
import re
import shlex
import time
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime

import pytest

from tests.e2e.cluster import (
    STUDY,
    Body,
    Study,
    each_once,
    fault,
    find,
    paced,
    run,
    run_pod,
    small,
    start,
    throughout,
    until,
)
from tests.e2e.conftest import RELEASE, SESSION

NODE = "edge-1"
REBOOT = "SPLITTRACR_REBOOT_NODE"
RAW = {"pictures": 0, "outputs": "Raw"}
PICTURES = 40
"""Samples of every picture of the data set."""

PER_MINUTE = 60
BEFORE = 20
"""Samples of each study before the cut."""


def one_a_second(namespace: str, name: str, samples: int, **partition: object) -> Study:
    """Start a study of one frame a second, whose records have digests of the raw outputs."""
    workload = paced(samples, PER_MINUTE)
    spec = small(samples, results=RAW, workload=workload, partition={"cut": 8, **partition})
    return start(namespace, name, spec)


def digests(records: Sequence[Body]) -> set[tuple[str, str]]:
    """The names of the pictures, each with the digest of the network's output."""
    return {(record["name"], record["output_digest"]) for record in records}


@pytest.fixture
def undisturbed(namespace: str) -> set[tuple[str, str]]:
    """The outputs of the same network and pictures on the edge alone, without a fault."""
    spec = small(PICTURES, None, partition={"mode": "EdgeOnly"}, results=RAW)
    study = start(namespace, "undisturbed", spec)
    status = study.wait_for("Succeeded", "Failed", seconds=180)
    assert status["state"] == "Succeeded", status
    return digests(study.records())


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("faults")
@pytest.mark.parametrize("minutes", [8, 20])
def test_edge_node_cut_off(namespace: str, undisturbed: set[tuple[str, str]], minutes: int) -> None:
    """During the cut, one edge continues alone, one finishes alone, one waits for the server."""
    alone = {"onServerLoss": "FinishOnEdge"}
    samples = {
        "goes-on": PER_MINUTE * (minutes + 2),
        "finishes": PER_MINUTE * minutes // 2,
        "waits": 4 * PER_MINUTE,
    }
    studies = [
        one_a_second(namespace, name, count, **({} if name == "waits" else alone))
        for name, count in samples.items()
    ]
    for study in studies:
        study.wait_done(BEFORE, 240)
    pods = edge_pods(namespace)
    cut_at = time.time()
    end = time.monotonic() + 60 * minutes
    fault("cut", NODE)
    try:
        messages = {s.name: s.wait_reason("EdgeUnreachable", 120)["message"] for s in studies}
        unreachable = dict.fromkeys(samples, "Waiting"), messages, pods

        def silent() -> bool:
            states, sentences = shown(namespace, samples)
            return (states, sentences, edge_pods(namespace)) == unreachable

        throughout("all edges silent, in the same pods", silent, end)
    finally:
        fault("heal", NODE)
    healed_at = time.time()
    for study in studies:
        assert f"edge-0 on node {NODE} has not answered since" in messages[study.name]
        assert abs(since(messages[study.name]) - cut_at) < 30
        status = study.wait_for("Succeeded", "Failed", seconds=300)
        assert status["state"] == "Succeeded", status
        records = study.records()
        each_once(records, samples[study.name])
        assert digests(records) <= undisturbed
        during = [r for r in records if cut_at + 60 < ended_at(r) < healed_at - 60]
        if study.name == "waits":
            assert during == []
        else:
            assert {r["finished_on"] for r in during} == {"edge"}
            assert len(during) > PER_MINUTE
    assert edge_pods(namespace) == pods


def shown(namespace: str, names: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """State and sentence of each study that is named."""
    bodies = {body["metadata"]["name"]: body for body in find(STUDY, namespace)}
    status = {name: bodies[name]["status"] for name in names}
    ready = {
        name: condition["message"]
        for name in names
        for condition in status[name]["conditions"]
        if condition["type"] == "Ready"
    }
    return {name: status[name]["state"] for name in names}, ready


def edge_pods(namespace: str) -> dict[str, int]:
    """The edges' pods by uid, with the restarts of each, less those on their way out."""
    return {
        pod["metadata"]["uid"]: sum(
            status["restartCount"] for status in pod["status"].get("containerStatuses", ())
        )
        for pod in find("pods", namespace, "splittracr.io/role=edge")
        if "deletionTimestamp" not in pod["metadata"]
    }


def since(message: str) -> float:
    """The Unix time in the sentence about an edge that does not answer."""
    stamp = message.partition("since ")[2].partition(" UTC")[0]
    return datetime.fromisoformat(stamp).replace(tzinfo=UTC).timestamp()


def ended_at(record: Body) -> float:
    """Unix time at which a sample was finished."""
    ended: float = record["started_at"] + record["total_ms"] / 1000
    return ended


@pytest.fixture
def reboot(operator: None) -> list[str]:
    """The command that reboots the edge's node, and returns when the node is back."""
    if REBOOT not in os.environ:
        pytest.skip(f"no reboot: {REBOOT} names no command that reboots {{node}}")
    return [part.replace("{node}", NODE) for part in shlex.split(os.environ[REBOOT])]


@pytest.fixture
def default_journal(claim: str) -> Iterator[str]:
    """The claim, as the operator's default volume for the edges' records."""
    RELEASE.install(*SESSION, "--set", f"edge.journal.persistentVolumeClaim.claimName={claim}")
    yield claim
    RELEASE.install(*SESSION)


def test_edge_node_rebooted_with_its_journal_on_a_claim(
    namespace: str, claim: str, undisturbed: set[tuple[str, str]], reboot: list[str]
) -> None:
    study = start(
        namespace, "kept", small(3000, results={**RAW, "claim": claim}, workload=paced(3000))
    )
    survives(study, 3000, reboot)
    found = study.status()["results"]
    assert (found["edges"], found["claim"]) == (["edge-0"], claim)
    records = on_claim(study, claim)
    each_once(records, 3000)
    assert digests(records) <= undisturbed


def test_edge_node_rebooted_with_its_journal_on_the_operators_default(
    namespace: str, default_journal: str, undisturbed: set[tuple[str, str]], reboot: list[str]
) -> None:
    study = start(namespace, "default", small(3000, results=RAW, workload=paced(3000)))
    survives(study, 3000, reboot)
    records = study.records()
    each_once(records, 3000)
    assert digests(records) <= undisturbed
    assert left_on(study, default_journal) == []


def survives(study: Study, samples: int, reboot: list[str]) -> None:
    """Reboot the node once a part of the samples is recorded; the study succeeds all the same."""
    done = study.wait_done(samples // 20, 240)
    before = edge_pods(study.namespace)
    run(*reboot, seconds=240)
    assert study.done() < samples, "the study ended before the reboot did"
    until("a restart of the edge", lambda: edge_pods(study.namespace) != before, 120)
    status = study.wait_for("Succeeded", "Failed", seconds=300)
    assert status["state"] == "Succeeded", status
    until("results", lambda: study.status().get("results"), 60)
    assert resumed(study) >= done


def resumed(study: Study) -> int:
    """Samples that the edge found in its journal after the restart."""
    texts = [e["message"] for e in find("events", study.namespace) if e["reason"] == "Measuring"]
    return max(
        int(m[1]) for text in texts if (m := re.search(r"(\d+) samples were recorded", text))
    )


def test_the_default_journal_is_left_empty(namespace: str, default_journal: str) -> None:
    study = start(namespace, "tidy", small(40))
    status = study.wait_for("Succeeded", "Failed")
    assert status["state"] == "Succeeded", status
    each_once(study.records(), 40)
    assert left_on(study, default_journal) == []


def left_on(study: Study, claim: str) -> list[str]:
    """Folders of studies on the claim."""
    (pod,) = study.pods("edge")
    image = pod["spec"]["containers"][0]["image"]
    volume = {"persistentVolumeClaim": {"claimName": claim}}
    command = ["find", "/volume", "-mindepth", "2", "-maxdepth", "2"]
    return run_pod(study.namespace, image, command, "edge", volume=volume).split()


def on_claim(study: Study, claim: str) -> list[Body]:
    """The records of the study's edge on the claim."""
    (pod,) = study.pods("edge")
    image = pod["spec"]["containers"][0]["image"]
    volume = {"persistentVolumeClaim": {"claimName": claim}}
    command = ["sh", "-c", f"cat /volume/{study.name}-*/edge-0/records.jsonl"]
    lines = run_pod(study.namespace, image, command, "edge", volume=volume).splitlines()
    return [json.loads(line) for line in lines]
