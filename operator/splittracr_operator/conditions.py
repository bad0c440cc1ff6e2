"""Builds the status of a study from a verdict: conditions, figures and columns. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from splittracr.experiment.contracts import Role
from splittracr.experiment.figures import ReportedStatus, join
from splittracr.experiment.report import Phase, WorkerReport
from splittracr.experiment.spec import Mode
from splittracr.experiment.status import Condition, ExperimentStatus, StoredResults, Worker
from splittracr_operator.lifecycle import Observed, Stage, Verdict
from splittracr_operator.study import Body, Study

Truth = Literal["True", "False", "Unknown"]
Patch = dict[str, Any]
"""A merge patch of a status."""

DEGRADED, PODS_STAY, DRIFTED = "Degraded", "PodsNotReplaced", "CascadeDrifted"
RECALIBRATED = "CascadeRecalibrated"
"""Reason of an event; the condition Degraded has ended."""

CONDITIONS: Mapping[str, Mapping[Stage, Truth]] = {
    "Ready": dict.fromkeys((Stage.RUNNING, Stage.SUCCEEDED, Stage.SUSPENDED), "True"),
    "Progressing": dict.fromkeys((Stage.STARTING, Stage.RUNNING, Stage.WAITING), "True"),
    "Reconciling": dict.fromkeys((Stage.STARTING, Stage.WAITING), "True"),
    "Succeeded": {
        Stage.SUCCEEDED: "True",
        **dict.fromkeys(
            (Stage.SUSPENDED, Stage.STARTING, Stage.STALLED, Stage.RUNNING, Stage.WAITING),
            "Unknown",
        ),
    },
    "Stalled": dict.fromkeys((Stage.STALLED, Stage.FAILED), "True"),
    "Suspended": {Stage.SUSPENDED: "True"},
}
"""The status of each condition in each stage; False if the stage is missing here.

