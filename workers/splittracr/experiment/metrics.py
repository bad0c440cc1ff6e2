"""Every metric of the workers and the operator: one table, read by code, docs and dashboards.

Names follow the Prometheus conventions: base units, the unit in the name, `_total` for counters
(added when a counter is exposed). Times of events are Unix timestamps, never ages. No label holds
a sample.

A worker adds `study_namespace`, `study`, `role` and, on an edge, `edge` to each of its series, so
that they mean the same under every way of scraping. (A label `namespace` would collide with the
one that Prometheus gives its targets.)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial

from splittracr.experiment import contracts
from splittracr.experiment.types import MEASURED, STAGES


class Type(StrEnum):
    """Type of a metric, as Prometheus names it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"  # quantiles alone; promtool allows the label `quantile` nowhere else


class Source(StrEnum):
    """The origin of a sample's result."""

    SERVER = contracts.SERVER
    EDGE = contracts.EDGE  # the cut is `output`: nothing was asked of the server
    DEADLINE = "deadline"  # the edge, when the deadline had passed
    HEDGE = "hedge"  # the edge, which was faster than the server
    SERVER_LOST = "server-lost"  # the edge, as the server was away


@dataclass(frozen=True)
class Metric:
    """One metric.

    `name` is without `_total`. `values` lists label values whose series exist from the start, so
    that `rate()` sees the first event. `absent` is when the whole metric may be missing. `buckets`
    are upper bounds in the metric's unit, without the infinite one.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    type: Type = field(kw_only=True)
    values: tuple[tuple[str, ...], ...] = ()
    absent: str = ""
    buckets: tuple[float, ...] = ()

    @property
    def exposed(self) -> str:
        """The name to query: of a histogram, the part before `_bucket`, `_sum` and `_count`."""
        return f"{self.name}_total" if self.type is Type.COUNTER else self.name

    @property
    def unit(self) -> str:
        """The base unit at the end of the name; empty for counts and infos."""
        words = self.name.split("_")
        if words[-3:] == ["bytes", "per", "second"]:
            return "bytes per second"
        return words[-1] if words[-1] in UNITS else ""


EVERY_CUT = "every"
"""Value of the label `cut` for the worst of all cuts."""

UNITS = ("seconds", "bytes", "joules", "watts", "ratio", "celsius", "hertz")

STAGE_BUCKETS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Few: there is a histogram for each stage. Their sums and counts are exact."""

LATENCY_BUCKETS = tuple(
    round(m * 10.0**e, 10) for e in range(-3, 2) for m in (1, 1.3, 1.8, 2.4, 3.2, 4.2, 5.6, 7.5)
)
"""Factors of 1.33: a percentile between two of them is off by a seventh at most."""


_counter = partial(Metric, type=Type.COUNTER)
_gauge = partial(Metric, type=Type.GAUGE)
_histogram = partial(Metric, type=Type.HISTOGRAM)
_summary = partial(Metric, type=Type.SUMMARY)


