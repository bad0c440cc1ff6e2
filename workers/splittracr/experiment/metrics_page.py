"""The metrics as a page, made from their table.

`make generate` writes it to `docs/metrics.md`.
"""

from collections.abc import Iterator, Sequence

from splittracr.experiment.contracts import METRICS_PATH, METRICS_PORT, OPERATOR_PORT
from splittracr.experiment.metrics import TABLES, Metric

_INTRODUCTION = f"""\
# Metrics

Each edge, each server and the operator serve Prometheus metrics at `{METRICS_PATH}`, over plain
HTTP: in OpenMetrics if the request accepts it, else in Prometheus' older text format. Beside the
metrics below they have `process_*`: the memory and the processor time of the process, such as
`process_resident_memory_bytes`.

| Who | Where |
|---|---|
| an edge | `spec.edge.metricsPort` at `spec.edge.host` |
| a server | `spec.server.metricsPort` at `spec.server.host` |
| the operator | port {OPERATOR_PORT} |

In a cluster both ports of a study are {METRICS_PORT}, and the containers' ports are named
`metrics`. On one machine they are free ones by default. To scrape a study there, set them:

    splittracr run configs/quickstart.yaml --set spec.edge.metricsPort=9101 \\
        --set spec.server.metricsPort=9102

```yaml
scrape_configs:
  - job_name: splittracr
    static_configs:
      - targets: ["127.0.0.1:9101", "127.0.0.1:9102"]
```

## Labels

An edge or a server adds these labels to each of its series, `process_*` included:

| Label | Meaning |
|---|---|
| `study_namespace`, `study` | Namespace and name of the study. |
| `role` | `edge` or `server`. |
| `edge` | Name of the edge, such as `edge-0`; a server has no such label. |

The operator's metrics of a study have `study_namespace` and `study`, too. They go when the study is
deleted.

Times are seconds, sizes bytes. A counter begins at 0 when its process starts; series whose labels
are known from the start are there at 0, so that `rate()` sees the first event. Stages are those of
the records ([results](results.md)); each worker has those that it measures itself. The stage
`link` is the time between the ends. Frames of the warm-up count in bytes and operations and at the
server, but not as samples, frames, decisions or stages of the edge.

## Examples

Samples a second of each study, and the share of them that failed:

    sum by (study_namespace, study) (rate(splittracr_samples_total[1m]))
    sum by (study_namespace, study) (rate(splittracr_samples_total{{outcome="failed"}}[5m]))
      / sum by (study_namespace, study) (rate(splittracr_samples_total[5m]))

Where a frame spends its time, in milliseconds a frame:

    1000 * sum by (study_namespace, study, role, stage) (rate(splittracr_stage_seconds_sum[1m]))
      / sum by (study_namespace, study, role, stage) (rate(splittracr_stage_seconds_count[1m]))

The 95th percentile of the end-to-end latency, and the busy share of each server:

    histogram_quantile(0.95,
      sum by (study_namespace, study, le) (rate(splittracr_frame_latency_seconds_bucket[5m])))
    rate(splittracr_server_busy_seconds_total[1m])
"""


def markdown() -> str:
    """The page, in Markdown."""
    return "\n".join([_INTRODUCTION, *_tables()])


def _tables() -> Iterator[str]:
    for heading, table in TABLES.items():
        yield from (
            f"## {heading}",
            "",
            "| Metric | Type | Labels | Meaning |",
            "|---|---|---|---|",
        )
        yield from map(_row, table)
        yield ""


def _row(metric: Metric) -> str:
    absent = f" *Absent: {metric.absent[0].lower()}{metric.absent[1:]}*" if metric.absent else ""
    cells = (
        f"`{metric.exposed}`",
        metric.type.value,
        ", ".join(f"`{label}`" for label in metric.labels),
        f"{metric.help}{_values(metric)}{absent}",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _values(metric: Metric) -> str:
    """The known values of a label, if the text does not name them."""
    known: Sequence[str] = [value for (value, *_) in metric.values]
    if not known or all(f"`{value}`" in metric.help for value in known):
        return ""
    return " " + ", ".join(f"`{value}`" for value in known) + "."
