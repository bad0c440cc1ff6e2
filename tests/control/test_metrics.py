"""The operator's metrics, as Prometheus scrapes them."""

from pathlib import Path
from typing import Any, cast

import aiohttp
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from splittracr import __version__
from splittracr.experiment.metrics import OPERATOR
from splittracr.experiment.report import CutReport, Phase
from splittracr.experiment.spec import KIND
from splittracr_operator.cluster import Cluster
from splittracr_operator.connection import permission
from splittracr_operator.metrics import Metrics
from splittracr_operator.routes import Routes
from splittracr_operator.service import Service
from splittracr_operator.store import Store
from splittracr_operator.watches import Watches
from splittracr_operator.work_queue import WorkQueue
from tests.control.studies import SETTINGS, UID, body, pod
from tests.control.world import KEYS, World, in_event_loop
from tests.scrape import (
    OPENMETRICS,
    Scrape,
    complaints,
    exposed_names,
    parsed,
    parsed_openmetrics,
    scraped,
)

STUDY = ("study_namespace", "study")
OF_STUDY = {"study_namespace": "lab", "study": "alexnet"}


def latency(p50: float, p95: float) -> CutReport:
    return CutReport(cut="op", index=5, frames=9, p50_ms=p50, p95_ms=p95)


def restarted(role: str, index: int, count: int) -> dict[str, Any]:
    made = pod(role, index=index)
    made["status"]["containerStatuses"][0]["restartCount"] = count
    return made


async def measuring(world: World) -> None:
    """Two edges measure; one of them has restarted twice."""
    world.set_manifest(edge={"replicas": 2})
    for made in (restarted("edge", 0, 2), pod("edge", index=1), pod("server")):
        world.put_pod(made)
    world.report(done=7, failed=1, unanswered=2, total=9, latency=latency(2.0, 5.0))
    world.report(done=3, total=9, latency=latency(3.0, 4.0), index=1)
    await world.reconcile()


@in_event_loop
async def test_a_study_that_is_measured(world: World) -> None:
    await measuring(world)
    seen = scraped(world.metrics.exposition)
    identity = ("lab", "alexnet", UID, "alexnet", "Static")
    names = (*STUDY, "uid", "model", "mode")
    assert seen.of("splittracr_study_info", *names) == {identity: 1}
    assert seen.of("splittracr_study_samples_total", "outcome") == {
        ("ok",): 9,
        ("failed",): 1,
        ("unanswered",): 2,
    }
    assert seen.one("splittracr_study_samples_expected", **OF_STUDY) == 18
    assert seen.of("splittracr_study_latency_seconds", "quantile") == {
        ("0.5",): 0.003,
        ("0.95",): 0.005,
    }
    reported = seen.of("splittracr_study_edge_last_report_timestamp_seconds", "edge")
    assert reported.keys() == {("edge-0",), ("edge-1",)}
    assert min(reported.values()) > 1.7e9
    assert seen.of("splittracr_study_workers_ready", "role") == {("edge",): 2, ("server",): 1}
    assert seen.of("splittracr_study_worker_restarts_total", "role") == {
        ("edge",): 2,
        ("server",): 0,
    }
    conditions = seen.of("splittracr_study_condition", "type", "status")
    assert conditions["Ready", "True"] == 1
    assert conditions["Ready", "False"] == conditions["Ready", "Unknown"] == 0
    assert conditions["Stalled", "False"] == 1
    assert seen.one("splittracr_studies", state="Running") == 1
    assert seen.one("splittracr_studies", state="Failed") == 0


@in_event_loop
async def test_an_edge_that_has_finished_is_not_expected_to_report(world: World) -> None:
    await measuring(world)
    world.report(Phase.FINISHED, done=9, total=9, index=1)
    await world.reconcile()
    seen = scraped(world.metrics.exposition)
    silent = seen.of("splittracr_study_edge_last_report_timestamp_seconds", "edge")
    assert silent.keys() == {("edge-0",)}


@in_event_loop
async def test_counters_of_a_study_never_decrease(world: World) -> None:
    await measuring(world)
    world.cache.drop("Pod", restarted("edge", 0, 2))
    world.put_pod(pod("server"))
    world.report(done=2, total=9)  # the records of its first pod are lost
    await world.reconcile()
    seen = scraped(world.metrics.exposition)
    assert seen.one("splittracr_study_samples_total", outcome="ok") == 9
    assert seen.one("splittracr_study_worker_restarts_total", role="edge") == 2


@in_event_loop
async def test_all_series_of_a_deleted_study_are_removed(world: World) -> None:
    await measuring(world)
    study = world.cache.study(UID)
    assert study is not None
    world.cache.drop(KIND, study)
    await world.reconcile()
    seen = scraped(world.metrics.exposition)
    assert not [sample for sample in seen.samples if "study" in sample.labels]
    assert seen.one("splittracr_studies", state="Running") == 0


