"""The Grafana dashboards: which panels they have, what those ask, and how they look.

The result is classic JSON, which Grafana 10 to 13 and every sidecar read. The builders of
grafana-foundation-sdk are needed to generate it only; users get the files.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    DataSourceRef,
    LegendDisplayMode,
    LegendPlacement,
    LineInterpolation,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    GridPos,
    ValueMap,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from splittracr.experiment.metrics import Source
from splittracr.monitoring import promql
from splittracr.monitoring.promql import (
    BadQuery,
    Vector,
    about_study,
    edge,
    fleet,
    operator,
    server,
    workers,
)

TAG = "splittracr"
UIDS = {"study": "splittracr-study", "fleet": "splittracr-fleet", "operator": "splittracr-operator"}
"""Names of the dashboards and their identifiers in Grafana, which never change."""

SCHEMA = 38  # of Grafana 10.0: newer versions migrate it, older ones than the SDK's can read it
MAX_SERIES = 8

BLUE, SKY, PALE = "#08519c", "#5a9bd0", "#9ecae1"  # the edge, as in the report of a study
GREY, PEACH, ORANGE = "#b5b5b5", "#fdbe85", "#d95f02"  # the link; the server
GREEN, PINK, BLACK, CYAN = "#009e73", "#cc79a7", "#222222", "#56b4e9"

SAMPLES = "suffix: samples/s"
PER_MINUTE = "cpm"
SECONDS, BYTES, RATE, SHARE, COUNT = "s", "decbytes", "Bps", "percentunit", "short"

SOURCE_COLOURS = {
    Source.SERVER: ORANGE,
    Source.EDGE: BLUE,
    Source.DEADLINE: PINK,
    Source.HEDGE: GREEN,
    Source.SERVER_LOST: BLACK,
}

_PROMETHEUS = DataSourceRef(type_val="prometheus", uid="${datasource}")


@dataclass(frozen=True)
class Query:
    """What a panel asks, and the name of each series: `{{label}}` is replaced by its value."""

    vector: Vector
    legend: str
    instant: bool = False

    def __post_init__(self) -> None:
        used = {part.split("}}")[0] for part in self.legend.split("{{")[1:]}
        if wrong := sorted(used - self.vector.labels):
            raise BadQuery(f"{self.vector.text} has no label {', '.join(wrong)} for the legend")


@dataclass(frozen=True)
class Sized:
    """A panel and its size: the page is 24 units wide; a unit of height is 38 pixels."""

    builder: Any
    width: int
    height: int


Section = tuple[str, Sequence[Sized]]


def document(name: str) -> str:
    """The JSON of a dashboard, the same for the same sources."""
    made: Mapping[str, Callable[[], dashboard.Dashboard]] = {
        "study": _study,
        "fleet": _fleet,
        "operator": _operator,
    }
    return _text(made[name]())


def _text(builder: dashboard.Dashboard) -> str:
    document = json.loads(JSONEncoder().encode(builder.build()))
    document["schemaVersion"] = SCHEMA
    for one in (*document["links"], *document["annotations"]["list"]):
        del one["placement"]  # the SDK's default hides it in a menu of Grafana 12 and later
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


# ---------------------------------------------------------------------------------------- study


def _study() -> dashboard.Dashboard:
    board = _board(
        "study",
        "One study: progress, where it is cut, latency, bytes, results and workers. Works with "
        "metrics of the workers alone.",
    )
    expected = "splittracr_samples_expected"
    board.with_variable(
        _variable("namespace", promql.label_values("study_namespace", expected))
    ).with_variable(
        _variable("study", promql.label_values("study", expected, promql.STUDY[0]))
    ).with_variable(
        _variable("edge", promql.label_values("edge", expected, *promql.STUDY), multi=True)
    )
    switches = edge("splittracr_candidate_switches").gained().sum("edge")
    info = edge("splittracr_candidate_info").max("edge", "cut", "codec")
    lost = edge("splittracr_link_sessions_lost").gained().sum("edge")
    restarts = about_study("splittracr_study_worker_restarts").gained().sum("role")
    board.annotation(
        _annotation(
            "Cut switched", switches.named(info, "edge"), SKY, "{{edge}}: {{cut}} {{codec}}"
        )
    ).annotation(_annotation("Session lost", lost, ORANGE, "{{edge}}")).annotation(
        _annotation("Worker restarted", restarts, PINK, "{{role}}")
    )
    return _placed(
        board,
        [
            ("", _study_stats()),
            ("Cut and link", _study_cut()),
            ("Latency", _study_latency()),
            ("Adaptation", _study_adaptation()),
            ("Bytes and energy", _study_bytes()),
            ("Results and faults", _study_results()),
            ("Server", _study_server()),
            ("Workers", _study_workers()),
        ],
    )


def _samples(**matchers: str) -> Vector:
    """Samples so far. An edge that was started again has two series for a moment."""
    return edge("splittracr_samples", **matchers).max("edge", "outcome").sum()


def _study_stats() -> list[Sized]:
    buckets = edge("splittracr_frame_latency_seconds", "bucket").increase().sum("le")
    frames = edge("splittracr_frame_latency_seconds", "count").increase().sum()
    by_server = edge("splittracr_frame_latency_seconds", "count", source="server").increase().sum()
    expected = edge("splittracr_samples_expected").max("edge").sum()
    return [
        _number("Progress", "Samples recorded, of those that the study will record.", SHARE,
                Query(_samples().per(expected), "progress")),
        _number("Samples", "Samples that the selected edges record in a second.", SAMPLES,
                Query(edge("splittracr_samples").rate().sum(), "samples")),
        _number("Failed", "Samples recorded as failed.", COUNT,
                Query(_samples(outcome="failed"), "failed"), decimals=0),
        _number("Latency p50", "Median over the time range, interpolated between buckets.", SECONDS,
                Query(buckets.quantile(0.5), "p50", instant=True), empty="no frame"),
        _number("Latency p95", "95th percentile over the time range, interpolated between buckets.",
                SECONDS, Query(buckets.quantile(0.95), "p95", instant=True), empty="no frame"),
        _number("From the server", "Share of frames whose result came from the server, over the "
                "time range.", SHARE, Query(by_server.per(frames), "server", instant=True),
                empty="no frame"),
        _number("Switches", "Changes of cut or codec in the time range.", COUNT,
                Query(edge("splittracr_candidate_switches").increase().sum(), "switches",
                      instant=True), decimals=0),
        _number("Lost sessions", "Sessions with the server that ended early, in the time range.",
                COUNT, Query(edge("splittracr_link_sessions_lost").increase().sum(), "lost",
                             instant=True), decimals=0),
    ]  # fmt: skip


def _study_cut() -> list[Sized]:
    candidate = ("cut", "codec")
    used = edge("splittracr_candidate_info").longest(MAX_SERIES, *candidate).count(*candidate)
    goodput = edge("splittracr_link_goodput_bytes_per_second").mean("direction")
    sent = edge("splittracr_link_bytes").rate().sum("direction")
    return [
        _lines(
            "Cut and codec in use",
            "Edges by the cut and codec of their last decision; the eight that were longest in "
            "use. A sweep changes them faster than they are scraped.",
            COUNT,
            [Query(used, "{{cut}} · {{codec}}")],
            width=24, height=7, stack=StackingMode.NORMAL, step=True, decimals=0,
        ),
        _lines(
            "Link rate",
            "Goodput of the link as estimated by the edges (mean of the selected edges), and the "
            "bytes that they really send and receive. Times line up with the panel above.",
            RATE,
            [
                Query(goodput, "goodput {{direction}}, estimated"),
                Query(sent, "sent {{direction}}"),
            ],
            width=24, height=7,
            colours={"goodput up, estimated": BLUE, "goodput down, estimated": ORANGE,
                     "sent up": PALE, "sent down": PEACH},
        ),
    ]  # fmt: skip


def _study_latency() -> list[Sized]:
    buckets = edge("splittracr_frame_latency_seconds", "bucket").rate().sum("source", "le")
    return [
        _lines(
            "End-to-end latency",
            "Median and 95th percentile of frames by where their result came from, interpolated "
            "between buckets.",
            SECONDS,
            [
                Query(buckets.quantile(0.5), "p50 {{source}}"),
                Query(buckets.quantile(0.95), "p95 {{source}}"),
            ],
            colours={
                f"{name} {source}": colour if name == "p95" else _lighter(colour)
                for source, colour in SOURCE_COLOURS.items() for name in ("p50", "p95")
            },
        ),
        _stages(),
    ]  # fmt: skip


def _lighter(colour: str) -> str:
    """Half way to white."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{(part + 255) // 2:02x}" for part in parts)


