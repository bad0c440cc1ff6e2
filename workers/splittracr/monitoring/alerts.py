"""Alerts for Prometheus: rules, thresholds and their reasons. Pure.

Three principles avoid false alerts:

- Windows are shorter than `hold`. One event leaves the window before the alert can fire. A
  start-up, a restart or a single slow frame therefore never fires an alert.
- Counters are summed over pods after `increase()`, which handles resets. `pod` and `instance` are
  not among the labels, so a worker or an operator that moves to another pod keeps its alert.
- Series of a worker end with its pod, so their alerts resolve when a study ends. The operator keeps
  the conditions of an ended study until it is deleted; the rules exclude them. Only
  `SplittracrOperatorDown` looks for missing series.

The rules need a scrape interval of at most one minute, so that a window holds four scrapes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import yaml

from splittracr.experiment.metrics import OPERATOR, SERVER, TABLES, Metric, Type


class Severity(StrEnum):
    """Urgency of an alert."""

    CRITICAL = "critical"  # results can be lost within the hour
    WARNING = "warning"  # a study is late, or its measurements are not as intended


@dataclass(frozen=True)
class Alert:
    """One alerting rule.

    `expr` has to return a series for the time `hold` before the alert fires (`for` in the rule).
    `when` describes this in plain words. `summary` and `description` are templates of Prometheus
    and may use the labels of `expr`.
    """

    name: str
    expr: str
    hold: str
    severity: Severity
    when: str
    summary: str
    description: str

    @property
    def runbook(self) -> str:
        """Path of the page for this alert in the repository. There is no public site."""
        return f"docs/runbooks/{self.name}.md"

    def rule(self) -> dict[str, Any]:
        """Return the rule in the format of Prometheus."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.hold,
            "labels": {"severity": str(self.severity)},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook": self.runbook,
            },
        }


# ------------------------------------------------------------------------------------- thresholds

WINDOW = "5m"
"""Window of each rate. It holds four scrapes even with a scrape interval of one minute."""

HOLD = "10m"
"""Twice the window: one event is in the window for 5 minutes and cannot fire an alert."""

MIN_FRAMES = 30
"""Minimum of frames in a window. With fewer frames shares and means are mostly noise.

These alerts never fire for an edge with fewer than 6 frames a minute.
"""

STALLED_HOLD = "15m"
"""A cluster takes up to a quarter of an hour to add a GPU node and to pull an image with CUDA.

A study that waits for it is stalled (`Unschedulable`) and continues by itself. Without a new sample
the alert fires 20 minutes after the last sample, or 15 minutes after the first report. Edges report
while they load weights and prove the model. The slowest workload has one frame a minute.
"""

SILENT_SECONDS = 60
"""30 missed polls. The operator polls each edge every 2 seconds, with a timeout of 2 seconds.

The time also covers a difference between the clocks of Prometheus and of the operator's node.
"""

SILENT_HOLD = "5m"
"""Edges of a resumed study have old reports until their pods are up.

The maximum backoff between two restarts of a container is 5 minutes, too.
"""

PREDICTION_ERROR = 0.5
"""Relative error of the mean predicted latency.

The benchmark's goal is 0.15, and the default hysteresis is 0.10. Predictions with an error of 0.5
are too inaccurate for such decisions.
"""

RECONNECTS = 4
"""Reconnects of an edge in a window. Replacing a server causes one.

`increase()` extrapolates. With a scrape interval of one minute it shows 3 reconnects as up to 3.75.
"""

MISSED_SHARE = 0.1
"""Share of frames that miss their deadline.

A deadline is meant for outliers. If a tenth of the frames miss it, the deadline determines even the
90th percentile of the latency.
"""

BUSY_SHARE = 0.9
"""Share of time that the compute thread is busy. Above it waits grow steeply with the load."""

WAITING_REQUESTS = 4
"""Mean number of requests that wait for the compute thread.

A reply then takes about five times the computing time. An edge with one frame in flight can keep a
server busy, but causes no queue and no alert.
"""

STORE_SHARE = 0.1
"""Share of the store's volume that is free: 1 GiB of the default claim of 10 GiB."""

STORE_BYTES = 256 * 2**20
"""Minimum of free bytes on any volume.

Others can fill a claim on a shared disk. The archives are then a small share of it, and
`STORE_SHARE` does not apply.
"""

