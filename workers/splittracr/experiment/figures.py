"""Figures of a study in its status: their keys, and how they follow from reports of edges. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AwareDatetime, Field, StringConstraints

from splittracr.experiment.report import CutReport, WorkerReport
from splittracr.experiment.spec import PartitionSpec
from splittracr.experiment.types import Name, SpecModel

Count = Annotated[int, Field(ge=0, le=2**53)]
Summary = Annotated[str, StringConstraints(max_length=253)]
Duration = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?ms$", max_length=32)]
"""Milliseconds as Kubernetes writes durations, such as `12.3ms`."""


class Progress(SpecModel):
    """How far the study is, in samples."""

    done: Count = Field(default=0, description="Samples recorded, failed ones included.")
    failed: Count = Field(default=0, description="Samples recorded as failed.")
    unanswered: Count = Field(
        default=0, description="Samples that the edge finished since the server did not answer."
    )
    total: Count | None = Field(default=None, description="Samples that the study will record.")
    summary: Summary | None = Field(default=None, description="For the column, such as `40/100`.")
    estimated_completion_time: AwareDatetime | None = Field(
        default=None, description="When the last sample is expected at the present pace."
    )


class Latency(SpecModel):
    """End-to-end time of a sample."""

    p50: Duration | None = Field(default=None, description="Median, such as `9.1ms`.")
    p95: Duration | None = Field(default=None, description="95th percentile, such as `12.3ms`.")


class BestCut(Latency):
    """The cut with the lowest median so far."""

    name: Name = Field(description="Name of the cut.")


class Traffic(SpecModel):
    """Bytes and energy of the study so far, all edges together."""

    bytes_up: Count = Field(default=0, description="Bytes from edges to the server.")
    bytes_down: Count = Field(default=0, description="Bytes back.")
    edge_energy_millijoules: Count | None = Field(
        default=None,
        description="Energy of the edges' machines since they began to measure, by their sensors "
        "or by `edge.power`; of the edges with a figure.",
    )


class DecisionStatus(SpecModel):
    """The last decision of an adaptive study, and how good it was."""

    since: AwareDatetime | None = Field(default=None, description="When the cut last changed.")
    reason: Summary | None = Field(default=None, description="Why the cut in use was chosen.")
    predicted: Duration | None = Field(default=None, description="Latency that was predicted.")
    measured: Duration | None = Field(default=None, description="Latency that was measured.")
    regret: Duration | None = Field(
        default=None, description="Measured latency above the best prediction."
    )
    switches: Count = Field(default=0, description="Times that the cut has changed.")


class ReportedStatus(SpecModel):
    """The part of the status that changes with each report."""

    progress: Progress | None = Field(default=None, description="How far the study is.")
    cut: Name | None = Field(
        default=None, description="Name of the cut in use; the best cut of a sweep that has ended."
    )
    best_cut: BestCut | None = Field(
        default=None,
        description="The cut with the lowest median so far; none if cuts are no alternatives, as "
        "in mode Adaptive.",
    )
    latency: Latency | None = Field(
        default=None,
        description="End-to-end time of a sample at the cut in use, of the slowest edge; at the "
        "best cut of a sweep that has ended.",
    )
    traffic: Traffic | None = Field(default=None, description="Bytes and energy so far.")
    decision: DecisionStatus | None = Field(
        default=None, description="The last decision of an adaptive study."
    )


def join(
    reports: Sequence[WorkerReport],
    before: ReportedStatus,
    partition: PartitionSpec,
    *,
    running: bool,
    swept: bool,
) -> ReportedStatus:
    """The figures of a study by the reports of its edges. Those without a report stay as before.

    `running` means that edges measure, `swept` that the study was a sweep and has ended. A best cut
    is named if the cuts of all edges together are alternatives.
    """
    best = before.best_cut
    if any(report.cuts or report.best for report in reports):
        used = {one.cut for report in reports for one in report.cuts}
        best = _best(reports) if partition.compares(len(used)) else None
    cut = _same([report.cut for report in reports]) or before.cut
    latency = _latency(reports) or before.latency
    if swept and best is not None:
        cut, latency = best.name, Latency(p50=best.p50, p95=best.p95)
    return ReportedStatus(
        progress=_progress(reports, running) or before.progress,
        cut=cut,
        best_cut=best,
        latency=latency,
        traffic=_traffic(reports) or before.traffic,
        decision=_decision(reports) or before.decision,
    )


def milliseconds(value: float) -> str:
    """A duration as Kubernetes writes it, to four digits: `0.831ms`, `12.35ms`, `1250ms`."""
    digits = max(0, 4 - len(str(int(value)))) if value < 1000 else 0
    return f"{value:.{digits}f}ms"


def _progress(reports: Sequence[WorkerReport], running: bool) -> Progress | None:
    if all(report.total is None for report in reports):
        return None
    totals = [report.total for report in reports]
    total = sum(t for t in totals if t is not None) if None not in totals else None
    done = sum(report.done for report in reports)
    ends = [report.completion_at for report in reports if report.completion_at is not None]
    expected = max(ends) if ends and running and done != total else None
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
    """Latency of the slowest edge: medians of several edges cannot be combined."""
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


def _decision(reports: Sequence[WorkerReport]) -> DecisionStatus | None:
    """The decisions of all edges; the reason and figures of the edge that decided last."""
    deciding = [r.decisions for r in reports if r.decisions is not None]
    if not deciding:
        return None
    last = max(deciding, key=lambda decision: decision.since or 0.0)
    return DecisionStatus(
        since=None if last.since is None else datetime.fromtimestamp(last.since, UTC),
        reason=last.reason,
        predicted=None if last.predicted_ms is None else milliseconds(last.predicted_ms),
        measured=None if last.measured_ms is None else milliseconds(last.measured_ms),
        regret=None if last.regret_ms is None else milliseconds(last.regret_ms),
        switches=sum(decision.switches for decision in deciding),
    )


def _same(names: Sequence[str | None]) -> str | None:
    """The common name, or all names if edges differ."""
    distinct = sorted({name for name in names if name is not None})
    return ", ".join(distinct)[:253] or None
