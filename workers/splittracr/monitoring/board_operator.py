"""The dashboard of the operator."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from splittracr.monitoring import promql
from splittracr.monitoring.build import (
    BLUE,
    BYTES,
    COUNT,
    GREY,
    ORANGE,
    PALE,
    PER_MINUTE,
    PER_SECOND,
    PINK,
    RATE,
    SECONDS,
    SKY,
    Query,
    Sized,
    annotation,
    board_of,
    count,
    lines,
    number,
    percentiles,
    placed,
    variable,
)
from splittracr.monitoring.promql import (
    operator,
)


def board() -> Dashboard:
    """Build the dashboard."""
    board = board_of("operator", "The operator: reconciles, requests, results store, resources.")
    board.with_variable(
        variable(
            "instance",
            promql.label_values("instance", "splittracr_operator_build_info"),
            multi=True,
        )
    )
    errors = operator("splittracr_operator_reconcile_errors").gained().sum("kind")
    board.annotation(annotation("Reconcile failed", errors, PINK, "{{kind}}"))
    return placed(
        board,
        [
            ("", _operator_stats()),
            ("Reconciles", _operator_reconciles()),
            ("API server", _operator_requests()),
            ("Results store", _operator_store()),
            ("Process", _operator_process()),
        ],
    )


def _operator_stats() -> list[Sized]:
    build = operator("splittracr_operator_build_info")
    errors = operator("splittracr_operator_reconcile_errors").increase().sum()
    return [
        count(
            "Version",
            "Version of the running operators.",
            Query(build.count("version"), "{{version}}"),
            width=4,
            name_only=True,
        ),
        count(
            "Studies",
            "Studies that the operator manages.",
            Query(operator("splittracr_studies").max("state").sum(), "studies"),
            width=4,
        ),
        count(
            "Waiting",
            "Studies that wait for a reconcile.",
            Query(operator("splittracr_operator_work_queue_length").sum(), "waiting"),
            width=4,
        ),
        count(
            "Failed reconciles",
            "Reconciles that failed in the time range.",
            Query(errors, "errors", instant=True),
            width=4,
        ),
        number(
            "Results stored",
            "Bytes of all archives in the results store.",
            BYTES,
            Query(operator("splittracr_operator_store_bytes").max(), "stored"),
            width=4,
        ),
        number(
            "Free",
            "Bytes free on the volume of the results store.",
            BYTES,
            Query(operator("splittracr_operator_store_free_bytes").max(), "free"),
            width=4,
        ),
    ]


_QUANTILES = (0.5, 0.95, 0.99)
_QUANTILE_COLOURS = {"p50": PALE, "p95": SKY, "p99": BLUE}


def _operator_reconciles() -> list[Sized]:
    spent = operator("splittracr_operator_reconcile_seconds", "bucket").rate().sum("le")
    waits = operator("splittracr_operator_work_queue_wait_seconds", "bucket").rate().sum("le")
    rate = operator("splittracr_operator_reconcile_seconds", "count").rate().sum()
    errors = operator("splittracr_operator_reconcile_errors").rate().sum("kind")
    return [
        lines(
            "Reconcile rate",
            "Reconciles of studies per second, failed ones included.",
            PER_SECOND,
            [Query(rate, "reconciles")],
            width=8,
            colours={"reconciles": BLUE},
        ),
        lines(
            "Reconcile time",
            "Time of a reconcile, interpolated between buckets.",
            SECONDS,
            percentiles(spent, *_QUANTILES),
            width=8,
            colours=_QUANTILE_COLOURS,
        ),
        lines(
            "Reconcile errors",
            "Failed reconciles per minute, by kind of error.",
            PER_MINUTE,
            [Query(errors.times(60), "{{kind}}")],
            width=8,
        ),
        lines(
            "Work queue",
            "Studies that wait for a reconcile.",
            COUNT,
            [Query(operator("splittracr_operator_work_queue_length").sum(), "waiting")],
            step=True,
            colours={"waiting": BLUE},
        ),
        lines(
            "Work queue wait",
            "Time from when a study was due until its reconcile began, interpolated between "
            "buckets.",
            SECONDS,
            percentiles(waits, *_QUANTILES),
            colours=_QUANTILE_COLOURS,
        ),
    ]


def _operator_requests() -> list[Sized]:
    requests = operator("splittracr_operator_api_requests").rate().sum("verb")
    watches = operator("splittracr_operator_watch_restarts").rate().sum("kind").times(60)
    return [
        lines(
            "API requests",
            "Requests to the API server, by verb.",
            "reqps",
            [Query(requests, "{{verb}}")],
            stack=True,
        ),
        lines(
            "Watch restarts",
            "Restarts of watches per minute, by kind of object.",
            PER_MINUTE,
            [Query(watches, "{{kind}}")],
            empty="No data: no watch was restarted since the operator started.",
        ),
    ]


def _operator_store() -> list[Sized]:
    handovers = operator("splittracr_operator_handovers").rate().sum("outcome").times(60)
    received = operator("splittracr_operator_handover_bytes").rate().sum()
    return [
        lines(
            "Hand-overs",
            "Archives of results that edges handed over per minute, by outcome.",
            PER_MINUTE,
            [Query(handovers, "{{outcome}}")],
            width=8,
            colours={"ok": BLUE, "refused": ORANGE, "failed": PINK},
        ),
        lines(
            "Bytes handed over",
            "Bytes of the archives that were kept.",
            RATE,
            [Query(received, "kept")],
            width=8,
            colours={"kept": BLUE},
        ),
        lines(
            "Store",
            "Bytes of all archives, and bytes free on their volume.",
            BYTES,
            [
                Query(operator("splittracr_operator_store_bytes").max(), "stored"),
                Query(operator("splittracr_operator_store_free_bytes").max(), "free"),
            ],
            width=8,
            colours={"stored": BLUE, "free": GREY},
        ),
    ]


def _operator_process() -> list[Sized]:
    return [
        lines(
            "Memory",
            "Resident memory of each selected operator.",
            BYTES,
            [Query(operator("process_resident_memory_bytes").max("instance"), "{{instance}}")],
        ),
        lines(
            "CPU",
            "Cores that each selected operator uses.",
            COUNT,
            [Query(operator("process_cpu_seconds").rate().sum("instance"), "{{instance}}")],
        ),
    ]
