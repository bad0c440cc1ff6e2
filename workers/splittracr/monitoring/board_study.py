"""The dashboard of one study."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from splittracr.experiment.metrics import Source
from splittracr.monitoring import promql
from splittracr.monitoring.build import (
    BLACK,
    BLUE,
    BYTES,
    CELSIUS,
    COUNT,
    GREEN,
    GREY,
    HERTZ,
    MAX_SERIES,
    ORANGE,
    PALE,
    PEACH,
    PER_MINUTE,
    PER_SECOND,
    PINK,
    RATE,
    SECONDS,
    SHARE,
    SKY,
    WATTS,
    Column,
    Query,
    Sized,
    annotation,
    board_of,
    count,
    lines,
    number,
    percentiles,
    placed,
    table_of,
    variable,
)
from splittracr.monitoring.promql import (
    Vector,
    about_study,
    edge,
    server,
    workers,
)

SOURCE_COLOURS = {
    Source.SERVER: ORANGE,
    Source.EDGE: BLUE,
    Source.DEADLINE: PINK,
    Source.HEDGE: GREEN,
    Source.SERVER_LOST: BLACK,
}


def board() -> Dashboard:
    """Build the dashboard."""
    board = board_of(
        "study",
        "One study: progress, where it is cut, latency, bytes, results and workers. Works with "
        "metrics of the workers alone.",
    )
    expected = "splittracr_samples_expected"
    board.with_variable(
        variable("namespace", promql.label_values("study_namespace", expected))
    ).with_variable(
        variable("study", promql.label_values("study", expected, promql.STUDY[0]))
    ).with_variable(
        variable("edge", promql.label_values("edge", expected, *promql.STUDY), multi=True)
    )
    switches = edge("splittracr_candidate_switches").gained().sum("edge")
    info = edge("splittracr_candidate_info").max("edge", "cut", "codec")
    lost = edge("splittracr_link_sessions_lost").gained().sum("edge")
    restarts = about_study("splittracr_study_worker_restarts").gained().sum("role")
    board.annotation(
        annotation("Cut switched", switches.named(info, "edge"), SKY, "{{edge}}: {{cut}} {{codec}}")
    ).annotation(annotation("Session lost", lost, ORANGE, "{{edge}}")).annotation(
        annotation("Worker restarted", restarts, PINK, "{{role}}")
    )
    return placed(
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
    """Samples so far. A restarted edge has two series for a moment, hence the maximum."""
    return edge("splittracr_samples", **matchers).max("edge", "outcome").sum()


def _study_stats() -> list[Sized]:
    buckets = edge("splittracr_frame_latency_seconds", "bucket").increase().sum("le")
    frames = edge("splittracr_frame_latency_seconds", "count").increase().sum()
    by_server = edge("splittracr_frame_latency_seconds", "count", source="server").increase().sum()
    expected = edge("splittracr_samples_expected").max("edge").sum()
    return [
        number(
            "Progress",
            "Share of the study's samples that are recorded.",
            SHARE,
            Query(_samples().per(expected), "progress"),
        ),
        number(
            "Samples",
            "Samples that the selected edges record per second.",
            PER_SECOND,
            Query(edge("splittracr_samples").rate().sum(), "samples"),
        ),
        count(
            "Failed",
            "Samples recorded as failed.",
            Query(_samples(outcome="failed"), "failed"),
        ),
        number(
            "Latency p50",
            "Median over the time range, interpolated between buckets.",
            SECONDS,
            Query(buckets.quantile(0.5), "p50", instant=True),
            empty="no frame",
        ),
        number(
            "Latency p95",
            "95th percentile over the time range, interpolated between buckets.",
            SECONDS,
            Query(buckets.quantile(0.95), "p95", instant=True),
            empty="no frame",
        ),
        number(
            "By the server",
            "Share of frames whose result came from the server, over the time range.",
            SHARE,
            Query(by_server.per(frames), "server", instant=True),
            empty="no frame",
        ),
        count(
            "Switches",
            "Changes of cut or codec in the time range.",
            Query(edge("splittracr_candidate_switches").increase().sum(), "switches", instant=True),
        ),
        count(
            "Lost sessions",
            "Sessions with the server that ended early, in the time range.",
            Query(edge("splittracr_link_sessions_lost").increase().sum(), "lost", instant=True),
        ),
    ]


def _study_cut() -> list[Sized]:
    candidate = ("cut", "codec")
    used = edge("splittracr_candidate_info").longest(MAX_SERIES, *candidate).count(*candidate)
    goodput = edge("splittracr_link_goodput_bytes_per_second").mean("direction")
    sent = edge("splittracr_link_bytes").rate().sum("direction")
    return [
        lines(
            "Cut and codec in use",
            "Edges by the cut and codec of their last decision, for the eight in use the longest. "
            "A sweep changes them faster than they are scraped.",
            COUNT,
            [Query(used, "{{cut}} · {{codec}}")],
            width=24,
            height=7,
            stack=True,
            step=True,
            decimals=0,
            axis=90,
        ),
        lines(
            "Link rate",
            "Goodput of the link as estimated by the selected edges (mean), and the bytes that "
            "they send and receive. The time axis is that of the panel above.",
            RATE,
            [
                Query(goodput, "goodput {{direction}}, estimated"),
                Query(sent, "sent {{direction}}"),
            ],
            width=24,
            height=7,
            axis=90,
            colours={
                "goodput up, estimated": BLUE,
                "goodput down, estimated": ORANGE,
                "sent up": PALE,
                "sent down": PEACH,
            },
        ),
    ]


def _study_latency() -> list[Sized]:
    buckets = edge("splittracr_frame_latency_seconds", "bucket").rate().sum("source", "le")
    return [
        lines(
            "End-to-end latency",
            "Median and 95th percentile of frames by the source of their result, interpolated "
            "between buckets.",
            SECONDS,
            [
                Query(buckets.quantile(0.5), "p50 {{source}}"),
                Query(buckets.quantile(0.95), "p95 {{source}}"),
            ],
            colours={
                f"{name} {source}": colour if name == "p95" else _lighter(colour)
                for source, colour in SOURCE_COLOURS.items()
                for name in ("p50", "p95")
            },
        ),
        _stages(),
    ]


def _lighter(colour: str) -> str:
    """Return the colour halfway to white."""
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
        ("link", GREY, on_edge("link")),
        ("server: decode, wait, reply", PEACH, on_server("decode|server_wait|reduce|reply")),
        ("server: tail", ORANGE, on_server("tail")),
    ]
    return lines(
        "Where the time goes",
        "Mean time of a frame in each stage. Stages of the edge and the link are per frame, those "
        "of the server per request. They add up to the latency if each frame is a request.",
        SECONDS,
        [Query(vector, name) for name, _, vector in parts],
        stack=True,
        colours={name: colour for name, colour, _ in parts},
    )


def _study_adaptation() -> list[Sized]:
    frames = edge("splittracr_predicted_frames").rate().sum()
    predicted = edge("splittracr_predicted_latency_seconds").rate().sum().per(frames)
    measured = edge("splittracr_measured_latency_seconds").rate().sum().per(frames)
    decisions = edge("splittracr_decisions").rate()
    regret = edge("splittracr_predicted_regret_seconds").rate().sum().per(decisions.sum())
    return [
        lines(
            "Predicted and measured latency",
            "Means of the frames that had a prediction and finished without a failure.",
            SECONDS,
            [Query(predicted, "predicted"), Query(measured, "measured")],
            width=8,
            colours={"predicted": SKY, "measured": BLACK},
        ),
        lines(
            "Predicted regret per decision",
            "Predicted latency of the chosen candidate above that of the best one, mean.",
            SECONDS,
            [Query(regret, "regret")],
            width=8,
            colours={"regret": PINK},
        ),
        lines(
            "Decisions by reason",
            "Decisions per second by the reason for which the cut and codec were chosen.",
            PER_SECOND,
            [Query(decisions.sum("reason").above_zero(), "{{reason}}")],
            width=8,
            stack=True,
        ),
    ]


def _study_bytes() -> list[Sized]:
    frames = edge("splittracr_frame_latency_seconds", "count").rate().sum()
    payload = edge("splittracr_payload_bytes").rate().sum("state").per(frames)
    sent = edge("splittracr_link_bytes").rate().sum("direction").per(frames)
    zone = ("component", "zone", "kind")
    samples = edge("splittracr_samples", outcome="ok").rate().sum()
    all_samples = workers("splittracr_samples", outcome="ok").rate().sum()
    return [
        lines(
            "Payload before and after the codec",
            "Mean bytes of a frame's live tensors before (raw) and after the codec (encoded).",
            BYTES,
            [Query(payload, "{{state}}")],
            width=8,
            colours={"raw": GREY, "encoded": BLUE},
        ),
        lines(
            "Bytes on the link",
            "Mean bytes of a frame on the link, message headers included.",
            BYTES,
            [Query(sent, "{{direction}}")],
            width=8,
            colours={"up": BLUE, "down": ORANGE},
        ),
        lines(
            "Energy per sample",
            "By component and zone of the sensor. Do not add zones of one component, because they "
            "may overlap. The server's energy is divided by the samples of all edges.",
            "joule",
            [
                Query(
                    edge("splittracr_energy_joules").rate().sum(*zone).per(samples),
                    "edge {{component}} {{zone}}, {{kind}}",
                ),
                Query(
                    server("splittracr_energy_joules").rate().sum(*zone).per(all_samples),
                    "server {{component}} {{zone}}, {{kind}}",
                ),
            ],
            width=8,
        ),
    ]


def _study_results() -> list[Sized]:
    by_source = edge("splittracr_frame_latency_seconds", "count").rate().sum("source").above_zero()
    agreement = edge("splittracr_agreement_ratio").mean("cut", "codec").top(MAX_SERIES)

    def a_minute(name: str, **matchers: str) -> Vector:
        return edge(name, **matchers).rate().sum().times(60)

    return [
        lines(
            "Sources of results",
            "Frames per second by the source of their result.",
            PER_SECOND,
            [Query(by_source, "{{source}}")],
            width=8,
            stack=True,
            colours={str(source): colour for source, colour in SOURCE_COLOURS.items()},
        ),
        lines(
            "Faults",
            "Events per minute: missed deadlines, hedged frames, lost sessions, reconnects, resent "
            "requests, failed samples.",
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
        lines(
            "Agreement",
            "Share of samples with the same result as without the codec, by cut and codec.",
            SHARE,
            [Query(agreement, "{{cut}} · {{codec}}")],
            width=8,
            maximum=1,
            minimum=None,
        ),
    ]


def _study_server() -> list[Sized]:
    waits = server("splittracr_server_queue_wait_seconds", "bucket").rate().sum("le")
    batches = server("splittracr_server_batch_size", "count").rate().sum()
    batch = server("splittracr_server_batch_size", "sum").rate().sum().per(batches)
    sessions = server("splittracr_link_sessions").sum()
    return [
        lines(
            "Queue and batch",
            "Requests that wait for the compute thread, and requests computed together (mean).",
            COUNT,
            [
                Query(server("splittracr_server_queue_length").sum(), "queue length"),
                Query(batch, "batch size"),
            ],
            width=8,
            colours={"queue length": ORANGE, "batch size": BLUE},
        ),
        lines(
            "Queue wait",
            "Time that requests waited for the compute thread, interpolated between buckets.",
            SECONDS,
            percentiles(waits, 0.5, 0.95),
            width=8,
            colours={"p50": PEACH, "p95": ORANGE},
        ),
        lines(
            "Load",
            "Share of time that the compute thread is busy, and open sessions as a share of the "
            "maximum number of edges.",
            SHARE,
            [
                Query(server("splittracr_server_busy_seconds").rate().mean(), "busy"),
                Query(sessions.per(server("splittracr_server_edges_max").sum()), "sessions"),
            ],
            width=8,
            colours={"busy": ORANGE, "sessions": BLUE},
        ),
    ]


def _study_workers() -> list[Sized]:
    memory, cpu = "process_resident_memory_bytes", "process_cpu_seconds"
    device, gpu = "splittracr_device_memory_bytes", "splittracr_gpu_memory_bytes"
    return [
        lines(
            "Memory",
            "Resident memory of the largest worker of each role, accelerator memory that tensors "
            "occupy, and memory of the GPU that all processes occupy.",
            BYTES,
            [
                Query(edge(memory).max(), "edge"),
                Query(server(memory).max(), "server"),
                Query(edge(device).max("state"), "edge, accelerator: {{state}}"),
                Query(server(device).max("state"), "server, accelerator: {{state}}"),
                Query(edge(gpu).max(), "edge, GPU"),
                Query(server(gpu).max(), "server, GPU"),
            ],
            colours={"edge": BLUE, "server": ORANGE},
        ),
        lines(
            "CPU",
            "Cores in use, mean of the workers of each role.",
            COUNT,
            [Query(edge(cpu).rate().mean(), "edge"), Query(server(cpu).rate().mean(), "server")],
            colours={"edge": BLUE, "server": ORANGE},
        ),
        *_study_machines(),
        _edges_table(),
        _versions_table(),
    ]


def _study_machines() -> list[Sized]:
    def panel(title: str, description: str, unit: str, name: str, *labels: str) -> Sized:
        legend = " ".join(f"{{{{{label}}}}}" for label in labels)
        queries = [
            Query(edge(name).mean(*labels), f"edge {legend}"),
            Query(server(name).mean(*labels), f"server {legend}"),
        ]
        minimum = None if unit == CELSIUS else 0  # a machine outdoors may be below 0
        return lines(title, description, unit, queries, width=6, minimum=minimum)

    return [
        panel(
            "Machine load",
            "Busy share of all processors of a machine and of its GPU, mean of each role.",
            SHARE,
            "splittracr_utilization_ratio",
            "component",
        ),
        panel(
            "Power",
            "By component and zone of the sensor, mean of each role. Do not add zones of one "
            "component, because they may overlap.",
            WATTS,
            "splittracr_power_watts",
            "component",
            "zone",
        ),
        panel(
            "Temperature",
            "Of the hottest processor and of the GPU, mean of each role.",
            CELSIUS,
            "splittracr_temperature_celsius",
            "component",
        ),
        panel(
            "Clock",
            "Of the processors and of the GPU, mean of each role.",
            HERTZ,
            "splittracr_clock_hertz",
            "component",
        ),
    ]


def _edges_table() -> Sized:
    latency = edge("splittracr_frame_latency_seconds", "bucket").increase().sum("edge", "le")
    columns = [
        Column("Cut", edge("splittracr_candidate_info").max("edge", "cut", "codec"), hide=True),
        Column(
            "Samples", edge("splittracr_samples").max("edge", "outcome").sum("edge"), decimals=0
        ),
        Column("Samples/s", edge("splittracr_samples").rate().sum("edge"), decimals=1),
        Column("p50", latency.quantile(0.5), SECONDS),
        Column("p95", latency.quantile(0.95), SECONDS),
        Column(
            "Goodput up",
            edge("splittracr_link_goodput_bytes_per_second", direction="up").max("edge"),
            RATE,
        ),
        Column("Round trip", edge("splittracr_link_round_trip_seconds").max("edge"), SECONDS),
        Column(
            "Lost sessions",
            edge("splittracr_link_sessions_lost").increase().sum("edge"),
            decimals=0,
        ),
        Column("Memory", edge("process_resident_memory_bytes").max("edge"), BYTES),
    ]
    return table_of(
        "Edges",
        "Each selected edge at the end of the time range. Percentiles and lost sessions are over "
        "the whole range.",
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
    return table_of(
        "Versions",
        "Versions of the workers. A second row of a role means that its workers differ.",
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
