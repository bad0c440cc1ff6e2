"""The dashboard of all studies."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from splittracr.experiment.status import CONDITION_TYPES
from splittracr.monitoring import promql
from splittracr.monitoring.build import (
    BLACK,
    BLUE,
    COUNT,
    GREEN,
    MAX_SERIES,
    ORANGE,
    PER_MINUTE,
    PER_SECOND,
    PINK,
    SECONDS,
    SHARE,
    Column,
    Query,
    Sized,
    annotation,
    board_of,
    count,
    lines,
    number,
    placed,
    table_of,
    variable,
)
from splittracr.monitoring.promql import (
    Vector,
    fleet,
)

_NAME = ("study_namespace", "study")
_LEGEND = "{{study_namespace}}/{{study}}"


def board() -> Dashboard:
    """Build the dashboard."""
    board = board_of(
        "fleet",
        "All studies of a cluster: states, load, failures. Needs the metrics of the operator and "
        "of the workers.",
    )
    info = "splittracr_study_info"
    board.with_variable(
        variable("namespace", promql.label_values("study_namespace", info), multi=True)
    ).with_variable(
        variable(
            "study",
            promql.label_values("study", info, 'study_namespace=~"$namespace"'),
            multi=True,
        )
    )
    lost = fleet("splittracr_link_sessions_lost").gained().sum(*_NAME)
    restarts = fleet("splittracr_study_worker_restarts").gained().sum(*_NAME, "role")
    board.annotation(annotation("Session lost", lost, ORANGE, _LEGEND)).annotation(
        annotation("Worker restarted", restarts, PINK, _LEGEND + " {{role}}")
    )
    return placed(
        board,
        [
            ("", _fleet_stats()),
            ("Studies", [_studies_table(), *_fleet_studies()]),
            ("Load", _fleet_load()),
            ("Failures", _fleet_failures()),
        ],
    )


def _fleet_stats() -> list[Sized]:
    ready = fleet("splittracr_study_workers_ready").max(*_NAME, "role").sum("role")
    restarts = fleet("splittracr_study_worker_restarts").increase().sum()
    return [
        count(
            "Studies by state",
            "All studies that the operator manages.",
            # States without studies are not shown.
            Query(fleet("splittracr_studies").max("state").above_zero(), "{{state}}", instant=True),
            width=8,
            named=True,
        ),
        count(
            "Workers ready",
            "Ready workers of the selected studies by role.",
            Query(ready, "{{role}}", instant=True),
            width=4,
            named=True,
        ),
        number(
            "Samples",
            "Samples that all selected studies record per second.",
            PER_SECOND,
            Query(fleet("splittracr_study_samples").rate().sum(), "samples"),
            width=4,
        ),
        count(
            "Failed",
            "Samples recorded as failed in the time range.",
            Query(
                fleet("splittracr_study_samples", outcome="failed").increase().sum(),
                "failed",
                instant=True,
            ),
            width=4,
        ),
        count(
            "Restarts",
            "Restarts of workers' containers in the time range.",
            Query(restarts, "restarts", instant=True),
            width=4,
        ),
    ]


_STATUS = {"0": ("False", "#8e8e8e"), "1": ("True", BLACK), "2": ("Unknown", "#8e8e8e")}


def _studies_table() -> Sized:
    def condition(name: str) -> Vector:
        true, unknown = (
            fleet("splittracr_study_condition", type=name, status=status).max(*_NAME)
            for status in ("True", "Unknown")
        )
        return true.plus(unknown.times(2))

    expected = fleet("splittracr_study_samples_expected").max(*_NAME)
    done = (
        fleet("splittracr_study_samples", outcome="~ok|failed").max(*_NAME, "outcome").sum(*_NAME)
    )
    restarts = fleet("splittracr_study_worker_restarts").max(*_NAME, "role").sum(*_NAME)
    columns = [
        Column("Model", fleet("splittracr_study_info").max(*_NAME, "model", "mode"), hide=True),
        Column("Progress", done.per(expected), SHARE),
        Column(
            "p95", fleet("splittracr_study_latency_seconds", quantile="0.95").max(*_NAME), SECONDS
        ),
        Column("Restarts", restarts, decimals=0),
        *(Column(name, condition(name), mapped=_STATUS) for name in CONDITION_TYPES),
    ]
    return table_of(
        "Conditions and progress",
        "Each selected study at the end of the time range: progress, latency at the cut in use "
        "and conditions.",
        columns,
        labels={"study_namespace": "Namespace", "study": "Study", "model": "Model", "mode": "Mode"},
        height=9,
    )


def _fleet_studies() -> list[Sized]:
    rate = fleet("splittracr_study_samples", outcome="~ok|failed").rate().sum(*_NAME)
    latency = fleet("splittracr_study_latency_seconds", quantile="0.95").max(*_NAME)
    report = fleet("splittracr_study_edge_last_report_timestamp_seconds").max(*_NAME, "edge")
    return [
        lines(
            "Samples by study",
            "Samples recorded per second, for the eight fastest studies at each moment.",
            PER_SECOND,
            [Query(rate.top(MAX_SERIES), _LEGEND)],
            width=8,
        ),
        lines(
            "Latency p95 by study",
            "95th percentile at the cut in use, of each study's slowest edge, for the eight "
            "slowest studies at each moment.",
            SECONDS,
            [Query(latency.top(MAX_SERIES), _LEGEND)],
            width=8,
        ),
        lines(
            "Age of the last report",
            "Time since an edge last answered the operator, for the eight oldest at each moment.",
            SECONDS,
            [Query(report.age().top(MAX_SERIES), _LEGEND + " {{edge}}")],
            width=8,
        ),
    ]


def _fleet_load() -> list[Sized]:
    states = fleet("splittracr_studies").max("state").above_zero()
    ready = fleet("splittracr_study_workers_ready").max(*_NAME, "role").sum("role")
    sessions = fleet("splittracr_link_sessions", role="server").sum(*_NAME)
    edges_max = fleet("splittracr_server_edges_max").sum(*_NAME)
    busy = fleet("splittracr_server_busy_seconds").rate().mean(*_NAME)
    waits = fleet("splittracr_server_queue_wait_seconds", "bucket").rate().sum(*_NAME, "le")
    return [
        lines(
            "Studies over time",
            "Studies that the operator manages.",
            COUNT,
            [Query(states, "{{state}}")],
            width=12,
            stack=True,
            step=True,
            decimals=0,
        ),
        lines(
            "Edges and servers",
            "Ready workers by role, and open sessions between them.",
            COUNT,
            [
                Query(ready, "{{role}} ready"),
                Query(fleet("splittracr_link_sessions", role="server").sum(), "sessions"),
            ],
            width=12,
            step=True,
            decimals=0,
            colours={"edge ready": BLUE, "server ready": ORANGE, "sessions": GREEN},
        ),
        lines(
            "Sessions per server limit",
            "Open sessions as a share of the maximum number of edges of a study's servers, for the "
            "eight fullest at each moment.",
            SHARE,
            [Query(sessions.per(edges_max).top(MAX_SERIES), _LEGEND)],
            width=8,
        ),
        lines(
            "Busy servers",
            "Mean share of time that the compute threads of a study's servers are busy, for the "
            "eight busiest at each moment.",
            SHARE,
            [Query(busy.top(MAX_SERIES), _LEGEND)],
            width=8,
        ),
        lines(
            "Queue wait p95",
            "95th percentile of the time that requests waited for the compute thread, for the "
            "eight longest at each moment.",
            SECONDS,
            [Query(waits.quantile(0.95).top(MAX_SERIES), _LEGEND)],
            width=8,
        ),
    ]


def _fleet_failures() -> list[Sized]:
    def a_minute(name: str, **matchers: str) -> Vector:
        return fleet(name, **matchers).events(*_NAME).top(MAX_SERIES)

    quiet = "No such event in this time range."
    return [
        lines(
            "Samples that failed or had no answer",
            "Samples per minute that failed, or that the edge finished because the server did not "
            "answer. The eight highest studies at each moment.",
            PER_MINUTE,
            [Query(a_minute("splittracr_study_samples", outcome="~failed|unanswered"), _LEGEND)],
            width=8,
            empty=quiet,
        ),
        lines(
            "Lost sessions",
            "Sessions per minute that ended early. The eight highest studies at each moment.",
            PER_MINUTE,
            [Query(a_minute("splittracr_link_sessions_lost"), _LEGEND)],
            width=8,
            empty=quiet,
        ),
        lines(
            "Worker restarts",
            "Restarts of containers per minute. The eight highest studies at each moment.",
            PER_MINUTE,
            [Query(a_minute("splittracr_study_worker_restarts"), _LEGEND)],
            width=8,
            empty=quiet,
        ),
    ]
