"""The reconcile against an API server in memory: what it applies, patches, deletes and posts."""

import asyncio
import base64
import contextlib
import copy
import hashlib
import io
import re
import shutil
import tarfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509

from splittracr.experiment import manifest
from splittracr.experiment.contracts import Role
from splittracr.experiment.report import Phase, WorkerReport
from splittracr.experiment.settings import LiveSettings
from splittracr.experiment.spec import KIND
from splittracr_operator import act, plan
from splittracr_operator.cache import Cache
from splittracr_operator.cluster import Cluster
from splittracr_operator.connection import Refused, Unavailable
from splittracr_operator.drift import WITH_PODS
from splittracr_operator.edges import Edges
from splittracr_operator.events import event
from splittracr_operator.keys import Keys
from splittracr_operator.live import Answer, Outcome
from splittracr_operator.metrics import Metrics
from splittracr_operator.reconcile import Reconciler
from splittracr_operator.settings import EdgeDefaults, PolicySettings, ServerDefaults, Settings
from splittracr_operator.store import Store
from splittracr_operator.study import read
from tests.control.studies import ALL as OTHERS
from tests.control.studies import SETTINGS, UID, body, ended, pod, settings, waiting, warning

ALL = {"ConfigMap", "Secret", "NetworkPolicy", "Service", "Deployment", "Job"}


class ApiServer:
    """Keeps objects, and reports them to the cache as watches would."""

    def __init__(self, cache: Cache) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.calls: list[str] = []
        self.refuse: dict[str, Refused] = {}
        self.posted: dict[str, list[dict[str, Any]]] = {}
        """Events of Kubernetes, by the uid of the object that they are about."""

        self.logs: dict[tuple[str, str, bool], bytes | Exception] = {}
        """What containers have written, by pod, container, and whether it is the one before."""

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
            raise Refused(409, "there")
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
        gone = self.objects.pop((kind, name), None)
        if gone is None:
            return
        if kind == "ConfigMap":
            self.objects = {k: o for k, o in self.objects.items() if k[0] != "Secret"}
        self._cache.drop(kind, gone)

    async def patch_status(
        self, namespace: str, name: str, status: dict[str, Any]
    ) -> dict[str, Any]:
        self.calls.append("status")
        old = copy.deepcopy(dict(self._cache.study(UID) or {}))
        merged = {**old["status"], **status}
        old["status"] = {key: value for key, value in merged.items() if value is not None}
        return self.versioned(old)

    async def log(
        self, namespace: str, pod: str, container: str, most: int, *, previous: bool = False
    ) -> bytes:
        self.calls.append(f"log {pod}{' before' if previous else ''}")
        found = self.logs.get((pod, container, previous), b"")
        if isinstance(found, Exception):
            raise found
        return found[-most:]

    async def events(self, namespace: str, uid: str) -> Any:
        return self.posted.get(uid, [])

    def _store(self, call: str, manifest: dict[str, Any]) -> dict[str, Any]:
        kind = manifest["kind"]
        self.calls.append(f"{call} {kind}")
        if kind in self.refuse:
            raise self.refuse[kind]
        old = self.objects.get((kind, manifest["metadata"]["name"]))
        labels = "labels", "splittracr.io/uid"
        if kind in WITH_PODS and old and _at(old, *labels) != _at(manifest, *labels):
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


def _at(body: dict[str, Any], *path: str) -> Any:
    found: Any = body["metadata"]
    for key in path:
        found = found.get(key, {})
    return found


class SpokenEdges:
    """Edges that say what the test has them say."""

    def __init__(self) -> None:
        self.said: dict[str, WorkerReport] = {}
        self.settings: list[LiveSettings] = []
        self.answers: dict[object, Answer | None] = {}
        """What they answer to a cut, or what one edge answers to any; None is no answer."""

    async def reports(self, addresses: dict[str, str]) -> dict[str, WorkerReport]:
        return {edge: self.said[edge] for edge in addresses if edge in self.said}

    async def steer(
        self, addresses: dict[str, str], settings: LiveSettings, token: str
    ) -> dict[str, Answer]:
        self.settings += [settings] * len(addresses)
        cut = self.answers.get(settings.partition.cut, Answer(Outcome.ACCEPTED))
        answers = {edge: self.answers.get(edge, cut) for edge in addresses}
        return {edge: answer for edge, answer in answers.items() if answer is not None}


class World:
    def __init__(self, folder: Path) -> None:
        self.cache, self.edges = Cache(), SpokenEdges()
        self.api, self._folder = ApiServer(self.cache), folder
        self.now: datetime | None = None
        """The operator's time; None is the present."""

        self.start_operator(SETTINGS)

    def start_operator(self, chosen: Settings) -> None:
        """Start an operator that knows only what the cluster knows."""
        keys = Keys(b"k" * 32)
        self.metrics, self.store = Metrics(), Store(self._folder)
        self.reconciler = Reconciler(
            cast(Cluster, self.api),
            self.cache,
            cast(Edges, self.edges),
            self.store,
            keys,
            chosen,
            self.metrics,
            lambda: self.now or datetime.now(UTC),
        )

    async def reconcile(self) -> float | None:
        return await self.reconciler.reconcile(UID)

    def wish(self, generation: int = 1, **spec: Any) -> None:
        """What the user has written, beside the status that is there."""
        made = body(**spec, status=self.status())
        made["metadata"]["generation"] = generation
        self.cache.put(KIND, self.api.versioned(made))

    def status(self) -> dict[str, Any]:
        return dict((self.cache.study(UID) or {}).get("status", {}))

    def run(self) -> None:
        """Both pods come up and the edge measures."""
        self.cache.put("Pod", pod("edge"))
        self.cache.put("Pod", pod("server"))
        self.edge(done=3, total=9)

    async def run_to_the_end(self) -> None:
        """A study is wished for, and its Job has completed."""
        self.wish()
        await self.reconcile()
        self.job("Complete")
        await self.reconcile()

    def job(self, condition: str) -> None:
        name = next(name for kind, name in self.api.objects if kind == "Job")
        made = self.api.objects["Job", name]
        made["status"] = {"conditions": [{"type": condition, "status": "True"}]}
        self.cache.put("Job", made)

    def condition(self, kind: str) -> dict[str, Any]:
        return next(dict(c) for c in self.status()["conditions"] if c["type"] == kind)

    def edge(
        self, phase: Phase = Phase.RUNNING, generation: int = 1, index: int = 0, **more: Any
    ) -> None:
        """What an edge says from now on."""
        edge = f"edge-{index}"
        self.edges.said[edge] = WorkerReport(
            role=Role.EDGE, edge=edge, phase=phase, generation=generation, **more
        )

    async def run_three(self) -> None:
        """A study of three edges, all of which measure."""
        self.wish(edge={"replicas": 3})
        await self.reconcile()
        self.run()
        for index in (1, 2):
            self.cache.put("Pod", pod("edge", index=index))
            self.edge(index=index, done=3, total=9)
        await self.reconcile()

    def wish_of_three(self, cut: int = 7, generation: int = 2) -> None:
        self.wish(generation, edge={"replicas": 3}, partition={"cut": cut})

    def cut_of_the_next_start(self) -> object:
        """The cut with which an edge that started now would run."""
        text = self.api.objects["ConfigMap", "alexnet-manifest"]["data"]["manifest.yaml"]
        return manifest.parse(text).spec.partition.cut

    def lose(self, kind: str) -> None:
        """Somebody deletes a child."""
        key = next(key for key in self.api.objects if key[0] == kind)
        gone = self.api.objects.pop(key)
        if kind != "Secret":
            self.cache.drop(kind, gone)


