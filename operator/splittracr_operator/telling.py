"""From a verdict to the study's status: conditions for programs, a few words for columns. Pure."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from splittracr.experiment.report import CutReport, WorkerReport
from splittracr.experiment.spec import Mode
from splittracr.experiment.status import (
    BestCut,
    Condition,
    Decision,
    ExperimentStatus,
    Latency,
    Progress,
    Role,
    StoredResults,
    Traffic,
)
from splittracr_operator.lifecycle import Observed, Stage, Verdict
from splittracr_operator.study import Body, Study

Truth = Literal["True", "False", "Unknown"]
DEGRADED, SETTINGS_REFUSED, PODS_STAY = "Degraded", "SettingsRefused", "PodsNotReplaced"

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
"""What each condition is in each stage; False where it does not stand here.

One table, so that no two conditions can contradict each other. Tools that know kstatus read Stalled
as failed, else Reconciling or no Ready as in progress, else Ready as current.
"""

_OTHERWISE: Mapping[str, tuple[str, str]] = {
    "Reconciling": ("Reconciled", "The operator waits for no worker."),
    "Succeeded": ("NotEnded", "The study has not ended."),
    "Stalled": ("NotStalled", "Nothing keeps the study from going on."),
    "Suspended": ("NotSuspended", "The workers of the study have not been taken away."),
    DEGRADED: ("AsSpecified", "All of the manifest is in force."),
}
"""Reason and sentence of a condition that does not hold and is not known to have failed."""


_FIGURES = ("progress", "cut", "best_cut", "latency", "traffic", "decision")
"""Fields that change with each report."""


def status(
    study: Study, verdict: Verdict, observed: Observed, now: datetime, results: StoredResults | None
) -> ExperimentStatus:
    """The new status. Fields without a new report keep their last value.

    `results` are those that are there.
    """
    before = study.status
    reports = list(observed.reports.values())
    stage = verdict.stage
    ended = now.replace(microsecond=0) if stage.ended else None
    degraded = None if stage.ended else observed.degraded
    best = _best(reports) or before.best_cut
    cut = _same([r.cut for r in reports]) or before.cut
    latency = _latency(reports) or before.latency
    if stage.ended and best is not None and study.spec.partition.mode is Mode.SWEEP:
        cut, latency = best.name, Latency(p50=best.p50, p95=best.p95)
    return ExperimentStatus(
        observed_generation=study.generation,
        state=str(stage),
        conditions=conditions(before, study.generation, verdict, now, degraded),
        start_time=before.start_time,
        completion_time=before.completion_time or ended,
        progress=_progress(reports, stage, before.progress),
        cut=cut,
        best_cut=best,
        latency=latency,
        traffic=_traffic(reports) or before.traffic,
        decision=_decision(reports) or before.decision,
        placement=before.placement if stage.ended else _placement(observed) or before.placement,
        workers=() if stage is Stage.SUSPENDED else tuple(observed.workers),
        results=results,
    )


def conditions(
    before: ExperimentStatus,
    generation: int,
    verdict: Verdict,
    now: datetime,
    degraded: tuple[str, str] | None = None,
) -> tuple[Condition, ...]:
    """All conditions; `lastTransitionTime` moves only where `status` does.

    `degraded` is what of the manifest is not in force (reason, sentence), which no stage says.
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
    """Whether nothing differs but figures of a study whose edges have reported before."""
    if before.progress is None or made.completion_time is not None:
        return False
    return made == before.model_copy(update={name: getattr(made, name) for name in _FIGURES})


def objection(study: Study) -> str | None:
    """What the status says against the live settings of the present manifest."""
    for condition in study.status.conditions:
        current = condition.observed_generation == study.generation
        stands = condition.status == "True" and condition.reason == SETTINGS_REFUSED
        if condition.type == DEGRADED and stands and current:
            return condition.message
    return None


def pods_stay(kinds: Sequence[str]) -> str:
    """That the pods of these kinds are not made anew."""
    fields = {"Job": "spec.edge.pod", "Deployment": "spec.server.pod"}
    changed = " and ".join(fields[kind] for kind in kinds)
    return (
        f"{changed} changed after an edge had reported: "
        "the pods stay as they are until the study has been suspended."
    )


def as_patch(made: ExperimentStatus) -> dict[str, Any]:
    """The status as a merge patch: null takes away what is not there any more.

    Lists are replaced as a whole, so that within them a null would stay.
    """
    full = made.model_dump(mode="json", by_alias=True)
    return {key: _in_lists(value) if value != [] else None for key, value in full.items()}


def _in_lists(value: Any) -> Any:
    """`value` without the nulls that stand inside of lists."""
    if isinstance(value, dict):
        return {key: _in_lists(inner) for key, inner in value.items()}
    return [_compact(item) for item in value] if isinstance(value, list) else value