DOWN_HOLD = "10m"
"""An upgrade or a drained node takes less than 10 minutes.

Edges retry the hand-over of their results for an hour, so 50 minutes remain to act.
"""

DOWN_MEMORY = "7d"
"""The alert fires for this time after an operator's last scrape, and then resolves by itself.

`absent()` would fire if the rules are loaded and no operator was ever installed. It would not
detect that one of two operators is down. The alert therefore compares with the past. A week is
longer than typical holidays, and Prometheus reads only one series over it.
"""


# -------------------------------------------------------------------------------------- the parts

_METRICS: Mapping[str, Metric] = {m.name: m for table in TABLES.values() for m in table}
_STUDY = "study_namespace, study"
_STUDY_EDGE = f"{_STUDY}, edge"
_INSTALLATION = "namespace"
"""The namespace that the operator runs in, a label that Prometheus adds."""

_WORKER_LABELS = ("study_namespace", "study", "role")
PROMETHEUS_LABELS = ("job", "instance", "namespace", "pod")


def labels(metric: Metric) -> tuple[str, ...]:
    """Return all labels of a metric's series, with those of the worker and of Prometheus."""
    if metric in OPERATOR:
        added: tuple[str, ...] = ()
    elif metric in SERVER:
        added = _WORKER_LABELS
    else:
        added = (*_WORKER_LABELS, "edge")
    return (*metric.labels, *added, *PROMETHEUS_LABELS)


def selector(name: str, part: str = "", **matchers: str) -> str:
    """Make a selector of a metric; `part` is `count`, `sum` or `bucket` of a histogram.

    A value with `|` is a regular expression. Raises KeyError for a metric, and ValueError for a
    label or part, that the table does not have.
    """
    metric = _METRICS[name]
    unknown = matchers.keys() - set(labels(metric))
    if unknown:
        raise ValueError(f"{name} has no label {', '.join(sorted(unknown))}")
    if bool(part) != (metric.type is Type.HISTOGRAM):
        raise ValueError(f"{name} is a {metric.type}: expected a part of histograms only")
    suffix = f"_{part}" if part else ""
    inside = ",".join(
        f'{label}{"=~" if "|" in value else "="}"{value}"' for label, value in matchers.items()
    )
    return f"{metric.exposed}{suffix}" + (f"{{{inside}}}" if inside else "")


def _increase(by: str, series: str) -> str:
    return f"sum by ({by}) (increase({series}[{WINDOW}]))"


def _holds(condition: str, status: str = "True") -> str:
    """Return the studies of which a condition has this status."""
    series = selector("splittracr_study_condition", type=condition, status=status)
    return f"max by ({_STUDY}) ({series}) == 1"


# ------------------------------------------------------------------------------------- the alerts

_OF_STUDY = "{{ $labels.study_namespace }}/{{ $labels.study }}"
_OF_EDGE = f"{_OF_STUDY}, {{{{ $labels.edge }}}}"

_samples = _increase(_STUDY, selector("splittracr_study_samples", outcome="ok|failed"))
# The operator has to drop the series of an edge that has finished while other edges run.
_last_report = selector("splittracr_study_edge_last_report_timestamp_seconds")
_predicted = _increase(_STUDY_EDGE, selector("splittracr_predicted_latency_seconds"))
_measured = _increase(_STUDY_EDGE, selector("splittracr_measured_latency_seconds"))
_predicted_frames = _increase(_STUDY_EDGE, selector("splittracr_predicted_frames"))
_reconnects = _increase(_STUDY_EDGE, selector("splittracr_link_reconnects"))
_missed = _increase(_STUDY_EDGE, selector("splittracr_deadline_misses"))
_frames = _increase(_STUDY_EDGE, selector("splittracr_frame_latency_seconds", "count"))
_busy = selector("splittracr_server_busy_seconds")
_waited = selector("splittracr_server_queue_wait_seconds", "sum")
_drifted = selector("splittracr_cascade_drifted")
_free = selector("splittracr_operator_store_free_bytes")
_stored = selector("splittracr_operator_store_bytes")
_errors = selector("splittracr_operator_reconcile_errors")
_operator = selector("splittracr_operator_build_info")

