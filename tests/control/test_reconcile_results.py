"""The reconcile of results and logs in the store."""

import asyncio
import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import pytest

from splittracr.experiment.report import Phase
from splittracr.experiment.spec import KIND
from splittracr_operator import act
from splittracr_operator.connection import Refused, Unavailable
from tests.control.studies import SETTINGS, UID, body, pod
from tests.control.world import KEYS, World, in_event_loop


@in_event_loop
async def test_the_status_lists_only_stored_results(world: World, tmp_path: Path) -> None:
    folder = tmp_path / UID
    folder.mkdir()
    for edge in ("edge-0", "edge-1"):
        (folder / f"{edge}.tar.gz").write_bytes(b"x")
    await world.complete()
    assert world.status()["results"]["edges"] == ["edge-0", "edge-1"]
    (folder / "edge-0.tar.gz").unlink()
    await world.reconcile()
    assert world.status()["results"]["edges"] == ["edge-1"]
    shutil.rmtree(folder)
    await world.reconcile()
    assert "results" not in world.status()


@in_event_loop
async def test_results_of_an_older_operator_get_a_path_without_a_key(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / UID).mkdir()
    (tmp_path / UID / "edge-0.tar.gz").write_bytes(b"x")
    await world.complete()
    made = world.status()["results"]
    key = "/api/v1/namespaces/operators/services/operator:results/proxy/v1/results/x?key=0a1b"
    world.cache.put(
        KIND,
        world.api.versioned(
            body(status={**world.status(), "results": {"edges": ["edge-0"], "path": key}})
        ),
    )
    world.start_operator(SETTINGS)
    await world.reconcile()
    assert world.status()["results"] == made
    assert made["path"] == f"/v1/results/lab/alexnet/{UID}"
    assert made["service"] == "splittracr-system/splittracr-operator"
    assert made["authority"].startswith("-----BEGIN CERTIFICATE-----")
    assert (tmp_path / UID / "study").read_text() == "lab/alexnet"


@in_event_loop
async def test_results_on_a_claim_stay_listed(world: World) -> None:
    await world.apply(results={"claim": "mine"})
    world.run_pods()
    world.report(Phase.FINISHED, results="claim")
    await world.reconcile()
    world.start_operator(SETTINGS)
    world.edges.current.clear()
    await world.reconcile()
    results = world.status()["results"]
    assert (results["edges"], results["claim"]) == (["edge-0"], "mine")


def logs_in(folder: Path) -> dict[str, bytes]:
    with tarfile.open(folder / UID / "logs.tar.gz") as opened:
        return {
            member.name: (opened.extractfile(member) or io.BytesIO()).read() for member in opened
        }


@in_event_loop
async def test_the_logs_of_all_workers_are_kept_before_the_server_is_deleted(
    world: World, tmp_path: Path
) -> None:
    await world.apply()
    world.run_pods()
    token = KEYS.control(UID).encode()
    world.api.logs[("alexnet-edge-0", "edge", False)] = b"measured\ntoken " + token + b"\n"
    world.api.logs[("alexnet-server-0", "server", False)] = b"x" * 2**21 + b"last\n"
    await world.reconcile()
    assert not [call for call in world.api.calls if call.startswith("log")]
    await world.end("Complete")
    calls = world.api.calls
    assert calls.index("log alexnet-server-0") < calls.index("delete Deployment")
    kept = logs_in(tmp_path)
    assert kept["alexnet-edge-0.log"] == b"measured\ntoken ***\n"
    assert kept["alexnet-server-0.log"] == b"x" * (2**20 - 5) + b"last\n"
    assert kept.keys() == {"alexnet-edge-0.log", "alexnet-server-0.log"}
    packed = (tmp_path / UID / "logs.tar.gz").read_bytes()
    (archive,) = world.status()["results"]["archives"]
    digest = hashlib.sha256(packed).hexdigest()
    assert archive == {"name": "logs", "bytes": len(packed), "sha256": digest}
    world.start_operator(SETTINGS)  # it does not read them again
    await world.reconcile()
    assert len([call for call in calls if call.startswith("log")]) == 2


@in_event_loop
async def test_the_logs_of_a_failed_study_are_kept(world: World, tmp_path: Path) -> None:
    await world.apply()
    world.run_pods()
    world.put_pod(pod("edge", container={"state": {"running": {}}, "restartCount": 2}))
    world.api.logs |= {
        ("alexnet-edge-0", "edge", False): b"third",
        ("alexnet-edge-0", "edge", True): b"second",
        ("alexnet-server-0", "server", False): b"served",
    }
    await world.end("Failed")
    assert "Deployment" not in world.api.kinds()
    assert logs_in(tmp_path) == {
        "alexnet-edge-0.log": b"third",
        "alexnet-edge-0.2.log": b"second",
        "alexnet-server-0.log": b"served",
    }
    assert [a["name"] for a in world.status()["results"]["archives"]] == ["logs"]


