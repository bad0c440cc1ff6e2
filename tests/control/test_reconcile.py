"""The reconcile against an API server in memory: creation, repair, end and removal of a study."""

import base64
import contextlib
import copy
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from splittracr.experiment.contracts import Role
from splittracr.experiment.report import Phase, WorkerReport
from splittracr.experiment.spec import KIND
from splittracr_operator import plan
from splittracr_operator.connection import Refused, Unavailable
from splittracr_operator.events import event
from splittracr_operator.settings import PolicySettings
from splittracr_operator.study import read
from tests.control.studies import SETTINGS, UID, body, pod, settings
from tests.control.world import ALL_KINDS, KEYS, World, at, in_event_loop


@in_event_loop
async def test_a_study_from_creation_to_removal(world: World) -> None:
    assert await world.apply(ttlSecondsAfterFinished=60) == SETTINGS.poll_seconds
    assert world.api.calls[0] == "status"  # the start, before any child is created
    assert world.api.kinds() == ALL_KINDS
    assert world.status()["state"] == "Starting"
    calls = len(world.api.calls)
    await world.reconcile()
    assert len(world.api.calls) == calls  # there is nothing to do

    world.run_pods()
    await world.reconcile()
    assert world.status()["state"] == "Running"
    assert world.status()["progress"]["summary"] == "3/9"

    world.end_job("Complete")
    left = await world.reconcile()
    assert left is not None
    assert 50 < left <= 60
    assert world.status()["state"] == "Succeeded"
    assert world.api.kinds() == {"ConfigMap", "Secret", "NetworkPolicy", "Job"}
    assert world.api.reasons() == ["WorkersStarting", "Measuring", "Completed"]

    long_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    world.set_manifest(ttlSecondsAfterFinished=60)
    dict(world.cache.study(UID) or {})["status"]["completionTime"] = long_ago
    assert await world.reconcile() is None
    assert world.api.kinds() == set()
    assert world.status()["state"] == "Succeeded"
    assert await world.reconcile() is None


@in_event_loop
async def test_a_suspended_study_has_no_pods_until_it_is_resumed(world: World) -> None:
    assert await world.apply(suspend=True) is None
    assert world.api.kinds() == set()
    assert "startTime" not in world.status()
    await world.apply(2, suspend=False)
    assert world.api.kinds() == ALL_KINDS
    await world.apply(3, suspend=True)
    assert world.api.kinds() == {"ConfigMap", "Secret"}
    await world.apply(4, suspend=False)
    assert world.api.kinds() == ALL_KINDS


@in_event_loop
async def test_drift_is_patched_and_pods_are_left_alone(world: World) -> None:
    await world.apply()
    key = ("Deployment", "alexnet-server")
    scaled = copy.deepcopy(world.api.objects[key])
    scaled["spec"] |= {"replicas": 0, "template": {"another": "image"}}
    world.api.objects[key] = world.api.versioned(scaled)
    world.cache.put("Deployment", scaled)
    await world.reconcile()
    assert world.api.objects[key]["spec"]["replicas"] == 1
    assert world.api.objects[key]["spec"]["template"] == {"another": "image"}
    world.delete("Service")
    await world.reconcile()
    assert ("Service", "alexnet-server") in world.api.objects


@in_event_loop
async def test_policies_follow_the_operators_setting(world: World) -> None:
    await world.apply()
    world.run_pods()
    before = world.owners()
    for enabled in (False, True):
        world.start_operator(settings(network_policy=PolicySettings(enabled=enabled)))
        await world.reconcile()
        assert ("NetworkPolicy" in world.api.kinds()) is enabled
    assert world.owners() == before
    world.start_operator(settings(network_policy=PolicySettings(enabled=False)))
    await world.end("Complete")
    assert "NetworkPolicy" not in world.api.kinds()


@in_event_loop
async def test_a_refused_child_stalls_the_study_and_is_retried(world: World) -> None:
    world.api.refuse["Job"] = Refused(403, "exceeded quota: jobs")
    assert await world.apply() is not None
    assert world.status()["state"] == "Stalled"
    assert world.status()["conditions"][0]["message"] == "exceeded quota: jobs"
    del world.api.refuse["Job"]
    await world.reconcile()
    assert world.status()["state"] == "Starting"
    assert "Job" in world.api.kinds()


