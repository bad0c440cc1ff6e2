"""The reconcile of pods: replacement, restarts, reports, sidecars."""

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from splittracr.experiment.contracts import Role
from splittracr.experiment.report import Phase, WorkerReport
from splittracr_operator.settings import EdgeDefaults, ServerDefaults, Settings
from tests.control.studies import ALL as OTHERS
from tests.control.studies import SETTINGS, UID, ended, pod, settings, waiting, warning
from tests.control.world import World, in_event_loop


@in_event_loop
async def test_pods_of_a_wrong_image_are_replaced(world: World) -> None:
    await world.apply(edge={"pod": {"image": "wrong"}}, pendingDeadlineSeconds=60)
    late = datetime.now(UTC) - timedelta(seconds=50)
    stuck = world.pod_of_job(phase="Pending", container=waiting("ImagePullBackOff"))
    stuck["metadata"]["creationTimestamp"] = late.isoformat()
    world.put_pod(stuck)
    await world.reconcile()
    assert world.status()["state"] == "Stalled"
    world.api.calls.clear()
    await world.apply(2, edge={"pod": {"image": "right"}}, pendingDeadlineSeconds=60)
    assert [call for call in world.api.calls if call.startswith("delete")] == ["delete Job"]
    await world.apply(3, edge={"pod": {"image": "right"}}, pendingDeadlineSeconds=1)
    # The pod still exists, and has no owner.
    assert world.image("Job") == "right"
    assert world.status()["state"] == "Starting"
    world.api.calls.clear()
    await world.reconcile()
    assert world.api.calls == []


def with_images(edge: str, server: str = "server") -> Settings:
    return settings(edge=EdgeDefaults(image=edge), server=ServerDefaults(image=server))


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"])
@in_event_loop
async def test_workers_stuck_on_a_wrong_default_get_the_right_one(
    world: World, reason: str
) -> None:
    world.start_operator(with_images("wrong", "wrong"))
    await world.apply()
    for role in ("edge", "server"):
        world.put_pod(pod(role, phase="Pending", ready=False, container=waiting(reason)))
    await world.reconcile()
    assert (world.image("Job"), world.image("Deployment")) == ("wrong", "wrong")
    world.start_operator(with_images("right"))
    await world.reconcile()
    await world.reconcile()
    assert (world.image("Job"), world.image("Deployment")) == ("right", "server")
    assert world.condition("Degraded")["status"] == "False"
    world.api.calls.clear()
    await world.reconcile()
    assert not [call for call in world.api.calls if call.startswith("delete")]


@in_event_loop
async def test_only_workers_that_do_not_run_follow_a_default(world: World) -> None:
    """The edge waits for a server whose image is missing. Only the server is replaced."""
    world.start_operator(with_images("edge", "wrong"))
    await world.apply()
    world.put_pod(pod("edge"))
    stuck = pod("server", phase="Pending", ready=False, container=waiting("ErrImagePull"))
    world.put_pod(stuck)
    world.report(phase=Phase.STARTING)
    world.start_operator(with_images("newer", "right"))
    await world.reconcile()
    await world.reconcile()
    assert (world.image("Job"), world.image("Deployment")) == ("edge", "right")


@in_event_loop
async def test_workers_that_have_measured_keep_the_defaults_of_their_start(world: World) -> None:
    world.start_operator(with_images("older"))
    await world.start_running()
    world.put_pod(pod("edge", ready=False, container=waiting("CrashLoopBackOff")))
    world.start_operator(with_images("newer"))
    await world.reconcile()
    await world.reconcile()
    assert world.image("Job") == "older"
    assert world.condition("Degraded")["status"] == "False"


@in_event_loop
async def test_a_job_without_a_digest_of_defaults_is_not_replaced(world: World) -> None:
    world.start_operator(with_images("older"))
    await world.apply()
    made = world.api.objects["Job", "alexnet-edge"]
    del made["spec"]["template"]["metadata"]["annotations"]["splittracr.io/pod-defaults"]
    world.cache.put("Job", world.api.versioned(made))
    world.start_operator(with_images("newer"))
    await world.reconcile()
    await world.reconcile()
    assert world.image("Job") == "older"