def _each(values: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    return tuple((str(value),) for value in values)


_DIRECTIONS = ("up", "down")
_ADAPTIVE = "In modes other than Adaptive."
_UNLOADED = "Before the model is loaded."
_NO_CASCADE = "Without `partition.cascade`."
_UNPLANNED = "Before the earlier records are read."
_UNDECIDED = "Before the first decision."
_COMPONENTS = "`component` is `cpu` or `gpu`"
_LARGE = (
    "Before the first transfer of at least 32 KiB in that direction; upwards, mode Adaptive learns "
    "from smaller ones too."
)

WORKER: tuple[Metric, ...] = (
    _gauge("splittracr_build_info", "Version of the worker; the value is 1.", ("version",)),
    _gauge(
        "splittracr_model_info",
        "The model, and the start of the digests of its graph and weights; the value is 1.",
        ("model", "graph", "weights"),
        absent=_UNLOADED,
    ),
    _gauge(
        "splittracr_device_info",
        "The device that computes, and its name; the value is 1.",
        ("device", "name"),
        absent=_UNLOADED,
    ),
    _gauge("splittracr_link_sessions", "Open sessions with the other end of the link."),
    _counter(
        "splittracr_link_bytes",
        "Bytes on the link, message headers included; `up` is from edge to server.",
        ("direction",),
        values=_each(_DIRECTIONS),
    ),
    _gauge("splittracr_requests_in_flight", "Requests that have no reply yet."),
    _histogram(
        "splittracr_stage_seconds",
        "Time of a frame in a stage, as far as this worker measured it.",
        ("stage",),
        values=_each(STAGES),
        buckets=STAGE_BUCKETS,
    ),
    _counter("splittracr_operations", "Operations of the model that ran on this worker."),
    _gauge(
        "splittracr_device_memory_bytes",
        "Memory of the accelerator that tensors occupy: `current`, and the `peak` so far.",
        ("state",),
        values=_each(("current", "peak")),
        absent="Without an accelerator.",
    ),
    _counter(
        "splittracr_energy_joules",
        "Energy of a component by sensor (`source`, `zone`); `kind` is measured, estimated or "
        "modelled.",
        ("component", "zone", "source", "kind"),
        absent="Without an energy sensor or, on an edge, declared power.",
    ),
    _gauge(
        "splittracr_power_watts",
        "Mean power of a component over the last second, or ten ticks of a slower sensor.",
        ("component", "zone", "source", "kind"),
        absent="Without an energy sensor, and while it does not answer.",
    ),
    _gauge(
        "splittracr_utilization_ratio",
        f"Busy share of all processors of the machine, or of the GPU in use; {_COMPONENTS}.",
        ("component",),
        absent="In the first second; of `gpu` without NVML.",
    ),
    _gauge(
        "splittracr_temperature_celsius",
        f"Temperature of the hottest processor, or of the GPU in use; {_COMPONENTS}.",
        ("component",),
        absent="Without a thermometer that can be read.",
    ),
    _gauge(
        "splittracr_clock_hertz",
        f"Clock of the processors (mean), or of the GPU in use; {_COMPONENTS}.",
        ("component",),
        absent="If the system does not show it.",
    ),
    _gauge(
        "splittracr_gpu_memory_bytes",
        "Memory of the GPU in use that all processes on it occupy.",
        absent="Without NVML.",
    ),
)
"""Of both workers."""

EDGE: tuple[Metric, ...] = (
    _counter(
        "splittracr_samples",
        "Samples recorded by outcome; samples of an earlier start of this edge are included.",
        ("outcome",),
        values=_each(("ok", "failed")),
        absent=_UNPLANNED,
    ),
    _gauge(
        "splittracr_samples_expected",
        "Samples that this edge records in the whole study.",
        absent=_UNPLANNED,
    ),
    _histogram(
        "splittracr_frame_latency_seconds",
        "End-to-end latency of a frame without failures, by where its result came from.",
        ("source",),
        values=_each(Source),
        buckets=LATENCY_BUCKETS,
    ),
    _counter(
        "splittracr_payload_bytes",
        "Bytes of live tensors before (`raw`) and after the codec (`encoded`).",
        ("state",),
        values=_each(("raw", "encoded")),
    ),
    _gauge(
        "splittracr_link_goodput_bytes_per_second",
        "Goodput of the link as estimated from this edge's own transfers.",
        ("direction",),
        absent=_LARGE,
    ),
    _gauge(
        "splittracr_link_round_trip_seconds",
        "Round-trip time of the link as estimated from this edge's own transfers.",
        absent="Before the first transfer.",
    ),
    _counter("splittracr_link_sessions_lost", "Sessions with the server that ended early."),
    _counter("splittracr_link_reconnects", "Sessions opened after the first one."),
    _counter("splittracr_requests_resent", "Requests sent again after a lost session."),
    _gauge("splittracr_cut_index", "Index of the cut of the last decision.", absent=_UNDECIDED),
    _gauge(
        "splittracr_candidate_info",
        "The cut and codec of the last decision; the value is 1.",
        ("cut", "codec"),
        absent=_UNDECIDED,
    ),
    _counter(
        "splittracr_candidate_switches",
        "Changes of cut, codec, or whether the small model or the exits go first.",
    ),
    _counter("splittracr_decisions", "Decisions by reason.", ("reason",), absent=_ADAPTIVE),
    _counter(
        "splittracr_predicted_regret_seconds",
        "Predicted latency of decisions above that of the best candidate, summed.",
        absent=_ADAPTIVE,
    ),
    _counter(
        "splittracr_predicted_frames",
        "Frames that had a prediction and finished without a failure.",
        absent=_ADAPTIVE,
    ),
    _counter(
        "splittracr_predicted_latency_seconds",
        "Predicted latency of those frames, summed.",
        absent=_ADAPTIVE,
    ),
    _counter(
        "splittracr_measured_latency_seconds",
        "Measured latency of those frames, summed.",
        absent=_ADAPTIVE,
    ),
    _counter(
        "splittracr_deadline_misses", "Frames whose deadline passed before the server's reply."
    ),
    _counter(
        "splittracr_hedges",
        "Frames that the edge hedged: `won` if its own result was first, else `lost`.",
        ("outcome",),
        values=_each(("won", "lost")),
    ),
    _gauge(
        "splittracr_agreement_ratio",
        "Share of samples whose first class is that without the codec; of a detector, share of "
        "detections that match those without it (class, IoU 0.5); of masks, share of pixels of the "
        "same class. The cut `every` is the worst cut in the profile that mode Adaptive measures "
        "first.",
        ("cut", "codec"),
        absent="Until the last frame, unless `agreementPercent` is set; always without a lossy "
        "codec or if the model's results have none of these.",
    ),
    _counter(
        "splittracr_cascade_samples",
        "Samples of a cascade by what answered: `small` model or `exit`, or `large` model.",
        ("network",),
        absent=_NO_CASCADE,
    ),
    _counter(
        "splittracr_cascade_audits",
        "Audits by outcome: the large model `agrees` or `disagrees` with the answer of the small "
        "model or of an exit, or the audit `failed`, without a result of the large model.",
        ("outcome",),
        absent=_NO_CASCADE,
    ),
    _gauge(
        "splittracr_cascade_disagreement_ratio",
        "Lower bound (99.9 %) of the share of answers of the small model or of exits that disagree "
        "with the large one, by the last 200 audits.",
        absent=_NO_CASCADE,
    ),
    _gauge(
        "splittracr_cascade_drifted",
        "1 if that bound is above the promise of the calibration, else 0.",
        absent="Without `partition.cascade` or its `maxDisagreementPerMillion`.",
    ),
    _gauge(
        "splittracr_cascade_threshold_ratio",
        "Sureness from which the small model or an exit answers.",
        absent=_NO_CASCADE,
    ),
    _counter(
        "splittracr_cascade_recalibrations",
        "Attempts to choose a new threshold after a drift: `proven`, or `unproven` if the judged "
        "pictures prove none.",
        ("outcome",),
        absent=_NO_CASCADE,
    ),
)
"""Of the edge alone."""

SERVER: tuple[Metric, ...] = (
    _counter(
        "splittracr_server_requests",
        "Requests answered, by outcome.",
        ("outcome",),
        values=_each(("ok", "failed", "cancelled")),
    ),
    _gauge("splittracr_server_queue_length", "Requests that wait for the compute thread."),
    _histogram(
        "splittracr_server_queue_wait_seconds",
        "Time that a request waited for the compute thread.",
        buckets=LATENCY_BUCKETS,
    ),
    _histogram(
        "splittracr_server_batch_size",
        "Requests computed together.",
        buckets=(1, 2, 4, 8, 16, 32, 64),
    ),
    _counter(
        "splittracr_server_busy_seconds",
        "Time that the compute thread spent on requests: its rate is the busy share.",
    ),
    _gauge("splittracr_server_edges_max", "Edges that this server serves at most."),
)
"""Of the server alone."""

_STUDY = ("study_namespace", "study")
_UNSWEPT = "Before the first sweep of the store."

OPERATOR: tuple[Metric, ...] = (
    _gauge(
        "splittracr_operator_build_info", "Version of the operator; the value is 1.", ("version",)
    ),
    _histogram(
        "splittracr_operator_reconcile_seconds",
        "Time of one reconcile of a study.",
        buckets=LATENCY_BUCKETS,
    ),
    _counter(
        "splittracr_operator_reconcile_errors",
        "Reconciles that failed, by kind of error.",
        ("kind",),
        values=_each(("refused", "forbidden", "unavailable", "internal", "resync")),
    ),
    _gauge(
        "splittracr_operator_namespace_denied",
        "1 for each namespace of watchNamespaces that the operator may not read.",
        ("namespace",),
        absent="If the operator may read all of them.",
    ),
    _gauge("splittracr_operator_work_queue_length", "Studies that wait for a reconcile."),
    _histogram(
        "splittracr_operator_work_queue_wait_seconds",
        "Time from when a study was due until its reconcile began.",
        buckets=LATENCY_BUCKETS,
    ),
    _counter(
        "splittracr_operator_api_requests",
        "Requests to the API server.",
        ("group", "resource", "verb"),
    ),
    _counter(
        "splittracr_operator_watch_restarts",
        "Watches that were opened again, by kind of object.",
        ("kind",),
    ),
    _counter(
        "splittracr_operator_handovers",
        "Archives of results that edges handed over, by outcome.",
        ("outcome",),
        values=_each(("ok", "refused", "failed")),
    ),
    _counter("splittracr_operator_handover_bytes", "Bytes of those that were kept."),
    _gauge(
        "splittracr_operator_store_bytes",
        "Bytes of all archives in the results store.",
        absent=_UNSWEPT,
    ),
    _gauge(
        "splittracr_operator_store_free_bytes",
        "Bytes free on the volume of the store.",
        absent=_UNSWEPT,
    ),
    _gauge("splittracr_studies", "Studies by state.", ("state",)),
    _gauge(
        "splittracr_study_info",
        "A study's identity; the value is 1.",
        (*_STUDY, "uid", "model", "mode"),
        absent="Without studies.",
    ),
    _gauge(
        "splittracr_study_condition",
        "1 for the status (True, False, Unknown) that a condition has now, else 0.",
        (*_STUDY, "type", "status"),
        absent="Without studies.",
    ),
    _counter(
        "splittracr_study_samples",
        "Samples recorded by all edges of a study; `unanswered` is the part of `ok` that the edge "
        "finished as the server did not answer.",
        (*_STUDY, "outcome"),
        absent="Before the first report of an edge.",
    ),
    _gauge(
        "splittracr_study_samples_expected",
        "Samples that all edges of a study will record.",
        _STUDY,
        absent="Before the first report of an edge.",
    ),
    _summary(
        "splittracr_study_latency_seconds",
        "End-to-end latency at the cut in use, of the slowest edge.",
        (*_STUDY, "quantile"),
        absent="Before the first frame.",
    ),
    _gauge(
        "splittracr_study_edge_last_report_timestamp_seconds",
        "When an edge that has not finished last answered the operator.",
        (*_STUDY, "edge"),
        absent="Before the first report of an edge, and after it has finished.",
    ),
    _gauge(
        "splittracr_study_workers_ready",
        "Workers that are ready, by role.",
        (*_STUDY, "role"),
        absent="Without studies.",
    ),
    _counter(
        "splittracr_study_worker_restarts",
        "Times that a container of a worker was started again, by role.",
        (*_STUDY, "role"),
        absent="Without studies.",
    ),
)
"""Of the operator: about itself, and about each study."""

TABLES: Mapping[str, tuple[Metric, ...]] = {
    "Both workers": WORKER,
    "Edge": EDGE,
    "Server": SERVER,
    "Operator": OPERATOR,
}
"""All tables by their heading."""


def of(role: str) -> tuple[Metric, ...]:
    """The metrics of a worker: `edge` or `server`. Its stages are only those that it measures."""
    stages = _each(MEASURED[role])
    common = (
        replace(metric, values=stages) if metric.labels == ("stage",) else metric
        for metric in WORKER
    )
    return (*common, *(EDGE if role == "edge" else SERVER))
