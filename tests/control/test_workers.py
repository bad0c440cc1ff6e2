"""Terminations and restarts of workers, from their pods."""

from typing import Any

import pytest

from splittracr.experiment.contracts import Role
from splittracr.experiment.report import Phase, WorkerReport
from splittracr.experiment.status import Termination, Worker
from splittracr_operator.lifecycle import decide
from splittracr_operator.workers import ending, merge, restarts, termination_message
from tests.control.studies import NOW, ended, job, observed, pod, study, waiting

KILLED = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-03-01T11:59:00Z"}


def limited(made: dict[str, Any], memory: str | None = "96Mi") -> dict[str, Any]:
    """The pod with a memory limit for its container."""
    limits = {} if memory is None else {"limits": {"memory": memory}}
    name = made["status"]["containerStatuses"][0]["name"]
    made["spec"]["containers"] = [{"name": name, "resources": limits}]
    return made


def again(terminated: dict[str, Any], count: int = 1) -> dict[str, Any]:
    """A container that runs again after it has ended."""
    last = {"terminated": terminated}
    return {"state": {"running": {}}, "lastState": last, "restartCount": count}


def down(terminated: dict[str, Any], count: int = 0) -> dict[str, Any]:
    return {"state": {"terminated": terminated}, "restartCount": count}


def test_an_edge_out_of_memory_is_named_with_its_limit() -> None:
    stuck = {**waiting("CrashLoopBackOff"), "lastState": {"terminated": KILLED}, "restartCount": 1}
    (worker,) = merge((), [limited(pod("edge", container=stuck))])
    assert (worker.edge, worker.restarts) == ("edge-0", 1)
    assert worker.last_termination is not None
    assert worker.last_termination.model_dump(mode="json", by_alias=True) == {
        "reason": "OOMKilled",
        "exitCode": 137,
        "memoryLimit": "96Mi",
        "finishedAt": "2026-03-01T11:59:00Z",
        "times": 2,
        "message": None,
    }
    assert ending(worker) == "edge pod alexnet-edge-0 was OOMKilled (limit 96Mi), 2 times"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (limited(pod("server", container=down(KILLED)), None), "was OOMKilled (no limit)"),
        (
            limited(pod("edge", container=down({"exitCode": 137, "reason": "Error"}))),
            "was killed by signal 9 (exit code 137)",
        ),
        (pod("edge", container=down({"exitCode": 3, "reason": "Error"})), "ended with exit code 3"),
        (pod("edge", container=again(KILLED, 3)), "was OOMKilled (no limit), 3 times"),
    ],
)
def test_how_a_worker_ended(made: dict[str, Any], message: str) -> None:
    (worker,) = merge((), [made])
    assert ending(worker) == f"{worker.role} pod {worker.name} {message}"


@pytest.mark.parametrize("container", [None, down({"exitCode": 137, "reason": "Error"})])
def test_an_evicted_pod(container: dict[str, Any] | None) -> None:
    evicted = pod("edge", phase="Failed", container=container)
    evicted["status"] |= {"reason": "Evicted", "message": "The node was low on resource: memory."}
    if container is None:
        evicted["status"]["containerStatuses"] = []
    (worker,) = merge((), [evicted])
    assert ending(worker).endswith("was ended by Kubernetes (Evicted)")


def test_a_termination_is_kept_after_its_pod_is_deleted() -> None:
    first = merge((), [limited(pod("edge", container=down(KILLED))), pod("server")])
    left = merge(first, [pod("server")])
    assert [(w.name, w.ready) for w in left] == [
        ("alexnet-edge-0", False),
        ("alexnet-server-0", True),
    ]
    assert left[0].last_termination == first[0].last_termination
    later = pod("edge")
    later["metadata"]["name"] = "alexnet-edge-0-second"
    replaced = merge(left, [later, pod("server")])
    assert [w.name for w in replaced] == ["alexnet-edge-0-second", "alexnet-server-0"]
    assert replaced[0].last_termination == first[0].last_termination
    assert replaced[1].last_termination is None


