"""The report of a worker to the operator: while it runs and, as its termination message, at its
end.

The edge serves it at `REPORT_PATH`. Every worker writes it as its container's termination message.
Kubernetes keeps that with the pod, so that nothing is missed while the operator is away.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum

from pydantic import Field, ValidationError

from splittracr.experiment.contracts import REPORT_PATH as REPORT_PATH
from splittracr.experiment.contracts import SETTINGS_PATH as SETTINGS_PATH
from splittracr.experiment.contracts import Role
from splittracr.experiment.types import Frozen

MESSAGE_BYTES = 4096
"""Kubernetes cuts a termination message off after so many bytes."""

_ERROR_LENGTHS = (2000, 1000, 500, 200)


class Phase(StrEnum):
    """The progress of a worker."""

    STARTING = "Starting"
    RUNNING = "Running"
    FINISHED = "Finished"
    FAILED = "Failed"


class CutReport(Frozen):
    """The frames at one cut that the server answered, or that needed no answer."""

    cut: str
    index: int
    frames: int = Field(description="Frames that the times cover.")
    p50_ms: float
    p95_ms: float


class Decisions(Frozen):
    """The decisions of an adaptive edge."""

    since: float | None = Field(default=None, description="Unix time of the last change of cut.")
    reason: str | None = Field(default=None, description="Why the cut in use was chosen.")
    predicted_ms: float | None = None
    measured_ms: float | None = None
    regret_ms: float | None = Field(
        default=None, description="Measured latency above the best prediction."
    )
    switches: int = 0
    by_reason: Mapping[str, int] = Field(default_factory=dict)


class CascadeReport(Frozen):
    """The last audits of a cascade, whether they refute the promise of its calibration, and the
    threshold.
    """

    audited: int = Field(
        description="Answers of the small model or of exits in the window of audits."
    )
    disagreeing: int = Field(description="Those that disagree with the large model.")
    promised: float | None = Field(
        default=None, description="The largest share of disagreements that was promised."
    )
    drifted: bool = Field(default=False, description="The audits refute the promise.")
    threshold_per_million: int | None = Field(
        default=None, description="Sureness from which answers count, in millionths."
    )
    recalibrations: int = Field(default=0, description="New thresholds since the study began.")
    judged: int = Field(default=0, description="Pictures judged so far for a new threshold.")
    pictures: int | None = Field(
        default=None, description="Pictures that this needs; null while none are judged."
    )


class WorkerReport(Frozen):
    """A worker's report. Times are milliseconds, sizes bytes on the wire."""

    role: Role
    edge: str | None = Field(default=None, description="Name of the edge; null of a server.")
    phase: Phase = Phase.STARTING
    generation: int = Field(default=0, description="Generation of the live settings in use.")
    done: int = Field(default=0, description="Samples recorded, failed ones included.")
    failed: int = Field(default=0, description="Samples recorded as failed.")
    unanswered: int = Field(
        default=0, description="Samples that the edge finished since the server did not answer."
    )
    resumed: int = Field(default=0, description="Samples found recorded when the worker started.")
    total: int | None = Field(default=None, description="Samples that it will record.")
    first_record_at: float | None = Field(default=None, description="Unix time.")
    completion_at: float | None = Field(
        default=None, description="Unix time at which the last sample is expected."
    )
    bytes_up: int = 0
    bytes_down: int = 0
    energy_joules: float | None = Field(
        default=None, description="Of the edge's machine so far; null without sensor and power."
    )
    cut: str | None = Field(default=None, description="The cut of the last frame.")
    best: CutReport | None = Field(default=None, description="The cut with the lowest median.")
    latency: CutReport | None = Field(default=None, description="The cut in use.")
    cuts: tuple[CutReport, ...] = ()
    decisions: Decisions | None = None
    cascade: CascadeReport | None = Field(default=None, description="Of a study with a cascade.")
    results: str | None = Field(
        default=None, description="Where the records are: `store`, `claim`, or null for nowhere."
    )
    error: str | None = Field(default=None, description="The error that ended the worker early.")
    exit_code: int | None = None


def termination_message(report: WorkerReport) -> bytes:
    """The report as a termination message. If it is too long, cuts are left out first."""
    for shorter in _shorter(report):
        message = shorter.model_dump_json(exclude_defaults=True).encode()
        if len(message) <= MESSAGE_BYTES:
            return message
    raise AssertionError("even without its details a report is too long")


def _shorter(report: WorkerReport) -> Iterator[WorkerReport]:
    yield report
    yield (without := report.model_copy(update={"cuts": ()}))
    for length in _ERROR_LENGTHS:
        error = report.error and report.error[:length]
        yield without.model_copy(update={"decisions": None, "error": error})
    yield WorkerReport(role=report.role, phase=report.phase, exit_code=report.exit_code)


def from_message(message: str | None) -> WorkerReport | None:
    """The report in a termination message; None if there is none."""
    try:
        return WorkerReport.model_validate_json(message or "")
    except ValidationError:
        return None