def _stages() -> Sized:
    frames = edge("splittracr_frame_latency_seconds", "count").rate().sum()
    requests = server("splittracr_stage_seconds", "count", stage="tail").rate().sum()

    def on_edge(stages: str) -> Vector:
        return edge("splittracr_stage_seconds", "sum", stage=f"~{stages}").rate().sum().per(frames)

    def on_server(stages: str) -> Vector:
        found = server("splittracr_stage_seconds", "sum", stage=f"~{stages}").rate().sum()
        return found.per(requests)

    parts = [
        ("edge: load, prepare", PALE, on_edge("load|prepare")),
        ("edge: head", BLUE, on_edge("head")),
        ("edge: everything else", SKY, on_edge("edge_wait|encode|other|reduce|finish")),
        ("link", GREY, on_edge("network")),
        ("server: decode, wait, reply", PEACH, on_server("decode|server_wait|reduce|reply")),
        ("server: tail", ORANGE, on_server("tail")),
    ]
    return _lines(
        "Where the time goes",
        "Mean time of a frame in each stage. Stages of the edge and the link are per frame, those "
        "of the server per request: they add up to the latency if each frame is a request.",
        SECONDS,
        [Query(vector, name) for name, _, vector in parts],
        stack=StackingMode.NORMAL,
        colours={name: colour for name, colour, _ in parts},
    )


