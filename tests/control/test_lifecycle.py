from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.contracts import Role
from splittracr.experiment.figures import Latency, Progress, milliseconds
from splittracr.experiment.report import CutReport, Phase, WorkerReport
from splittracr.experiment.status import CONDITION_TYPES, ExperimentStatus, Worker
from splittracr_operator import conditions
from splittracr_operator.lifecycle import Stage, Verdict, decide
from splittracr_operator.live import refusal_in
from splittracr_operator.reports import final_reports, running_edges, silent
from splittracr_operator.study import read
from tests.control.studies import NOW, body, ended, job, observed, pod, study, waiting


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


def test_nothing_there_yet() -> None:
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


def test_what_was_recorded_before_a_restart_is_told() -> None:
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
def test_bad_input_ends_the_study_in_the_workers_words(role: str) -> None:
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


def test_bad_input_is_remembered_while_the_container_starts_again() -> None:
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


def test_a_short_pending_deadline_quotes_the_scheduler_before_its_words_settle() -> None:
    recent = {**UNSCHEDULABLE, "lastTransitionTime": (NOW - timedelta(seconds=5)).isoformat()}
    stuck = pod("edge", phase="Pending", age=5, conditions=(recent,))
    found = decide(study(pendingDeadlineSeconds=5), observed(stuck), NOW)
    assert found.reason == "PendingDeadlineExceeded"
    assert "2 Insufficient nvidia.com/gpu" in found.message


@pytest.mark.parametrize(("age", "stage"), [(9, Stage.STARTING), (10, Stage.FAILED)])
def test_the_pending_deadline_holds_for_a_volume_that_does_not_come(
    age: float, stage: Stage
) -> None:
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


def test_a_pod_that_may_not_be_made_stalls() -> None:
    condition = {"type": "ReplicaFailure", "status": "True", "message": "no such class"}
    given = observed(deployment={"status": {"conditions": [condition]}})
    assert decide(study(), given, NOW).message == "no such class"


def test_edges_that_may_not_be_made_stall() -> None:
    made = job("Suspended")
    warnings = {made["metadata"]["uid"]: "exceeded quota"}
    given = observed(job=made, warnings=warnings)
    assert decide(study(), given, NOW) == Verdict(Stage.STALLED, "PodRefused", "exceeded quota")
    given = observed(pod("edge"), job=made, warnings=warnings)
    assert verdict(study(), given)[0] is Stage.STARTING


def test_a_pod_whose_volume_is_missing_says_so_until_it_runs() -> None:
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
    reports = {"edge-0": report(phase=Phase.FAILED, error="the server went away")}
    found = decide(study(), observed(job=job("Failed", reason), reports=reports), NOW)
    assert (found.stage, found.reason) == (Stage.FAILED, expected)
    if expected == "EdgeFailed":
        assert found.message == "the server went away."


@pytest.mark.parametrize("stage", [Stage.SUCCEEDED, Stage.FAILED])
def test_what_ended_stays_ended(stage: Stage) -> None:
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


def test_last_words_of_the_latest_container() -> None:
    first, second = report(done=3), report(done=9, phase=Phase.FINISHED)
    container = {**ended(0, second), "lastState": ended(137, first)["state"]}
    assert final_reports([pod("edge", container=container)]) == {"edge-0": ("pod-edge-0/0", second)}


def test_edges_that_can_be_asked() -> None:
    pods = [
        pod("edge", index=2),
        pod("edge", index=1, ip=None),
        pod("edge", index=0, phase="Succeeded"),
        pod("server"),
    ]
    assert running_edges(pods) == {"edge-2": "10.0.0.7"}
    assert running_edges([pod("edge", container=waiting("CrashLoopBackOff"))]) == {}


def test_a_pod_without_a_role_is_nobody() -> None:
    stray = pod("edge", phase="Pending", container=waiting("ImagePullBackOff"))
    stray["metadata"]["labels"] = {"splittracr.io/uid": "x"}
    assert verdict(study(), observed(stray))[0] is Stage.STARTING
    running_stray = pod("edge")
    del running_stray["metadata"]["labels"]["splittracr.io/role"]
    assert running_edges([running_stray]) == {}


# -------------------------------------------------------------------------------------- status


