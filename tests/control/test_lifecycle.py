from datetime import timedelta
from typing import Any

import pytest

from splittracr.experiment.contracts import Role
from splittracr.experiment.report import Phase, WorkerReport
from splittracr_operator import conditions
from splittracr_operator.lifecycle import Stage, Verdict, decide
from splittracr_operator.reports import final_reports, running_edges, silent
from tests.control.studies import NOW, ended, job, observed, pod, study, waiting


def report(**fields: Any) -> WorkerReport:
    return WorkerReport(role=Role.EDGE, **{"edge": "edge-0", "phase": Phase.RUNNING, **fields})


RUNNING = {"edge-0": report(done=3, total=10)}
UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "message": "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
}


def verdict(given_study: Any, given: Any) -> tuple[Stage, str]:
    found = decide(given_study, given, NOW)
    return found.stage, found.reason


def test_a_new_study_is_starting() -> None:
    found = decide(study(), observed(), NOW)
    assert (found.stage, found.reason) == (Stage.STARTING, "WorkersStarting")
    assert found.message == "Waiting for the edge and the server."


def test_an_edge_only_study_waits_for_no_server() -> None:
    alone = study(partition={"mode": "EdgeOnly"})
    assert decide(alone, observed(), NOW).message == "Waiting for the edge."
    given = observed(pod("edge"), reports=RUNNING)
    assert verdict(alone, given) == (Stage.RUNNING, "Measuring")


def test_both_run_and_the_edge_measures() -> None:
    both = pod("edge"), pod("server")
    assert verdict(study(), observed(*both))[0] is Stage.STARTING
    assert verdict(study(), observed(*both, reports=RUNNING)) == (Stage.RUNNING, "Measuring")


def test_samples_from_before_a_restart_are_in_the_message() -> None:
    given = observed(pod("edge"), pod("server"), reports={"edge-0": report(resumed=7)})
    assert "7 samples were recorded before a restart" in decide(study(), given, NOW).message


def test_all_of_several_edges_have_to_run() -> None:
    three = study(edge={"replicas": 3})
    two = [pod("edge", index=i) for i in range(2)]
    assert verdict(three, observed(*two, pod("server"), reports=RUNNING))[0] is Stage.STARTING


def test_a_lost_server_is_waited_for() -> None:
    given = observed(pod("edge"), pod("server", ready=False), reports=RUNNING)
    assert verdict(study(), given) == (Stage.WAITING, "ServerNotReady")


@pytest.mark.parametrize("role", ["edge", "server"])
def test_bad_input_ends_the_study_with_the_workers_error(role: str) -> None:
    final = report(phase=Phase.FAILED, error="spec.model.name: got 'x', expected y", exit_code=2)
    given = observed(pod(role, container=ended(2, final)))
    found = decide(study(), given, NOW)
    assert (found.stage, found.reason) == (Stage.FAILED, "InvalidInput")
    assert found.message == "spec.model.name: got 'x', expected y"


@pytest.mark.parametrize("left", ["state", "lastState"])
def test_an_edge_whose_samples_all_failed_fails_the_study(left: str) -> None:
    error = "all 4 samples failed; the first: 0.jpg: not a picture"
    final = report(phase=Phase.FAILED, error=error, exit_code=3, done=4, failed=4, total=4)
    stopped = ended(3, final)["state"]
    container = {"state": {"running": {}}, left: stopped}
    found = decide(study(), observed(pod("edge", container=container), pod("server")), NOW)
    assert (found.stage, found.reason) == (Stage.FAILED, "AllSamplesFailed")
    assert found.message == error


def test_bad_input_of_the_previous_container_ends_the_study() -> None:
    again = {"state": {"running": {}}, "lastState": ended(2, text="spec.x: no")["state"]}
    found = decide(study(), observed(pod("edge", container=again)), NOW)
    assert (found.reason, found.message) == ("InvalidInput", "spec.x: no")


def test_a_crash_is_no_bad_input() -> None:
    again = {"state": waiting("CrashLoopBackOff")["state"], "lastState": ended(137)["state"]}
    given = observed(pod("edge", container=again), pod("server"), reports=RUNNING)
    assert verdict(study(), given) == (Stage.WAITING, "EdgeRestarting")


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        (waiting("ImagePullBackOff"), "ImagePullFailed"),
        (waiting("ErrImagePull"), "ImagePullFailed"),
        (waiting("CreateContainerConfigError"), "ContainerRefused"),
    ],
)
def test_a_container_that_cannot_start_stalls(container: Any, reason: str) -> None:
    found = decide(study(), observed(pod("edge", phase="Pending", container=container)), NOW)
    assert (found.stage, found.reason) == (Stage.STALLED, reason)
    assert "cause" in found.message