@in_event_loop
async def test_the_log_of_a_container_is_kept_when_the_next_one_runs(
    world: World, tmp_path: Path
) -> None:
    await world.apply()
    world.run_pods()
    for number, log in ((1, b"first"), (2, b"second")):
        world.put_pod(pod("edge", container={"state": {"running": {}}, "restartCount": number}))
        world.api.logs[("alexnet-edge-0", "edge", True)] = log
        await world.reconcile()
        await world.reconcile()
    kept = {"alexnet-edge-0.1.log": b"first", "alexnet-edge-0.2.log": b"second"}
    assert logs_in(tmp_path) == kept
    assert world.status()["state"] == "Running"


@in_event_loop
async def test_the_logs_of_a_suspended_study_are_kept_with_those_of_its_next_pods(
    world: World, tmp_path: Path
) -> None:
    await world.apply()
    world.run_pods()
    world.api.logs[("alexnet-edge-0", "edge", False)] = b"before"
    await world.apply(2, suspend=True)
    assert logs_in(tmp_path) == {"alexnet-edge-0.log": b"before", "alexnet-server-0.log": b""}
    for name in ("alexnet-edge-0", "alexnet-server-0"):
        world.cache.drop("Pod", world.cache.children(UID)["Pod", name])
    await world.apply(3, suspend=False)
    later = pod("edge")
    later["metadata"] |= {"name": "alexnet-edge-1", "uid": "another"}
    world.put_pod(later)
    world.api.logs[("alexnet-edge-1", "edge", False)] = b"after"
    await world.end("Complete")
    kept = logs_in(tmp_path)
    assert (kept["alexnet-edge-0.log"], kept["alexnet-edge-1.log"]) == (b"before", b"after")


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (Unavailable("503: no route to the node"), b"503: no route to the node"),
        (Refused(400, "container is waiting to start"), b"container is waiting to start"),
    ],
)
@in_event_loop
async def test_an_unreadable_log_delays_no_deletion(
    world: World, tmp_path: Path, error: Exception, note: bytes
) -> None:
    await world.apply()
    world.run_pods()
    world.api.logs[("alexnet-server-0", "server", False)] = error
    await world.end("Complete")
    assert "Deployment" not in world.api.kinds()
    noted = b"(the log could not be read: " + note + b")\n"
    assert logs_in(tmp_path)["alexnet-server-0.log"] == noted


@in_event_loop
async def test_a_log_without_an_answer_delays_no_deletion(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(*_: object, **__: object) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(act, "LOG_SECONDS", 0.05)
    monkeypatch.setattr(world.api, "log", endless)
    await world.apply()
    world.run_pods()
    await world.end("Complete")
    assert "Deployment" not in world.api.kinds()
    noted = b"(the log could not be read: no answer within 0.05 s)\n"
    assert logs_in(tmp_path)["alexnet-server-0.log"] == noted


@in_event_loop
async def test_a_full_volume_delays_no_deletion(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world.store, "keep_logs", full)
    await world.apply()
    world.run_pods()
    await world.end("Complete")
    assert "Deployment" not in world.api.kinds()
    assert "results" not in world.status()


@in_event_loop
async def test_archives_in_the_status_follow_the_volume(world: World, tmp_path: Path) -> None:
    await world.complete()
    (tmp_path / UID).mkdir(exist_ok=True)
    path = tmp_path / UID / "edge-0.tar.gz"
    for content in (b"first", b"second", None):
        if content is None:
            path.unlink()
        else:
            newer = path.with_suffix(".new")
            newer.write_bytes(content)
            newer.replace(path)
        await world.reconcile()
        results = world.status().get("results")
        if content is None or results is None:
            assert (content, results) == (None, None)
            continue
        digest = hashlib.sha256(content).hexdigest()
        assert results["edges"] == ["edge-0"]
        assert results["archives"] == [{"name": "edge-0", "bytes": len(content), "sha256": digest}]


@in_event_loop
async def test_logs_are_kept_beside_a_claim(world: World) -> None:
    await world.apply(results={"claim": "disk"})
    world.run_pods()
    await world.end("Complete")
    results = world.status()["results"]
    assert (results["claim"], results.get("edges", [])) == ("disk", [])
    assert [archive["name"] for archive in results["archives"]] == ["logs"]
    assert results["path"]