@in_event_loop
async def test_an_ended_study_has_no_time_of_a_last_report(world: World) -> None:
    await measuring(world)
    await world.end("Complete")
    seen = scraped(world.metrics.exposition)
    assert "splittracr_study_edge_last_report_timestamp_seconds" not in seen.names
    assert seen.one("splittracr_study_samples_total", outcome="ok") == 9
    assert seen.one("splittracr_studies", state="Succeeded") == 1


@in_event_loop
async def test_a_study_with_an_unreadable_manifest_is_counted(world: World) -> None:
    await world.apply(tomorrow={"x": 1})
    seen = scraped(world.metrics.exposition)
    assert seen.one("splittracr_studies", state="Stalled") == 1
    assert seen.one("splittracr_study_condition", type="Stalled", status="True", **OF_STUDY) == 1
    assert "splittracr_study_info" not in seen.names


async def upload(store: Store, *, token: str, size: int) -> int:
    """Upload an archive as an edge does; returns the status of the answer."""
    app = web.Application()
    Routes(store, KEYS).add_for_edges(app)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/results/{UID}/edge-0"
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.put(url, data=b"x" * size) as answer,
    ):
        status = answer.status
    await runner.cleanup()
    return status


@in_event_loop
async def test_uploads_and_free_space(tmp_path: Path) -> None:
    store, metrics = Store(tmp_path), Metrics()
    metrics.add_sources(WorkQueue(), store)

    def scrape() -> Scrape:
        return scraped(metrics.exposition)

    assert "splittracr_operator_store_bytes" not in scrape().names
    assert await upload(store, token=KEYS.control(UID), size=100) == 200
    store.sweep([UID], 1000)
    assert scrape().one("splittracr_operator_store_bytes") == 100
    assert await upload(store, token=KEYS.control(UID), size=30) == 200
    assert await upload(store, token="wrong", size=30) == 401
    assert scrape().of("splittracr_operator_handovers_total", "outcome") == {
        ("ok",): 2,
        ("refused",): 1,
        ("failed",): 0,
    }
    assert scrape().one("splittracr_operator_handover_bytes_total") == 130
    assert (
        scrape().one("splittracr_operator_store_bytes") == 30
    )  # the newer archive replaced the older one
    assert scrape().one("splittracr_operator_store_free_bytes") > 0


@in_event_loop
async def test_an_upload_that_cannot_be_written_has_failed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file")
    assert await upload(store, token=KEYS.control(UID), size=1) == 500
    assert store.handovers == {"ok": 0, "refused": 0, "failed": 1}


async def exposition(service: Service, accept: str) -> tuple[str, str]:
    request = make_mocked_request("GET", "/metrics", headers={"Accept": accept})
    answer = await service.pages.exposition(request)
    assert answer.text is not None
    return answer.content_type, answer.text


@in_event_loop
async def test_a_running_operator_exposes_the_whole_table(world: World) -> None:
    metrics, api, store = world.metrics, cast(Cluster, world.api), world.store
    service = Service(SETTINGS, api, store, world.reconciler, world.cache, metrics)
    metrics.add_watches(Watches())
    metrics.request(permission("GET", "/api/v1/namespaces/lab/pods"))
    _, text = await exposition(service, "*/*")
    before = parsed(text)
    store.sweep([UID], 1000)
    metrics.denied(["locked"])
    await measuring(world)
    service.observe(KIND, "MODIFIED", {**body(), "metadata": body()["metadata"]})
    service.queue.add(UID)
    assert await service.queue.take() == UID
    assert before.one("splittracr_operator_work_queue_length") == 0
    assert await service.reconcile(UID) == SETTINGS.poll_seconds
    kind, text = await exposition(service, "*/*")
    seen = parsed(text)
    assert kind == "text/plain"
    own = {name for name in seen.names if not name.startswith("process_")}
    assert own == set().union(*map(exposed_names, OPERATOR))
    for metric in OPERATOR:
        assert metric.absent or exposed_names(metric) <= before.names | {
            "splittracr_operator_api_requests_total"
        }
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes"} <= seen.names
    assert seen.one("splittracr_operator_build_info", version=__version__) == 1
    assert seen.one("splittracr_operator_reconcile_seconds_count") == 1
    assert seen.one("splittracr_operator_work_queue_wait_seconds_count") == 1
    assert seen.of("splittracr_operator_reconcile_errors_total", "kind").keys() == {
        (kind,) for kind in ("refused", "forbidden", "unavailable", "internal", "resync")
    }
    assert complaints(text) == ""
    kind, newer = await exposition(service, OPENMETRICS)
    assert kind == "application/openmetrics-text"
    assert parsed_openmetrics(newer).names == seen.names
