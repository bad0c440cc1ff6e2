import asyncio
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from splittracr.experiment.spec import KIND
from splittracr_operator import main, resync
from splittracr_operator.cache import Cache
from splittracr_operator.cluster import WATCHED, Cluster
from splittracr_operator.connection import ClusterError, Forbidden, Refused, Unavailable
from splittracr_operator.metrics import Metrics
from splittracr_operator.reconcile import Reconciler
from splittracr_operator.service import Service
from splittracr_operator.store import Store
from tests.control.studies import UID, body, pod, settings
from tests.control.world import in_event_loop


class Shelf(Cluster):
    """A cluster with one study and one pod that does not answer at first."""

    def __init__(self) -> None:
        self.listed: list[str] = []

    async def list(self, kind: str, namespace: str | None, selector: str = "") -> list[Any]:
        self.listed.append(kind)
        if len(self.listed) == 1:
            raise Unavailable("not yet")
        return {KIND: [body()], "Pod": [pod("edge")]}.get(kind, [])


class Brittle(Store):
    """A store whose volume is missing."""

    def sweep(self, known: Any, keep_seconds: float) -> None:
        raise OSError("no volume")


class Recorder(Reconciler):
    """Records the known children at each reconcile."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.reconciles: asyncio.Queue[list[str]] = asyncio.Queue()
        self.forbidden_for: asyncio.Queue[str] = asyncio.Queue()

    async def forbidden(self, uid: str, cause: str) -> None:
        self.forbidden_for.put_nowait(cause)

    async def reconcile(self, uid: str) -> float | None:
        self.reconciles.put_nowait([name for _, name in self._cache.children(uid)])
        return None


@in_event_loop
async def test_no_reconcile_before_the_children_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resync, "RETRY_SECONDS", 0.01)
    shelf, cache = Shelf(), Cache()
    recorder, store = Recorder(cache), Brittle(tmp_path)
    chosen = settings(resync_seconds=1)
    service = Service(chosen, shelf, store, recorder, cache, Metrics())
    service.observe(KIND, None, body())  # the watch of the studies comes first
    work = asyncio.create_task(service.work())
    assert await asyncio.wait_for(recorder.reconciles.get(), 20) == ["alexnet-edge-0"]
    assert shelf.listed[1:] == [*WATCHED, KIND]
    service.observe(KIND, "MODIFIED", changed_study())  # the error of the store ends no task
    assert await asyncio.wait_for(recorder.reconciles.get(), 20) == ["alexnet-edge-0"]
    assert not work.done()
    work.cancel()
    await asyncio.wait([work])


NO_RIGHT = 'pods is forbidden: User "operator" cannot list resource "pods" in namespace "locked"'


@pytest.mark.parametrize("lost", [True, False])
@in_event_loop
async def test_a_study_is_reconciled_if_its_status_lists_other_results(
    tmp_path: Path, lost: bool
) -> None:
    cache, store = Cache(), Store(tmp_path)
    recorder = Recorder(cache)
    service = Service(settings(), Shelf(), store, recorder, cache, Metrics())
    listed = body(status={"results": {"edges": ["edge-0"], "path": "x"}} if lost else {})
    cache.put(KIND, listed)
    folder = tmp_path / listed["metadata"]["uid"]
    folder.mkdir()
    if not lost:
        (folder / "edge-0.tar.gz").write_bytes(b"x")
    await service.resync.sweep()
    assert service.queue.waiting == 1
    assert await service.queue.take() == listed["metadata"]["uid"]


@in_event_loop
async def test_a_study_whose_results_are_as_listed_is_not_reconciled(tmp_path: Path) -> None:
    cache, store = Cache(), Store(tmp_path)
    service = Service(settings(), Shelf(), store, Recorder(cache), cache, Metrics())
    cache.put(KIND, body(status={"results": {"edges": ["edge-0"], "claim": "mine"}}))
    await service.resync.sweep()
    assert service.queue.waiting == 0


@pytest.mark.parametrize(("content", "reconciles"), [(b"same", 0), (b"edit", 1), (b"longer", 1)])
@in_event_loop
async def test_a_study_whose_archive_has_changed_is_reconciled(
    tmp_path: Path, content: bytes, reconciles: int
) -> None:
    cache, store = Cache(), Store(tmp_path)
    service = Service(settings(), Shelf(), store, Recorder(cache), cache, Metrics())
    known = {"name": "edge-0", "bytes": 4, "sha256": hashlib.sha256(b"same").hexdigest()}
    cache.put(KIND, body(status={"results": {"edges": ["edge-0"], "archives": [known]}}))
    (tmp_path / UID).mkdir()
    (tmp_path / UID / "edge-0.tar.gz").write_bytes(content)
    await service.resync.sweep()
    assert service.queue.waiting == reconciles


class Counted(Cache):
    """Counts the iterations over all objects of a kind."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def all(self, kind: str) -> Iterator[Any]:
        self.passes += 1
        return super().all(kind)


