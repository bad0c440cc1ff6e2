import asyncio
from pathlib import Path
from typing import Any

import pytest

from splittracr.experiment.spec import KIND
from splittracr_operator import service as services
from splittracr_operator.cluster import WATCHED, Cluster, Refused, Unavailable
from splittracr_operator.keys import Keys
from splittracr_operator.metrics import Metrics
from splittracr_operator.mirror import Mirror
from splittracr_operator.reconcile import Reconciler
from splittracr_operator.service import Service
from splittracr_operator.store import Store
from tests.control.studies import body, pod, settings


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
    """A store whose volume is gone."""

    def sweep(self, known: Any, keep_seconds: float) -> None:
        raise OSError("no volume")


class Looker(Reconciler):
    """Notes which children are known at a look."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self.looks: asyncio.Queue[list[str]] = asyncio.Queue()

    async def look(self, uid: str) -> float | None:
        self.looks.put_nowait([name for _, name in self._mirror.children(uid)])
        return None


def test_no_look_before_the_children_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_AGAIN_SECONDS", 0.01)

    async def scenario() -> None:
        shelf, mirror = Shelf(), Mirror()
        looker, store = Looker(mirror), Brittle(tmp_path, Keys(b"k" * 32))
        chosen = settings(resync_seconds=1)
        service = Service(chosen, shelf, store, looker, mirror, Metrics())
        service.seen(KIND, None, body())  # the watch of the studies is the first to speak
        work = asyncio.create_task(service._work())
        assert await asyncio.wait_for(looker.looks.get(), 20) == ["alexnet-edge-0"]
        assert shelf.listed[1:] == [*WATCHED, KIND]
        service.seen(KIND, "MODIFIED", _wished_anew())  # the store's error ended nothing
        assert await asyncio.wait_for(looker.looks.get(), 20) == ["alexnet-edge-0"]
        assert not work.done()
        work.cancel()
        await asyncio.wait([work])

    asyncio.run(scenario())


class Locked(Shelf):
    """A cluster in whose namespace `locked` nothing may be read."""

    async def list(self, kind: str, namespace: str | None, selector: str = "") -> list[Any]:
        if namespace == "locked":
            raise Refused(403, "no RoleBinding")
        return {KIND: [body()], "Pod": [pod("edge")]}.get(kind, [])


def test_a_namespace_that_may_not_be_read_holds_up_no_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        mirror = Mirror()
        looker, store = Looker(mirror), Store(tmp_path, Keys(b"k" * 32))
        chosen = settings(resync_seconds=1, watch_namespaces=("locked", "lab"))
        service = Service(chosen, Locked(), store, looker, mirror, Metrics())
        hidden = body()
        hidden["metadata"] |= {"namespace": "locked", "uid": "hidden"}
        service.seen(KIND, None, hidden)
        work = asyncio.create_task(service._work())
        assert await asyncio.wait_for(looker.looks.get(), 20) == []
        assert await asyncio.wait_for(looker.looks.get(), 20) == ["alexnet-edge-0"]
        assert mirror.study("hidden") is not None  # not seen is not gone
        work.cancel()
        await asyncio.wait([work])

    asyncio.run(scenario())


def _wished_anew() -> dict[str, Any]:
    made = body()
    return {**made, "metadata": {**made["metadata"], "generation": 2, "resourceVersion": "20"}}
