"""The reconcile: one study, from what is there to what should be. It can be repeated at any time.

Level-based: it is told that something about a study changed, never what. `reconcile` is the list of
steps; everything that is decided on the way is pure (`lifecycle`, `children`, `conditions`).
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from splittracr.experiment.contracts import RESULTS_PATH
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.report import Phase, WorkerReport
from splittracr.experiment.settings import Live, LiveSettings
from splittracr.experiment.spec import KIND
from splittracr.experiment.status import LOGS, ExperimentStatus, Role, StoredResults, Worker
from splittracr.security import mint
from splittracr_operator import children, conditions, lifecycle, names, warning_events, workers
from splittracr_operator.cache import Cache, Place
from splittracr_operator.children import Manifest
from splittracr_operator.cluster import Cluster, ClusterError, Refused, Unavailable
from splittracr_operator.drift import WITH_PODS, differs, outdated, patchable, present, superseded
from splittracr_operator.edges import Edges
from splittracr_operator.events import event
from splittracr_operator.keys import Keys
from splittracr_operator.lifecycle import Observed, Stage, Verdict
from splittracr_operator.metrics import Metrics
from splittracr_operator.settings import Settings
from splittracr_operator.steering import Answer, Stance, objection
from splittracr_operator.store import Store
from splittracr_operator.study import Body, Study, live_in, read

log = logging.getLogger(__name__)

_PATIENCE = 30.0
"""Seconds until the next reconcile of a study without changes."""

_WRITE_SECONDS = 5.0
"""Seconds between two writes of a status in which only figures change."""

_SETTLING = 20.0
"""Seconds after the start during which children of an earlier study may be in the way."""

_SOON = 3.0
"""Seconds within which Kubernetes has made a Job's first pod and begun its container, if it can."""

_LOG_SECONDS = 20.0
"""Seconds for the logs of a study; its workers stay no longer for them."""

_LOG_BYTES, _ALL_LOG_BYTES = 2**20, 2**24
"""Bytes of the log of a container, from its end, and of all containers of a study."""

_MIN_LOG_BYTES, _LOGS_AT_ONCE = 2**14, 4

_IN_THE_WAY = (409, 422)
"""Statuses with which the API server refuses to make one object of another."""

_QUIET = ("NetworkPolicy", "Service")