One table, so that conditions cannot contradict each other. Tools that use kstatus read Stalled as
failed, else Reconciling or no Ready as in progress, else Ready as current.
"""

_OTHERWISE: Mapping[str, tuple[str, str]] = {
    "Reconciling": ("Reconciled", "The operator does not wait for a worker."),
    "Succeeded": ("NotEnded", "The study has not ended."),
    "Stalled": ("NotStalled", "Nothing blocks the study."),
    "Suspended": ("NotSuspended", "The study is not suspended."),
    DEGRADED: ("AsSpecified", "The whole manifest is in force."),
}
"""Reason and message of a condition that does not hold."""


def status(
    study: Study,
    verdict: Verdict,
    observed: Observed,
    now: datetime,
    results: StoredResults | None,
    degraded: tuple[str, str] | None = None,
) -> ExperimentStatus:
    """The new status. Figures without a new report keep their last value.

    `degraded` has reason and message if a part of the manifest is not in force, or a promise of it
    is broken.
    """
    before = study.status
    reports = list(observed.reports.values())
    stage = verdict.stage
    ended = now.replace(microsecond=0) if stage.ended else None
    partition, running = study.spec.partition, stage is Stage.RUNNING
    swept = stage.ended and partition.mode is Mode.SWEEP
    figures = join(reports, before, partition, running=running, swept=swept)
    return ExperimentStatus(
        observed_generation=study.generation,
        state=str(stage),
        conditions=updated(before, study.generation, verdict, now, degraded),
        start_time=before.start_time,
        completion_time=before.completion_time or ended,
        **dict(figures),
        placement=before.placement
        if stage.ended
        else _placement(study, observed) or before.placement,
        workers=() if stage is Stage.SUSPENDED else (*observed.workers, *_outside(observed)),
        results=results,
    )


def updated(
    before: ExperimentStatus,
    generation: int,
    verdict: Verdict,
    now: datetime,
    degraded: tuple[str, str] | None = None,
) -> tuple[Condition, ...]:
    """All conditions. `lastTransitionTime` changes only if `status` does.

    `degraded` names the part of the manifest that is not in force (reason, message).
    """
    old = {condition.type: condition for condition in before.conditions}
    facts = {kind: _fact(kind, verdict) for kind in CONDITIONS}
    facts[DEGRADED] = ("False", *_OTHERWISE[DEGRADED])
    if degraded is not None:
        facts[DEGRADED] = ("True", *degraded)
    made = []
    for kind, (truth, reason, message) in facts.items():
        same = kind in old and old[kind].status == truth
        since = old[kind].last_transition_time if same else now.replace(microsecond=0)
        made.append(
            Condition(
                type=kind,
                status=truth,
                observed_generation=generation,
                last_transition_time=since,
                reason=reason,
                message=message[:4096],
            )
        )
    return tuple(made)


def _fact(kind: str, verdict: Verdict) -> tuple[Truth, str, str]:
    """Status, reason and message of a condition."""
    stage = verdict.stage
    truth = CONDITIONS[kind].get(stage, "False")
    failed = kind == "Succeeded" and stage.ended
    if kind in _OTHERWISE and truth != "True" and not failed:
        return truth, *_OTHERWISE[kind]
    return truth, verdict.reason, verdict.message


def only_figures(before: ExperimentStatus, made: ExperimentStatus) -> bool:
    """Whether only figures differ, of a study whose edges have reported before."""
    if before.progress is None or made.completion_time is not None:
        return False
    return made == before.model_copy(
        update={name: getattr(made, name) for name in ReportedStatus.model_fields}
    )


def pods_stay(kinds: Sequence[str]) -> str:
    """Message about a Job or Deployment (`kinds`) whose pods are not replaced."""
    fields = {"Job": "spec.edge.pod", "Deployment": "spec.server.pod"}
    changed = " and ".join(fields[kind] for kind in kinds)
    return (
        f"{changed} changed after an edge had reported: "
        "the pods are not replaced until the study is suspended."
    )


def drifted(reports: Mapping[str, WorkerReport]) -> str | None:
    """Message about the edges whose audits refute the promise of their cascade; None without any.

    It has no counts of audits: they change with each report, and metrics have them.
    """
    found = {edge: one.cascade for edge, one in sorted(reports.items()) if one.cascade}
    edges = {edge: cascade for edge, cascade in found.items() if cascade.drifted}
    if not edges:
        return None
    judging = [
        f"{edge} judges pictures for a new threshold, {_progress(one.judged, one.pictures)}"
        for edge, one in edges.items()
        if one.pictures is not None
    ]
    what = "calibrate again with current pictures"
    if judging:
        what = f"the large model answers there. {'; '.join(judging)}"
    return (
        f"Audits at {', '.join(edges)} show that more of the answers there disagree with the "
        f"large model than spec.partition.cascade.maxDisagreementPerMillion promises: {what}."
    )


def _progress(judged: int, pictures: int) -> str:
    """Such as `40 of 400`, in tenths: each change of a message is written at once."""
    tenth = max(1, pictures // 10)
    return f"{judged - judged % tenth:,} of {pictures:,}"


def recalibrated(reports: Mapping[str, WorkerReport]) -> str | None:
    """Message about the edges that have a new threshold; None without any."""
    new = [
        f"{edge} from {one.cascade.threshold_per_million:,} millionths on"
        for edge, one in sorted(reports.items())
        if one.cascade and one.cascade.recalibrations and one.cascade.threshold_per_million
    ]
    return f"The cascade answers again with a new threshold: {', '.join(new)}." if new else None


def as_patch(made: ExperimentStatus) -> Patch:
    """The status as a merge patch, in which null removes a field.

    A merge patch replaces lists as a whole: nulls inside of them are left out.
    """
    full = made.model_dump(mode="json", by_alias=True)
    return {key: _in_lists(value) if value != [] else None for key, value in full.items()}


def _in_lists(value: Any) -> Any:
    """`value` without the nulls inside of lists."""
    if isinstance(value, dict):
        return {key: _in_lists(inner) for key, inner in value.items()}
    return [_compact(item) for item in value] if isinstance(value, list) else value


def _compact(item: Any) -> Any:
    if isinstance(item, dict):
        return {key: _compact(inner) for key, inner in item.items() if inner is not None}
    return item


def _outside(observed: Observed) -> Iterator[Worker]:
    """The edges outside of the cluster that have joined."""
    for edge in sorted(observed.joined):
        report = observed.reports.get(edge)
        running = report is not None and report.phase in (Phase.STARTING, Phase.RUNNING)
        ready = running and edge not in observed.silent
        yield Worker(name=edge, role=Role.EDGE, edge=edge, outside=True, ready=ready)


def _placement(study: Study, observed: Observed) -> str | None:
    def nodes(role: Role) -> str:
        places = {pod["spec"].get("nodeName") for pod in observed.of(role)} - {None}
        if role is Role.EDGE and study.outside:
            places.add("outside")
        return ",".join(sorted(places))

    sides = [side for side in (nodes(Role.EDGE), nodes(Role.SERVER)) if side]
    return " -> ".join(sides)[:253] or None


def unreadable(body: Body, cause: str, now: datetime) -> Patch:
    """Status of a study whose manifest this operator cannot read."""
    return _stalled(body, "InvalidManifest", cause, now)


def forbidden(body: Body, cause: str, now: datetime) -> Patch:
    """Status of a study for which the operator lacks a permission."""
    return _stalled(body, "OperatorForbidden", cause, now)


def _stalled(body: Body, reason: str, message: str, now: datetime) -> Patch:
    """The patch of the status of a study that cannot be reconciled."""
    verdict, generation = Verdict(Stage.STALLED, reason, message), body["metadata"]["generation"]
    old = ExperimentStatus.model_validate(body.get("status") or {})
    made = updated(old, generation, verdict, now)
    stalled = ExperimentStatus(
        observed_generation=generation, state=str(Stage.STALLED), conditions=made
    )
    patch = as_patch(stalled)
    return {key: patch[key] for key in ("observedGeneration", "state", "conditions")}
