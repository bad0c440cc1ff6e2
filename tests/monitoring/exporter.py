"""A simulated cluster: the exposition of workers and operators, made from the metric table.

Values follow a small simulation that advances in steps of fixed length to the time of the scrape.
A metric of the table that the simulation does not set fails the scrape.
"""

import math
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)
from prometheus_client.registry import Collector

from splittracr.experiment import metrics
from splittracr.experiment.metrics import Metric, Type
from splittracr.experiment.status import CONDITION_TYPES
from splittracr.experiment.types import STAGES
from splittracr.monitoring.promql import PROCESS
from tests.monitoring.http_server import listening

STEP = 0.05  # simulated seconds
CANDIDATES = (("input", "jpeg90"), ("features.4", "uint8+zstd1"), ("output", "raw"))
ON_EDGE = ("load", "prepare", "edge_wait", "head", "encode", "link", "other", "finish")

Labels = tuple[str, ...]


@dataclass
class Process:
    """The metrics of one process, by name and by the values of the table's labels."""

    table: tuple[Metric, ...]
    own: Mapping[str, str]
    counters: dict[tuple[str, Labels], float] = field(default_factory=lambda: defaultdict(float))
    gauges: dict[tuple[str, Labels], float] = field(default_factory=dict)
    spread: dict[tuple[str, Labels], dict[float, float]] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    """Metrics that this process does not have, as the table allows."""

    def add(self, name: str, amount: float, *labels: str) -> None:
        self.counters[name, labels] += amount

    def set(self, name: str, value: float, *labels: str) -> None:
        self.gauges[name, labels] = value

    def replace(self, name: str, value: float, *labels: str) -> None:
        """Set the only series of an info."""
        for key in [key for key in self.gauges if key[0] == name]:
            del self.gauges[key]
        self.gauges[name, labels] = value

    def observe(self, name: str, count: float, middle: float, *labels: str) -> None:
        """`count` observations around a value."""
        found = self.spread.setdefault((name, labels), defaultdict(float))
        for factor, share in ((0.7, 0.2), (0.95, 0.4), (1.1, 0.3), (1.8, 0.1)):
            found[middle * factor] += count * share

    def families(self) -> Iterator[Family]:
        for metric in (*self.table, *PROCESS):
            if metric.name not in self.without:
                yield self._family(metric)

    def _family(self, metric: Metric) -> Family:
        names = [*self.own, *metric.labels]
        own = list(self.own.values())
        if metric.type is Type.HISTOGRAM:
            return self._histogram(metric, names, own)
        values = self.counters if metric.type is Type.COUNTER else self.gauges
        found = {labels: value for (name, labels), value in values.items() if name == metric.name}
        if metric.type is Type.COUNTER:
            started = metric.values if metric.labels else ((),)
            found = {**dict.fromkeys(started, 0.0), **found}
        if not found:
            raise LookupError(f"{metric.name} is not simulated")
        kind = CounterMetricFamily if metric.type is Type.COUNTER else GaugeMetricFamily
        family = kind(metric.name, metric.help, labels=names)
        for labels, value in found.items():
            family.add_metric([*own, *labels], value)
        return family

    def _histogram(self, metric: Metric, names: list[str], own: list[str]) -> Family:
        family = HistogramMetricFamily(metric.name, metric.help, labels=names)
        found = {labels: s for (name, labels), s in self.spread.items() if name == metric.name}
        if not found:
            raise LookupError(f"{metric.name} is not simulated")
        for labels, observed in {**{key: {} for key in metric.values}, **found}.items():
            counts = [0.0] * (len(metric.buckets) + 1)
            for value, count in observed.items():
                counts[bisect_left(metric.buckets, value)] += count
            bounds = [*(f"{bound:g}" for bound in metric.buckets), "+Inf"]
            total, buckets = 0.0, []
            for bound, count in zip(bounds, counts, strict=True):
                total += count
                buckets.append((bound, total))
            weighted = sum(value * count for value, count in observed.items())
            family.add_metric([*own, *labels], buckets, weighted)
        return family


