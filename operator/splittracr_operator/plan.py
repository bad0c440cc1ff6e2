"""Plans the next actions for a study from its state. Pure.

`plan` calls the rules in order and returns the first plan. Its actions change the state, and the
reconcile plans again until nothing is left to do now. So the order is a guarantee: the status of
an ended study is written before anything is deleted, logs are kept before pods are deleted, and
edges check live settings before the ConfigMap gets them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from splittracr.experiment.contracts import RESULTS_PATH
from splittracr.experiment.status import (
    LOGS,
    Condition,
    ExperimentStatus,
    JoinPoint,
    StoredResults,
    Worker,
)
from splittracr_operator import children, conditions, lifecycle, live, workers
from splittracr_operator.cache import Place
from splittracr_operator.drift import WITH_PODS, differs, outdated, patchable, superseded
from splittracr_operator.events import event
from splittracr_operator.lifecycle import Stage, Verdict
from splittracr_operator.live import Rollout
from splittracr_operator.objects import Manifest
from splittracr_operator.state import State
from splittracr_operator.study import Body, Study
from splittracr_operator.workers import container, has_started, role_of

RETRY_SECONDS = 30.0
"""Seconds until a stalled study is reconciled again, and between two tries at its secret."""

WRITE_SECONDS = 5.0
"""Seconds between two writes of a status in which only figures change."""

SETTLE_SECONDS = 20.0
"""Seconds after the start in which children of an earlier study may still be being deleted."""

NAME_TAKEN = (409, 422)
"""Statuses with which the API server refuses a child if another object has its name."""

_STAGES = (("ConfigMap",), ("Secret",), ("NetworkPolicy", "Service"), WITH_PODS)
"""Kinds of children in the order in which they are created."""


@dataclass(frozen=True)
class Log:
    """The log of a worker's container; `previous` is of the one before its last restart."""

    pod: str
    container: str
    previous: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Actions that may be carried out now, and the parts of the state that they change."""

    status: Mapping[str, Any] | None = None
    """A merge patch of the study's status."""

    events: Sequence[Manifest] = ()
    posted: Sequence[Worker] | None = None
    """The workers whose restarts are among the events."""

    steer: Mapping[str, str] = field(default_factory=dict)
    """Address of each edge that gets the live settings."""

    rollout: Rollout | None = None
    """The new state of the rollout of live settings."""

    logs: Mapping[str, Log] = field(default_factory=dict)
    """Logs to keep in the results store, by name."""

    apply: Sequence[Manifest] = ()
    patch: Sequence[Manifest] = ()
    secret: Mapping[str, str] | None = None
    """Create the secret, with this owner (name and uid of the ConfigMap)."""

    delete: Sequence[Place] = ()
    shown: ExperimentStatus | None = None
    """The study's status for the metrics, if nothing is to do now."""

    next_run: float | None = None
    """Seconds until the next reconcile if nothing is to do now; None waits for a change."""

    @property
    def waits(self) -> bool:
        """Whether nothing is to do now."""
        return self.shown is not None


@dataclass(frozen=True)
class Case:
    """A state, and values derived from it. The input of the rules."""

    state: State
    now: datetime

    @property
    def study(self) -> Study:
        return self.state.study

    @cached_property
    def verdict(self) -> Verdict:
        seen = self.state.observed(_refusal(self.state), self.now)
        return lifecycle.decide(self.study, seen, self.now)

    @property
    def stops(self) -> bool:
        """Whether the study has ended or is suspended."""
        return self.verdict.stage.ended or self.verdict.stage is Stage.SUSPENDED

    @cached_property
    def wanted(self) -> dict[Place, Manifest]:
        """The children that the study should have now, without the secret."""
        return {_place(manifest): manifest for manifest in _wanted(self)}

    @cached_property
    def status(self) -> ExperimentStatus:
        """The study's status as it should be."""
        state, seen = self.state, self.state.observed(None, self.now)
        made = conditions.status(
            self.study, self.verdict, seen, self.now, _results(state), _degraded(self)
        )
        return made.model_copy(update={"join": _join(state)})


def plan(state: State, now: datetime) -> Plan:
    """The next actions. If there are none, when to reconcile again."""
    case = Case(state, now)
    for rule in RULES:
        found = rule(case)
        if found is not None:
            return found
    return Plan(shown=case.status, next_run=_next_run(case))


def is_transient(study: Study, refusal: int, now: datetime) -> bool:
    """Whether a refusal (HTTP status) of a child ends with the deletion of an earlier study."""
    start = study.status.start_time or now
    return refusal in NAME_TAKEN and (now - start).total_seconds() < SETTLE_SECONDS