STUDIES: Sequence[Alert] = (
    Alert(
        name="SplittracrStudyStalled",
        # A failed study keeps Stalled. Succeeded is Unknown only until a study ends.
        # The series of samples begins with the first report, after images have been pulled.
        expr=f"""\
(
  {_holds("Stalled")}
  and
  {_holds("Succeeded", "Unknown")}
)
or
(
  {_samples} == 0
  and
  {_holds("Progressing")}
)""",
        hold=STALLED_HOLD,
        severity=Severity.WARNING,
        when="A study that has not ended is `Stalled` for 15 minutes, or records no sample for 20 "
        "(15 at its start).",
        summary=f"Study {_OF_STUDY} is stalled.",
        description="The study has not ended and cannot continue, or it records no samples. "
        "Its condition Ready says why.",
    ),
    Alert(
        name="SplittracrEdgeSilent",
        # Edges are expected only while the study progresses. A suspended study has none, and a
        # stalled one has its own alert.
        expr=f"""\
time() - max by ({_STUDY_EDGE}) ({_last_report}) > {SILENT_SECONDS}
and on ({_STUDY})
{_holds("Progressing")}""",
        hold=SILENT_HOLD,
        severity=Severity.WARNING,
        when="An edge of a study in progress gives the operator no report for 6 minutes.",
        summary=f"Edge {_OF_EDGE} does not answer.",
        description="The last report of this edge is {{ $value | humanizeDuration }} old. Its pod "
        "is down, or the operator cannot reach it.",
    ),
    Alert(
        name="SplittracrPredictionsOff",
        expr=f"""\
abs({_measured}
  / {_predicted} - 1) > {PREDICTION_ERROR}
and
{_predicted_frames} >= {MIN_FRAMES}""",
        hold=HOLD,
        severity=Severity.WARNING,
        when="Mean measured and predicted latency of an adaptive edge differ by more than half.",
        summary=f"Predicted latencies of edge {_OF_EDGE} are wrong.",
        description="Measured and predicted latency differ by "
        "{{ $value | humanizePercentage }} of the prediction. The cut in use may be a bad choice.",
    ),
    Alert(
        name="SplittracrReconnectStorm",
        expr=f"{_reconnects} >= {RECONNECTS}",
        hold=HOLD,
        severity=Severity.WARNING,
        when=f"An edge reconnects to the server {RECONNECTS} times or more in each 5 minutes.",
        summary=f"Edge {_OF_EDGE} keeps losing its server.",
        description=f'The edge has reconnected {{{{ $value | printf "%.0f" }}}} times in {WINDOW}. '
        "Requests are sent again and latencies include the outages.",
    ),
    Alert(
        name="SplittracrDeadlineMisses",
        expr=f"""\
{_missed}
  / {_frames} > {MISSED_SHARE}
and
{_frames} >= {MIN_FRAMES}""",
        hold=HOLD,
        severity=Severity.WARNING,
        when="More than a tenth of an edge's frames miss their deadline.",
        summary=f"Edge {_OF_EDGE} misses deadlines.",
        description="{{ $value | humanizePercentage }} of the frames were not answered by the "
        "server before their deadline.",
    ),
    Alert(
        name="SplittracrServerSaturated",
        # By Little's law the waiting time added per second is the mean number of waiting requests.
        # Unlike the gauge of the queue's length it covers the time between two scrapes.
        expr=f"""\
sum by ({_STUDY}) (rate({_waited}[{WINDOW}])) > {WAITING_REQUESTS}
and
sum by ({_STUDY}) (rate({_busy}[{WINDOW}])) > {BUSY_SHARE}""",
        hold=HOLD,
        severity=Severity.WARNING,
        when=f"The server is busy and more than {WAITING_REQUESTS} requests wait on average.",
        summary=f"The server of study {_OF_STUDY} is saturated.",
        description='{{ $value | printf "%.1f" }} requests wait for the compute thread on average, '
        f"and it is busy more than {BUSY_SHARE:.0%} of the time. Latencies are mostly waiting.",
    ),
    Alert(
        name="SplittracrCascadeDrifted",
        expr=f"max by ({_STUDY_EDGE}) ({_drifted}) == 1",
        hold=HOLD,
        severity=Severity.WARNING,
        when="The audits of a cascade refute the promise of its calibration.",
        summary=f"Answers on edge {_OF_EDGE} disagree too often.",
        description="The last audits show that more of them disagree with the large model "
        "than the calibration promised. The pictures have changed.",
    ),
)
"""Alerts of studies. Their labels are `study_namespace`, `study` and, for an edge, `edge`."""