@dataclass
class Study:
    """A study with its edges and its server. `period` seconds pass between two switches."""

    namespace: str
    name: str
    edges: tuple[str, ...]
    adaptive: bool
    period: float
    model: str
    time: float = 0.0
    workers: dict[str, Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        place = {"study_namespace": self.namespace, "study": self.name}
        absent = {metric.name: metric.absent for metric in (*metrics.of("edge"), *metrics.WORKER)}
        cascades = {name for name, why in absent.items() if "partition.cascade" in why}
        plain = {
            name
            for name, why in absent.items()
            if why and not why.startswith("Before ")  # the study has begun
        }
        without = frozenset(cascades if self.adaptive else plain)
        for edge in self.edges:
            own = {**place, "role": "edge", "edge": edge}
            self.workers[edge] = Process(metrics.of("edge"), own, without=without)
        server = Process(metrics.of("server"), {**place, "role": "server"}, without=without)
        self.workers["server"] = server
        for name, worker in self.workers.items():
            place_of = "server" if name == "server" else "edge"
            device = ("cuda:0", "NVIDIA H200") if place_of == "server" else ("cpu", "Cortex-A76")
            worker.set("splittracr_build_info", 1, "0.9.0")
            worker.set("splittracr_model_info", 1, self.model, "3f9c2a71", "b04d77e1")
            worker.set("splittracr_device_info", 1, *device)
            worker.set("splittracr_device_memory_bytes", 0.9e9, "current")
            worker.set("splittracr_device_memory_bytes", 1.4e9, "peak")
        server.set("splittracr_server_edges_max", 4)

    def advance(self, to: float) -> None:
        """Simulate up to a time."""
        while self.time + STEP <= to:
            self.time += STEP
            for number, edge in enumerate(self.edges):
                self._edge(number, self.workers[edge])
            self._server(self.workers["server"])

    def _link(self, number: int) -> float:
        """Bytes per second: good and bad periods with ripples."""
        wave = math.sin(2 * math.pi * (self.time / (3 * self.period) + 0.07 * number))
        return 1.6e6 * (1.05 + wave) * (1 + 0.12 * math.sin(self.time * 7 / self.period))

    def _edge(self, number: int, edge: Process) -> None:
        link = self._link(number)
        best = 0 if link > 2.2e6 else 1 if link > 0.5e6 else 2
        cut, codec = CANDIDATES[best if self.adaptive else 1]
        previous = next((k[1] for k in edge.gauges if k[0] == "splittracr_candidate_info"), None)
        if previous not in (None, (cut, codec)):
            edge.add("splittracr_candidate_switches", 1)
        edge.replace("splittracr_candidate_info", 1, cut, codec)
        edge.replace("splittracr_cut_index", {"input": 0, "features.4": 5, "output": 17}[cut])
        sent = {"input": 60e3, "features.4": 24e3, "output": 0.0}[cut]
        raw = {"input": 602e3, "features.4": 96e3, "output": 0.0}[cut]
        stages = {
            "load": 2e-3, "prepare": 4e-3, "edge_wait": 1e-3, "encode": 2e-3 if sent else 0,
            "head": {"input": 1e-3, "features.4": 9e-3, "output": 88e-3}[cut],
            "link": sent / link + 12e-3 if sent else 0, "other": 0 if sent else 1e-3,
            "finish": 1e-3,
        }  # fmt: skip
        elsewhere = 14e-3 if sent else 0.0
        latency = sum(stages.values()) + elsewhere
        frames = 8 * STEP
        bad = self.time % (4 * self.period) > 3.6 * self.period and bool(sent)
        source = "deadline" if bad else "server" if sent else "edge"
        edge.add("splittracr_samples", frames * 0.995, "ok")
        edge.add("splittracr_samples", frames * 0.005, "failed")
        edge.set("splittracr_samples_expected", 4000)
        edge.observe("splittracr_frame_latency_seconds", frames, latency, source)
        edge.add("splittracr_deadline_misses", frames if bad else 0)
        edge.add("splittracr_hedges", frames * 0.04, "won")
        edge.add("splittracr_hedges", frames * 0.06, "lost")
        for stage, spent in stages.items():
            if spent:
                edge.observe("splittracr_stage_seconds", frames, spent, stage)
        edge.add("splittracr_payload_bytes", frames * raw, "raw")
        edge.add("splittracr_payload_bytes", frames * sent, "encoded")
        edge.add("splittracr_link_bytes", frames * sent * 1.01, "up")
        edge.add("splittracr_link_bytes", frames * 900, "down")
        edge.set("splittracr_link_goodput_bytes_per_second", link, "up")
        edge.set("splittracr_link_goodput_bytes_per_second", link * 1.4, "down")
        edge.set("splittracr_link_round_trip_seconds", 12e-3 + 3e3 / link)
        breaks = self.time % (2 * self.period) < STEP * 1.01 and number == 0
        edge.set("splittracr_link_sessions", 1)
        edge.add("splittracr_link_sessions_lost", 1 if breaks else 0)
        edge.add("splittracr_link_reconnects", 1 if breaks else 0)
        edge.add("splittracr_requests_resent", 2 if breaks else 0)
        edge.set("splittracr_requests_in_flight", 1)
        edge.add("splittracr_operations", frames * 40)
        edge.add("splittracr_decisions", frames * 0.9, "best")
        edge.add("splittracr_decisions", frames * 0.08, "hysteresis")
        edge.add("splittracr_decisions", frames * 0.02, "exploration")
        edge.add("splittracr_predicted_regret_seconds", frames * 2e-3)
        edge.add("splittracr_predicted_frames", frames)
        edge.add("splittracr_predicted_latency_seconds", frames * latency * 0.95)
        edge.add("splittracr_measured_latency_seconds", frames * latency)
        edge.set("splittracr_agreement_ratio", 0.978, "input", "jpeg90")
        edge.set("splittracr_agreement_ratio", 0.991, "features.4", "uint8+zstd1")
        self._machine(number, edge)

    def _machine(self, number: int, edge: Process) -> None:
        edge.add("splittracr_energy_joules", 4.2 * STEP, "cpu", "package", "rapl", "measured")
        edge.add("splittracr_energy_joules", 3.1 * STEP, "cpu", "core", "rapl", "measured")
        edge.set("splittracr_power_watts", 4.2, "cpu", "package", "rapl", "measured")
        edge.set("splittracr_utilization_ratio", 0.4 + 0.1 * math.sin(self.time), "cpu")
        edge.set("splittracr_temperature_celsius", 58 + 2 * math.sin(self.time), "cpu")
        edge.set("splittracr_clock_hertz", 2.4e9, "cpu")
        edge.set("splittracr_gpu_memory_bytes", 1.1e9)
        edge.set("process_resident_memory_bytes", 412e6 + 30e6 * number + 2e6 * math.sin(self.time))
        edge.add("process_cpu_seconds", 0.8 * STEP)

    def _server(self, server: Process) -> None:
        links = [self._link(number) for number in range(len(self.edges))]
        asking = sum(1 for link in links if link > 0.5e6 or not self.adaptive)
        requests = 8 * STEP * asking
        busy = 0.16 * asking
        server.add("splittracr_server_requests", requests * 0.99, "ok")
        server.add("splittracr_server_requests", requests * 0.01, "cancelled")
        server.set("splittracr_server_queue_length", round(asking * (1 + math.sin(self.time)) / 2))
        server.observe("splittracr_server_queue_wait_seconds", requests, 1e-3 * (1 + asking))
        server.observe(
            "splittracr_server_batch_size", requests / (1 + 0.2 * asking), 1 + 0.2 * asking
        )
        server.add("splittracr_server_busy_seconds", busy * STEP)
        for stage, spent in (("decode", 2e-3), ("server_wait", 3e-3), ("tail", 8e-3),
                             ("reduce", 5e-4), ("reply", 5e-4)):  # fmt: skip
            server.observe("splittracr_stage_seconds", requests, spent, stage)
        server.set("splittracr_link_sessions", len(self.edges))
        server.add("splittracr_link_bytes", requests * 30e3, "up")
        server.add("splittracr_link_bytes", requests * 900, "down")
        server.set("splittracr_requests_in_flight", asking)
        server.add("splittracr_operations", requests * 90)
        server.add("splittracr_energy_joules", (76 + 60 * busy) * STEP, "gpu", "board", "nvml",
                   "measured")  # fmt: skip
        server.set("splittracr_power_watts", 76 + 60 * busy, "gpu", "board", "nvml", "measured")
        server.set("splittracr_utilization_ratio", busy, "gpu")
        server.set("splittracr_utilization_ratio", 0.1, "cpu")
        server.set("splittracr_temperature_celsius", 41, "gpu")
        server.set("splittracr_clock_hertz", 1.98e9, "gpu")
        server.set("splittracr_gpu_memory_bytes", 3.4e9)
        server.set("process_resident_memory_bytes", 2.1e9)
        server.add("process_cpu_seconds", (0.2 + busy) * STEP)


@dataclass
class Operator:
    """The operator that looks after the studies."""

    studies: tuple[Study, ...]
    process: Process = field(
        default_factory=lambda: Process(
            metrics.OPERATOR, {}, without=frozenset({"splittracr_operator_namespace_denied"})
        )
    )
    time: float = 0.0

    def advance(self, to: float, now: float) -> None:
        passed, self.time = to - self.time, to
        process = self.process
        process.set("splittracr_operator_build_info", 1, "0.9.0")
        process.observe("splittracr_operator_reconcile_seconds", 1.5 * passed, 0.03)
        errors = ("splittracr_operator_reconcile_errors", ("unavailable",))
        process.counters[errors] = math.floor(0.05 * to)
        process.set("splittracr_operator_work_queue_length", round(1 + math.sin(to)))
        process.observe("splittracr_operator_work_queue_wait_seconds", 1.5 * passed, 0.004)
        for resource, verb, rate in (
            ("splitexperiments", "patch", 0.9), ("splitexperiments", "get", 0.4),
            ("pods", "list", 0.2), ("deployments", "create", 0.05), ("jobs", "create", 0.05),
            ("secrets", "get", 0.3), ("services", "patch", 0.1), ("events", "create", 0.2),
            ("nodes", "list", 0.05),
        ):  # fmt: skip
            process.add("splittracr_operator_api_requests", rate * passed, "", resource, verb)
        process.counters["splittracr_operator_watch_restarts", ("pods",)] = math.floor(0.02 * to)
        process.counters["splittracr_operator_handovers", ("ok",)] = math.floor(0.1 * to)
        process.add("splittracr_operator_handover_bytes", 2e4 * passed)
        process.set("splittracr_operator_store_bytes", 3e8 + 2e4 * to)
        process.set("splittracr_operator_store_free_bytes", 9.1e9 - 2e4 * to)
        process.set("process_resident_memory_bytes", 96e6)
        process.add("process_cpu_seconds", 0.03 * passed)
        for state in ("Pending", "Running", "Succeeded", "Failed"):
            process.set("splittracr_studies", len(self.studies) if state == "Running" else 0, state)
        for study in self.studies:
            self._study(study, passed, now)

    def _study(self, study: Study, passed: float, now: float) -> None:
        place = (study.namespace, study.name)
        process = self.process
        mode = "Adaptive" if study.adaptive else "Static"
        process.set("splittracr_study_info", 1, *place, "uid-1", study.model, mode)
        holds = {"Ready": "True", "Progressing": "True", "Succeeded": "Unknown"}
        for kind in CONDITION_TYPES:
            for status in ("True", "False", "Unknown"):
                value = float(holds.get(kind, "False") == status)
                process.set("splittracr_study_condition", value, *place, kind, status)
        rate = 8 * len(study.edges) * passed
        process.add("splittracr_study_samples", rate * 0.995, *place, "ok")
        process.add("splittracr_study_samples", rate * 0.005, *place, "failed")
        process.add("splittracr_study_samples", rate * 0.02, *place, "unanswered")
        process.set("splittracr_study_samples_expected", 4000 * len(study.edges), *place)
        process.set("splittracr_study_latency_seconds", 0.052, *place, "0.5")
        process.set("splittracr_study_latency_seconds", 0.094, *place, "0.95")
        for edge in study.edges:
            report = "splittracr_study_edge_last_report_timestamp_seconds"
            process.set(report, now - self.time % 5, *place, edge)
        process.set("splittracr_study_workers_ready", len(study.edges), *place, "edge")
        process.set("splittracr_study_workers_ready", 1, *place, "server")
        restarts = math.floor(self.time / (3 * study.period)) if study.adaptive else 0
        process.counters["splittracr_study_worker_restarts", (*place, "edge")] = restarts
        process.counters["splittracr_study_worker_restarts", (*place, "server")] = 0


class Cluster:
    """Two studies, an adaptive one with everything and a plain one, and their operator."""

    def __init__(self, period: float) -> None:
        edges = tuple(f"edge-{number}" for number in range(3))
        self.studies = (
            Study("lab", "traffic", edges, True, period, "mobilenet_v3_small"),
            Study("field", "night.watch", ("edge-0",), False, period, "yolov5nu"),
        )
        self.operator = Operator(self.studies)
        self._start, self._lock = time.monotonic(), threading.Lock()

    def targets(self) -> list[str]:
        """Paths to scrape."""
        workers = [f"{s.namespace}/{s.name}/{w}" for s in self.studies for w in s.workers]
        return [*workers, "operator"]

    def exposition(self, target: str) -> bytes:
        """The text of one target now."""
        with self._lock:
            elapsed = time.monotonic() - self._start + STEP
            for study in self.studies:
                study.advance(elapsed)
            self.operator.advance(elapsed, time.time())
            registry = CollectorRegistry()
            registry.register(_Snapshot(self._process(target).families()))
            return generate_latest(registry)

    def _process(self, target: str) -> Process:
        if target == "operator":
            return self.operator.process
        namespace, name, worker = target.split("/")
        study = next(s for s in self.studies if (s.namespace, s.name) == (namespace, name))
        return study.workers[worker]


class _Snapshot(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Family]:
        return self._families


@contextmanager
def served(cluster: Cluster) -> Iterator[str]:
    """Serve the targets below `/metrics/`; yields host and port."""

    def answer(path: str) -> tuple[int, bytes]:
        try:
            return 200, cluster.exposition(path.removeprefix("/metrics/"))
        except LookupError as error:
            return 500, str(error).encode()

    with listening(answer) as address:
        yield address


assert set(ON_EDGE) < set(STAGES)