@pytest.mark.parametrize("reason", ["CreateContainerConfigError", "ErrImagePull"])
@pytest.mark.parametrize(("age", "stage"), [(60, Stage.STARTING), (121, Stage.STALLED)])
def test_a_node_that_was_slow_is_waited_for(reason: str, age: float, stage: Stage) -> None:
    message = "failed to sync secret cache: timed out waiting for the condition"
    slow = pod("edge", phase="Pending", container=waiting(reason, message))
    slow["status"]["startTime"] = (NOW - timedelta(seconds=age)).isoformat()
    assert decide(study(), observed(slow), NOW).stage is stage


@pytest.mark.parametrize(("age", "stage"), [(5, Stage.STARTING), (11, Stage.STALLED)])
def test_the_scheduler_may_try_again(age: float, stage: Stage) -> None:
    since = (NOW - timedelta(seconds=age)).isoformat()
    condition = {**UNSCHEDULABLE, "lastTransitionTime": since}
    assert (
        decide(study(), observed(pod("edge", phase="Pending", conditions=(condition,))), NOW).stage
        is stage
    )


def test_starting_is_not_stalling() -> None:
    given = observed(pod("edge", phase="Pending", container=waiting("ContainerCreating")))
    assert verdict(study(), given)[0] is Stage.STARTING


def test_a_server_in_a_crash_loop_stalls() -> None:
    loop = {"state": waiting("CrashLoopBackOff")["state"], "lastState": ended(1, text="x")["state"]}
    given = observed(pod("edge"), pod("server", container=loop), reports=RUNNING)
    assert verdict(study(), given) == (Stage.STALLED, "ServerCrashing")


@pytest.mark.parametrize(("age", "stage"), [(9, Stage.STALLED), (10, Stage.FAILED)])
def test_the_pending_deadline_quotes_the_scheduler(age: float, stage: Stage) -> None:
    stuck = pod("server", phase="Pending", age=age, conditions=(UNSCHEDULABLE,))
    found = decide(study(pendingDeadlineSeconds=10), observed(stuck), NOW)
    assert found.stage is stage
    assert "2 Insufficient nvidia.com/gpu" in found.message


def test_a_short_pending_deadline_has_the_message_of_the_scheduler() -> None:
    recent = {**UNSCHEDULABLE, "lastTransitionTime": (NOW - timedelta(seconds=5)).isoformat()}
    stuck = pod("edge", phase="Pending", age=5, conditions=(recent,))
    found = decide(study(pendingDeadlineSeconds=5), observed(stuck), NOW)
    assert found.reason == "PendingDeadlineExceeded"
    assert "2 Insufficient nvidia.com/gpu" in found.message


@pytest.mark.parametrize(("age", "stage"), [(9, Stage.STARTING), (10, Stage.FAILED)])
def test_the_pending_deadline_holds_for_a_missing_volume(age: float, stage: Stage) -> None:
    creating = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    stuck = pod("edge", phase="Pending", age=age, container=creating)
    found = decide(study(pendingDeadlineSeconds=10), observed(stuck), NOW)
    assert found.stage is stage
    if stage is Stage.FAILED:
        assert found.reason == "PendingDeadlineExceeded"
        assert (
            "alexnet-edge-0: ContainerCreating (after spec.pendingDeadlineSeconds, 10 s)"
            in found.message
        )


def test_without_a_deadline_it_waits() -> None:
    stuck = pod("server", phase="Pending", age=1e6, conditions=(UNSCHEDULABLE,))
    assert verdict(study(), observed(stuck)) == (Stage.STALLED, "Unschedulable")


def test_a_server_pod_that_is_refused_stalls_the_study() -> None:
    condition = {"type": "ReplicaFailure", "status": "True", "message": "no such class"}
    given = observed(deployment={"status": {"conditions": [condition]}})
    assert decide(study(), given, NOW).message == "no such class"


def test_an_edge_pod_that_is_refused_stalls_the_study() -> None:
    made = job("Suspended")
    warnings = {made["metadata"]["uid"]: "exceeded quota"}
    given = observed(job=made, warnings=warnings)
    assert decide(study(), given, NOW) == Verdict(Stage.STALLED, "PodRefused", "exceeded quota")
    given = observed(pod("edge"), job=made, warnings=warnings)
    assert verdict(study(), given)[0] is Stage.STARTING


def test_a_missing_volume_stalls_the_study_until_the_pod_runs() -> None:
    message = 'MountVolume.SetUp failed for volume "pictures": not found'
    creating = pod("edge", phase="Pending", container=waiting("ContainerCreating"))
    warnings = {creating["metadata"]["uid"]: message}
    found = decide(study(), observed(creating, warnings=warnings), NOW)
    assert (found.stage, found.reason) == (Stage.STALLED, "ContainerRefused")
    assert message in found.message
    given = observed(pod("edge"), pod("server"), warnings=warnings, reports=RUNNING)
    assert verdict(study(), given)[0] is Stage.RUNNING