def _study_adaptation() -> list[Sized]:
    frames = edge("splittracr_predicted_frames").rate().sum()
    predicted = edge("splittracr_predicted_latency_seconds").rate().sum().per(frames)
    measured = edge("splittracr_measured_latency_seconds").rate().sum().per(frames)
    decisions = edge("splittracr_decisions").rate()
    regret = edge("splittracr_regret_seconds").rate().sum().per(decisions.sum())
    return [
        _lines(
            "Predicted and measured latency",
            "Means of the frames that had a prediction and finished without a failure.",
            SECONDS,
            [Query(predicted, "predicted"), Query(measured, "measured")],
            width=8, colours={"predicted": SKY, "measured": BLACK},
        ),
        _lines(
            "Regret per decision",
            "Predicted latency of the chosen candidate above that of the best one, mean.",
            SECONDS,
            [Query(regret, "regret")],
            width=8, colours={"regret": PINK},
        ),
        _lines(
            "Decisions by reason",
            "Decisions in a second by why the cut and codec were chosen.",
            "suffix: /s",
            [Query(decisions.sum("reason"), "{{reason}}")],
            width=8, stack=StackingMode.NORMAL,
        ),
    ]  # fmt: skip


def _study_bytes() -> list[Sized]:
    frames = edge("splittracr_frame_latency_seconds", "count").rate().sum()
    payload = edge("splittracr_payload_bytes").rate().sum("state").per(frames)
    sent = edge("splittracr_link_bytes").rate().sum("direction").per(frames)
    zone = ("component", "zone", "kind")
    samples = edge("splittracr_samples", outcome="ok").rate().sum()
    all_samples = workers("splittracr_samples", outcome="ok").rate().sum()
    return [
        _lines(
            "Payload before and after the codec",
            "Mean bytes of a frame's live tensors before (raw) and after the codec (encoded).",
            BYTES,
            [Query(payload, "{{state}}")],
            width=8, colours={"raw": GREY, "encoded": BLUE},
        ),
        _lines(
            "Bytes on the link",
            "Mean bytes of a frame on the link, message headers included.",
            BYTES,
            [Query(sent, "{{direction}}")],
            width=8, colours={"up": BLUE, "down": ORANGE},
        ),
        _lines(
            "Energy per sample",
            "By component and zone of the sensor. Zones of one component may contain each other: "
            "do not add them. The server's energy is divided by the samples of all edges.",
            "joule",
            [
                Query(edge("splittracr_energy_joules").rate().sum(*zone).per(samples),
                      "edge {{component}} {{zone}}, {{kind}}"),
                Query(server("splittracr_energy_joules").rate().sum(*zone).per(all_samples),
                      "server {{component}} {{zone}}, {{kind}}"),
            ],
            width=8,
        ),
    ]  # fmt: skip


def _study_results() -> list[Sized]:
    by_source = edge("splittracr_frame_latency_seconds", "count").rate().sum("source").above_zero()
    agreement = edge("splittracr_agreement_ratio").mean("cut", "codec").top(MAX_SERIES)

    def a_minute(name: str, **matchers: str) -> Vector:
        return edge(name, **matchers).rate().sum().times(60)

    return [
        _lines(
            "Sources of results",
            "Frames in a second by where their result came from.",
            "suffix: /s",
            [Query(by_source, "{{source}}")],
            width=8, stack=StackingMode.NORMAL,
            colours={str(source): colour for source, colour in SOURCE_COLOURS.items()},
        ),
        _lines(
            "Faults",
            "Events in a minute: deadlines that passed, hedged frames, sessions that were lost and "
            "opened again, requests that were sent again.",
            PER_MINUTE,
            [
                Query(a_minute("splittracr_deadline_misses"), "deadline missed"),
                Query(a_minute("splittracr_hedges", outcome="won"), "hedge won"),
                Query(a_minute("splittracr_hedges", outcome="lost"), "hedge lost"),
                Query(a_minute("splittracr_link_sessions_lost"), "session lost"),
                Query(a_minute("splittracr_link_reconnects"), "reconnect"),
                Query(a_minute("splittracr_requests_resent"), "request resent"),
                Query(a_minute("splittracr_samples", outcome="failed"), "sample failed"),
            ],
            width=8,
        ),
        _lines(
            "Agreement",
            "Share of samples whose result is that without the codec, by cut and codec.",
            SHARE,
            [Query(agreement, "{{cut}} · {{codec}}")],
            width=8, maximum=1, minimum=None,
        ),
    ]  # fmt: skip


