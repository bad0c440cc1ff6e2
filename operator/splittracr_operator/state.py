"""What the operator knows of one study at one time. Frozen: each action makes the next state."""

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
from splittracr_operator.reports import SILENT_SECONDS, Heard, silent
from splittracr_operator.settings import Settings
from splittracr_operator.study import Body, Study
from splittracr_operator.warning_events import OF_JOBS, OF_PODS
from splittracr_operator.workers import role_of

_SOON = 3.0
"""Seconds in which Kubernetes makes a Job's first pod and starts its container, if it can."""


@dataclass(frozen=True)
class Done:
    """What this reconcile has done. It does nothing twice: the next one tries again."""

    status: Mapping[str, object] | None = None
    """The patch of the status that was written last."""

    answers: Mapping[str, Answer] | None = None
    """What edges answered to the live settings; None if they were not asked."""

    applied: frozenset[Place] = frozenset()
    """Children that were applied, patched or refused."""

    deleted: frozenset[Place] = frozenset()


@dataclass(frozen=True, kw_only=True)
class State:
    """A study, its children and what is remembered of earlier reconciles.

    Everything that is remembered can be lost without harm: an operator that restarts begins with
    `first`.
    """

    settings: Settings
    authority: str
    """Certificate (PEM) that edges trust for the results store."""

    study: Study
    rollout: Rollout
    children: Mapping[Place, Body] = field(default_factory=dict)
    """The study's objects by kind and name, pods included."""

    heard: Heard = field(default_factory=Heard)
    workers: Sequence[Worker] = ()
    posted: Sequence[Worker] = ()
    """The workers whose restarts have had their events."""

    warnings: Mapping[str, str] = field(default_factory=dict)
    """Lasting warning events about a Job without a pod, or a pod that does not start, by uid."""

    archives: Sequence[StoredArchive] = ()
    """The study's archives in the results store."""

    logged: frozenset[str] | None = None
    """Names of the logs in the results store; None if not known."""

    refusals: Mapping[Place, str] = field(default_factory=dict)
    """The API server's message about each child that it refused last."""

    running_since: float | None = None
    """Unix time from which an edge counts as silent that has not answered this operator."""

    written: datetime | None = None
    """When the status was written last."""

    secret_made: datetime | None = None
    """When the secret was made, or found to be there."""

    done: Done = field(default_factory=Done)

    @cached_property
    def pods(self) -> list[Body]:
        """The pods of the present Job and Deployment, less those on their way out."""
        return drift.present(
            self.of_kind("Pod"), [body for kind in drift.WITH_PODS for body in self.of_kind(kind)]
        )

    @cached_property
    def job(self) -> Body | None:
        return next(iter(self.of_kind("Job")), None)

    def of_kind(self, wanted: str) -> list[Body]:
        """The children of one kind."""
        return [body for (kind, _), body in self.children.items() if kind == wanted]

    def observed(self, refusal: str | None, now: datetime) -> Observed:
        """What the rules of `lifecycle` see; `refusal` is of a child that is still wrong."""
        stale = self.heard.stale(self.pods)
        quiet = silent(self.pods, self.heard.answered, self.running_since, now)
        return Observed(
            pods=self.pods,
            job=self.job,
            deployment=next(iter(self.of_kind("Deployment")), None),
            reports=dict(self.heard.reports),
            stale=stale,
            # A container that has just begun need not have answered.
            silent={edge: since for edge, since in quiet.items() if edge not in stale},
            workers=self.workers,
            refusal=refusal,
            warnings=self.warnings,
        )


def first(
    study: Study, children: Mapping[Place, Body], settings: Settings, authority: str, now: datetime
) -> State:
    """The state as an operator finds it that has just started."""
    return State(
        settings=settings,
        authority=authority,
        study=study,
        children=children,
        rollout=live.first(study, configured(children)),
        workers=study.status.workers,
        posted=study.status.workers,
        running_since=_running_since(study, now),
    )


def configured(children: Mapping[Place, Body]) -> Live | None:
    """The live settings in the ConfigMap; None if it is missing or cannot be read."""
    maps = [body for (kind, _), body in children.items() if kind == "ConfigMap"]
    return live.settings_in(maps[0].get("data", {}).get("manifest.yaml", "")) if maps else None


def to_inspect(state: State, now: datetime) -> list[tuple[Body, Sequence[str]]]:
    """Objects about which Kubernetes may have posted warnings, with the components in charge.

    These are pods that do not start and a Job without a pod, some seconds after they were made.
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
    """When edges ran that had reported: now, or since when the status calls them unreachable."""
    ready = next((c for c in study.status.conditions if c.type == "Ready"), None)
    if ready is None or study.status.progress is None:
        return None
    if ready.reason == "EdgeUnreachable":
        return ready.last_transition_time.timestamp() - SILENT_SECONDS
    return now.timestamp() if study.status.state == Stage.RUNNING else None