class Reconciler:
    """Everything a reconcile needs."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        edges: Edges,
        store: Store,
        keys: Keys,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._cluster, self._cache, self._edges = cluster, cache, edges
        self._store, self._keys, self._settings = store, keys, settings
        self._metrics = metrics
        self._authority = keys.store_authority().certificate.decode()
        self._memories: dict[str, _Memory] = {}
        self._reading = asyncio.Semaphore(_LOGS_AT_ONCE)

    async def reconcile(self, uid: str) -> float | None:
        """One reconcile of a study. Seconds until the next, None where only a change asks for one.

        Raises ClusterError where the API server could not be asked: then it is to be repeated.
        """
        study = await self._read(uid)
        if study is None:
            return None
        memory = self._memories.setdefault(uid, _Memory(study, self._configured(uid)))
        memory.turn_to(study.live)
        await self._hear(study, memory)
        verdict = self._decide(study, memory)
        study = await self._start(study, verdict)
        if verdict.stage.ended:
            # Told first: what is taken away afterwards cannot be asked how it ended.
            study = await self._tell(study, memory, verdict)
        await self._steer(study, memory, verdict)
        await self._keep_logs(study, memory, verdict)
        verdict = await self._make(study, memory, verdict)
        await self._remove(study, memory, verdict)
        await self._tell(study, memory, verdict)
        return self._next(study, verdict)

    async def forbidden(self, uid: str, why: str) -> None:
        """Say in a study's status, if that is allowed, that the operator lacks a right."""
        body = self._cache.study(uid)
        if body is None:
            return
        metadata, message = body["metadata"], f"The operator lacks a right: {why}"
        status = conditions.forbidden(body, message, _now())
        if (body.get("status") or {}).get("conditions") == status["conditions"]:
            return
        try:
            space, name = metadata["namespace"], metadata["name"]
            self._cache.put(KIND, await self._cluster.patch_status(space, name, status))
        except ClusterError as error:
            log.warning("status of study %s was not written: %s", metadata["name"], error)

    # -------------------------------------------------------------------------------- the steps

    async def _read(self, uid: str) -> Study | None:
        """The study as remembered; one that is gone or on its way out is left alone."""
        body = self._cache.study(uid)
        if body is None or "deletionTimestamp" in body["metadata"]:
            self._memories.pop(uid, None)
            self._metrics.forget(uid)
            return None
        try:
            return read(body)
        except InvalidInput as error:
            await self._cannot_read(body, str(error))
            return None

    async def _hear(self, study: Study, memory: "_Memory") -> None:
        """What the edges say: in last words of those that ended, or asked while they run."""
        pods = self._pods(study.uid)
        secrets = self._secrets(study.uid)
        seen = workers.merge(memory.workers, self._all_pods(study.uid), secrets)
        memory.restarts += workers.restarts(memory.workers, seen)
        memory.workers = seen
        heard = await self._edges.reports(lifecycle.running_edges(pods))
        memory.reported |= dict.fromkeys(heard, _now().timestamp())
        memory.hear_last(lifecycle.last_reports(pods))
        present = lifecycle.runs(pods)
        memory.hear({edge: (present[edge], report) for edge, report in heard.items()})
        memory.stale = frozenset(e for e, run in present.items() if memory.runs.get(e, run) != run)
        for edge, report in memory.reports.items():
            if report.phase is Phase.FINISHED:  # it is silent from now on, as it should be
                memory.reported.pop(edge, None)
        memory.warnings = await self._warnings(study)

    def _decide(self, study: Study, memory: "_Memory") -> Verdict:
        return lifecycle.decide(study, self._observed(study, memory), _now())

    async def _start(self, study: Study, verdict: Verdict) -> Study:
        """Note the start before anything is made: from then on the manifest's core is fixed."""
        if study.status.start_time is not None or verdict.stage is Stage.SUSPENDED:
            return study
        now = _now().replace(microsecond=0)
        status = {"startTime": now.isoformat().replace("+00:00", "Z")}
        body = await self._cluster.patch_status(study.namespace, study.name, status)
        self._cache.put(KIND, body)
        return read(body)

    async def _steer(self, study: Study, memory: "_Memory", verdict: Verdict) -> None:
        """Bring live settings to the edges that run with older ones, and tell what changed.

        This comes before the ConfigMap: no edge is to start with what one that runs refuses.
        """
        memory.configured = self._configured(study.uid) or memory.configured
        memory.unheard = False
        if verdict.stage.ended or verdict.stage is Stage.SUSPENDED:
            return
        finished = {e for e, r in memory.reports.items() if r.phase is Phase.FINISHED}
        left = [edge for edge in study.edges if edge not in finished]
        addresses = lifecycle.running_edges(self._pods(study.uid))
        running = {edge: addresses[edge] for edge in left if edge in addresses}
        answers = await self._answers(study, memory, running)
        memory.answers |= answers
        memory.unheard = answers.keys() != running.keys()
        memory.objection = objection(memory.objection, study.generation, left, memory.answers)
        await self._relay(study, memory, answers)

    async def _answers(
        self, study: Study, memory: "_Memory", running: Mapping[str, str]
    ) -> dict[str, Answer]:
        """What edges (name to address) say to the live settings; those that do not are left out."""
        answers, asked = dict[str, Answer](), dict[str, str]()
        for edge, ip in running.items():
            report = memory.reports.get(edge)
            starts = report is None or report.phase is Phase.STARTING or edge in memory.stale
            if report is None or starts:  # it does not know its cuts yet
                continue
            if report.generation >= study.generation:
                answers[edge] = Answer(Stance.TAKEN)
            else:
                asked[edge] = ip
        settings = LiveSettings.of(study.spec).at(study.generation)
        return answers | await self._edges.steer(asked, settings, self._keys.control(study.uid))

    async def _relay(self, study: Study, memory: "_Memory", answers: Mapping[str, Answer]) -> None:
        """Post what edges say against the settings, and that they use them: each once."""
        for edge, answer in answers.items():
            said = study.generation, answer.words
            if answer.words and memory.said.get(edge) != said:
                memory.said[edge] = said
                words = f"{edge}: {answer.words}"
                await self._event(study, conditions.SETTINGS_REFUSED, words, warning=True)
        if memory.held or not any(a.stance is Stance.TAKEN for a in answers.values()):
            return
        changed = memory.used not in (None, study.live)  # or the generation is of other things
        memory.used = study.live
        if changed:
            message = f"The edges use the settings of generation {study.generation}."
            await self._event(study, "SettingsChanged", message)

    async def _keep_logs(self, study: Study, memory: "_Memory", verdict: Verdict) -> None:
        """Put the logs of workers into the results store before their pods may go, each once.

        A log that cannot be read, or not in time, keeps no worker: a note takes its place.
        """
        if not (verdict.stage.ended or verdict.stage is Stage.SUSPENDED):
            return
        have = self._cache.children(study.uid).items()
        named = dict(pair for (kind, _), pod in have if kind == "Pod" for pair in _logs_of(pod))
        if named and memory.logged is None:
            memory.logged = await asyncio.to_thread(self._store.logged, study.uid)
        new = {name: of for name, of in named.items() if name not in (memory.logged or ())}
        if not new:
            return
        until = asyncio.get_running_loop().time() + _LOG_SECONDS
        most = max(_MIN_LOG_BYTES, min(_LOG_BYTES, _ALL_LOG_BYTES // len(new)))
        read = [self._log(study, *of, most, until) for of in new.values()]
        logs = dict(zip(new, await asyncio.gather(*read), strict=True))
        memory.logged = (memory.logged or set()) | logs.keys()
        try:
            await asyncio.to_thread(self._store.keep_logs, study.uid, logs)
        except OSError as error:
            log.warning("logs of study %s are not kept: %s", study.name, error)

    async def _log(
        self, study: Study, pod: str, role: str, previous: bool, most: int, until: float
    ) -> bytes:
        """The last `most` bytes of a worker's log, or why it cannot be read."""
        try:
            async with asyncio.timeout_at(until), self._reading:
                text = await self._cluster.log(study.namespace, pod, role, most, previous=previous)
        except (ClusterError, TimeoutError) as error:
            why = str(error) or f"no answer within {_LOG_SECONDS:g} s"
            log.warning("the log of pod %s cannot be read: %s", pod, why)
            return f"(the log could not be read: {why})\n".encode()
        for secret in self._secrets(study.uid):
            text = text.replace(secret.encode(), b"***")
        return text

    async def _make(self, study: Study, memory: "_Memory", verdict: Verdict) -> Verdict:
        """Make what is missing and patch what differs; what is refused changes the verdict."""
        have = self._cache.children(study.uid)
        held, live = memory.held, memory.configured
        unknown = held and live is None  # it is not known which settings an edge may start with
        wanted = self._wanted(study.using(live) if held and live else study, verdict)
        if verdict.stage.ended:  # a Job that somebody deleted would run the study again
            wanted = [manifest for manifest in wanted if _place(manifest) in have]
        wrong = [
            manifest
            for manifest in wanted
            if differs(manifest, have.get(_place(manifest)))
            and not (unknown and manifest["kind"] == "ConfigMap" and _place(manifest) in have)
        ]
        refusal = None
        try:
            maps = [m for m in wrong if m["kind"] == "ConfigMap"]
            await self._apply(study, maps)
            await self._credentials(study, memory, verdict, anew=bool(maps))
            await self._apply(study, [m for m in wrong if m["kind"] in _QUIET])
            await self._apply(study, [m for m in wrong if m["kind"] in WITH_PODS])
        except Refused as error:
            if _settling(study, error):
                raise Unavailable(f"an earlier study of this name still leaves: {error}") from error
            refusal = str(error)
        if refusal == memory.refusal:
            return verdict
        memory.refusal = refusal
        return self._decide(study, memory)

    async def _remove(self, study: Study, memory: "_Memory", verdict: Verdict) -> None:
        """Delete the children that are not wanted (any more).

        As long as nothing was measured, that is also a Job or Deployment whose pods the manifest
        wants otherwise by now. If the study is stalled, it is also one of which no worker runs and
        whose defaults the operator has changed. Once it is gone, it is missing and is made.
        """
        have = self._cache.children(study.uid)
        wanted = {_place(manifest): manifest for manifest in self._wanted(study, verdict)}
        surplus = [place for place in have if place[0] != "Pod" and place not in wanted]
        late = [place for place in wanted if place in have and outdated(wanted[place], have[place])]
        totals = [report.total for report in memory.reports.values()]
        measured = study.status.progress is not None or any(t is not None for t in totals)
        if not measured and not verdict.stage.ended:
            surplus += late
            late = []
            if verdict.stage is Stage.STALLED:
                pods = self._pods(study.uid)
                made = [place for place in wanted if place in have and place not in surplus]
                surplus += [at for at in made if superseded(wanted[at], have[at], pods)]
        memory.late = [kind for kind, _ in late]
        await asyncio.gather(
            *(self._cluster.delete(kind, study.namespace, name) for kind, name in surplus)
        )

    async def _tell(self, study: Study, memory: "_Memory", verdict: Verdict) -> Study:
        """Write the status where it changed, and an event where the reason did."""
        observed = self._observed(study, memory)
        results = await self._results(study, memory)
        made = conditions.status(study, verdict, observed, _now(), results)
        self._metrics.study(study, made, memory.reported)
        while memory.restarts:
            role, sentence = memory.restarts.pop(0)
            await self._event(study, f"{role.title()}Restarted", sentence, warning=True)
        if made == study.status:
            return study
        if conditions.only_figures(study.status, made) and not memory.may_write(_now()):
            return study
        before = {c.type: (c.reason, c.message) for c in study.status.conditions}.get("Ready")
        memory.written = _now()
        body = await self._cluster.patch_status(
            study.namespace, study.name, conditions.as_patch(made)
        )
        self._cache.put(KIND, body)
        resumed = verdict.stage is Stage.RUNNING and before != (verdict.reason, verdict.message)
        if before is None or verdict.reason != before[0] or resumed:
            warning = verdict.stage in (Stage.STALLED, Stage.FAILED)
            await self._event(study, verdict.reason, verdict.message, warning=warning)
        return read(body)

    def _next(self, study: Study, verdict: Verdict) -> float | None:
        match verdict.stage:
            case Stage.SUSPENDED:
                return None
            case Stage.SUCCEEDED | Stage.FAILED:
                left = self._until_removal(study)
                return left if left is not None and left > 0 else None
            case Stage.STALLED:
                return min(_PATIENCE, study.spec.pending_deadline_seconds or _PATIENCE)
            case _:
                return float(self._settings.poll_seconds)

    # --------------------------------------------------------------------------------- helpers

    def _wanted(self, study: Study, verdict: Verdict) -> list[Manifest]:
        """The children that the study should have now."""
        if verdict.stage is Stage.SUSPENDED:
            return (
                [children.manifest_map(study, self._settings, self._authority)]
                if study.status.start_time
                else []
            )
        if verdict.stage.ended:
            left = self._until_removal(study)
            if left is not None and left <= 0:
                return []
            observed = self._cache.children(study.uid)
            job = next((body for (kind, _), body in observed.items() if kind == "Job"), None)
            held = lifecycle.to_stop(job, self._pods(study.uid), study.edges)
            stop = verdict.stage is Stage.FAILED or held
            return children.remains(study, self._settings, self._authority, stop=stop)
        return children.everything(study, self._settings, self._authority)

    def _until_removal(self, study: Study) -> float | None:
        """Seconds until the remains go; None where they stay."""
        ttl, end = study.spec.ttl_seconds_after_finished, study.status.completion_time
        if ttl is None:
            return None
        return ((end or _now()) + timedelta(seconds=ttl) - _now()).total_seconds()

    async def _warnings(self, study: Study) -> dict[str, str]:
        """Lasting warnings of Kubernetes about what should have come up seconds ago, by uid."""
        if study.status.completion_time or study.spec.suspend:
            return {}
        pods = self._pods(study.uid)
        late: list[tuple[Body, Sequence[str]]]
        late = [(pod, warning_events.OF_PODS) for pod in pods if lifecycle.creating(pod)]
        if not lifecycle.Observed(pods=pods).of(Role.EDGE):
            have = self._cache.children(study.uid)
            late += [
                (body, warning_events.OF_JOBS) for (kind, _), body in have.items() if kind == "Job"
            ]
        found: dict[str, str] = {}
        for body, components in late:
            metadata = body["metadata"]
            made = datetime.fromisoformat(metadata["creationTimestamp"])
            if (_now() - made).total_seconds() >= _SOON:
                events = await self._cluster.events(study.namespace, metadata["uid"])
                words = warning_events.lasting(events, components, workers.role_of(body))
                found |= {} if words is None else {metadata["uid"]: words}
        return found

    async def _apply(self, study: Study, manifests: Sequence[Manifest]) -> None:
        """Make or patch children side by side."""

        async def one(manifest: Manifest) -> None:
            part = patchable(manifest)
            known = part is not manifest and _place(manifest) in self._cache.children(uid)
            work = self._cluster.patch(part) if known else self._cluster.apply(manifest)
            try:
                self._cache.put(manifest["kind"], await work)
            except Refused as error:
                if error.status in _IN_THE_WAY:
                    await self._remove_orphan(manifest)
                raise

        uid = study.uid
        await asyncio.gather(*map(one, manifests))

    async def _remove_orphan(self, manifest: Manifest) -> None:
        """Delete the object in a child's place if the operator made it for a study that is gone.

        `kubectl delete --cascade=orphan` leaves such ones. Raises Unavailable if there was one.
        """
        kind, name = _place(manifest)
        space = manifest["metadata"]["namespace"]
        selector = f"app.kubernetes.io/managed-by={names.MANAGER},{names.UID_LABEL}"
        for body in await self._cluster.list(kind, space, selector):
            uid = body["metadata"]["labels"][names.UID_LABEL]
            if body["metadata"]["name"] == name and self._cache.study(uid) is None:
                await self._cluster.delete(kind, space, name)
                message = f"{kind} {name} of an earlier study is deleted"
                raise Unavailable(message)

    async def _credentials(
        self, study: Study, memory: "_Memory", verdict: Verdict, *, anew: bool
    ) -> None:
        """Make the secret where it may be missing; one that is there stays.

        It cannot be looked at, only made: at first, after the ConfigMap that it leaves with was
        made `anew`, and now and then while pods wait, as they do for one that was deleted.
        """
        if verdict.stage.ended or verdict.stage is Stage.SUSPENDED:
            return
        if not anew and memory.credentials is not None:
            waits = verdict.stage in (Stage.STARTING, Stage.STALLED, Stage.WAITING)
            if not waits or (_now() - memory.credentials).total_seconds() < _PATIENCE:
                return
        name = children.manifest_map(study, self._settings, self._authority)["metadata"]["name"]
        owner = self._cache.children(study.uid).get(("ConfigMap", name))
        if owner is None:
            return
        reference = {"name": name, "uid": owner["metadata"]["uid"]}
        try:
            hosts, seed = children.server_hosts(study), self._keys.authority(study.uid)
            tls = mint(hosts, _now(), seed=seed) if study.uses_tls else None
            await self._cluster.create(children.secret(study, self._keys, tls, reference))
        except Refused as error:
            if error.status != 409:
                raise
        memory.credentials = _now()

    def _configured(self, uid: str) -> Live | None:
        """The live settings in the ConfigMap; None where it is missing or cannot be read."""
        for (kind, _), body in self._cache.children(uid).items():
            if kind == "ConfigMap":
                return live_in(body.get("data", {}).get("manifest.yaml", ""))
        return None

    def _pods(self, uid: str) -> list[Body]:
        have = self._cache.children(uid).items()
        return present(
            [body for (kind, _), body in have if kind == "Pod"],
            [body for (kind, _), body in have if kind in WITH_PODS],
        )

    def _all_pods(self, uid: str) -> list[Body]:
        """All pods, also those on their way out and those that went since the last reconcile."""
        have = self._cache.children(uid).items()
        left = self._cache.take_departed(uid)
        return [*left, *(body for (kind, _), body in have if kind == "Pod")]

    def _observed(self, study: Study, memory: "_Memory") -> Observed:
        have = self._cache.children(study.uid)
        of = {kind: body for (kind, _), body in have.items() if kind in WITH_PODS}
        return Observed(
            pods=self._pods(study.uid),
            job=of.get("Job"),
            deployment=of.get("Deployment"),
            reports=dict(memory.reports),
            stale=memory.stale,
            silent=self._silent(study.uid, memory),
            workers=memory.workers,
            refusal=memory.refusal,
            warnings=memory.warnings,
            degraded=memory.degraded,
        )

    def _silent(self, uid: str, memory: "_Memory") -> dict[str, datetime]:
        """Edges that have been silent for long, less those whose container has just begun."""
        found = lifecycle.silent(self._pods(uid), memory.reported, memory.seen, _now())
        return {edge: since for edge, since in found.items() if edge not in memory.stale}

    async def _results(self, study: Study, memory: "_Memory") -> StoredResults | None:
        archives = await asyncio.to_thread(self._store.archives, study.uid)
        edges, claim = {a.name for a in archives} - {LOGS}, study.spec.results.claim
        if claim is not None:
            # The claim cannot be looked at: what was reported once stands.
            known = study.status.results.edges if study.status.results else ()
            kept = {edge for edge, r in memory.reports.items() if r.results == "claim"}
            edges = kept.union(known)
        elif not archives:
            return None
        if archives:
            await asyncio.to_thread(self._store.note, study.uid, study.namespace, study.name)
        return StoredResults(
            edges=tuple(sorted(edges)),
            archives=archives,
            claim=claim,
            **(self._way_to(study) if archives else {}),
        )

    def _way_to(self, study: Study) -> dict[str, str]:
        """How users get to the archives of a study in the results store."""
        return {
            "path": f"{RESULTS_PATH}/{study.namespace}/{study.name}/{study.uid}",
            "service": f"{self._settings.namespace}/{self._settings.service}",
            "authority": self._authority,
        }

    def _secrets(self, uid: str) -> tuple[str, ...]:
        """The tokens in the environment of the workers."""
        return self._keys.session(uid), self._keys.control(uid)

    async def _cannot_read(self, body: Body, why: str) -> None:
        """A manifest that the API server took and this operator does not understand."""
        metadata = body["metadata"]
        status = conditions.unreadable(body, why, _now())
        space, name = metadata["namespace"], metadata["name"]
        shown = ExperimentStatus.model_validate(status)
        self._metrics.unreadable(metadata["uid"], space, name, shown)
        if (body.get("status") or {}).get("conditions") != status["conditions"]:
            patched = await self._cluster.patch_status(space, name, status)
            self._cache.put(KIND, patched)

    async def _event(
        self, study: Study, reason: str, message: str, *, warning: bool = False
    ) -> None:
        try:
            await self._cluster.create(event(study, reason, message, warning=warning, now=_now()))
        except ClusterError as error:  # events are a courtesy
            log.warning("event %s of %s was not posted: %s", reason, study.name, error)


class _Memory:
    """What the operator remembers of a study beyond the cluster; it can be lost without harm."""

    def __init__(self, study: Study, configured: Live | None) -> None:
        self.reports: dict[str, WorkerReport] = {}
        self.runs: dict[str, str] = {}
        """The run of a container that made each report."""

        self.ended: set[str] = set()
        """Runs whose last report was taken over."""

        self.stale: frozenset[str] = frozenset()
        """Edges whose report is of an earlier run than the present one."""

        self.reported: dict[str, float] = {}
        """When each edge last answered, as a Unix time."""

        self.workers: Sequence[Worker] = study.status.workers
        self.restarts: list[tuple[Role, str]] = []
        """Restarts without an event so far."""

        self.logged: set[str] | None = None
        """Names of the logs in the results store; None if not known."""

        self.seen = _running_at(study)
        """From when edges count as silent that this operator has not heard, as a Unix time."""

        self.refusal: str | None = None
        self.warnings: dict[str, str] = {}
        self.late: Sequence[str] = ()
        """Kinds of children whose pods the manifest wants otherwise, too late."""

        self.configured = configured
        """The settings with which edges start, as the ConfigMap had them last."""

        self.used = configured
        """The settings that the edges took last, as far as is known."""

        self.unheard = False
        """Whether an edge runs that could not say yet what it thinks of the settings."""

        self.said: dict[str, tuple[int, str]] = {}
        """What each edge said last against settings, and of which generation."""

        self.asked = study.live
        """The settings that `answers` and `objection` are about."""

        self.answers: dict[str, Answer] = {}
        self.objection = conditions.objection(study)
        """Why the settings are not in force; None where nobody refuses them."""

        self.written: datetime | None = None
        """When the status was written."""

        self.credentials: datetime | None = None
        """When the secret was seen to."""

    def hear(self, found: Mapping[str, tuple[str, WorkerReport]]) -> None:
        """Take over reports and the runs that made them, by edge."""
        for edge, (run, report) in found.items():
            self.runs[edge], self.reports[edge] = run, report

    def hear_last(self, found: Mapping[str, tuple[str, WorkerReport]]) -> None:
        """Take over last reports, each once: later ones of the same edge count from then on."""
        self.hear({edge: last for edge, last in found.items() if last[0] not in self.ended})
        self.ended |= {run for run, _ in found.values()}

    def may_write(self, now: datetime) -> bool:
        """Whether new figures are due in the status."""
        return self.written is None or (now - self.written).total_seconds() >= _WRITE_SECONDS

    def turn_to(self, live: Live) -> None:
        """Forget what was said to other settings."""
        if live != self.asked:
            self.asked, self.answers, self.objection = live, {}, None

    @property
    def held(self) -> bool:
        """Whether edges that start must not have the settings yet."""
        return self.unheard or self.objection is not None

    @property
    def degraded(self) -> tuple[str, str] | None:
        """What of the manifest is not in force: reason and sentence."""
        if self.objection is not None:
            return conditions.SETTINGS_REFUSED, self.objection
        if self.late:
            return conditions.PODS_STAY, conditions.pods_stay(self.late)
        return None


def _running_at(study: Study) -> float | None:
    """When edges were running that had reported: now, or since when they are known as silent."""
    ready = next((c for c in study.status.conditions if c.type == "Ready"), None)
    if ready is None or study.status.progress is None:
        return None
    if ready.reason == "EdgeUnreachable":
        return ready.last_transition_time.timestamp() - lifecycle.SILENT_SECONDS
    return _now().timestamp() if study.status.state == Stage.RUNNING else None


def _logs_of(pod: Body) -> Iterator[tuple[str, tuple[str, str, bool]]]:
    """Name of each log of a worker's pod; of the pod, its container, and whether the one before."""
    name, role = pod["metadata"]["name"], workers.role_of(pod)
    if role is None or not workers.has_started(pod):
        return
    yield f"{name}.log", (name, role, False)
    if workers.container(pod).get("restartCount"):
        yield f"{name}.previous.log", (name, role, True)


def _place(manifest: Manifest) -> Place:
    return manifest["kind"], manifest["metadata"]["name"]


def _settling(study: Study, error: Refused) -> bool:
    """Whether a child may have been refused for another object of its name that is going."""
    start = study.status.start_time or _now()
    return error.status in _IN_THE_WAY and (_now() - start).total_seconds() < _SETTLING


def _now() -> datetime:
    return datetime.now(UTC)