def _study_server() -> list[Sized]:
    waits = server("splittracr_server_queue_wait_seconds", "bucket").rate().sum("le")
    batches = server("splittracr_server_batch_size", "count").rate().sum()
    batch = server("splittracr_server_batch_size", "sum").rate().sum().per(batches)
    sessions = server("splittracr_link_sessions").sum()
    return [
        _lines(
            "Queue and batch",
            "Requests that wait for the compute thread, and requests computed together (mean).",
            COUNT,
            [
                Query(server("splittracr_server_queue_length").sum(), "queue length"),
                Query(batch, "batch size"),
            ],
            width=8, colours={"queue length": ORANGE, "batch size": BLUE},
        ),
        _lines(
            "Queue wait",
            "Time that requests waited for the compute thread, interpolated between buckets.",
            SECONDS,
            [Query(waits.quantile(q), f"p{q * 100:.0f}") for q in (0.5, 0.95)],
            width=8, colours={"p50": PEACH, "p95": ORANGE},
        ),
        _lines(
            "Load",
            "Share of time that the compute thread is busy, and open sessions of the edges that "
            "the server serves at most.",
            SHARE,
            [
                Query(server("splittracr_server_busy_seconds").rate().mean(), "busy"),
                Query(sessions.per(server("splittracr_server_edges_max").sum()), "sessions"),
            ],
            width=8, colours={"busy": ORANGE, "sessions": BLUE},
        ),
    ]  # fmt: skip


def _study_workers() -> list[Sized]:
    memory, cpu = "process_resident_memory_bytes", "process_cpu_seconds"
    device = "splittracr_device_memory_bytes"
    return [
        _lines(
            "Memory",
            "Resident memory of the largest worker of each role, and memory of the accelerator "
            "that tensors occupy.",
            BYTES,
            [
                Query(edge(memory).max(), "edge"),
                Query(server(memory).max(), "server"),
                Query(edge(device).max("state"), "edge, accelerator: {{state}}"),
                Query(server(device).max("state"), "server, accelerator: {{state}}"),
            ],
            colours={"edge": BLUE, "server": ORANGE},
        ),
        _lines(
            "CPU",
            "Cores in use, mean of the workers of each role.",
            "suffix: cores",
            [Query(edge(cpu).rate().mean(), "edge"), Query(server(cpu).rate().mean(), "server")],
            colours={"edge": BLUE, "server": ORANGE},
        ),
        _edges_table(),
        _versions_table(),
    ]


def _edges_table() -> Sized:
    latency = edge("splittracr_frame_latency_seconds", "bucket").increase().sum("edge", "le")
    columns = [
        Column("Cut", edge("splittracr_candidate_info").max("edge", "cut", "codec"), hide=True),
        Column("Samples", edge("splittracr_samples").max("edge", "outcome").sum("edge"), decimals=0),
        Column("Samples/s", edge("splittracr_samples").rate().sum("edge"), decimals=1),
        Column("p50", latency.quantile(0.5), SECONDS),
        Column("p95", latency.quantile(0.95), SECONDS),
        Column("Goodput up",
               edge("splittracr_link_goodput_bytes_per_second", direction="up").max("edge"), RATE),
        Column("Round trip", edge("splittracr_link_round_trip_seconds").max("edge"), SECONDS),
        Column("Lost sessions",
               edge("splittracr_link_sessions_lost").increase().sum("edge"), decimals=0),
        Column("Memory", edge("process_resident_memory_bytes").max("edge"), BYTES),
    ]  # fmt: skip
    return _table(
        "Edges",
        "Each selected edge at the end of the time range; percentiles and lost sessions over all "
        "of it.",
        columns,
        labels={"edge": "Edge", "cut": "Cut", "codec": "Codec"},
        height=7,
    )


def _versions_table() -> Sized:
    build, model, device = (
        workers(f"splittracr_{what}_info") for what in ("build", "model", "device")
    )
    columns = [
        Column("Workers", build.count("role", "version"), decimals=0),
        Column("Model", model.max("role", "model", "graph", "weights"), hide=True),
        Column("Device", device.max("role", "device", "name"), hide=True),
    ]
    return _table(
        "Versions",
        "What the workers run: a second line of a role means that its workers differ.",
        columns,
        labels={
            "role": "Role",
            "version": "Version",
            "model": "Model",
            "graph": "Graph",
            "weights": "Weights",
            "device": "Device",
            "name": "Device name",
        },
        height=5,
    )


# ---------------------------------------------------------------------------------------- fleet

_NAME = ("study_namespace", "study")
_LEGEND = "{{study_namespace}}/{{study}}"