@in_event_loop
async def test_a_restarted_operator_reports_an_end_that_it_missed(world: World) -> None:
    await world.apply()
    report = WorkerReport(
        role=Role.EDGE, edge="edge-0", phase=Phase.FINISHED, done=9, total=9, exit_code=0
    )
    state = {"terminated": {"exitCode": 0, "message": report.model_dump_json()}}
    world.put_pod(pod("edge", phase="Succeeded", container={"state": state}))
    world.end_job("Complete")
    world.start_operator(SETTINGS)
    await world.reconcile()
    assert world.status()["state"] == "Succeeded"
    assert world.status()["progress"]["summary"] == "9/9"


@pytest.mark.parametrize("exists", [True, False])
@in_event_loop
async def test_a_deleted_study_is_not_reconciled(world: World, exists: bool) -> None:
    if exists:
        world.set_manifest()
        current = dict(world.cache.study(UID) or {})
        current["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:00Z"
    assert await world.reconcile() is None
    assert world.api.calls == []


@in_event_loop
async def test_a_manifest_of_another_version_is_a_condition(world: World) -> None:
    assert await world.apply(novelty=1) is None
    assert world.status()["conditions"][0]["reason"] == "InvalidManifest"
    assert world.api.kinds() == set()


@in_event_loop
async def test_the_end_is_written_before_children_are_deleted(world: World) -> None:
    await world.apply(ttlSecondsAfterFinished=0)
    world.end_job("Complete")
    world.api.calls.clear()
    await world.reconcile()
    assert world.api.calls[0] == "status"
    assert "delete Job" in world.api.calls
    assert world.status()["state"] == "Succeeded"


@in_event_loop
async def test_an_ended_study_does_not_run_again(world: World) -> None:
    await world.complete()
    world.delete("Job")
    world.delete("ConfigMap")
    world.api.calls.clear()
    await world.reconcile()
    assert world.api.calls == []
    assert world.status()["state"] == "Succeeded"


@in_event_loop
async def test_the_job_of_an_ended_study_is_patched(world: World) -> None:
    await world.complete()
    job = world.api.objects["Job", "alexnet-edge"]
    job["spec"]["suspend"] = True
    world.cache.put("Job", world.api.versioned(job))
    world.api.calls.clear()
    await world.reconcile()
    assert world.api.calls == ["patch Job"]


@in_event_loop
async def test_a_deleted_secret_is_created_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.apply()
    world.delete("Secret")
    world.api.calls.clear()
    await world.reconcile()
    assert world.api.calls == []  # the secret was created a moment ago
    monkeypatch.setattr(plan, "RETRY_SECONDS", 0.0)
    await world.reconcile()
    assert world.api.calls == ["create Secret"]
    monkeypatch.undo()
    world.delete("Secret")
    world.delete("ConfigMap")
    world.api.calls.clear()
    await world.reconcile()
    assert world.api.calls == ["apply ConfigMap", "create Secret"]


@in_event_loop
async def test_a_secret_is_created_again_for_a_replaced_server(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "RETRY_SECONDS", 0.0)
    await world.start_running()
    world.delete("Secret")
    world.put_pod(pod("server", phase="Pending", ready=False))
    world.api.calls.clear()
    await world.reconcile()
    assert world.condition("Ready")["reason"] == "ServerNotReady"
    assert "create Secret" in world.api.calls


@pytest.mark.parametrize("kinds", [["Job"], ["Deployment"], ["Job", "Deployment"]])
@in_event_loop
async def test_orphans_of_a_study_of_the_same_name_are_replaced(
    world: World, kinds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SETTLE_SECONDS", 0.0)
    await world.apply()
    for kind in kinds:
        orphan(world, kind, "00000000-0000-0000-0000-000000000000")
    with pytest.raises(Unavailable, match="of an earlier study is deleted"):
        await world.reconcile()
    with contextlib.suppress(Unavailable):
        await world.reconcile()
    await world.reconcile()
    assert world.api.kinds() == ALL_KINDS
    assert world.condition("Ready")["reason"] == "WorkersStarting"
    assert all(at(o, "labels", "splittracr.io/uid") == UID for o in world.owners().values())


@pytest.mark.parametrize("foreign", ["label", "study"])
@in_event_loop
async def test_other_objects_of_the_same_name_stay(
    world: World, foreign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SETTLE_SECONDS", 0.0)
    await world.apply()
    other = body(name="other")
    other["metadata"]["uid"] = "00000000-0000-0000-0000-000000000001"
    world.cache.put(KIND, other)
    made = orphan(world, "Job", other["metadata"]["uid"])
    if foreign == "label":  # only the label of the uid is ours
        made["metadata"]["labels"].pop("app.kubernetes.io/managed-by")
    await world.reconcile()
    assert ("Job", "alexnet-edge") in world.api.objects
    assert world.condition("Ready")["reason"] == "ChildRefused"


def orphan(world: World, kind: str, uid: str) -> dict[str, Any]:
    """Turn a child into an orphan of an earlier study of the same name."""
    name = next(name for its, name in world.api.objects if its == kind)
    made = world.api.objects[kind, name]
    world.cache.drop(kind, made)
    made["metadata"]["labels"]["splittracr.io/uid"] = uid
    del made["metadata"]["ownerReferences"]
    return made


@in_event_loop
async def test_a_missing_permission_is_a_condition(world: World) -> None:
    await world.apply()
    await world.reconciler.forbidden(UID, "namespace lab: no")
    ready = world.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "OperatorForbidden")
    assert "namespace lab: no" in ready["message"]
    assert world.condition("Stalled")["status"] == "True"
    calls = len(world.api.calls)
    await world.reconciler.forbidden(UID, "namespace lab: no")
    await world.reconciler.forbidden("deleted", "namespace lab: no")
    assert len(world.api.calls) == calls
    await world.reconcile()
    assert world.condition("Ready")["reason"] == "WorkersStarting"


@in_event_loop
async def test_a_new_secret_has_the_same_authority(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "RETRY_SECONDS", 0.0)
    world.set_manifest()
    authorities = []
    for lost in ("Secret", "ConfigMap", None):
        await world.reconcile()
        (secret,) = (o for (kind, _), o in world.api.objects.items() if kind == "Secret")
        pem = base64.b64decode(secret["data"]["ca.crt"])
        authorities.append(x509.load_pem_x509_certificate(pem).public_key())
        if lost is not None:
            world.delete("Secret")
        if lost == "ConfigMap":
            world.delete(lost)
    assert authorities[0] == authorities[1] == authorities[2]
    assert KEYS.authority(UID) != KEYS.authority("another")


@pytest.mark.parametrize("name", ["a" * 200, "a.b", "ab"])
def test_event_names_are_valid(name: str) -> None:
    made = event(read(body(name=name)), "Why", "x", warning=False, now=datetime.now(UTC))
    label = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    assert len(made["metadata"]["name"]) <= 253
    assert re.fullmatch(rf"{label}(\.{label})*", made["metadata"]["name"])


@in_event_loop
async def test_figures_are_written_every_five_seconds_and_the_rest_at_once(world: World) -> None:
    await world.start_running()
    assert world.status()["progress"]["summary"] == "3/9"
    writes = world.api.calls.count("status")
    for done in (4, 5):
        world.report(done=done, total=9)
        await world.reconcile()
    assert world.api.calls.count("status") == writes
    world.now = datetime.now(UTC) + timedelta(seconds=6)
    await world.reconcile()
    assert world.status()["progress"]["summary"] == "5/9"
    world.report(done=6, total=9)
    world.put_pod(pod("server", ready=False))
    await world.reconcile()
    assert world.status()["state"] == "Waiting"
    world.report(Phase.FINISHED, done=9, total=9)
    await world.end("Complete")
    assert world.status()["progress"]["summary"] == "9/9"