INSTALLATION: Sequence[Alert] = (
    Alert(
        name="SplittracrResultsStoreNearlyFull",
        expr=f"""\
min by ({_INSTALLATION}) (
  {_free} < {STORE_SHARE} * ({_free} + {_stored})
)
or
min by ({_INSTALLATION}) ({_free} < {STORE_BYTES})""",
        hold=HOLD,
        severity=Severity.CRITICAL,
        when="Less than a tenth of the sum of archives and free space, or less than 256 MiB, "
        "is free.",
        summary="The results store in {{ $labels.namespace }} is nearly full.",
        description="{{ $value | humanize1024 }}B are free. Once the store is full, edges cannot "
        "hand over their results, and give up after an hour.",
    ),
    Alert(
        name="SplittracrOperatorErrors",
        # Retries are at most 30 seconds apart, comparisons with the API server 60 seconds. A
        # permanent error therefore shows in each window.
        expr=f"sum by ({_INSTALLATION}, kind) (increase({_errors}[{WINDOW}])) > 0",
        hold=HOLD,
        severity=Severity.WARNING,
        when="Reconciles fail with the same kind of error in each 5 minutes.",
        summary="The operator in {{ $labels.namespace }} has errors: {{ $labels.kind }}.",
        description='{{ $value | printf "%.0f" }} reconciles '
        f"have failed in {WINDOW} ({{{{ $labels.kind }}}}), "
        "and retries do not help. Status updates are late, or studies do not progress.",
    ),
    Alert(
        name="SplittracrOperatorDown",
        expr=f"""\
group by ({_INSTALLATION}) (present_over_time({_operator}[{DOWN_MEMORY}]))
unless
group by ({_INSTALLATION}) ({_operator})""",
        hold=DOWN_HOLD,
        severity=Severity.CRITICAL,
        when="An operator that was scraped in the last 7 days is not scraped any more.",
        summary="The operator in {{ $labels.namespace }} is down.",
        description="Prometheus gets no metrics from the operator. Running studies continue; "
        "new ones do not start, and edges that finish keep their results for an hour only.",
    ),
)
"""Alerts of the operator and its store. Their label is the operator's `namespace`."""

ALERTS: Sequence[Alert] = (*STUDIES, *INSTALLATION)
"""All alerts, in the order of the file."""


# --------------------------------------------------------------------------------------- the files


def text() -> str:
    """Return the rules as a rule file of Prometheus."""
    groups = {"splittracr-studies": STUDIES, "splittracr-operator": INSTALLATION}
    made = [
        {"name": name, "rules": [alert.rule() for alert in alerts]}
        for name, alerts in groups.items()
    ]
    return yaml.dump({"groups": made}, Dumper=_Blocks, sort_keys=False, width=1000)


def index() -> str:
    """Return the list of runbook pages, as Markdown."""
    rows = [
        f"| [{alert.name}]({alert.name}.md) | {alert.severity} | {alert.hold} | {alert.when} |"
        for alert in ALERTS
    ]
    return "\n".join([_INDEX, *rows, ""])


_INDEX = f"""\
# Runbooks

Each alert in `charts/splittracr/files/alerts.yaml` has a page with its meaning, how to check it
and how to fix its cause. The annotation `runbook` of an alert is the path of its page in the
repository; there is no public site with these pages.

An alert fires after its expression has been true for the time in the third column. Rates are over
a shorter time ({WINDOW}), so that a single event never fires an alert. The rules need a scrape
interval of at most a minute. `{Severity.CRITICAL}` means that results can be lost within an hour.
The thresholds and their reasons are in `workers/splittracr/monitoring/alerts.py`.

In the commands, `NAMESPACE` and `NAME` are the labels `study_namespace` and `study` of the alert,
and `OPERATOR` is its label `namespace`. In the queries, fill in the same labels.

| Alert | Severity | For | Fires when |
|---|---|---|---|"""


class _Blocks(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Blocks.add_representer(str, _text)