def _fleet() -> dashboard.Dashboard:
    board = _board(
        "fleet",
        "All studies of a cluster: states, load, failures. Needs the metrics of the operator and "
        "of the workers.",
    )
    info = "splittracr_study_info"
    board.with_variable(
        _variable("namespace", promql.label_values("study_namespace", info), multi=True)
    ).with_variable(
        _variable(
            "study",
            promql.label_values("study", info, 'study_namespace=~"$namespace"'),
            multi=True,
        )
    )
    lost = fleet("splittracr_link_sessions_lost").gained().sum(*_NAME)
    restarts = fleet("splittracr_study_worker_restarts").gained().sum(*_NAME, "role")
    board.annotation(_annotation("Session lost", lost, ORANGE, _LEGEND)).annotation(
        _annotation("Worker restarted", restarts, PINK, _LEGEND + " {{role}}")
    )
    return _placed(
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
        _number("Studies by state", "All studies that the operator looks after.", COUNT,
                Query(fleet("splittracr_studies").max("state").above_zero(), "{{state}}"), decimals=0, width=8,
                named=True),
        _number("Workers ready", "Ready workers of the selected studies by role.", COUNT,
                Query(ready, "{{role}}"), decimals=0, width=4,
                named=True),
        _number("Samples", "Samples that all selected studies record in a second.", SAMPLES,
                Query(fleet("splittracr_study_samples").rate().sum(), "samples"), width=4),
        _number("Failed", "Samples recorded as failed in the time range.", COUNT,
                Query(fleet("splittracr_study_samples", outcome="failed").increase().sum(),
                      "failed", instant=True), decimals=0, width=4),
        _number("Worker restarts", "Containers that were started again in the time range.", COUNT,
                Query(restarts, "restarts", instant=True), decimals=0, width=4),
    ]  # fmt: skip


_CONDITIONS = ("Ready", "Progressing", "Succeeded", "Stalled", "Suspended", "Degraded")
_STATUS = {"0": ("False", "#8e8e8e"), "1": ("True", BLACK), "2": ("Unknown", ORANGE)}


def _studies_table() -> Sized:
    def condition(name: str) -> Vector:
        said = {
            status: fleet("splittracr_study_condition", type=name, status=status).max(*_NAME)
            for status in ("True", "Unknown")
        }
        return said["True"].plus(said["Unknown"].times(2))

    expected = fleet("splittracr_study_samples_expected").max(*_NAME)
    done = (
        fleet("splittracr_study_samples", outcome="~ok|failed").max(*_NAME, "outcome").sum(*_NAME)
    )
    restarts = fleet("splittracr_study_worker_restarts").max(*_NAME, "role").sum(*_NAME)
    columns = [
        Column("Model", fleet("splittracr_study_info").max(*_NAME, "model", "mode"), hide=True),
        Column("Progress", done.per(expected), SHARE),
        Column("p95", fleet("splittracr_study_latency_seconds", quantile="0.95").max(*_NAME), SECONDS),
        Column("Restarts", restarts, decimals=0),
        *(Column(name, condition(name), mapped=_STATUS) for name in _CONDITIONS),
    ]  # fmt: skip
    return _table(
        "Studies",
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
        _lines(
            "Samples by study",
            "Samples recorded in a second: the eight fastest studies of each moment.",
            SAMPLES, [Query(rate.top(MAX_SERIES), _LEGEND)], width=8,
        ),
        _lines(
            "Latency p95 by study",
            "95th percentile at the cut in use, of each study's slowest edge: the eight slowest "
            "studies of each moment.",
            SECONDS, [Query(latency.top(MAX_SERIES), _LEGEND)], width=8,
        ),
        _lines(
            "Age of the last report",
            "Time since an edge last answered the operator: the eight oldest of each moment.",
            SECONDS, [Query(report.age().top(MAX_SERIES), _LEGEND + " {{edge}}")], width=8,
        ),
    ]  # fmt: skip


