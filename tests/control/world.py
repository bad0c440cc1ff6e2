"""A world for tests of the reconcile: API server and edges in memory, real cache and store."""

import asyncio
import copy
import functools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, ParamSpec, cast

from splittracr.experiment import manifest
from splittracr.experiment.contracts import Role
from splittracr.experiment.report import Phase, WorkerReport
from splittracr.experiment.settings import LiveSettings, Outcome
from splittracr.experiment.spec import KIND
from splittracr_operator.cache import Cache
from splittracr_operator.cluster import Cluster
from splittracr_operator.connection import Refused
from splittracr_operator.drift import WITH_PODS
from splittracr_operator.edges import Edges
from splittracr_operator.keys import Keys
from splittracr_operator.live import Answer
from splittracr_operator.metrics import Metrics
from splittracr_operator.outside import Outside
from splittracr_operator.reconcile import Reconciler
from splittracr_operator.settings import Settings
from splittracr_operator.store import Store
from tests.control.studies import SETTINGS, UID, body, pod

ALL_KINDS = {"ConfigMap", "Secret", "NetworkPolicy", "Service", "Deployment", "Job"}
KEYS = Keys(b"k" * 32)
P = ParamSpec("P")


def in_event_loop(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run a test in an event loop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def scenario() -> None:
            await test(*args, **kwargs)

        asyncio.run(scenario())

    return run


class ApiServer:
    """An API server in memory that updates the cache like watches."""

    def __init__(self, cache: Cache) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.calls: list[str] = []
        self.refuse: dict[str, Refused] = {}
        self.posted: dict[str, list[dict[str, Any]]] = {}
        """Events of Kubernetes, by the uid of the object that they are about."""

        self.logs: dict[tuple[str, str, bool], bytes | Exception] = {}
        """Logs by pod, container, and whether it is that of the previous container."""

        self._cache, self._versions = cache, count(100)

    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.objects} - {"Event"}

    def reasons(self) -> list[str]:
        """Reasons of the events that the operator posted."""
        return [o["reason"] for (kind, _), o in self.objects.items() if kind == "Event"]

    def events_with(self, reason: str) -> list[dict[str, Any]]:
        """The events with a reason that the operator posted."""
        events = [o for (kind, _), o in self.objects.items() if kind == "Event"]
        return [event for event in events if event["reason"] == reason]

    async def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        key = manifest["kind"], manifest["metadata"]["name"]
        if key in self.objects:
            raise Refused(409, "it exists")
        return self._store("create", manifest)

    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        return self._store("apply", manifest)

    async def list(self, kind: str, namespace: str, selector: str) -> Any:
        assert selector == "app.kubernetes.io/managed-by=splittracr-operator,splittracr.io/uid"
        labels = "app.kubernetes.io/managed-by", "splittracr.io/uid"
        found = [o for (its, _), o in self.objects.items() if its == kind]
        return [o for o in found if set(labels) <= o["metadata"].get("labels", {}).keys()]

    async def patch(self, manifest: dict[str, Any]) -> dict[str, Any]:
        old = self.objects[manifest["kind"], manifest["metadata"]["name"]]
        return self._store("patch", {**manifest, "spec": {**old["spec"], **manifest["spec"]}})

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        self.calls.append(f"delete {kind}")
        deleted = self.objects.pop((kind, name), None)
        if deleted is None:
            return
        if kind == "ConfigMap":
            self.objects = {k: o for k, o in self.objects.items() if k[0] != "Secret"}
        self._cache.drop(kind, deleted)

    async def patch_status(
        self, namespace: str, name: str, status: dict[str, Any]
    ) -> dict[str, Any]:
        self.calls.append("status")
        old = copy.deepcopy(dict(self._cache.study(UID) or {}))
        merged = {**old["status"], **status}
        old["status"] = {key: value for key, value in merged.items() if value is not None}
        return self.versioned(old)

    async def log(
        self, namespace: str, pod: str, container: str, size: int, *, previous: bool = False
    ) -> bytes:
        self.calls.append(f"log {pod}{' before' if previous else ''}")
        found = self.logs.get((pod, container, previous), b"")
        if isinstance(found, Exception):
            raise found
        return found[-size:]

    async def events(self, namespace: str, uid: str) -> Any:
        return self.posted.get(uid, [])

    def _store(self, call: str, manifest: dict[str, Any]) -> dict[str, Any]:
        kind = manifest["kind"]
        self.calls.append(f"{call} {kind}")
        if kind in self.refuse:
            raise self.refuse[kind]
        old = self.objects.get((kind, manifest["metadata"]["name"]))
        labels = "labels", "splittracr.io/uid"
        if kind in WITH_PODS and old and at(old, *labels) != at(manifest, *labels):
            raise Refused(422, "spec.selector: field is immutable")
        made = self.versioned(copy.deepcopy(manifest))
        made["metadata"].setdefault("uid", f"uid-{kind}")
        made["metadata"].setdefault("creationTimestamp", datetime.now(UTC).isoformat())
        self.objects[kind, made["metadata"]["name"]] = made
        if kind not in ("Event", "Secret"):
            self._cache.put(kind, made)
        return made

    def versioned(self, made: dict[str, Any]) -> dict[str, Any]:
        made["metadata"]["resourceVersion"] = str(next(self._versions))
        return made


def at(body: dict[str, Any], *path: str) -> Any:
    """A value in the metadata of an object; an empty dictionary if there is none."""
    found: Any = body["metadata"]
    for key in path:
        found = found.get(key, {})
    return found