# ------------------------------------------------------------------------------------- the rules


def note_start(case: Case) -> Plan | None:
    """Write the start before any child is created: from then on some fields cannot change."""
    if case.study.status.start_time is not None or case.verdict.stage is Stage.SUSPENDED:
        return None
    stamp = case.now.replace(microsecond=0).isoformat().replace("+00:00", "Z")
    return Plan(status={"startTime": stamp})


def write_end(case: Case) -> Plan | None:
    """Write the end of a study before its children are deleted."""
    return write_status(case) if case.verdict.stage.ended else None


def steer(case: Case) -> Plan | None:
    """Send the live settings to edges with older ones, and post an event for each new answer."""
    state, study = case.state, case.study
    if case.stops:
        return None
    outdated = live.outdated(study, state.reports, state.pods)
    if outdated and state.done.answers is None:
        return Plan(steer=outdated)
    answers = state.done.answers or {}
    rollout = live.update(state.rollout, study, state.reports, state.pods, answers, state.outside)
    if rollout == state.rollout:
        return None
    return Plan(
        rollout=rollout,
        events=[
            event(study, reason, message, warning=reason == live.REFUSED, now=case.now)
            for reason, message in live.events(state.rollout, rollout, study.generation)
        ],
    )


def keep_logs(case: Case) -> Plan | None:
    """Keep the logs of the workers before their pods may be deleted.

    The log of a container that was restarted is kept at once: the node deletes it when the next
    container ends.
    """
    pods = case.state.of_kind("Pod")
    named = (pair for pod in pods for pair in _logs_of(pod, ends=case.stops))
    new = {name: log for name, log in named if name not in (case.state.logged or ())}
    return Plan(logs=new) if new else None


def make(case: Case) -> Plan | None:
    """Create the children that are missing and patch those that differ, stage by stage.

    Stop at a refusal: the children of later stages may need the earlier ones.
    """
    state = case.state
    if any(place in state.refusals for place in state.done.applied):
        return None
    wrong = list(_wrong(case))
    for kinds in _STAGES:
        if "Secret" in kinds:
            owner = _owner_of_secret(case)
            if owner is not None:
                return Plan(secret=owner)
        stage = [manifest for manifest in wrong if manifest["kind"] in kinds]
        if stage:
            known = [m for m in stage if m["kind"] in WITH_PODS and _place(m) in state.children]
            return Plan(
                apply=[manifest for manifest in stage if manifest not in known],
                patch=[patchable(manifest) for manifest in known],
            )
    return None


def remove(case: Case) -> Plan | None:
    """Delete the children that the study should not have.

    Before the first measurement, this includes a Job or Deployment whose pod settings have changed
    in the manifest. If the study is stalled, it includes one without a running worker whose
    defaults have changed in the operator. The next reconcile creates it again.
    """
    state, have = case.state, case.state.children
    unwanted = [place for place in have if place[0] != "Pod" and place not in case.wanted]
    if not case.verdict.stage.ended and not _measured(state):
        unwanted += _outdated(case)
        if case.verdict.stage is Stage.STALLED:
            made = [place for place in case.wanted if place in have and place not in unwanted]
            unwanted += [p for p in made if superseded(case.wanted[p], have[p], state.pods)]
    unwanted = [place for place in unwanted if place not in state.done.deleted]
    return Plan(delete=unwanted) if unwanted else None


def write_status(case: Case) -> Plan | None:
    """Write the status if it has changed, with events for restarts and a new reason."""
    state, study = case.state, case.study
    patch = None if case.status == study.status else conditions.as_patch(case.status)
    same = patch in (None, state.done.status)
    restarts = list(workers.restarts(state.posted, state.workers))
    if not restarts and (same or _may_wait(case)):
        return None
    events = [
        event(study, f"{role.title()}Restarted", message, warning=True, now=case.now)
        for role, message in restarts
    ]
    return Plan(
        status=None if same else patch,
        events=events if same else [*events, *_stage_events(case), *_drift_events(case)],
        posted=state.workers,
    )


RULES: Sequence[Callable[[Case], Plan | None]] = (
    note_start,
    write_end,
    steer,
    keep_logs,
    make,
    remove,
    write_status,
)


# --------------------------------------------------------------------------------------- children