def _compact(item: Any) -> Any:
    if isinstance(item, dict):
        return {key: _compact(inner) for key, inner in item.items() if inner is not None}
    return item


def milliseconds(value: float) -> str:
    """A duration as Kubernetes writes it, to four digits: `0.831ms`, `12.35ms`, `1250ms`."""
    digits = max(0, 4 - len(str(int(value)))) if value < 1000 else 0
    return f"{value:.{digits}f}ms"


def _progress(
    reports: Sequence[WorkerReport], stage: Stage, before: Progress | None
) -> Progress | None:
    if not reports or all(report.total is None for report in reports):
        return before
    totals = [report.total for report in reports]
    total = sum(t for t in totals if t is not None) if None not in totals else None
    done = sum(report.done for report in reports)
    ends = [report.completion_at for report in reports if report.completion_at is not None]
    expected = max(ends) if ends and stage is Stage.RUNNING and done != total else None
    return Progress(
        done=done,
        failed=sum(report.failed for report in reports),
        unanswered=sum(report.unanswered for report in reports),
        total=total,
        summary=f"{done}/{'?' if total is None else total}",
        estimated_completion_time=None
        if expected is None
        else datetime.fromtimestamp(expected, UTC).replace(microsecond=0) + timedelta(seconds=1),
    )


def _best(reports: Sequence[WorkerReport]) -> BestCut | None:
    """The best of the edges' best cuts."""
    found = [report.best for report in reports if report.best is not None]
    best = min(found, key=lambda cut: cut.p50_ms, default=None)
    if best is None:
        return None
    return BestCut(name=best.cut, p50=milliseconds(best.p50_ms), p95=milliseconds(best.p95_ms))


def _latency(reports: Sequence[WorkerReport]) -> Latency | None:
    """Of the slowest edge: medians of several edges cannot be put together."""
    found: list[CutReport] = [report.latency for report in reports if report.latency is not None]
    if not found:
        return None
    return Latency(
        p50=milliseconds(max(cut.p50_ms for cut in found)),
        p95=milliseconds(max(cut.p95_ms for cut in found)),
    )


def _traffic(reports: Sequence[WorkerReport]) -> Traffic | None:
    if not reports:
        return None
    joules = [report.energy_joules for report in reports if report.energy_joules is not None]
    return Traffic(
        bytes_up=sum(report.bytes_up for report in reports),
        bytes_down=sum(report.bytes_down for report in reports),
        edge_energy_millijoules=round(sum(joules) * 1000) if joules else None,
    )


def _decision(reports: Sequence[WorkerReport]) -> Decision | None:
    """What the edges decide; the words and figures of the one that decided last."""
    deciding = [r.decisions for r in reports if r.decisions is not None]
    if not deciding:
        return None
    last = max(deciding, key=lambda decision: decision.since or 0.0)
    return Decision(
        since=None if last.since is None else datetime.fromtimestamp(last.since, UTC),
        reason=last.reason,
        predicted=None if last.predicted_ms is None else milliseconds(last.predicted_ms),
        measured=None if last.measured_ms is None else milliseconds(last.measured_ms),
        regret=None if last.regret_ms is None else milliseconds(last.regret_ms),
        switches=sum(decision.switches for decision in deciding),
    )


def _same(names: Sequence[str | None]) -> str | None:
    """The one name, or all of them where edges differ."""
    distinct = sorted({name for name in names if name is not None})
    return ", ".join(distinct)[:253] or None


def _placement(observed: Observed) -> str | None:
    def nodes(role: Role) -> str:
        places = {pod["spec"].get("nodeName") for pod in observed.of(role)} - {None}
        return ",".join(sorted(places))

    sides = [side for side in (nodes(Role.EDGE), nodes(Role.SERVER)) if side]
    return " -> ".join(sides)[:253] or None


def unreadable(body: Body, why: str, now: datetime) -> dict[str, Any]:
    """Status of a study whose manifest this operator does not understand."""
    return _stalled(body, "InvalidManifest", why, now)


def forbidden(body: Body, why: str, now: datetime) -> dict[str, Any]:
    """Status of a study for which the operator lacks a right."""
    return _stalled(body, "OperatorForbidden", why, now)


def _stalled(body: Body, reason: str, why: str, now: datetime) -> dict[str, Any]:
    """What a patch of the status says of a study that cannot be looked at."""
    verdict, generation = Verdict(Stage.STALLED, reason, why), body["metadata"]["generation"]
    old = ExperimentStatus.model_validate(body.get("status") or {})
    made = conditions(old, generation, verdict, now)
    stalled = ExperimentStatus(
        observed_generation=generation, state=str(Stage.STALLED), conditions=made
    )
    patch = as_patch(stalled)
    return {key: patch[key] for key in ("observedGeneration", "state", "conditions")}