@in_event_loop
async def test_a_job_that_is_being_deleted_is_not_applied(world: World) -> None:
    await world.apply(edge={"pod": {"image": "wrong"}})
    deleted = copy.deepcopy(world.api.objects["Job", "alexnet-edge"])
    deleted["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:00Z"
    await world.apply(2, edge={"pod": {"image": "right"}})
    world.cache.put("Job", world.api.versioned(deleted))  # it has a finalizer
    world.api.calls.clear()
    await world.reconcile()
    assert "apply Job" not in world.api.calls
    world.cache.drop("Job", deleted)
    await world.reconcile()
    assert world.image("Job") == "right"


@in_event_loop
async def test_pods_stay_once_an_edge_has_reported(world: World) -> None:
    await world.start_running()
    world.api.calls.clear()
    await world.apply(2, edge={"pod": {"affinity": {"x": 1}}})  # the schema cannot refuse this
    assert not [call for call in world.api.calls if "Job" in call]
    assert world.status()["state"] == "Running"
    degraded = world.condition("Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "PodsNotReplaced")
    assert degraded["message"].startswith("spec.edge.pod changed after an edge had reported")


@in_event_loop
async def test_pods_stay_in_the_reconcile_with_the_first_report(world: World) -> None:
    await world.apply()
    world.run_pods()
    world.api.calls.clear()
    await world.apply(2, edge={"pod": {"image": "late"}})
    assert "delete Job" not in world.api.calls
    assert world.condition("Degraded")["reason"] == "PodsNotReplaced"
    await world.apply(3, edge={"pod": {"image": "late"}}, suspend=True)
    assert world.condition("Degraded")["status"] == "False"
    world.edges.current.clear()
    await world.apply(4, edge={"pod": {"image": "late"}})
    assert world.image("Job") == "late"
    assert world.condition("Degraded")["status"] == "False"


@pytest.mark.parametrize("runs", [True, False])
@in_event_loop
async def test_an_upgrade_with_other_defaults_restarts_no_worker(world: World, runs: bool) -> None:
    await world.apply()
    if runs:
        world.run_pods()
    await world.reconcile()
    before, status = world.owners(), world.status()
    world.api.calls.clear()
    world.start_operator(OTHERS)
    await world.reconcile()
    assert world.owners() == before
    # Children without pods are updated at once.
    assert sorted(world.api.calls) == ["apply ConfigMap", *["apply NetworkPolicy"] * 2]
    store = world.api.objects["ConfigMap", "alexnet-manifest"]["data"]["results-url"]
    assert store == f"{OTHERS.store_url}/{UID}"
    world.api.calls.clear()
    await world.reconcile()
    assert (world.api.calls, world.status()) == ([], status)


@in_event_loop
async def test_new_defaults_come_with_the_next_start(world: World) -> None:
    await world.start_running()
    world.start_operator(OTHERS)
    await world.reconcile()
    assert {world.image("Job"), world.image("Deployment")} == {
        SETTINGS.edge.image,
        SETTINGS.server.image,
    }
    await world.apply(2, suspend=True)
    await world.apply(3, suspend=False)
    assert {world.image("Job"), world.image("Deployment")} == {
        OTHERS.edge.image,
        OTHERS.server.image,
    }


def killed(times: int = 1) -> dict[str, Any]:
    """A container that runs again after it was out of memory."""
    ended = {"exitCode": 137, "reason": "OOMKilled"}
    return {"state": {"running": {}}, "lastState": {"terminated": ended}, "restartCount": times}


@in_event_loop
async def test_a_restart_within_one_poll_has_its_event(world: World) -> None:
    await world.start_running()
    for times in (1, 3):
        world.put_pod(pod("edge", container=killed(times)))
        await world.reconcile()
        await world.reconcile()
        assert world.api.reasons().count("EdgeRestarted") == times
    (edge, _) = world.status()["workers"]
    assert (edge["restarts"], edge["lastTermination"]["reason"]) == (3, "OOMKilled")
    world.start_operator(SETTINGS)
    await world.reconcile()
    assert world.api.reasons().count("EdgeRestarted") == 3
    world.put_pod(pod("server", container=killed()))
    await world.reconcile()
    assert world.api.reasons().count("ServerRestarted") == 1


@in_event_loop
async def test_a_pod_deleted_between_two_reconciles_keeps_its_termination(world: World) -> None:
    await world.start_running()
    last = pod("edge", container=killed(2))
    last["spec"]["containers"] = [{"name": "edge", "resources": {"limits": {"memory": "96Mi"}}}]
    world.put_pod(last)
    world.cache.drop("Pod", last)
    await world.end("Failed")
    message = "edge pod alexnet-edge-0 was OOMKilled (limit 96Mi), 2 times."
    assert world.condition("Succeeded")["message"] == message
    assert world.status()["workers"][0]["lastTermination"]["exitCode"] == 137
    assert world.api.reasons().count("EdgeRestarted") == 2
    world.start_operator(SETTINGS)
    await world.reconcile()
    assert world.status()["workers"][0]["lastTermination"]["exitCode"] == 137


def second(index: int = 0) -> dict[str, Any]:
    """A pod that replaces the first one of an edge."""
    made = pod("edge", index=index)
    made["metadata"] |= {"name": f"alexnet-edge-{index}-second", "uid": f"second-{index}"}
    return made


def restarted(report: WorkerReport | None = None) -> dict[str, Any]:
    """The pod of the first edge, whose container has just restarted."""
    message = report.model_dump_json() if report else ""
    last = {"terminated": {"exitCode": 1, "reason": "Error", "message": message}}
    container = {"state": {"running": {}}, "lastState": last, "restartCount": 1}
    return pod("edge", container=container)


@pytest.mark.parametrize("fresh", [second, restarted])
@in_event_loop
async def test_a_report_counts_for_the_container_that_made_it(
    world: World, fresh: Callable[[], dict[str, Any]]
) -> None:
    await world.start_running()
    assert world.condition("Ready")["status"] == "True"
    world.cache.drop("Pod", pod("edge"))
    world.put_pod(fresh())
    report = world.edges.current.pop("edge-0")  # it does not answer yet
    await world.reconcile()
    ready = world.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "EdgeRestarting")
    assert world.status()["progress"]["summary"] == "3/9"
    world.edges.current["edge-0"] = report.model_copy(update={"phase": Phase.STARTING})
    await world.reconcile()
    assert world.condition("Ready")["status"] == "False"
    world.edges.current["edge-0"] = report
    await world.reconcile()
    assert world.condition("Ready")["status"] == "True"


@in_event_loop
async def test_two_of_three_edges_are_not_all(world: World) -> None:
    await world.start_three()
    assert world.status()["state"] == "Running"
    world.cache.drop("Pod", pod("edge", index=1))
    world.put_pod(second(1))
    report = world.edges.current.pop("edge-1")
    await world.reconcile()
    assert world.status()["state"] == "Waiting"
    assert "alexnet-edge-1-second" in world.condition("Ready")["message"]
    world.edges.current["edge-1"] = report
    await world.reconcile()
    assert world.status()["state"] == "Running"


@in_event_loop
async def test_a_termination_message_is_read_once(world: World) -> None:
    await world.apply()
    world.run_pods()
    final = WorkerReport(role=Role.EDGE, edge="edge-0", phase=Phase.FAILED, done=3, total=9)
    world.put_pod(restarted(final))
    world.report(done=7, total=9)
    await world.reconcile()
    assert world.status()["state"] == "Running"
    world.edges.current.clear()  # one answer is late
    await world.reconcile()
    assert world.status()["state"] == "Running"
    assert world.status()["progress"]["summary"] == "7/9"


@in_event_loop
async def test_a_recovered_mount_does_not_stall_a_slow_pull(world: World) -> None:
    await world.apply()
    creating = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    slow = pod("edge", phase="Pending", container=creating)
    world.put_pod(slow)
    failed = warning("kubelet", "MountVolume.SetUp failed: secret not found", 0, 16)
    world.api.posted[slow["metadata"]["uid"]] = [failed]
    await world.reconcile()
    assert world.condition("Ready")["reason"] == "ContainerRefused"
    pulling = {**warning("kubelet", "Pulling image", 17), "type": "Normal"}
    world.api.posted[slow["metadata"]["uid"]] = [failed, pulling]
    await world.reconcile()
    assert world.condition("Ready")["reason"] == "WorkersStarting"


@in_event_loop
async def test_a_silent_edge_is_unreachable_also_after_a_restart_of_the_operator(
    world: World,
) -> None:
    await world.apply()
    world.run_pods()
    state = {"running": {"startedAt": "2026-03-01T11:00:00Z"}}
    world.put_pod(pod("edge", container={"state": state}))
    await world.reconcile()
    report = world.edges.current.pop("edge-0")
    await world.reconcile()
    assert world.condition("Ready")["reason"] == "Measuring"
    for operator in ("the same", "another"):
        if operator == "another":
            world.start_operator(SETTINGS)
        world.now = datetime.now(UTC) + timedelta(seconds=31)
        await world.reconcile()
        ready = world.condition("Ready")
        assert (ready["status"], ready["reason"]) == ("False", "EdgeUnreachable")
    world.edges.current["edge-0"] = report
    await world.reconcile()
    assert world.condition("Ready")["reason"] == "Measuring"


def with_sidecar(made: dict[str, Any]) -> dict[str, Any]:
    """The pod with a sidecar that keeps running."""
    sidecar = {"name": "sidecar", "ready": True, "restartCount": 3, "state": {"running": {}}}
    made["status"]["containerStatuses"].insert(0, sidecar)
    return made


@in_event_loop
async def test_a_sidecar_that_keeps_running_is_stopped_when_the_edge_has_ended(
    world: World,
) -> None:
    await world.apply()
    world.put_pod(pod("server"))
    world.put_pod(with_sidecar(world.pod_of_job()))
    world.report(done=3, total=9)
    await world.reconcile()
    assert world.status()["state"] == "Running"

    report = WorkerReport(role=Role.EDGE, edge="edge-0", phase=Phase.FINISHED, done=9, total=9)
    held = with_sidecar(world.pod_of_job(container=ended(0, report)))
    world.put_pod(held)
    await world.reconcile()
    assert world.status()["state"] == "Succeeded"
    assert world.condition("Succeeded")["message"] == "9 samples were recorded."
    assert world.api.objects["Job", "alexnet-edge"]["spec"]["suspend"] is True
    assert [w["restarts"] for w in world.status()["workers"]] == [0, 0]
    assert "EdgeRestarted" not in world.api.reasons()

    # It stays so without the pod and after a restart of the operator, or the study would run again.
    world.cache.drop("Pod", held)
    world.start_operator(SETTINGS)
    await world.reconcile()
    assert world.api.objects["Job", "alexnet-edge"]["spec"]["suspend"] is True


@in_event_loop
async def test_an_edge_that_fails_too_often_ends_the_study(world: World) -> None:
    await world.apply(backoffLimit=1)
    job = world.api.objects["Job", "alexnet-edge"]
    assert job["spec"]["backoffLimit"] == 2**31 - 1  # it would count sidecars, too
    for times, state in ((1, "Starting"), (2, "Failed")):
        world.put_pod(world.pod_of_job(container=killed(times)))
        await world.reconcile()
        assert world.status()["state"] == state
    assert world.condition("Succeeded")["reason"] == "EdgeFailed"
    assert world.api.objects["Job", "alexnet-edge"]["spec"]["suspend"] is True


@in_event_loop
async def test_an_edge_without_a_sidecar_keeps_its_pod_and_logs(world: World) -> None:
    await world.apply()
    report = WorkerReport(role=Role.EDGE, edge="edge-0", phase=Phase.FINISHED, done=9, total=9)
    world.put_pod(world.pod_of_job(phase="Succeeded", container=ended(0, report)))
    await world.reconcile()
    assert world.status()["state"] == "Succeeded"
    assert world.api.objects["Job", "alexnet-edge"]["spec"]["suspend"] is False
    await world.end("Complete")
    assert world.api.objects["Job", "alexnet-edge"]["spec"]["suspend"] is False


@in_event_loop
async def test_the_status_has_the_termination_message_of_a_worker(world: World) -> None:
    await world.apply()
    ended = {"exitCode": 137, "reason": "OOMKilled", "message": "loading\n\x1b[31mmuch"}
    crashed = {"state": {"running": {}}, "lastState": {"terminated": ended}, "restartCount": 1}
    world.put_pod(pod("edge", container=crashed))
    await world.reconcile()
    (worker,) = world.status()["workers"]
    assert worker["lastTermination"]["message"] == "loading\n\\x1b[31mmuch"