class FakeEdges:
    """Edges that answer as the test sets."""

    def __init__(self) -> None:
        self.current: dict[str, WorkerReport] = {}
        """The report of each edge that answers."""

        self.settings: list[LiveSettings] = []
        """The settings that were sent, once for each edge."""

        self.answers: dict[object, Answer | None] = {}
        """Answers to settings, by cut or by edge; None is no answer."""

    async def reports(self, addresses: dict[str, str]) -> dict[str, WorkerReport]:
        return {edge: self.current[edge] for edge in addresses if edge in self.current}

    async def steer(
        self, addresses: dict[str, str], settings: LiveSettings, token: str
    ) -> dict[str, Answer]:
        self.settings += [settings] * len(addresses)
        cut = self.answers.get(settings.partition.cut, Answer(Outcome.ACCEPTED))
        answers = {edge: self.answers.get(edge, cut) for edge in addresses}
        return {edge: answer for edge, answer in answers.items() if answer is not None}


class Kubernetes:
    """Studies and pods in memory: what users, the Job controller and kubelet do to them."""

    def __init__(self) -> None:
        self.cache, self.edges = Cache(), FakeEdges()
        self.api = ApiServer(self.cache)

    def set_manifest(self, generation: int = 1, **spec: Any) -> None:
        """Create or change the study; its status stays."""
        made = body(**spec, status=self.status())
        made["metadata"]["generation"] = generation
        self.cache.put(KIND, self.api.versioned(made))

    def delete(self, kind: str) -> None:
        """Delete a child, as a user may."""
        key = next(key for key in self.api.objects if key[0] == kind)
        deleted = self.api.objects.pop(key)
        if kind != "Secret":
            self.cache.drop(kind, deleted)

    def put_pod(self, made: dict[str, Any]) -> None:
        """Create or change a pod."""
        self.cache.put("Pod", self.api.versioned(made))

    def run_pods(self) -> None:
        """Run both pods; the edge measures."""
        self.put_pod(pod("edge"))
        self.put_pod(pod("server"))
        self.report(done=3, total=9)

    def report(
        self, phase: Phase = Phase.RUNNING, generation: int = 1, index: int = 0, **more: Any
    ) -> None:
        """Set the report of an edge."""
        edge = f"edge-{index}"
        self.edges.current[edge] = WorkerReport(
            role=Role.EDGE, edge=edge, phase=phase, generation=generation, **more
        )

    def end_job(self, condition: str) -> None:
        """Add a condition, `Complete` or `Failed`, to the Job."""
        made = self.api.objects["Job", "alexnet-edge"]
        made["status"] = {"conditions": [{"type": condition, "status": "True"}]}
        self.cache.put("Job", made)

    def status(self) -> dict[str, Any]:
        return dict((self.cache.study(UID) or {}).get("status", {}))

    def condition(self, kind: str) -> dict[str, Any]:
        return next(dict(c) for c in self.status()["conditions"] if c["type"] == kind)

    def configured_cut(self) -> object:
        """The cut in the ConfigMap, with which an edge starts."""
        text = self.api.objects["ConfigMap", "alexnet-manifest"]["data"]["manifest.yaml"]
        return manifest.parse(text).spec.partition.cut

    def owners(self) -> dict[str, Any]:
        """The Job and the Deployment, by kind."""
        return {k: copy.deepcopy(o) for (k, _), o in self.api.objects.items() if k in WITH_PODS}

    def image(self, kind: str) -> str:
        """The worker's image in the Job or Deployment."""
        template = self.owners()[kind]["spec"]["template"]
        return str(template["spec"]["containers"][0]["image"])

    def pod_of_job(self, **more: Any) -> dict[str, Any]:
        """An edge pod with the template of the current Job."""
        made = pod("edge", **more)
        made["metadata"]["annotations"] = self.owners()["Job"]["spec"]["template"]["metadata"][
            "annotations"
        ]
        return made


class World(Kubernetes):
    """Kubernetes with an operator, and steps that many tests begin with."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.now: datetime | None = None
        """The operator's time; None is the real one."""

        self.start_operator(SETTINGS)

    def start_operator(self, settings: Settings) -> None:
        """Start an operator, which knows only what is in the cluster and in the store."""
        self.metrics, self.store = Metrics(), Store(self._folder)
        self.outside = Outside(self._folder, lambda: self._time().timestamp())
        self.reconciler = Reconciler(
            cast(Cluster, self.api),
            self.cache,
            cast(Edges, self.edges),
            self.store,
            KEYS,
            settings,
            self.metrics,
            self.outside,
            self._time,
        )

    def _time(self) -> datetime:
        return self.now or datetime.now(UTC)

    async def reconcile(self) -> float | None:
        return await self.reconciler.reconcile(UID)

    async def apply(self, generation: int = 1, **spec: Any) -> float | None:
        """Create or change the study, and reconcile."""
        self.set_manifest(generation, **spec)
        return await self.reconcile()

    async def start_running(self, **spec: Any) -> None:
        """Create a study; both pods run and the edge measures."""
        await self.apply(**spec)
        self.run_pods()
        await self.reconcile()

    async def complete(self) -> None:
        """Create a study and complete its Job."""
        await self.apply()
        await self.end("Complete")

    async def end(self, condition: str) -> None:
        """Add a condition to the Job, and reconcile."""
        self.end_job(condition)
        await self.reconcile()

    async def start_three(self) -> None:
        """Create a study of three edges, all of which measure."""
        await self.apply(edge={"replicas": 3})
        self.run_pods()
        for index in (1, 2):
            self.put_pod(pod("edge", index=index))
            self.report(index=index, done=3, total=9)
        await self.reconcile()