def play(folder: Path, scenario: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        await scenario(World(folder))

    asyncio.run(run())


def test_a_whole_life(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish(ttlSecondsAfterFinished=60)
        assert await world.reconcile() == SETTINGS.poll_seconds
        assert world.api.calls[0] == "status"  # the start, before anything is made
        assert world.api.kinds() == ALL
        assert world.status()["state"] == "Starting"
        calls = len(world.api.calls)
        await world.reconcile()
        assert len(world.api.calls) == calls  # nothing to do, nothing done

        world.run()
        await world.reconcile()
        assert world.status()["state"] == "Running"
        assert world.status()["progress"]["summary"] == "3/9"

        world.job("Complete")
        left = await world.reconcile()
        assert left is not None
        assert 50 < left <= 60
        assert world.status()["state"] == "Succeeded"
        assert world.api.kinds() == {"ConfigMap", "Secret", "NetworkPolicy", "Job"}
        assert world.api.reasons() == ["WorkersStarting", "Measuring", "Completed"]

        long_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        world.wish(ttlSecondsAfterFinished=60)
        dict(world.cache.study(UID) or {})["status"]["completionTime"] = long_ago
        assert await world.reconcile() is None
        assert world.api.kinds() == set()
        assert world.status()["state"] == "Succeeded"
        assert await world.reconcile() is None

    play(tmp_path, scenario)


def test_suspended_studies_cost_nothing_and_go_on(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish(suspend=True)
        assert await world.reconcile() is None
        assert world.api.kinds() == set()
        assert "startTime" not in world.status()
        world.wish(2, suspend=False)
        await world.reconcile()
        assert world.api.kinds() == ALL
        world.wish(3, suspend=True)
        await world.reconcile()
        assert world.api.kinds() == {"ConfigMap", "Secret"}
        world.wish(4, suspend=False)
        await world.reconcile()
        assert world.api.kinds() == ALL

    play(tmp_path, scenario)


def test_drift_is_patched_and_pods_are_left_alone(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        key = ("Deployment", "alexnet-server")
        scaled = copy.deepcopy(world.api.objects[key])
        scaled["spec"] |= {"replicas": 0, "template": {"another": "image"}}
        world.api.objects[key] = world.api.versioned(scaled)
        world.cache.put("Deployment", scaled)
        await world.reconcile()
        assert world.api.objects[key]["spec"]["replicas"] == 1
        assert world.api.objects[key]["spec"]["template"] == {"another": "image"}
        service = world.api.objects.pop(("Service", "alexnet-server"))
        world.cache.drop("Service", service)
        await world.reconcile()
        assert ("Service", "alexnet-server") in world.api.objects

    play(tmp_path, scenario)


def of_the_job(world: World, **more: Any) -> dict[str, Any]:
    """An edge pod as the present Job makes it."""
    made = pod("edge", **more)
    template = world.api.objects["Job", "alexnet-edge"]["spec"]["template"]
    made["metadata"]["annotations"] = template["metadata"]["annotations"]
    return world.api.versioned(made)


def image(world: World) -> str:
    """The edge's, as its Job has it."""
    template = world.api.objects["Job", "alexnet-edge"]["spec"]["template"]
    return str(template["spec"]["containers"][0]["image"])


def test_pods_of_a_wrong_image_are_replaced(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish(edge={"pod": {"image": "wrong"}}, pendingDeadlineSeconds=60)
        await world.reconcile()
        late = datetime.now(UTC) - timedelta(seconds=50)
        stuck = of_the_job(world, phase="Pending", container=waiting("ImagePullBackOff"))
        stuck["metadata"]["creationTimestamp"] = late.isoformat()
        world.cache.put("Pod", stuck)
        await world.reconcile()
        assert world.status()["state"] == "Stalled"
        world.api.calls.clear()
        world.wish(2, edge={"pod": {"image": "right"}}, pendingDeadlineSeconds=60)
        await world.reconcile()
        assert [call for call in world.api.calls if call.startswith("delete")] == ["delete Job"]
        world.wish(3, edge={"pod": {"image": "right"}}, pendingDeadlineSeconds=1)
        await world.reconcile()  # the pod that still is there is nobody's any more
        assert image(world) == "right"
        assert world.status()["state"] == "Starting"
        world.api.calls.clear()
        await world.reconcile()
        assert world.api.calls == []

    play(tmp_path, scenario)


def with_images(edge: str, server: str = "server") -> Settings:
    return settings(edge=EdgeDefaults(image=edge), server=ServerDefaults(image=server))


def image_of(world: World, kind: str) -> str:
    (made,) = (body for (found, _), body in world.api.objects.items() if found == kind)
    found: str = made["spec"]["template"]["spec"]["containers"][0]["image"]
    return found


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"])
def test_workers_stuck_on_a_wrong_default_get_the_right_one(tmp_path: Path, reason: str) -> None:
    async def scenario(world: World) -> None:
        world.start_operator(with_images("wrong", "wrong"))
        world.wish()
        await world.reconcile()
        for role in ("edge", "server"):
            stuck = pod(role, phase="Pending", ready=False, container=waiting(reason))
            world.cache.put("Pod", world.api.versioned(stuck))
        await world.reconcile()
        assert (image_of(world, "Job"), image_of(world, "Deployment")) == ("wrong", "wrong")
        world.start_operator(with_images("right"))
        await world.reconcile()
        await world.reconcile()
        assert (image_of(world, "Job"), image_of(world, "Deployment")) == ("right", "server")
        assert world.condition("Degraded")["status"] == "False"
        world.api.calls.clear()
        await world.reconcile()
        assert not [call for call in world.api.calls if call.startswith("delete")]

    play(tmp_path, scenario)


def test_only_workers_that_do_not_run_follow_a_default(tmp_path: Path) -> None:
    """The edge waits for a server that has no image: the server is made anew and the edge stays."""

    async def scenario(world: World) -> None:
        world.start_operator(with_images("edge", "wrong"))
        world.wish()
        await world.reconcile()
        world.cache.put("Pod", pod("edge"))
        stuck = pod("server", phase="Pending", ready=False, container=waiting("ErrImagePull"))
        world.cache.put("Pod", stuck)
        world.edge(phase=Phase.STARTING)
        world.start_operator(with_images("newer", "right"))
        await world.reconcile()
        await world.reconcile()
        assert (image_of(world, "Job"), image_of(world, "Deployment")) == ("edge", "right")

    play(tmp_path, scenario)


def test_workers_that_have_measured_keep_the_defaults_of_their_start(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.start_operator(with_images("older"))
        world.wish()
        await world.reconcile()
        world.run()
        await world.reconcile()
        world.cache.put("Pod", pod("edge", ready=False, container=waiting("CrashLoopBackOff")))
        world.start_operator(with_images("newer"))
        await world.reconcile()
        await world.reconcile()
        assert image_of(world, "Job") == "older"
        assert world.condition("Degraded")["status"] == "False"

    play(tmp_path, scenario)


def test_a_job_of_an_operator_that_noted_no_defaults_stays(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.start_operator(with_images("older"))
        world.wish()
        await world.reconcile()
        made = world.api.objects["Job", "alexnet-edge"]
        del made["spec"]["template"]["metadata"]["annotations"]["splittracr.io/pod-defaults"]
        world.cache.put("Job", world.api.versioned(made))
        world.start_operator(with_images("newer"))
        await world.reconcile()
        await world.reconcile()
        assert image_of(world, "Job") == "older"

    play(tmp_path, scenario)


def test_a_job_on_its_way_out_is_waited_for(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish(edge={"pod": {"image": "wrong"}})
        await world.reconcile()
        going = copy.deepcopy(world.api.objects["Job", "alexnet-edge"])
        going["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:00Z"
        world.wish(2, edge={"pod": {"image": "right"}})
        await world.reconcile()
        world.cache.put("Job", world.api.versioned(going))  # a finalizer holds it
        world.api.calls.clear()
        await world.reconcile()
        assert "apply Job" not in world.api.calls
        world.cache.drop("Job", going)
        await world.reconcile()
        assert image(world) == "right"

    play(tmp_path, scenario)


def test_pods_stay_once_an_edge_has_reported(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        await world.reconcile()
        world.api.calls.clear()
        world.wish(2, edge={"pod": {"affinity": {"x": 1}}})  # no rule of the schema sees this
        await world.reconcile()
        assert not [call for call in world.api.calls if "Job" in call]
        assert world.status()["state"] == "Running"
        degraded = world.condition("Degraded")
        assert (degraded["status"], degraded["reason"]) == ("True", "PodsNotReplaced")
        assert degraded["message"].startswith("spec.edge.pod changed after an edge had reported")

    play(tmp_path, scenario)


def test_pods_stay_in_the_reconcile_that_hears_the_first_report(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        world.api.calls.clear()
        world.wish(2, edge={"pod": {"image": "late"}})
        await world.reconcile()
        assert "delete Job" not in world.api.calls
        assert world.condition("Degraded")["reason"] == "PodsNotReplaced"
        world.wish(3, edge={"pod": {"image": "late"}}, suspend=True)
        await world.reconcile()
        assert world.condition("Degraded")["status"] == "False"
        world.edges.said.clear()
        world.wish(4, edge={"pod": {"image": "late"}})
        await world.reconcile()
        assert image(world) == "late"
        assert world.condition("Degraded")["status"] == "False"

    play(tmp_path, scenario)


def owners(world: World) -> dict[str, Any]:
    """The Job and the Deployment, as the API server has them."""
    return {k: copy.deepcopy(o) for (k, _), o in world.api.objects.items() if k in WITH_PODS}


def images(world: World) -> set[str]:
    templates = [owner["spec"]["template"] for owner in owners(world).values()]
    return {template["spec"]["containers"][0]["image"] for template in templates}


@pytest.mark.parametrize("runs", [True, False])
def test_an_upgrade_with_other_defaults_restarts_no_worker(tmp_path: Path, runs: bool) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        if runs:
            world.run()
        await world.reconcile()
        before, status = owners(world), world.status()
        world.api.calls.clear()
        world.start_operator(OTHERS)
        await world.reconcile()
        assert owners(world) == before
        # What changes without a restart changes at once.
        assert sorted(world.api.calls) == ["apply ConfigMap", *["apply NetworkPolicy"] * 2]
        store = world.api.objects["ConfigMap", "alexnet-manifest"]["data"]["results-url"]
        assert store == f"{OTHERS.store_url}/{UID}"
        world.api.calls.clear()
        await world.reconcile()
        assert (world.api.calls, world.status()) == ([], status)

    play(tmp_path, scenario)


def test_new_defaults_come_with_the_next_start(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        await world.reconcile()
        world.start_operator(OTHERS)
        await world.reconcile()
        assert images(world) == {SETTINGS.edge.image, SETTINGS.server.image}
        world.wish(2, suspend=True)
        await world.reconcile()
        world.wish(3, suspend=False)
        await world.reconcile()
        assert images(world) == {OTHERS.edge.image, OTHERS.server.image}

    play(tmp_path, scenario)


def test_the_address_of_the_store_changes_while_settings_are_refused(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await refused(world)
        world.start_operator(OTHERS)
        await world.reconcile()
        kept = world.api.objects["ConfigMap", "alexnet-manifest"]["data"]
        assert kept["results-url"] == f"{OTHERS.store_url}/{UID}"
        assert world.cut_of_the_next_start() == 5

    play(tmp_path, scenario)


def test_policies_go_and_come_with_the_operators_setting(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        before = owners(world)
        for enabled in (False, True):
            world.start_operator(settings(network_policy=PolicySettings(enabled=enabled)))
            await world.reconcile()
            assert ("NetworkPolicy" in world.api.kinds()) is enabled
        assert owners(world) == before
        world.start_operator(settings(network_policy=PolicySettings(enabled=False)))
        world.job("Complete")
        await world.reconcile()
        assert "NetworkPolicy" not in world.api.kinds()

    play(tmp_path, scenario)


def test_a_refused_child_is_told_and_tried_again(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        world.api.refuse["Job"] = Refused(403, "exceeded quota: jobs")
        assert await world.reconcile() is not None
        assert world.status()["state"] == "Stalled"
        assert world.status()["conditions"][0]["message"] == "exceeded quota: jobs"
        del world.api.refuse["Job"]
        await world.reconcile()
        assert world.status()["state"] == "Starting"
        assert "Job" in world.api.kinds()

    play(tmp_path, scenario)


def test_live_settings_are_brought_once(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        await world.reconcile()
        assert world.edges.settings == []
        said = world.edges.said["edge-0"]
        world.edges.said["edge-0"] = said.model_copy(update={"generation": 0})  # just started
        await world.reconcile()
        assert [s.generation for s in world.edges.settings] == [1]
        assert "SettingsChanged" not in world.api.reasons()
        world.edges.settings.clear()
        world.edges.said["edge-0"] = said
        world.wish(2, partition={"cut": 7})
        await world.reconcile()
        await world.reconcile()
        assert [(s.generation, s.partition.cut) for s in world.edges.settings] == [(2, 7)] * 2
        assert world.api.reasons().count("SettingsChanged") == 1
        said = world.edges.said["edge-0"]
        world.edges.said["edge-0"] = said.model_copy(update={"generation": 2})
        await world.reconcile()
        assert len(world.edges.settings) == 2
        world.wish(3, partition={"cut": 7}, backoffLimit=9)  # nothing that an edge would feel
        await world.reconcile()
        assert len(world.edges.settings) == 3
        assert world.api.reasons().count("SettingsChanged") == 1

    play(tmp_path, scenario)


NO_SUCH_CUT = Answer(Outcome.REFUSED, "spec.partition.cut: got 5000, expected 0 to 21")


async def refused_by_one(world: World) -> None:
    """Three edges run, one of which refuses what the manifest says by now."""
    await world.run_three()
    world.edges.answers["edge-1"] = NOT_HERE
    world.wish_of_three()
    await world.reconcile()


async def refused(world: World) -> None:
    """A running study is asked for a cut that its network lacks, in generation 2."""
    world.edges.answers[5000] = NO_SUCH_CUT
    world.wish()
    await world.reconcile()
    world.run()
    await world.reconcile()
    world.wish(2, partition={"cut": 5000})
    await world.reconcile()


def test_a_refused_cut_reaches_no_edge_that_starts(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await refused(world)
        degraded = world.condition("Degraded")
        assert (degraded["status"], degraded["reason"]) == ("True", "SettingsRefused")
        assert degraded["message"] == (
            f"The settings of generation 2 are not in force at edge-0: {NO_SUCH_CUT.message}"
        )
        assert world.status()["state"] == "Running"
        await world.reconcile()
        assert world.cut_of_the_next_start() == 5
        (refusal,) = world.api.events_with("SettingsRefused")
        assert refusal["type"] == "Warning"

        world.cache.put("Pod", world.api.versioned(pod("edge", container=waiting("Crashed"))))
        world.edges.said.clear()
        await world.reconcile()
        assert world.cut_of_the_next_start() == 5
        world.wish(3, partition={"cut": 5000}, backoffLimit=9)
        await world.reconcile()
        assert world.cut_of_the_next_start() == 5
        assert world.condition("Degraded")["observedGeneration"] == 3

    play(tmp_path, scenario)


@pytest.mark.parametrize("cut", [5, 7])
def test_a_manifest_put_right_is_in_force_again(tmp_path: Path, cut: int) -> None:
    async def scenario(world: World) -> None:
        await refused(world)
        world.wish(3, partition={"cut": cut})
        await world.reconcile()
        assert world.cut_of_the_next_start() == cut
        degraded = world.condition("Degraded")
        assert (degraded["status"], degraded["reason"]) == ("False", "AsSpecified")

    play(tmp_path, scenario)


NOT_HERE = Answer(Outcome.REFUSED, "not exact here")


def test_what_one_edge_refuses_waits_for_all(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await refused_by_one(world)
        assert world.cut_of_the_next_start() == 5
        assert world.condition("Degraded")["message"] == (
            "The settings of generation 2 are not in force at edge-1: not exact here"
        )
        assert "SettingsChanged" not in world.api.reasons()

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [(Outcome.REFUSED, "SettingsRefused"), (Outcome.DEFERRED, "SettingsDeferred")],
)
def test_each_answer_is_posted_once_a_generation(
    tmp_path: Path, outcome: Outcome, reason: str
) -> None:
    async def scenario(world: World) -> None:
        await world.run_three()
        world.edges.answers |= {
            "edge-1": Answer(outcome, "cause"),
            "edge-2": Answer(outcome, "cause"),
        }
        for generation in (2, 3):
            world.wish_of_three(generation=generation)
            for _ in range(4):
                await world.reconcile()
            assert world.api.reasons().count(reason) == 2 * (generation - 1)

    play(tmp_path, scenario)


def test_who_refused_and_starts_again_still_objects(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await refused_by_one(world)
        world.edge(generation=2)
        world.edge(generation=2, index=2)
        crashed = pod("edge", index=1, container=waiting("Crashed"))
        world.cache.put("Pod", world.api.versioned(crashed))
        await world.reconcile()
        assert world.cut_of_the_next_start() == 5
        assert world.condition("Degraded")["status"] == "True"

    play(tmp_path, scenario)


def test_who_refused_and_has_finished_objects_no_more(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await refused_by_one(world)
        world.edge(Phase.FINISHED, index=1)
        await world.reconcile()
        assert world.cut_of_the_next_start() == 7
        assert world.condition("Degraded")["status"] == "False"
        assert world.api.reasons().count("SettingsChanged") == 1

    play(tmp_path, scenario)


def test_an_objection_ends_though_another_edge_is_not_heard(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await refused_by_one(world)
        world.edges.answers = {"edge-2": None}
        await world.reconcile()
        assert world.condition("Degraded")["status"] == "False"
        assert world.cut_of_the_next_start() == 5  # until all that run are heard
        world.edges.answers.clear()
        await world.reconcile()
        assert world.cut_of_the_next_start() == 7
        assert world.api.reasons().count("SettingsChanged") == 1

    play(tmp_path, scenario)


def test_nothing_is_refused_of_a_study_that_has_ended(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await refused(world)
        world.job("Complete")
        await world.reconcile()
        assert world.condition("Degraded")["status"] == "False"

    play(tmp_path, scenario)


@pytest.mark.parametrize("answer", [NO_SUCH_CUT, None])
def test_a_lost_configmap_is_made_as_it_was_held(tmp_path: Path, answer: Answer | None) -> None:
    async def scenario(world: World) -> None:
        await refused(world)
        world.edges.answers[5000] = answer
        await world.reconcile()
        world.lose("ConfigMap")
        await world.reconcile()
        assert world.cut_of_the_next_start() == 5

    play(tmp_path, scenario)


def test_a_restarted_operator_holds_what_one_of_several_refused(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await refused_by_one(world)
        world.edge(generation=2)
        world.edge(generation=0, index=1)  # it has just started, with the settings before
        world.start_operator(SETTINGS)
        await world.reconcile()
        world.lose("ConfigMap")
        await world.reconcile()
        assert world.cut_of_the_next_start() == 5
        assert "SettingsChanged" not in world.api.reasons()

    play(tmp_path, scenario)


def test_a_restarted_operator_knows_what_was_refused(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await refused(world)
        message = world.condition("Degraded")["message"]
        world.start_operator(SETTINGS)
        world.cache.put("Pod", world.api.versioned(pod("edge", container=waiting("Crashed"))))
        await world.reconcile()
        assert world.cut_of_the_next_start() == 5
        assert world.condition("Degraded")["message"] == message

    play(tmp_path, scenario)


def test_a_change_waits_for_an_edge_that_does_not_know_its_cuts(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.edges.answers[5000] = NO_SUCH_CUT
        world.wish()
        await world.reconcile()
        world.run()
        world.edge(Phase.STARTING, 0)
        world.wish(2, partition={"cut": 5000})
        await world.reconcile()
        assert world.edges.settings == []
        assert world.cut_of_the_next_start() == 5
        world.edge(generation=0)
        await world.reconcile()
        assert world.cut_of_the_next_start() == 5
        assert world.condition("Degraded")["status"] == "True"

    play(tmp_path, scenario)


def test_a_change_does_not_wait_for_an_edge_that_is_down(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        world.cache.put("Pod", world.api.versioned(pod("edge", container=waiting("Crashed"))))
        world.wish(2, partition={"cut": 7})
        await world.reconcile()
        assert world.edges.settings == []
        assert world.cut_of_the_next_start() == 7

    play(tmp_path, scenario)


def test_what_waits_for_the_next_start_reaches_it(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.edges.answers[7] = Answer(Outcome.DEFERRED, "not while it runs")
        world.wish()
        await world.reconcile()
        world.run()
        await world.reconcile()
        world.wish(2, partition={"cut": 7})
        await world.reconcile()
        await world.reconcile()
        assert world.cut_of_the_next_start() == 7
        assert world.condition("Degraded")["status"] == "False"
        assert len(world.edges.settings) == 2  # each reconcile sends them again
        (deferred,) = world.api.events_with("SettingsDeferred")
        assert deferred["type"] == "Normal"
        assert deferred["message"] == "edge-0: not while it runs"
        assert "SettingsRefused" not in world.api.reasons()

    play(tmp_path, scenario)


def test_a_restarted_operator_tells_what_ended_without_it(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        report = WorkerReport(
            role=Role.EDGE, edge="edge-0", phase=Phase.FINISHED, done=9, total=9, exit_code=0
        )
        state = {"terminated": {"exitCode": 0, "message": report.model_dump_json()}}
        world.cache.put("Pod", pod("edge", phase="Succeeded", container={"state": state}))
        world.job("Complete")
        world.start_operator(SETTINGS)
        await world.reconcile()
        assert world.status()["state"] == "Succeeded"
        assert world.status()["progress"]["summary"] == "9/9"

    play(tmp_path, scenario)


@pytest.mark.parametrize("gone", [True, False])
def test_a_study_that_goes_is_left_alone(tmp_path: Path, gone: bool) -> None:
    async def scenario(world: World) -> None:
        if not gone:
            world.wish()
            body_now = dict(world.cache.study(UID) or {})
            body_now["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:00Z"
        assert await world.reconcile() is None
        assert world.api.calls == []

    play(tmp_path, scenario)


def test_a_manifest_of_another_version_is_told(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish(novelty=1)
        assert await world.reconcile() is None
        assert world.status()["conditions"][0]["reason"] == "InvalidManifest"
        assert world.api.kinds() == set()

    play(tmp_path, scenario)


def test_the_end_is_told_before_anything_is_taken_away(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish(ttlSecondsAfterFinished=0)
        await world.reconcile()
        world.job("Complete")
        world.api.calls.clear()
        await world.reconcile()
        assert world.api.calls[0] == "status"
        assert "delete Job" in world.api.calls
        assert world.status()["state"] == "Succeeded"

    play(tmp_path, scenario)


def test_an_ended_study_does_not_run_again(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.run_to_the_end()
        world.lose("Job")
        world.lose("ConfigMap")
        world.api.calls.clear()
        await world.reconcile()
        assert world.api.calls == []
        assert world.status()["state"] == "Succeeded"

    play(tmp_path, scenario)


def test_what_is_left_of_an_ended_study_is_patched(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.run_to_the_end()
        left = world.api.objects["Job", "alexnet-edge"]
        left["spec"]["suspend"] = True
        world.cache.put("Job", world.api.versioned(left))
        world.api.calls.clear()
        await world.reconcile()
        assert world.api.calls == ["patch Job"]

    play(tmp_path, scenario)


def test_a_deleted_secret_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.lose("Secret")
        world.api.calls.clear()
        await world.reconcile()
        assert world.api.calls == []  # it was seen to a moment ago
        monkeypatch.setattr(plan, "RETRY_SECONDS", 0.0)
        await world.reconcile()
        assert world.api.calls == ["create Secret"]
        monkeypatch.undo()
        world.lose("Secret")
        world.lose("ConfigMap")
        world.api.calls.clear()
        await world.reconcile()
        assert world.api.calls == ["apply ConfigMap", "create Secret"]

    play(tmp_path, scenario)


def test_a_secret_is_made_again_for_a_server_that_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "RETRY_SECONDS", 0.0)

    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        await world.reconcile()
        world.lose("Secret")
        waits = pod("server", phase="Pending", ready=False)
        world.cache.put("Pod", world.api.versioned(waits))
        world.api.calls.clear()
        await world.reconcile()
        assert world.condition("Ready")["reason"] == "ServerNotReady"
        assert "create Secret" in world.api.calls

    play(tmp_path, scenario)


def killed(times: int = 1) -> dict[str, Any]:
    """The container of an edge that runs again after it was out of memory."""
    ended = {"exitCode": 137, "reason": "OOMKilled"}
    return {"state": {"running": {}}, "lastState": {"terminated": ended}, "restartCount": times}


def test_a_restart_within_one_poll_has_its_event(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        await world.reconcile()
        for times in (1, 3):
            world.cache.put("Pod", world.api.versioned(pod("edge", container=killed(times))))
            await world.reconcile()
            await world.reconcile()
            assert world.api.reasons().count("EdgeRestarted") == times
        (edge, _) = world.status()["workers"]
        assert (edge["restarts"], edge["lastTermination"]["reason"]) == (3, "OOMKilled")
        world.start_operator(SETTINGS)
        await world.reconcile()
        assert world.api.reasons().count("EdgeRestarted") == 3
        world.cache.put("Pod", world.api.versioned(pod("server", container=killed())))
        await world.reconcile()
        assert world.api.reasons().count("ServerRestarted") == 1

    play(tmp_path, scenario)


def test_a_pod_that_goes_between_two_reconciles_still_says_how_it_ended(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        await world.reconcile()
        last = pod("edge", container=killed(2))
        last["spec"]["containers"] = [{"name": "edge", "resources": {"limits": {"memory": "96Mi"}}}]
        world.cache.put("Pod", world.api.versioned(last))
        world.cache.drop("Pod", last)
        world.job("Failed")
        await world.reconcile()
        message = "edge pod alexnet-edge-0 was OOMKilled (limit 96Mi), 2 times."
        assert world.condition("Succeeded")["message"] == message
        assert world.status()["workers"][0]["lastTermination"]["exitCode"] == 137
        assert world.api.reasons().count("EdgeRestarted") == 2
        world.start_operator(SETTINGS)
        await world.reconcile()
        assert world.status()["workers"][0]["lastTermination"]["exitCode"] == 137

    play(tmp_path, scenario)


def second(index: int = 0) -> dict[str, Any]:
    """A pod that takes the place of an edge's first one."""
    made = pod("edge", index=index)
    made["metadata"] |= {"name": f"alexnet-edge-{index}-second", "uid": f"second-{index}"}
    return made


def restarted(report: WorkerReport | None = None) -> dict[str, Any]:
    """The first edge's pod, whose container has just started again."""
    message = report.model_dump_json() if report else ""
    last = {"terminated": {"exitCode": 1, "reason": "Error", "message": message}}
    container = {"state": {"running": {}}, "lastState": last, "restartCount": 1}
    return pod("edge", container=container)


@pytest.mark.parametrize("fresh", [second, restarted])
def test_a_report_counts_for_the_container_that_made_it(
    tmp_path: Path, fresh: Callable[[], dict[str, Any]]
) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        await world.reconcile()
        assert world.condition("Ready")["status"] == "True"
        world.cache.drop("Pod", pod("edge"))
        world.cache.put("Pod", world.api.versioned(fresh()))
        said = world.edges.said.pop("edge-0")  # it has not come so far as to answer
        await world.reconcile()
        ready = world.condition("Ready")
        assert (ready["status"], ready["reason"]) == ("False", "EdgeRestarting")
        assert world.status()["progress"]["summary"] == "3/9"
        world.edges.said["edge-0"] = said.model_copy(update={"phase": Phase.STARTING})
        await world.reconcile()
        assert world.condition("Ready")["status"] == "False"
        world.edges.said["edge-0"] = said
        await world.reconcile()
        assert world.condition("Ready")["status"] == "True"

    play(tmp_path, scenario)


def test_two_of_three_edges_are_not_all(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.run_three()
        assert world.status()["state"] == "Running"
        world.cache.drop("Pod", pod("edge", index=1))
        world.cache.put("Pod", world.api.versioned(second(1)))
        said = world.edges.said.pop("edge-1")
        await world.reconcile()
        assert world.status()["state"] == "Waiting"
        assert "alexnet-edge-1-second" in world.condition("Ready")["message"]
        world.edges.said["edge-1"] = said
        await world.reconcile()
        assert world.status()["state"] == "Running"

    play(tmp_path, scenario)


def test_last_words_do_not_come_back(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        words = WorkerReport(role=Role.EDGE, edge="edge-0", phase=Phase.FAILED, done=3, total=9)
        world.cache.put("Pod", world.api.versioned(restarted(words)))
        world.edge(done=7, total=9)
        await world.reconcile()
        assert world.status()["state"] == "Running"
        world.edges.said.clear()  # one answer is late
        await world.reconcile()
        assert world.status()["state"] == "Running"
        assert world.status()["progress"]["summary"] == "7/9"

    play(tmp_path, scenario)


def test_a_healed_mount_does_not_stall_a_pull_that_takes_long(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        creating = {"state": {"waiting": {"reason": "ContainerCreating"}}}
        slow = pod("edge", phase="Pending", container=creating)
        world.cache.put("Pod", world.api.versioned(slow))
        failed = warning("kubelet", "MountVolume.SetUp failed: secret not found", 0, 16)
        world.api.posted[slow["metadata"]["uid"]] = [failed]
        await world.reconcile()
        assert world.condition("Ready")["reason"] == "ContainerRefused"
        pulling = {**warning("kubelet", "Pulling image", 17), "type": "Normal"}
        world.api.posted[slow["metadata"]["uid"]] = [failed, pulling]
        await world.reconcile()
        assert world.condition("Ready")["reason"] == "WorkersStarting"

    play(tmp_path, scenario)


@pytest.mark.parametrize("kinds", [["Job"], ["Deployment"], ["Job", "Deployment"]])
def test_orphans_of_a_study_of_the_same_name_are_replaced(
    tmp_path: Path, kinds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SETTLE_SECONDS", 0.0)

    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        for kind in kinds:
            orphan(world, kind, "00000000-0000-0000-0000-000000000000")
        with pytest.raises(Unavailable, match="of an earlier study is deleted"):
            await world.reconcile()
        with contextlib.suppress(Unavailable):
            await world.reconcile()
        await world.reconcile()
        assert world.api.kinds() == ALL
        assert world.condition("Ready")["reason"] == "WorkersStarting"
        assert all(_at(o, "labels", "splittracr.io/uid") == UID for o in owners(world).values())

    play(tmp_path, scenario)


@pytest.mark.parametrize("foreign", ["label", "study"])
def test_what_is_no_orphan_stays(
    tmp_path: Path, foreign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SETTLE_SECONDS", 0.0)

    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        other = body(name="other")
        other["metadata"]["uid"] = "00000000-0000-0000-0000-000000000001"
        world.cache.put(KIND, other)
        made = orphan(world, "Job", other["metadata"]["uid"])
        if foreign == "label":  # it only bears a label like ours
            made["metadata"]["labels"].pop("app.kubernetes.io/managed-by")
        await world.reconcile()
        assert ("Job", "alexnet-edge") in world.api.objects
        assert world.condition("Ready")["reason"] == "ChildRefused"

    play(tmp_path, scenario)


def orphan(world: World, kind: str, uid: str) -> dict[str, Any]:
    """Make a child of the study what an earlier study of its name left."""
    name = next(name for its, name in world.api.objects if its == kind)
    made = world.api.objects[kind, name]
    world.cache.drop(kind, made)
    made["metadata"]["labels"]["splittracr.io/uid"] = uid
    del made["metadata"]["ownerReferences"]
    return made


def test_a_missing_right_is_a_condition(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        await world.reconciler.forbidden(UID, "namespace lab: no")
        ready = world.condition("Ready")
        assert (ready["status"], ready["reason"]) == ("False", "OperatorForbidden")
        assert "namespace lab: no" in ready["message"]
        assert world.condition("Stalled")["status"] == "True"
        calls = len(world.api.calls)
        await world.reconciler.forbidden(UID, "namespace lab: no")
        await world.reconciler.forbidden("gone", "namespace lab: no")
        assert len(world.api.calls) == calls
        await world.reconcile()
        assert world.condition("Ready")["reason"] == "WorkersStarting"

    play(tmp_path, scenario)


def test_a_secret_made_again_is_of_the_same_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "RETRY_SECONDS", 0.0)

    async def scenario(world: World) -> None:
        world.wish()
        authorities = []
        for lost in ("Secret", "ConfigMap", None):
            await world.reconcile()
            (secret,) = (o for (kind, _), o in world.api.objects.items() if kind == "Secret")
            pem = base64.b64decode(secret["data"]["ca.crt"])
            authorities.append(x509.load_pem_x509_certificate(pem).public_key())
            if lost is not None:
                world.lose("Secret")
            if lost == "ConfigMap":
                world.lose(lost)
        assert authorities[0] == authorities[1] == authorities[2]
        keys = Keys(b"k" * 32)
        assert keys.authority(UID) != keys.authority("another")

    play(tmp_path, scenario)


def test_a_silent_edge_is_unreachable_also_to_a_new_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        began = {"running": {"startedAt": "2026-03-01T11:00:00Z"}}
        world.cache.put("Pod", world.api.versioned(pod("edge", container={"state": began})))
        await world.reconcile()
        said = world.edges.said.pop("edge-0")
        await world.reconcile()
        assert world.condition("Ready")["reason"] == "Measuring"
        for operator in ("the same", "another"):
            if operator == "another":
                world.start_operator(SETTINGS)
            now = datetime.now(UTC) + timedelta(seconds=31)
            world.now = now
            await world.reconcile()
            ready = world.condition("Ready")
            assert (ready["status"], ready["reason"]) == ("False", "EdgeUnreachable")
        world.edges.said["edge-0"] = said
        await world.reconcile()
        assert world.condition("Ready")["reason"] == "Measuring"

    play(tmp_path, scenario)


def test_the_status_lists_only_results_that_are_there(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        folder = tmp_path / UID
        folder.mkdir()
        for edge in ("edge-0", "edge-1"):
            (folder / f"{edge}.tar.gz").write_bytes(b"x")
        await world.run_to_the_end()
        assert world.status()["results"]["edges"] == ["edge-0", "edge-1"]
        (folder / "edge-0.tar.gz").unlink()
        await world.reconcile()
        assert world.status()["results"]["edges"] == ["edge-1"]
        shutil.rmtree(folder)
        await world.reconcile()
        assert "results" not in world.status()

    play(tmp_path, scenario)


def test_results_of_an_earlier_operator_get_a_path_without_a_key(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        (tmp_path / UID).mkdir()
        (tmp_path / UID / "edge-0.tar.gz").write_bytes(b"x")
        await world.run_to_the_end()
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

    play(tmp_path, scenario)


def test_what_lies_on_a_claim_stays_listed(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish(results={"claim": "mine"})
        await world.reconcile()
        world.run()
        world.edge(Phase.FINISHED, results="claim")
        await world.reconcile()
        world.start_operator(SETTINGS)
        world.edges.said.clear()
        await world.reconcile()
        results = world.status()["results"]
        assert (results["edges"], results["claim"]) == (["edge-0"], "mine")

    play(tmp_path, scenario)


def test_figures_are_written_every_five_seconds_and_the_rest_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        await world.reconcile()
        assert world.status()["progress"]["summary"] == "3/9"
        writes = world.api.calls.count("status")
        for done in (4, 5):
            world.edge(done=done, total=9)
            await world.reconcile()
        assert world.api.calls.count("status") == writes
        later = datetime.now(UTC) + timedelta(seconds=6)
        world.now = later
        await world.reconcile()
        assert world.status()["progress"]["summary"] == "5/9"
        world.edge(done=6, total=9)
        world.cache.put("Pod", world.api.versioned(pod("server", ready=False)))
        await world.reconcile()
        assert world.status()["state"] == "Waiting"
        world.edge(Phase.FINISHED, done=9, total=9)
        world.job("Complete")
        await world.reconcile()
        assert world.status()["progress"]["summary"] == "9/9"

    play(tmp_path, scenario)


@pytest.mark.parametrize("name", ["a" * 200, "a.b", "ab"])
def test_events_have_names_that_the_api_server_takes(name: str) -> None:
    made = event(read(body(name=name)), "Why", "x", warning=False, now=datetime.now(UTC))
    label = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    assert len(made["metadata"]["name"]) <= 253
    assert re.fullmatch(rf"{label}(\.{label})*", made["metadata"]["name"])


def with_sidecar(made: dict[str, Any], world: World) -> dict[str, Any]:
    """The pod with a container of others that runs on."""
    sidecar = {"name": "sidecar", "ready": True, "restartCount": 3, "state": {"running": {}}}
    made["status"]["containerStatuses"].insert(0, sidecar)
    return world.api.versioned(made)


def test_a_sidecar_that_sleeps_on_is_stopped_when_the_edge_has_ended(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.cache.put("Pod", pod("server"))
        world.cache.put("Pod", with_sidecar(of_the_job(world), world))
        world.edge(done=3, total=9)
        await world.reconcile()
        assert world.status()["state"] == "Running"

        report = WorkerReport(role=Role.EDGE, edge="edge-0", phase=Phase.FINISHED, done=9, total=9)
        held = with_sidecar(of_the_job(world, container=ended(0, report)), world)
        world.cache.put("Pod", held)
        await world.reconcile()
        assert world.status()["state"] == "Succeeded"
        assert world.condition("Succeeded")["message"] == "9 samples were recorded."
        assert world.api.objects["Job", "alexnet-edge"]["spec"]["suspend"] is True
        assert [w["restarts"] for w in world.status()["workers"]] == [0, 0]
        assert "EdgeRestarted" not in world.api.reasons()

        # Also when the pod is gone, and another operator comes: else the study ran again.
        world.cache.drop("Pod", held)
        world.start_operator(SETTINGS)
        await world.reconcile()
        assert world.api.objects["Job", "alexnet-edge"]["spec"]["suspend"] is True

    play(tmp_path, scenario)


def test_an_edge_without_a_sidecar_keeps_its_pod_and_logs(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        report = WorkerReport(role=Role.EDGE, edge="edge-0", phase=Phase.FINISHED, done=9, total=9)
        world.cache.put("Pod", of_the_job(world, phase="Succeeded", container=ended(0, report)))
        await world.reconcile()
        assert world.status()["state"] == "Succeeded"
        assert world.api.objects["Job", "alexnet-edge"]["spec"]["suspend"] is False
        world.job("Complete")
        await world.reconcile()
        assert world.api.objects["Job", "alexnet-edge"]["spec"]["suspend"] is False

    play(tmp_path, scenario)


def test_an_edge_that_fails_too_often_ends_the_study(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish(backoffLimit=1)
        await world.reconcile()
        job = world.api.objects["Job", "alexnet-edge"]
        assert job["spec"]["backoffLimit"] == 2**31 - 1  # it would count sidecars, too
        for times, state in ((1, "Starting"), (2, "Failed")):
            killed = {"exitCode": 137, "reason": "OOMKilled"}
            container = {
                "state": {"running": {}},
                "lastState": {"terminated": killed},
                "restartCount": times,
            }
            world.cache.put("Pod", of_the_job(world, container=container))
            await world.reconcile()
            assert world.status()["state"] == state
        assert world.condition("Succeeded")["reason"] == "EdgeFailed"
        assert world.api.objects["Job", "alexnet-edge"]["spec"]["suspend"] is True

    play(tmp_path, scenario)


def logs_in(folder: Path) -> dict[str, bytes]:
    with tarfile.open(folder / UID / "logs.tar.gz") as opened:
        return {
            member.name: (opened.extractfile(member) or io.BytesIO()).read() for member in opened
        }


def test_the_logs_of_all_workers_are_kept_before_the_server_goes(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        token = Keys(b"k" * 32).control(UID).encode()
        world.api.logs[("alexnet-edge-0", "edge", False)] = b"measured\ntoken " + token + b"\n"
        world.api.logs[("alexnet-server-0", "server", False)] = b"x" * 2**21 + b"last\n"
        await world.reconcile()
        assert not [call for call in world.api.calls if call.startswith("log")]
        world.job("Complete")
        await world.reconcile()
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
        world.start_operator(SETTINGS)  # which does not read them once more
        await world.reconcile()
        assert len([call for call in calls if call.startswith("log")]) == 2

    play(tmp_path, scenario)


def test_the_logs_of_a_failed_study_are_kept(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        crashed = {"state": {"running": {}}, "restartCount": 2}
        world.cache.put("Pod", world.api.versioned(pod("edge", container=crashed)))
        world.api.logs |= {
            ("alexnet-edge-0", "edge", False): b"third",
            ("alexnet-edge-0", "edge", True): b"second",
            ("alexnet-server-0", "server", False): b"served",
        }
        world.job("Failed")
        await world.reconcile()
        assert "Deployment" not in world.api.kinds()
        assert logs_in(tmp_path) == {
            "alexnet-edge-0.log": b"third",
            "alexnet-edge-0.2.log": b"second",
            "alexnet-server-0.log": b"served",
        }
        assert [a["name"] for a in world.status()["results"]["archives"]] == ["logs"]

    play(tmp_path, scenario)


def test_the_log_of_a_container_is_kept_when_the_next_one_runs(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        for number, log in ((1, b"first"), (2, b"second")):
            again = {"state": {"running": {}}, "restartCount": number}
            world.cache.put("Pod", world.api.versioned(pod("edge", container=again)))
            world.api.logs[("alexnet-edge-0", "edge", True)] = log
            await world.reconcile()
            await world.reconcile()
        kept = {"alexnet-edge-0.1.log": b"first", "alexnet-edge-0.2.log": b"second"}
        assert logs_in(tmp_path) == kept
        assert world.status()["state"] == "Running"

    play(tmp_path, scenario)


def test_the_logs_of_a_suspended_study_are_kept_with_those_of_its_next_pods(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        world.api.logs[("alexnet-edge-0", "edge", False)] = b"before"
        world.wish(2, suspend=True)
        await world.reconcile()
        assert logs_in(tmp_path) == {"alexnet-edge-0.log": b"before", "alexnet-server-0.log": b""}
        for name in ("alexnet-edge-0", "alexnet-server-0"):
            world.cache.drop("Pod", world.cache.children(UID)["Pod", name])
        world.wish(3, suspend=False)
        await world.reconcile()
        later = pod("edge")
        later["metadata"] |= {"name": "alexnet-edge-1", "uid": "another"}
        world.cache.put("Pod", later)
        world.api.logs[("alexnet-edge-1", "edge", False)] = b"after"
        world.job("Complete")
        await world.reconcile()
        kept = logs_in(tmp_path)
        assert (kept["alexnet-edge-0.log"], kept["alexnet-edge-1.log"]) == (b"before", b"after")

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("trouble", "note"),
    [
        (Unavailable("503: no route to the node"), b"503: no route to the node"),
        (Refused(400, "container is waiting to start"), b"container is waiting to start"),
    ],
)
def test_a_log_that_cannot_be_read_keeps_no_server(
    tmp_path: Path, trouble: Exception, note: bytes
) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        world.run()
        world.api.logs[("alexnet-server-0", "server", False)] = trouble
        world.job("Complete")
        await world.reconcile()
        assert "Deployment" not in world.api.kinds()
        noted = b"(the log could not be read: " + note + b")\n"
        assert logs_in(tmp_path)["alexnet-server-0.log"] == noted

    play(tmp_path, scenario)


def test_logs_that_never_come_keep_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(world: World) -> None:
        async def endless(*_: object, **__: object) -> bytes:
            await asyncio.Event().wait()
            raise AssertionError

        monkeypatch.setattr(act, "LOG_SECONDS", 0.05)
        monkeypatch.setattr(world.api, "log", endless)
        world.wish()
        await world.reconcile()
        world.run()
        world.job("Complete")
        await world.reconcile()
        assert "Deployment" not in world.api.kinds()
        noted = b"(the log could not be read: no answer within 0.05 s)\n"
        assert logs_in(tmp_path)["alexnet-server-0.log"] == noted

    play(tmp_path, scenario)


def test_a_full_volume_keeps_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(world.store, "keep_logs", full)
        world.wish()
        await world.reconcile()
        world.run()
        world.job("Complete")
        await world.reconcile()
        assert "Deployment" not in world.api.kinds()
        assert "results" not in world.status()

    play(tmp_path, scenario)


def test_archives_in_the_status_follow_the_volume(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.run_to_the_end()
        (tmp_path / UID).mkdir(exist_ok=True)
        path = tmp_path / UID / "edge-0.tar.gz"
        for content in (b"first", b"second", None):
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            await world.reconcile()
            results = world.status().get("results")
            if content is None or results is None:
                assert (content, results) == (None, None)
                continue
            digest = hashlib.sha256(content).hexdigest()
            assert results["edges"] == ["edge-0"]
            assert results["archives"] == [
                {"name": "edge-0", "bytes": len(content), "sha256": digest}
            ]

    play(tmp_path, scenario)


def test_logs_are_kept_beside_a_claim(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish(results={"claim": "disk"})
        await world.reconcile()
        world.run()
        world.job("Complete")
        await world.reconcile()
        results = world.status()["results"]
        assert (results["claim"], results.get("edges", [])) == ("disk", [])
        assert [archive["name"] for archive in results["archives"]] == ["logs"]
        assert results["path"]

    play(tmp_path, scenario)


def test_the_status_keeps_the_last_words_of_a_worker(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.wish()
        await world.reconcile()
        ended = {"exitCode": 137, "reason": "OOMKilled", "message": "loading\n\x1b[31mmuch"}
        crashed = {"state": {"running": {}}, "lastState": {"terminated": ended}, "restartCount": 1}
        world.cache.put("Pod", pod("edge", container=crashed))
        await world.reconcile()
        (worker,) = world.status()["workers"]
        assert worker["lastTermination"]["message"] == "loading\n\\x1b[31mmuch"

    play(tmp_path, scenario)
