"""The observed state of one study. Frozen: each action returns the next state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from splittracr.experiment.contracts import Role
from splittracr.experiment.settings import Live
from splittracr.experiment.status import StoredArchive, Worker
from splittracr_operator import drift, lifecycle, live
from splittracr_operator.cache import Place
from splittracr_operator.lifecycle import Observed, Stage
from splittracr_operator.live import Answer, Rollout
from splittracr_operator.reports import (
    SILENT_SECONDS,
    Reports,
    finished_edges,
    silent,
    silent_outside,
)
from splittracr_operator.settings import Settings
from splittracr_operator.study import Body, Study
from splittracr_operator.warning_events import OF_JOBS, OF_PODS
from splittracr_operator.workers import role_of

_SOON = 3.0
"""Seconds in which Kubernetes usually creates a Job's first pod and starts its container."""


@dataclass(frozen=True)
class Done:
    """The actions of this reconcile so far. It repeats none of them: the next one retries."""

    status: Mapping[str, object] | None = None
    """The patch of the status that was written last."""

    answers: Mapping[str, Answer] | None = None
    """The answers of edges to the live settings; None if none were sent."""

    applied: frozenset[Place] = frozenset()
    """Children that were applied, patched or refused."""

    deleted: frozenset[Place] = frozenset()


@dataclass(frozen=True, kw_only=True)
class State:
    """A study, its children, and the results of earlier reconciles.

    Nothing here has to survive a restart: the operator then begins with `initial`.
    """

    settings: Settings
    authority: str
    """Certificate (PEM) that edges trust for the results store."""

    study: Study
    rollout: Rollout
    children: Mapping[Place, Body] = field(default_factory=dict)
    """The study's objects by kind and name, pods included."""

    reports: Reports = field(default_factory=Reports)
    workers: Sequence[Worker] = ()
    posted: Sequence[Worker] = ()
    """The workers whose restarts have been posted as events."""

    warnings: Mapping[str, str] = field(default_factory=dict)
    """Lasting warning events about a Job without a pod, or a pod that does not start, by uid."""

    joined: frozenset[str] = frozenset()
    """The edges outside of the cluster that have joined."""

    outside: Mapping[str, Answer | None] = field(default_factory=dict)
    """The edges outside that report, with their answer to the settings of this generation."""

    archives: Sequence[StoredArchive] = ()
    """The study's archives in the results store."""

    logged: frozenset[str] | None = None
    """Names of the logs in the results store; None if not known."""

    refusals: Mapping[Place, str] = field(default_factory=dict)
    """The API server's message about each child that it refuses."""

    running_since: float | None = None
    """Unix time from which an edge counts as silent if it has not answered this operator."""

    written: datetime | None = None
    """Time of the last write of the status."""

    secret_made: datetime | None = None
    """Time at which the secret was created or found to exist."""

    done: Done = field(default_factory=Done)

    @cached_property
    def pods(self) -> list[Body]:
        """The pods of the current Job and Deployment, without those being deleted."""
        return drift.current(
            self.of_kind("Pod"), [body for kind in drift.WITH_PODS for body in self.of_kind(kind)]
        )

    @cached_property
    def job(self) -> Body | None:
        return next(iter(self.of_kind("Job")), None)

    def of_kind(self, wanted: str) -> list[Body]:
        """The children of one kind."""
        return [body for (kind, _), body in self.children.items() if kind == wanted]

    def observed(self, refusal: str | None, now: datetime) -> Observed:
        """The input of the rules of `lifecycle`; `refusal` is about a child that still differs."""
        stale = self.reports.stale(self.pods)
        answered, seen = self.reports.answered, self.running_since
        quiet = silent(self.pods, answered, seen, now)
        unfinished = self.joined - finished_edges(self.reports.latest)
        quiet |= silent_outside(unfinished, answered, seen, now)
        return Observed(
            pods=self.pods,
            job=self.job,
            deployment=next(iter(self.of_kind("Deployment")), None),
            reports=dict(self.reports.latest),
            stale=stale,
            # A container that has just started need not have answered.
            silent={edge: since for edge, since in quiet.items() if edge not in stale},
            joined=self.joined,
            archived=frozenset(archive.name for archive in self.archives),
            workers=self.workers,
            refusal=refusal,
            warnings=self.warnings,
        )


def initial(
    study: Study, children: Mapping[Place, Body], settings: Settings, authority: str, now: datetime
) -> State:
    """The state after a start of the operator, from the cluster alone."""
    known = tuple(worker for worker in study.status.workers if not worker.outside)
    return State(
        settings=settings,
        authority=authority,
        study=study,
        children=children,
        rollout=live.initial(study, configured(children)),
        workers=known,
        posted=known,
        running_since=_running_since(study, now),
    )


def configured(children: Mapping[Place, Body]) -> Live | None:
    """The live settings in the ConfigMap; None if it is missing or cannot be read."""
    maps = [body for (kind, _), body in children.items() if kind == "ConfigMap"]
    return live.settings_in(maps[0].get("data", {}).get("manifest.yaml", "")) if maps else None


def to_inspect(state: State, now: datetime) -> list[tuple[Body, Sequence[str]]]:
    """Objects about which Kubernetes may have posted warnings, with the components that post them.

    These are pods that do not start and a Job without a pod, a few seconds after their creation.
    """
    if state.study.status.completion_time or state.study.spec.suspend:
        return []
    late: list[tuple[Body, Sequence[str]]]
    late = [(pod, OF_PODS) for pod in state.pods if lifecycle.creating(pod)]
    if state.job is not None and not any(role_of(pod) == Role.EDGE for pod in state.pods):
        late.append((state.job, OF_JOBS))
    return [(body, parts) for body, parts in late if _age(body, now) >= _SOON]


def _age(body: Body, now: datetime) -> float:
    made = datetime.fromisoformat(body["metadata"]["creationTimestamp"])
    return (now - made).total_seconds()


def _running_since(study: Study, now: datetime) -> float | None:
    """Unix time at which edges that had reported ran, from the status; None if none did."""
    ready = next((c for c in study.status.conditions if c.type == "Ready"), None)
    if ready is None or study.status.progress is None:
        return None
    if ready.reason == "EdgeUnreachable":
        return ready.last_transition_time.timestamp() - SILENT_SECONDS
    return now.timestamp() if study.status.state == Stage.RUNNING else None