def _wanted(case: Case) -> list[Manifest]:
    state, stage = case.state, case.verdict.stage
    study = _as_it_starts(state)
    if stage is Stage.SUSPENDED:
        started = study.status.start_time is not None
        return [children.manifest_map(study, state.settings, state.authority)] if started else []
    if stage.ended:
        left = _until_removal(study, case.now)
        if left is not None and left <= 0:
            return []
        held = lifecycle.to_stop(state.job, state.pods, study.inside)
        stop = stage is Stage.FAILED or held
        return children.remains(study, state.settings, state.authority, stop=stop)
    return children.everything(study, state.settings, state.authority)


def _as_it_starts(state: State) -> Study:
    """The study with the live settings with which edges may start."""
    configured = state.rollout.configured
    if state.rollout.held and configured is not None:
        return state.study.using(configured)
    return state.study


def _wrong(case: Case) -> Iterator[Manifest]:
    """The children that are missing or differ, without those that this reconcile has tried."""
    state, ended = case.state, case.verdict.stage.ended
    # If the ConfigMap cannot be read, the settings with which an edge may start are unknown.
    unknown = state.rollout.held and state.rollout.configured is None
    for place, manifest in case.wanted.items():
        have = state.children.get(place)
        if place in state.done.applied or place in state.done.deleted:
            continue
        if have is None and ended:  # a Job that a user deleted would run the study again
            continue
        if have is not None and unknown and place[0] == "ConfigMap":
            continue
        if differs(manifest, have):
            yield manifest


def _owner_of_secret(case: Case) -> Mapping[str, str] | None:
    """The ConfigMap (name, uid) that owns a secret which may be missing; None to create no secret.

    The operator may create a secret and not read it. So it tries to create it after a start, after
    the ConfigMap or a pod was created, and every RETRY_SECONDS while pods wait. Pods may run with a
    deleted secret if kubelet has it in its cache.
    """
    state = case.state
    if case.stops or any(kind == "Secret" for kind, _ in state.done.applied):
        return None
    made = any(kind == "ConfigMap" for kind, _ in state.done.applied)
    if state.secret_made is not None and not made and not _has_pod_since(state, state.secret_made):
        waits = case.verdict.stage in (Stage.STARTING, Stage.STALLED, Stage.WAITING)
        if not waits or (case.now - state.secret_made).total_seconds() < RETRY_SECONDS:
            return None
    place = next(place for place in case.wanted if place[0] == "ConfigMap")
    owner = state.children.get(place)
    return None if owner is None else {"name": place[1], "uid": owner["metadata"]["uid"]}


def _has_pod_since(state: State, time: datetime) -> bool:
    """Whether a pod was created after `time`. Kubernetes stores whole seconds."""
    return any(
        datetime.fromisoformat(pod["metadata"]["creationTimestamp"]) > time for pod in state.pods
    )


def _refusal(state: State) -> str | None:
    """The API server's message about a child that it refused and that still differs."""
    if not state.refusals:
        return None
    study = _as_it_starts(state)
    manifests = children.everything(study, state.settings, state.authority)
    wanted = {_place(manifest): manifest for manifest in manifests}
    for place, message in state.refusals.items():
        wrong = place in wanted and differs(wanted[place], state.children.get(place))
        if wrong or place[0] == "Secret":
            return message
    return None


def _outdated(case: Case) -> list[Place]:
    """The Job and the Deployment whose pod settings have changed in the manifest."""
    have = case.state.children
    return [at for at, wanted in case.wanted.items() if at in have and outdated(wanted, have[at])]


def _measured(state: State) -> bool:
    """Whether an edge has reported how many samples it has."""
    totals = [report.total for report in state.reports.latest.values()]
    return state.study.status.progress is not None or any(t is not None for t in totals)


def _until_removal(study: Study, now: datetime) -> float | None:
    """Seconds until the children of an ended study are deleted; None if they stay."""
    ttl, end = study.spec.ttl_seconds_after_finished, study.status.completion_time
    if ttl is None:
        return None
    return ((end or now) + timedelta(seconds=ttl) - now).total_seconds()


def _logs_of(pod: Body, *, ends: bool) -> Iterator[tuple[str, Log]]:
    """The complete logs of a worker's pod, by name. `ends` adds the current container's."""
    name, role = pod["metadata"]["name"], role_of(pod)
    if role is None or not has_started(pod):
        return
    if ends:
        yield f"{name}.log", Log(name, role)
    if restarts := container(pod).get("restartCount"):
        yield f"{name}.{restarts}.log", Log(name, role, previous=True)