@given(st.sampled_from(Stage), st.sampled_from(Stage))
def test_conditions_never_contradict_each_other(first: Stage, second: Stage) -> None:
    before = conditions.updated(ExperimentStatus(), 1, Verdict(first, "One", "x"), NOW)
    later = NOW + timedelta(seconds=5)
    status = ExperimentStatus(conditions=before)
    after = conditions.updated(status, 2, Verdict(second, "Two", "y"), later)
    truth = {c.type: c.status for c in after}
    assert set(truth) == {*conditions.CONDITIONS, "Degraded"}
    assert {c.reason for c in after if c.type == "Ready"} == {"Two"}
    assert {c.observed_generation for c in after} == {2}
    assert (truth["Progressing"], truth["Stalled"]) != ("True", "True")
    assert (truth["Ready"], truth["Stalled"]) != ("True", "True")
    assert not (truth["Suspended"] == "True" and truth["Progressing"] == "True")
    assert (truth["Succeeded"] == "Unknown") == (not second.ended)
    assert (truth["Succeeded"] == "True") <= (truth["Ready"] == "True")
    for old, new in zip(before, after, strict=True):
        moved = old.status != new.status
        assert new.last_transition_time == (later if moved else NOW)


def kstatus(made: dict[str, Any]) -> str:
    """How kstatus reads an object: the rules for resources that it does not know."""
    status = made.get("status", {})
    observed_generation = status.get("observedGeneration")
    if observed_generation not in (None, made["metadata"]["generation"]):
        return "InProgress"
    truth = {c["type"]: c["status"] for c in status.get("conditions", ())}
    if truth.get("Reconciling") == "True":
        return "InProgress"
    if truth.get("Stalled") == "True":
        return "Failed"
    return "Current" if truth.get("Ready", "True") == "True" else "InProgress"


@pytest.mark.parametrize(
    ("stage", "reading"),
    [
        (Stage.SUSPENDED, "Current"),
        (Stage.STARTING, "InProgress"),
        (Stage.STALLED, "Failed"),
        (Stage.RUNNING, "Current"),
        (Stage.WAITING, "InProgress"),
        (Stage.SUCCEEDED, "Current"),
        (Stage.FAILED, "Failed"),
    ],
)
def test_tools_that_know_kstatus_read_each_stage_right(stage: Stage, reading: str) -> None:
    made = conditions.status(study(), Verdict(stage, "Why", "x"), observed(), NOW, None)
    shown = body(status=made.model_dump(mode="json", by_alias=True))
    assert kstatus(shown) == reading
    shown["metadata"]["generation"] = 2  # changed, and not reconciled yet
    assert kstatus(shown) == "InProgress"


@pytest.mark.parametrize("stage", Stage)
def test_each_reason_answers_its_own_condition(stage: Stage) -> None:
    made = conditions.updated(ExperimentStatus(), 1, Verdict(stage, "Why", "x"), NOW)
    found = {c.type: (c.status, c.reason) for c in made}
    assert found["Ready"][1] == "Why"
    own = {"Reconciling", "Stalled", "Suspended", "Degraded", "Succeeded"}
    for kind in own:
        status, reason = found[kind]
        failed = kind == "Succeeded" and stage is Stage.FAILED
        assert (reason == "Why") == (status == "True" or failed)
    without = [reason for _, reason in found.values() if reason != "Why"]
    assert len(set(without)) == len(without)


def test_refused_settings_are_a_condition_of_their_own() -> None:
    going = Verdict(Stage.RUNNING, "Measuring", "The edges are measuring.")
    made = conditions.updated(
        ExperimentStatus(), 5, going, NOW, ("SettingsRefused", "No such cut.")
    )
    found = {c.type: (c.status, c.reason, c.message) for c in made}
    assert found["Degraded"] == ("True", "SettingsRefused", "No such cut.")
    assert found["Ready"] == ("True", "Measuring", "The edges are measuring.")
    status = ExperimentStatus(conditions=made).model_dump(mode="json", by_alias=True)
    at = {generation: body(status=status) for generation in (5, 6)}
    for generation, one in at.items():
        one["metadata"]["generation"] = generation
    assert refusal_in(read(at[5])) == "No such cut."
    assert refusal_in(read(at[6])) is None  # the manifest may have been corrected
    made = conditions.updated(ExperimentStatus(), 5, going, NOW, ("PodsNotReplaced", "Too late."))
    status = ExperimentStatus(conditions=made).model_dump(mode="json", by_alias=True)
    at[5]["status"] = status
    assert refusal_in(read(at[5])) is None


def cut(name: str, p50: float, p95: float) -> CutReport:
    return CutReport(cut=name, index=1, frames=5, p50_ms=p50, p95_ms=p95)