def test_a_refused_child_stalls() -> None:
    given = observed(refusal="Job is invalid")
    assert verdict(study(), given) == (Stage.STALLED, "ChildRefused")


def test_suspended_unless_ended() -> None:
    assert verdict(study(suspend=True), observed())[0] is Stage.SUSPENDED
    assert verdict(study(suspend=True), observed(job=job("Complete")))[0] is Stage.SUCCEEDED


def test_completed_with_its_counts() -> None:
    reports = {"edge-0": report(done=10, failed=1), "edge-1": report(edge="edge-1", done=10)}
    found = decide(study(), observed(job=job("Complete"), reports=reports), NOW)
    assert (found.stage, found.reason) == (Stage.SUCCEEDED, "Completed")
    assert found.message == "20 samples were recorded, 1 of them as failed."


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("DeadlineExceeded", "ActiveDeadlineExceeded"), ("BackoffLimitExceeded", "EdgeFailed")],
)
def test_a_failed_job(reason: str, expected: str) -> None:
    reports = {"edge-0": report(phase=Phase.FAILED, error="the server was lost")}
    found = decide(study(), observed(job=job("Failed", reason), reports=reports), NOW)
    assert (found.stage, found.reason) == (Stage.FAILED, expected)
    if expected == "EdgeFailed":
        assert found.message == "the server was lost."


@pytest.mark.parametrize("stage", [Stage.SUCCEEDED, Stage.FAILED])
def test_an_ended_study_stays_ended(stage: Stage) -> None:
    first = Verdict(stage, "Completed", "Done.")
    status = conditions.status(study(), first, observed(), NOW, None)
    later = study(status=status.model_dump(mode="json", by_alias=True), suspend=True)
    assert decide(later, observed(), NOW) == first


# ------------------------------------------------------------------------------------- silence

STARTED = {"state": {"running": {"startedAt": "2026-03-01T11:00:00Z"}}}


@pytest.mark.parametrize(
    ("answered", "given", "expected"),
    [
        ({"edge-0": 31.0}, None, 31.0),
        ({"edge-0": 29.0}, None, None),
        ({}, 31.0, 31.0),  # the operator was started while it was silent
        ({}, 4000.0, None),  # its container began later
        ({}, None, None),
    ],
)
def test_an_edge_is_silent_after_some_time(
    answered: dict[str, float], given: float | None, expected: float | None
) -> None:
    ago = NOW.timestamp()
    found = silent(
        [pod("edge", container=STARTED), pod("server")],
        {edge: ago - seconds for edge, seconds in answered.items()},
        None if given is None else ago - given,
        NOW,
    )
    since = {} if expected is None else {"edge-0": NOW - timedelta(seconds=expected)}
    assert found == since


def test_a_silent_edge_is_named_with_the_time() -> None:
    since = {"edge-0": NOW - timedelta(minutes=3)}
    given = observed(pod("edge"), pod("server"), reports=RUNNING, silent=since)
    found = decide(study(), given, NOW)
    assert (found.stage, found.reason) == (Stage.WAITING, "EdgeUnreachable")
    assert found.message == "edge-0 on node edge-1 has not answered since 2026-03-01 11:57:00 UTC."
    later = decide(study(), given, NOW + timedelta(minutes=1))
    assert later == found  # nothing to write
    three = [pod("edge", index=index) for index in range(3)]
    since["edge-2"] = NOW - timedelta(minutes=2)
    given = observed(*three, pod("server"), reports=RUNNING, silent=since)
    message = decide(study(edge={"replicas": 3}), given, NOW).message
    assert message.endswith("11:57:00 UTC. 1 more are silent.")


# ------------------------------------------------------------------------------------- reports


def test_the_final_report_is_of_the_latest_container() -> None:
    first, second = report(done=3), report(done=9, phase=Phase.FINISHED)
    container = {**ended(0, second), "lastState": ended(137, first)["state"]}
    assert final_reports([pod("edge", container=container)]) == {"edge-0": ("pod-edge-0/0", second)}


def test_running_edges_have_an_address() -> None:
    pods = [
        pod("edge", index=2),
        pod("edge", index=1, ip=None),
        pod("edge", index=0, phase="Succeeded"),
        pod("server"),
    ]
    assert running_edges(pods) == {"edge-2": "10.0.0.7"}
    assert running_edges([pod("edge", container=waiting("CrashLoopBackOff"))]) == {}


def test_a_pod_without_a_role_is_no_worker() -> None:
    stray = pod("edge", phase="Pending", container=waiting("ImagePullBackOff"))
    stray["metadata"]["labels"] = {"splittracr.io/uid": "x"}
    assert verdict(study(), observed(stray))[0] is Stage.STARTING
    running_stray = pod("edge")
    del running_stray["metadata"]["labels"]["splittracr.io/role"]
    assert running_edges([running_stray]) == {}


# -------------------------------------------------------------------------------------- status