def _place(manifest: Manifest) -> Place:
    return manifest["kind"], manifest["metadata"]["name"]


# ----------------------------------------------------------------------------------------- status


def _degraded(case: Case) -> tuple[str, str] | None:
    """Reason and message if a part of the manifest is not in force, or a promise of it is broken.

    Once the study has ended, only the promise counts.
    """
    if not case.verdict.stage.ended:
        if case.state.rollout.refusal is not None:
            return live.REFUSED, case.state.rollout.refusal
        late = _outdated(case) if _measured(case.state) else []
        if late:
            return conditions.PODS_STAY, conditions.pods_stay([kind for kind, _ in late])
    return _drift(case)


def _drift(case: Case) -> tuple[str, str] | None:
    """Reason and message if audits refute the promise of a cascade.

    It stays as it is while an edge starts, which reports no audits, or none has reported.
    """
    reports, before = case.state.reports.latest, _degradation(case.study.status)
    message = conditions.drifted(reports)
    unknown = not reports or any(report.cascade is None for report in reports.values())
    if message is None and unknown and before is not None and before.reason == conditions.DRIFTED:
        message = before.message
    return None if message is None else (conditions.DRIFTED, message)


def _results(state: State) -> StoredResults | None:
    """Where the study's results are; None if there are none."""
    study, claim = state.study, state.study.spec.results.claim
    edges = {archive.name for archive in state.archives} - {LOGS}
    if claim is not None:
        # The operator cannot read the claim: an edge that has reported results once stays listed.
        known = study.status.results.edges if study.status.results else ()
        reports = state.reports.latest.items()
        edges = {edge for edge, report in reports if report.results == "claim"}.union(known)
    elif not state.archives:
        return None
    made = StoredResults(edges=tuple(sorted(edges)), archives=tuple(state.archives), claim=claim)
    if not state.archives:
        return made
    location = {
        "path": f"{RESULTS_PATH}/{study.namespace}/{study.name}/{study.uid}",
        "service": f"{state.settings.namespace}/{state.settings.service}",
        "authority": state.authority,
    }
    return made.model_copy(update=location)


def _join(state: State) -> JoinPoint | None:
    """Where to ask for tokens; None for a study without edges outside of the cluster."""
    if not state.study.outside:
        return None
    service = f"{state.settings.namespace}/{state.settings.service}"
    return JoinPoint(service=service, authority=state.authority)


def _may_wait(case: Case) -> bool:
    """Whether only figures have changed, less than WRITE_SECONDS after the last write."""
    written = case.state.written
    if not conditions.only_figures(case.study.status, case.status) or written is None:
        return False
    return (case.now - written).total_seconds() < WRITE_SECONDS


def _stage_events(case: Case) -> list[Manifest]:
    """An event if the reason has changed, or if the edges measure again."""
    verdict, old = case.verdict, case.study.status.conditions
    before = {c.type: (c.reason, c.message) for c in old}.get("Ready")
    resumed = verdict.stage is Stage.RUNNING and before != (verdict.reason, verdict.message)
    if before is not None and verdict.reason == before[0] and not resumed:
        return []
    warning = verdict.stage in (Stage.STALLED, Stage.FAILED)
    return [event(case.study, verdict.reason, verdict.message, warning=warning, now=case.now)]


def _drift_events(case: Case) -> list[Manifest]:
    """An event if the audits of a cascade now refute its promise, or a new threshold keeps it."""
    before, now = _degradation(case.study.status), _degradation(case.status)
    was, is_drifted = (
        one is not None and one.reason == conditions.DRIFTED for one in (before, now)
    )
    if was == is_drifted or now is None:
        return []
    if is_drifted:
        return [event(case.study, now.reason, now.message, warning=True, now=case.now)]
    message = conditions.recalibrated(case.state.reports.latest)
    if message is None:
        return []
    return [event(case.study, conditions.RECALIBRATED, message, warning=False, now=case.now)]


def _degradation(status: ExperimentStatus) -> Condition | None:
    return next((c for c in status.conditions if c.type == conditions.DEGRADED), None)


def _next_run(case: Case) -> float | None:
    match case.verdict.stage:
        case Stage.SUSPENDED:
            return None
        case Stage.SUCCEEDED | Stage.FAILED:
            left = _until_removal(case.study, case.now)
            return left if left is not None and left > 0 else None
        case Stage.STALLED:
            return min(RETRY_SECONDS, case.study.spec.pending_deadline_seconds or RETRY_SECONDS)
        case _:
            return float(case.state.settings.poll_seconds)