def test_status_of_several_edges() -> None:
    reports = {
        "edge-0": report(
            done=4, total=10, cut="a", best=cut("a", 9.1, 12.25), latency=cut("a", 9.1, 12.25)
        ),
        "edge-1": report(
            edge="edge-1",
            done=6,
            total=10,
            failed=1,
            bytes_up=5,
            cut="b",
            best=cut("b", 8, 20),
            latency=cut("b", 8, 20.5),
            completion_at=NOW.timestamp() + 9,
        ),
    }
    given = observed(pod("edge"), pod("edge", index=1), pod("server"), reports=reports)
    made = conditions.status(
        study(), decide(study(edge={"replicas": 2}), given, NOW), given, NOW, None
    )
    shown = made.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert made.state == "Running"
    assert shown["progress"] == {
        "done": 10,
        "failed": 1,
        "unanswered": 0,
        "total": 20,
        "summary": "10/20",
        "estimatedCompletionTime": "2026-03-01T12:00:10Z",
    }
    assert (shown["cut"], shown["placement"]) == ("a, b", "edge-1 -> gpu-1")
    assert shown["bestCut"] == {"name": "b", "p50": "8.000ms", "p95": "20.00ms"}
    assert shown["latency"] == {"p50": "9.100ms", "p95": "20.50ms"}
    assert shown["traffic"] == {"bytesUp": 5, "bytesDown": 0}
    assert [w["name"] for w in shown["workers"]] == [
        "alexnet-edge-0",
        "alexnet-edge-1",
        "alexnet-server-0",
    ]


@pytest.mark.parametrize("stage", [Stage.SUCCEEDED, Stage.FAILED])
def test_a_sweep_that_has_ended_shows_its_best_cut(stage: Stage) -> None:
    swept = study(partition={"mode": "Sweep"})
    given = observed(
        reports={
            "edge-0": report(cut="z", best=cut("a", 9.1, 12.25), latency=cut("z", 40, 50)),
            "edge-1": report(
                edge="edge-1", cut="z", best=cut("b", 8, 20), latency=cut("z", 41, 51)
            ),
        }
    )
    going = conditions.status(swept, Verdict(Stage.RUNNING, "Measuring", "x"), given, NOW, None)
    assert (going.cut, going.latency and going.latency.p95) == ("z", "51.00ms")
    end = Verdict(stage, "Why", "x")
    for again in (observed(), given):  # without reports of the edges, and with them
        before = study(
            partition={"mode": "Sweep"}, status=going.model_dump(mode="json", by_alias=True)
        )
        made = conditions.status(before, end, again, NOW, None)
        assert made.cut == "b"
        assert made.latency == Latency(p50="8.000ms", p95="20.00ms")
    static = conditions.status(study(), end, given, NOW, None)
    assert (static.cut, static.latency and static.latency.p95) == ("z", "51.00ms")


def test_what_nobody_reports_any_more_stays() -> None:
    given = observed(pod("edge"), pod("server"), reports=RUNNING)
    first = conditions.status(study(), decide(study(), given, NOW), given, NOW, None)
    later = study(status=first.model_dump(mode="json", by_alias=True))
    end = Verdict(Stage.SUCCEEDED, "Completed", "Done.")
    made = conditions.status(later, end, observed(), NOW, None)
    assert made.progress == first.progress
    assert made.placement == "edge-1 -> gpu-1"
    assert made.completion_time == NOW


def test_a_patch_takes_away_what_is_gone() -> None:
    patch = conditions.as_patch(ExperimentStatus(state="Starting"))
    assert patch["state"] == "Starting"
    assert patch["workers"] is None
    assert patch["cut"] is None
    progress = ExperimentStatus(
        progress=Progress(done=1), workers=(Worker(name="a", role=Role.EDGE),)
    )
    patch = conditions.as_patch(progress)
    assert patch["progress"]["estimatedCompletionTime"] is None
    assert "node" not in patch["workers"][0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.83125, "0.831ms"),
        (9.1, "9.100ms"),
        (12.345, "12.35ms"),
        (999.96, "1000.0ms"),
        (1250.4, "1250ms"),
    ],
)
def test_milliseconds(value: float, text: str) -> None:
    assert milliseconds(value) == text


def test_a_manifest_that_cannot_be_read_says_so() -> None:
    made = conditions.unreadable(body(), "spec.x: unknown", NOW)
    assert made["state"] == "Stalled"
    found = {c["type"]: (c["status"], c["reason"]) for c in made["conditions"]}
    assert found["Ready"] == ("False", "InvalidManifest")
    assert found["Stalled"] == ("True", "InvalidManifest")
    assert found["Suspended"] == ("False", "NotSuspended")
    assert kstatus({**body(), "status": made}) == "Failed"
    assert datetime.fromisoformat(made["conditions"][0]["lastTransitionTime"]) == NOW


@pytest.mark.parametrize("stage", Stage)
def test_every_stage_has_all_conditions(stage: Stage) -> None:
    made = conditions.updated(ExperimentStatus(), 1, Verdict(stage, "Reason", "message"), NOW)
    assert tuple(condition.type for condition in made) == CONDITION_TYPES