class Crowded(Shelf):
    async def list(self, kind: str, namespace: str | None, selector: str = "") -> list[Any]:
        return [pod("edge", index=index) for index in range(50)] if kind == "Pod" else []


@in_event_loop
async def test_a_comparison_iterates_over_each_kind_once(tmp_path: Path) -> None:
    cache, store = Counted(), Store(tmp_path)
    service = Service(settings(), Crowded(), store, Recorder(cache), cache, Metrics())
    await service.resync.compare()
    assert cache.passes == len(WATCHED) + 1
    assert len(list(cache.all("Pod"))) == 50


class Locked(Shelf):
    """A cluster in whose namespace `locked` nothing may be read until a binding exists."""

    def __init__(self, error: ClusterError) -> None:
        self.error, self.bound, self.asked = error, False, asyncio.Event()

    async def list(self, kind: str, namespace: str | None, selector: str = "") -> list[Any]:
        if namespace == "locked" and not self.bound:
            self.asked.set()
            raise self.error
        found = {KIND: [body()], "Pod": [pod("edge")]}.get(kind, [])
        return found if namespace == "lab" else [hidden()] if kind == KIND else []


def hidden() -> dict[str, Any]:
    """A study in the namespace `locked`."""
    made = body(name="hidden")
    made["metadata"] |= {"namespace": "locked", "uid": "hidden"}
    return made


@pytest.mark.parametrize("error", [Refused(403, "no"), Forbidden(NO_RIGHT)])
@pytest.mark.parametrize("order", [("locked", "lab"), ("lab", "locked")])
@in_event_loop
async def test_a_namespace_that_may_not_be_read_delays_no_other(
    tmp_path: Path,
    error: ClusterError,
    order: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resync, "DENIED_SECONDS", 0.01)
    cache, shelf, metrics = Cache(), Locked(error), Metrics()
    recorder, store = Recorder(cache), Store(tmp_path)
    chosen = settings(resync_seconds=60, watch_namespaces=order)
    service = Service(chosen, shelf, store, recorder, cache, metrics)
    service.observe(KIND, None, hidden())
    work = asyncio.create_task(service.work())
    assert await asyncio.wait_for(recorder.reconciles.get(), 20) == ["alexnet-edge-0"]
    assert recorder.reconciles.empty()  # the children of the other study are not known
    assert cache.study("hidden") is not None  # a study that cannot be read is not deleted
    assert "namespace locked cannot be read" in caplog.text
    text = metrics.exposition.render("")[0].decode()
    assert 'splittracr_operator_namespace_denied{namespace="locked"} 1.0' in text
    cause = await asyncio.wait_for(recorder.forbidden_for.get(), 20)
    assert cause == f"namespace locked: {error}"
    shelf.bound = True
    assert await asyncio.wait_for(recorder.reconciles.get(), 20) == []
    assert "denied{" not in metrics.exposition.render("")[0].decode()
    work.cancel()
    await asyncio.wait([work])


def test_backoffs_of_watches_are_endless() -> None:
    backoffs = list(itertools.islice(main.Endless(), 20))
    assert (backoffs[0], backoffs[-1]) == (0.5, 30)
    again = list(itertools.islice(main.Endless(), 20))
    assert again == backoffs  # each request starts from the beginning


def changed_study() -> dict[str, Any]:
    made = body()
    return {**made, "metadata": {**made["metadata"], "generation": 2, "resourceVersion": "20"}}