def test_a_pod_that_is_deleted_did_not_end_by_itself() -> None:
    leaving = pod("server", container=down({**KILLED, "reason": "Error"}))
    metadata = {"deletionTimestamp": "2026-03-01T11:59:20Z", "deletionGracePeriodSeconds": 30}
    leaving["metadata"] |= metadata
    (worker,) = merge((), [leaving])
    assert worker.last_termination is None
    leaving["metadata"]["deletionTimestamp"] = "2026-03-01T11:59:40Z"
    (worker,) = merge((), [leaving])
    assert worker.last_termination is not None  # it had ended 10 s before


def test_each_restart_has_a_message() -> None:
    once = merge((), [limited(pod("edge", container=again(KILLED)))])
    assert list(restarts((), once)) == [
        (Role.EDGE, "edge pod alexnet-edge-0 restarted (1): it was OOMKilled (limit 96Mi).")
    ]
    assert list(restarts(once, once)) == []
    thrice = merge(once, [limited(pod("edge", container=again(KILLED, 3)))])
    assert list(restarts(once, thrice)) == [
        (Role.EDGE, "edge pod alexnet-edge-0 restarted (2)."),
        (Role.EDGE, "edge pod alexnet-edge-0 restarted (3): it was OOMKilled (limit 96Mi)."),
    ]


def test_a_failed_job_without_pods_has_the_termination_of_its_edge() -> None:
    known = merge((), [limited(pod("edge", container=again(KILLED, 2)))])
    found = decide(study(), observed(job=job("Failed"), workers=known), NOW)
    expected = "edge pod alexnet-edge-0 was OOMKilled (limit 96Mi), 2 times."
    assert (found.reason, found.message) == ("EdgeFailed", expected)
    reports = {"edge-0": WorkerReport(role=Role.EDGE, edge="edge-0", error="x is wrong")}
    ended = Termination(reason="Error", exit_code=1)
    worker = Worker(name="a", role=Role.EDGE, edge="edge-0", last_termination=ended)
    given = observed(job=job("Failed"), workers=(worker,), reports=reports)
    assert decide(study(), given, NOW).message == "x is wrong."


@pytest.mark.parametrize("role", ["edge", "server"])
def test_a_crash_loop_names_the_memory_limit(role: str) -> None:
    stuck = {**waiting("CrashLoopBackOff"), "lastState": {"terminated": KILLED}}
    other = pod("server" if role == "edge" else "edge")
    given = observed(limited(pod(role, container=stuck)), other)
    assert "it was OOMKilled (limit 96Mi)" in decide(study(), given, NOW).message


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (None, None),
        ("", None),
        ("Traceback\n  no memory\n", "Traceback\n  no memory"),
        ("a\x1b[2Jb\rc\x00d\u202ee", "a\\x1b[2Jb\\rc\\x00d\\u202ee"),
        ("token s3cret in a log", "token *** in a log"),
        ("x" * 3000 + "end", "x" * 1021 + "end"),
    ],
)
def test_a_termination_message_from_a_log(message: str | None, shown: str | None) -> None:
    assert termination_message(message, ("s3cret",)) == shown


@pytest.mark.parametrize("error", ["spec.model.name: got 'x'", None])
def test_a_termination_message_from_a_report_is_its_error(error: str | None) -> None:
    report = WorkerReport(role=Role.EDGE, edge="edge-0", phase=Phase.FAILED, error=error)
    assert termination_message(report.model_dump_json()) == error


def test_termination_messages_of_many_workers_fit_into_a_status() -> None:
    pods = []
    for index in range(1024):
        made = pod("edge", index=index, container=ended(1, text=f"{index} " + "x" * 2000))
        pods.append(made)
    found = merge((), pods)
    assert len(found) == 1024
    texts = [w.last_termination.message or "" for w in found if w.last_termination]
    assert {len(text) for text in texts} == {128}