def _fleet_load() -> list[Sized]:
    states = fleet("splittracr_studies").max("state").above_zero()
    ready = fleet("splittracr_study_workers_ready").max(*_NAME, "role").sum("role")
    sessions = fleet("splittracr_link_sessions", role="server").sum(*_NAME)
    edges_max = fleet("splittracr_server_edges_max").sum(*_NAME)
    busy = fleet("splittracr_server_busy_seconds").rate().mean(*_NAME)
    waits = fleet("splittracr_server_queue_wait_seconds", "bucket").rate().sum(*_NAME, "le")
    return [
        _lines(
            "Studies by state",
            "Studies that the operator looks after.",
            COUNT, [Query(states, "{{state}}")], width=12, stack=StackingMode.NORMAL, step=True,
            decimals=0,
        ),
        _lines(
            "Edges and servers",
            "Ready workers by role, and open sessions between them.",
            COUNT,
            [
                Query(ready, "{{role}} ready"),
                Query(fleet("splittracr_link_sessions", role="server").sum(), "sessions"),
            ],
            width=12, step=True, decimals=0,
            colours={"edge ready": BLUE, "server ready": ORANGE, "sessions": GREEN},
        ),
        _lines(
            "Sessions per server limit",
            "Open sessions of the edges that the servers of a study serve at most: the eight "
            "fullest of each moment.",
            SHARE, [Query(sessions.per(edges_max).top(MAX_SERIES), _LEGEND)], width=8,
        ),
        _lines(
            "Busy servers",
            "Share of time that the compute threads of a study's servers are busy, mean: the eight "
            "busiest of each moment.",
            SHARE, [Query(busy.top(MAX_SERIES), _LEGEND)], width=8,
        ),
        _lines(
            "Queue wait p95",
            "95th percentile of the time that requests waited for the compute thread: the eight "
            "longest of each moment.",
            SECONDS, [Query(waits.quantile(0.95).top(MAX_SERIES), _LEGEND)], width=8,
        ),
    ]  # fmt: skip


def _fleet_failures() -> list[Sized]:
    def a_minute(name: str, **matchers: str) -> Vector:
        return fleet(name, **matchers).rate().sum(*_NAME).times(60).above_zero().top(MAX_SERIES)

    quiet = "Nothing of this kind happened in this time range."
    return [
        _lines(
            "Samples that failed or had no answer",
            "In a minute: samples recorded as failed, or finished by the edge as the server did "
            "not answer. The eight highest studies of each moment.",
            PER_MINUTE,
            [Query(a_minute("splittracr_study_samples", outcome="~failed|unanswered"), _LEGEND)],
            width=8, empty=quiet,
        ),
        _lines(
            "Lost sessions",
            "Sessions that ended early, in a minute. The eight highest studies of each moment.",
            PER_MINUTE,
            [Query(a_minute("splittracr_link_sessions_lost"), _LEGEND)],
            width=8, empty=quiet,
        ),
        _lines(
            "Worker restarts",
            "Containers that were started again, in a minute. The eight highest studies of each "
            "moment.",
            PER_MINUTE,
            [Query(a_minute("splittracr_study_worker_restarts"), _LEGEND)],
            width=8, empty=quiet,
        ),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------- operator


def _operator() -> dashboard.Dashboard:
    board = _board("operator", "The operator: reconciles, requests, results store, resources.")
    board.with_variable(
        _variable(
            "instance",
            promql.label_values("instance", "splittracr_operator_build_info"),
            multi=True,
        )
    )
    errors = operator("splittracr_operator_reconcile_errors").gained().sum("kind")
    board.annotation(_annotation("Reconcile failed", errors, PINK, "{{kind}}"))
    return _placed(
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
        _number("Version", "Version of the running operators.", COUNT,
                Query(build.count("version"), "{{version}}"), decimals=0, width=4, name_only=True),
        _number("Studies", "Studies that the operator looks after.", COUNT,
                Query(operator("splittracr_studies").max("state").sum(), "studies"), decimals=0,
                width=4),
        _number("Waiting", "Studies that wait for a reconcile.", COUNT,
                Query(operator("splittracr_operator_work_queue_length").sum(), "waiting"),
                decimals=0, width=4),
        _number("Failed reconciles", "Reconciles that failed in the time range.", COUNT,
                Query(errors, "errors", instant=True), decimals=0, width=4),
        _number("Results stored", "Bytes of all archives in the results store.", BYTES,
                Query(operator("splittracr_operator_store_bytes").max(), "stored"), width=4),
        _number("Free", "Bytes free on the volume of the results store.", BYTES,
                Query(operator("splittracr_operator_store_free_bytes").max(), "free"), width=4),
    ]  # fmt: skip


def _quantiles(buckets: Vector) -> list[Query]:
    return [Query(buckets.quantile(q), f"p{q * 100:.0f}") for q in (0.5, 0.95, 0.99)]


_QUANTILE_COLOURS = {"p50": PALE, "p95": SKY, "p99": BLUE}


def _operator_reconciles() -> list[Sized]:
    spent = operator("splittracr_operator_reconcile_seconds", "bucket").rate().sum("le")
    waits = operator("splittracr_operator_work_queue_wait_seconds", "bucket").rate().sum("le")
    count = operator("splittracr_operator_reconcile_seconds", "count").rate().sum()
    errors = operator("splittracr_operator_reconcile_errors").rate().sum("kind")
    return [
        _lines("Reconciles", "Reconciles of studies in a second, failed ones included.",
               "suffix: /s", [Query(count, "reconciles")], width=8, colours={"reconciles": BLUE}),
        _lines("Reconcile time", "Time of a reconcile, interpolated between buckets.", SECONDS,
               _quantiles(spent), width=8, colours=_QUANTILE_COLOURS),
        _lines("Reconcile errors", "Reconciles that failed, in a minute, by kind of error.",
               PER_MINUTE, [Query(errors.times(60), "{{kind}}")], width=8),
        _lines("Work queue", "Studies that wait for a reconcile.", COUNT,
               [Query(operator("splittracr_operator_work_queue_length").sum(), "waiting")],
               step=True, colours={"waiting": BLUE}),
        _lines("Work queue wait", "Time from when a study was due until its reconcile began, "
               "interpolated between buckets.", SECONDS, _quantiles(waits),
               colours=_QUANTILE_COLOURS),
    ]  # fmt: skip


def _operator_requests() -> list[Sized]:
    requests = operator("splittracr_operator_api_requests").rate().sum("verb", "resource")
    watches = operator("splittracr_operator_watch_restarts").rate().sum("kind").times(60)
    return [
        _lines("API requests", "Requests to the API server: the eight most frequent of each moment.",
               "reqps", [Query(requests.top(MAX_SERIES), "{{verb}} {{resource}}")],
               stack=StackingMode.NORMAL),
        _lines("Watch restarts", "Watches that were opened again, in a minute, by kind of object.",
               PER_MINUTE, [Query(watches, "{{kind}}")],
               empty="No data. No watch was opened again since the operator started."),
    ]  # fmt: skip


def _operator_store() -> list[Sized]:
    handovers = operator("splittracr_operator_handovers").rate().sum("outcome").times(60)
    received = operator("splittracr_operator_handover_bytes").rate().sum()
    return [
        _lines("Hand-overs", "Archives of results that edges handed over, in a minute, by outcome.",
               PER_MINUTE, [Query(handovers, "{{outcome}}")], width=8,
               colours={"ok": BLUE, "refused": ORANGE, "failed": PINK}),
        _lines("Bytes handed over", "Bytes of the archives that were kept.", RATE,
               [Query(received, "kept")], width=8, colours={"kept": BLUE}),
        _lines("Store", "Bytes of all archives, and bytes free on their volume.", BYTES,
               [Query(operator("splittracr_operator_store_bytes").max(), "stored"),
                Query(operator("splittracr_operator_store_free_bytes").max(), "free")],
               width=8, colours={"stored": BLUE, "free": GREY}),
    ]  # fmt: skip


def _operator_process() -> list[Sized]:
    return [
        _lines("Memory", "Resident memory of each selected operator.", BYTES,
               [Query(operator("process_resident_memory_bytes").max("instance"), "{{instance}}")]),
        _lines("CPU", "Cores that each selected operator uses.", "suffix: cores",
               [Query(operator("process_cpu_seconds").rate().sum("instance"), "{{instance}}")]),
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------- parts


def _board(name: str, description: str) -> dashboard.Dashboard:
    """An empty dashboard with its data source and links to the others."""
    return (
        dashboard.Dashboard(f"SplitTracr / {name.capitalize()}")
        .uid(UIDS[name])
        .description(description)
        .tags([TAG])
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .link(
            dashboard.DashboardLink("SplitTracr")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .icon("external link")
            .keep_time(True)
            .include_vars(True)
        )
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
    )


def _variable(name: str, query: str, multi: bool = False) -> dashboard.QueryVariable:
    made = (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(_PROMETHEUS)
        .query({"query": query, "refId": name})
        .definition(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )
    return made.multi(True).include_all(True).current(_all()) if multi else made


def _all() -> VariableOption:
    return VariableOption(selected=True, text="All", value="$__all")


def _annotation(name: str, vector: Vector, colour: str, text: str) -> dashboard.AnnotationQuery:
    Query(vector, text)  # checks the labels of the text
    return (
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(_PROMETHEUS)
        .enable(True)
        .icon_color(colour)
        .expr(promql.outer(vector.text))
        .step("5s")
        .title_format(name)
        .text_format(text)
    )


def _placed(board: dashboard.Dashboard, sections: Iterable[Section]) -> dashboard.Dashboard:
    """Place panels from left to right and from top to bottom, a heading above each section."""
    y, identity = 0, 0
    for title, panels in sections:
        if title:
            identity += 1
            board.with_row(dashboard.Row(title).id(identity).grid_pos(GridPos(h=1, w=24, x=0, y=y)))
            y += 1
        x = tallest = 0
        for panel in panels:
            if x + panel.width > 24:
                x, y, tallest = 0, y + tallest, 0
            identity += 1
            place = GridPos(h=panel.height, w=panel.width, x=x, y=y)
            board.with_panel(panel.builder.id(identity).grid_pos(place))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return board


def _described(panel: Any, title: str, description: str, unit: str, empty: str) -> Any:
    """What each panel has."""
    return (
        panel.title(title)
        .description(description)
        .datasource(_PROMETHEUS)
        .unit(unit)
        .no_value(empty)
    )


def _empty(queries: Sequence[Query]) -> str:
    """Why the panel may be empty, from the metric table."""
    return f"No data. {queries[0].vector.absent or 'Nothing was scraped in this time range.'}"


def _target(query: Query, reference: str) -> prometheus.Dataquery:
    made = (
        prometheus.Dataquery()
        .datasource(_PROMETHEUS)
        .expr(promql.outer(query.vector.text))
        .legend_format(query.legend)
        .ref_id(reference)
    )
    return made.instant() if query.instant else made.range()


def _lines(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    width: int = 12,
    height: int = 8,
    stack: StackingMode | None = None,
    step: bool = False,
    minimum: float | None = 0,
    maximum: float | None = None,
    decimals: int | None = None,
    colours: Mapping[str, str] | None = None,
    empty: str | None = None,
) -> Sized:
    """Series over time."""
    panel = _described(timeseries.Panel(), title, description, unit, empty or _empty(queries))
    panel.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
    ).tooltip(
        common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    ).show_points(VisibilityMode.AUTO).line_width(1)
    panel.line_interpolation(LineInterpolation.STEP_AFTER if step else LineInterpolation.LINEAR)
    if stack is not None:
        panel.stacking(common.StackingConfig().mode(stack).group("A")).fill_opacity(75)
    if minimum is not None:
        panel.min(minimum)
    if maximum is not None:
        panel.max(maximum)
    if decimals is not None:
        panel.decimals(decimals)
    for name, colour in (colours or {}).items():
        fixed = {"mode": FieldColorModeId.FIXED, "fixedColor": colour}
        panel.override_by_name(name, [DynamicConfigValue("color", fixed)])
    for reference, query in zip("ABCDEFGHIJ", queries, strict=False):
        panel.with_target(_target(query, reference))
    return Sized(panel, width, height)


def _number(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    width: int = 3,
    decimals: int | None = None,
    named: bool = False,
    name_only: bool = False,
    empty: str = "not scraped",
) -> Sized:
    """The last value, with its course behind it if there is one."""
    mode = (
        BigValueTextMode.NAME
        if name_only
        else BigValueTextMode.VALUE_AND_NAME
        if named
        else BigValueTextMode.VALUE
    )
    course = not (query.instant or named or name_only)
    panel = _described(stat.Panel(), title, description, unit, empty)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).text_mode(
        mode
    ).color_mode(BigValueColorMode.NONE).graph_mode(
        BigValueGraphMode.AREA if course else BigValueGraphMode.NONE
    ).with_target(_target(query, "A"))
    if decimals is not None:
        panel.decimals(decimals)
    return Sized(panel, width, 4)


@dataclass(frozen=True)
class Column:
    """A column of a table: a value by labels, or (`hide`) only the labels.

    `mapped` gives the text and colour that stand for a value.
    """

    name: str
    vector: Vector
    unit: str = COUNT
    decimals: int | None = None
    hide: bool = False
    mapped: Mapping[str, tuple[str, str]] | None = None


def _table(
    title: str,
    description: str,
    columns: Sequence[Column],
    labels: Mapping[str, str],
    height: int,
) -> Sized:
    """One line for each set of labels that the columns share.

    `labels` names the columns of labels in their order.
    """
    queries = [Query(column.vector, "", instant=True) for column in columns]
    panel = _described(table.Panel(), title, description, COUNT, _empty(queries))
    references = "ABCDEFGHIJKLMN"
    for reference, query in zip(references, queries, strict=False):
        panel.with_target(_target(query, reference).format(PromQueryFormat.TABLE))
    values = {f"Value #{r}": column for r, column in zip(references, columns, strict=False)}
    order = [*labels, *values]
    hidden = [value for value, column in values.items() if column.hide]
    shown = {value: column.name for value, column in values.items() if not column.hide}
    panel.with_transformation(DataTransformerConfig("merge", options={})).with_transformation(
        DataTransformerConfig(
            "organize",
            options={
                "excludeByName": dict.fromkeys(["Time", *hidden], True),
                "indexByName": {name: index for index, name in enumerate(order)},
                "renameByName": {**labels, **shown},
            },
        )
    )
    for column in columns:
        if not column.hide:
            panel.override_by_name(column.name, _cell(column))
    return Sized(panel, 24, height)


def _cell(column: Column) -> list[DynamicConfigValue]:
    properties = [DynamicConfigValue("unit", column.unit)]
    if column.decimals is not None:
        properties.append(DynamicConfigValue("decimals", column.decimals))
    if column.mapped is not None:
        results = {
            value: ValueMappingResult(text=text, color=colour, index=index)
            for index, (value, (text, colour)) in enumerate(column.mapped.items())
        }
        properties += [
            DynamicConfigValue("mappings", [ValueMap(results)]),
            DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
        ]
    return properties
