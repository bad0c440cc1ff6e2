"""A worker's metrics: events are counted as they happen, states are read at each scrape.

Names, labels and help texts are those of `experiment/metrics.py`. Label lookups happen once; each
frame costs only a few additions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from splittracr import __version__
from splittracr.experiment.codec import Codec, PictureCodec
from splittracr.experiment.metrics import EVERY_CUT, of
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import Metadata
from splittracr.experiment.types import Record
from splittracr.exposition import Exposition, Values
from splittracr.measure.device import Device
from splittracr.measure.energy.sensor import Zone
from splittracr.measure.usage import Sample
from splittracr.planning.decision import Decision, Fallback, Outcome
from splittracr.planning.estimate import Beliefs
from splittracr.planning.meter import LinkMeter
from splittracr.planning.policy import Reason
from splittracr.planning.recalibration import Calibrated

_DIGITS = 12
"""Of a digest: enough to tell models apart."""

ZoneFigures = Mapping[Zone, float]
"""Joules or watts by zone."""


class Metrics:
    """The metrics of both workers. `study` is None for a worker without a study."""

    def __init__(self, role: str, study: Metadata | None, edge: str | None = None) -> None:
        labels = {"role": role}
        if study is not None:
            labels |= {"study_namespace": study.namespace, "study": study.name}
        if edge is not None:
            labels["edge"] = edge
        self.exposition = Exposition(of(role), labels)
        self.exposition.gauge("splittracr_build_info").labels(__version__).set(1)
        self._operations = self.exposition.counter("splittracr_operations")
        self._stages = self.exposition.histograms("splittracr_stage_seconds")

    def loaded(self, model: str, graph: str, weights: str, device: Device) -> None:
        """Show the model and the device of this worker. `graph` and `weights` are digests."""
        info = self.exposition.gauge("splittracr_model_info")
        info.labels(model, _short(graph), _short(weights)).set(1)
        info = self.exposition.gauge("splittracr_device_info")
        info.labels(str(device), device.name).set(1)
        self.exposition.read(
            "splittracr_device_memory_bytes",
            lambda: {(state,): held for state, held in device.memory().items()},
        )

    def energy(self, joules: Callable[[], ZoneFigures]) -> None:
        """Show the joules of each zone from now on; they are read at each scrape."""
        self.exposition.read("splittracr_energy_joules", lambda: _by_zone(joules()))

    def machine(self, sample: Callable[[], Sample], watts: Callable[[], ZoneFigures]) -> None:
        """Show how busy the machine is and what it draws; both are read at each scrape.

        A figure that is None has no series.
        """

        def show(name: str, figure: str, scale: float = 1.0) -> None:
            def values() -> Values:
                now = asdict(sample())
                found = {(of,): now[f"{of}_{figure}"] for of in ("cpu", "gpu")}
                return {of: value * scale for of, value in found.items() if value is not None}

            self.exposition.read(name, values)

        self.exposition.read("splittracr_power_watts", lambda: _by_zone(watts()))
        show("splittracr_utilization_ratio", "percent", 0.01)
        show("splittracr_temperature_celsius", "celsius")
        show("splittracr_clock_hertz", "hertz")
        self.exposition.read_one("splittracr_gpu_memory_bytes", lambda: sample().gpu_memory_bytes)

    def operations(self, count: int) -> None:
        """Count operations of the model that ran here."""
        self._operations.inc(count)

    def stages(self, elapsed_ms: Mapping[str, float]) -> None:
        """Count the stages of a frame that this worker measured, in milliseconds."""
        for stage, elapsed in elapsed_ms.items():
            self._stages[stage].observe(elapsed / 1e3)


class EdgeLink(Protocol):
    """Counts of an edge's link; `sent` is upwards."""

    reconnects: int
    losses: int
    resent: int
    meter: LinkMeter

    @property
    def sessions(self) -> int: ...

    @property
    def in_flight(self) -> int: ...

    @property
    def bytes_up(self) -> int: ...

    @property
    def bytes_down(self) -> int: ...


class EdgeMetrics(Metrics):
    """The metrics of an edge. Those of decisions exist only if it is `adaptive`."""

    def __init__(
        self, study: Metadata | None = None, edge: str | None = None, *, adaptive: bool = False
    ) -> None:
        super().__init__("edge", study, edge)
        made = self.exposition
        self._latency = made.histograms("splittracr_frame_latency_seconds")
        payload = made.counters("splittracr_payload_bytes")
        self._raw, self._encoded = payload["raw"], payload["encoded"]
        self._misses = made.counter("splittracr_deadline_misses")
        hedges = made.counters("splittracr_hedges")
        self._won, self._lost = hedges["won"], hedges["lost"]
        self._switches = made.counter("splittracr_candidate_switches")
        self._cut: int | None = None
        self._choice: object = None
        self._candidate: Values = {}
        made.read_one("splittracr_cut_index", lambda: self._cut)
        made.read("splittracr_candidate_info", lambda: self._candidate)
        self._samples: dict[tuple[str, ...], float] = {}
        made.read("splittracr_samples", lambda: self._samples)
        self._agreement: dict[tuple[str, ...], float] = {}
        made.read("splittracr_agreement_ratio", lambda: self._agreement)
        self._cascade: dict[tuple[str, ...], float] = {}
        made.read("splittracr_cascade_samples", lambda: self._cascade)
        self._audits: dict[tuple[str, ...], float] = {}
        made.read("splittracr_cascade_audits", lambda: self._audits)
        self._link: EdgeLink | None = None
        self._beliefs: Callable[[], Beliefs] | None = None
        self._show_link()
        if adaptive:
            decisions = made.counter("splittracr_decisions")
            self._decisions = {str(reason): decisions.labels(reason) for reason in Reason}
            self._predicted_regret = made.counter("splittracr_predicted_regret_seconds")
            self._predicted_frames = made.counter("splittracr_predicted_frames")
            self._predicted = made.counter("splittracr_predicted_latency_seconds")
            self._measured = made.counter("splittracr_measured_latency_seconds")

    def use(self, link: EdgeLink) -> None:
        """Show this link from now on."""
        self._link = link

    def cascade(self, calibrated: Calibrated, first: str) -> None:
        """Show what answers in a cascade, its audits and its threshold from now on.

        `first` is `small` or `exit`.
        """
        made, audit = self.exposition, calibrated.audit
        self._cascade |= {(first,): 0.0, ("large",): 0.0}
        self._audits |= {("agrees",): 0.0, ("disagrees",): 0.0, ("failed",): 0.0}
        made.read_one("splittracr_cascade_disagreement_ratio", lambda: audit.bound)
        if audit.promised is not None:
            made.read_one("splittracr_cascade_drifted", lambda: int(audit.drifted))
        made.read_one("splittracr_cascade_threshold_ratio", lambda: calibrated.threshold / 1e6)
        made.read(
            "splittracr_cascade_recalibrations",
            lambda: {("proven",): calibrated.proven, ("unproven",): calibrated.unproven},
        )

    def decides(self, beliefs: Callable[[], Beliefs]) -> None:
        """Show the link as the decisions of mode Adaptive see it from now on."""
        self._beliefs = beliefs

    def planned(self, expected: int, earlier: Sequence[Record]) -> None:
        """Show how many samples are expected, and count those that were recorded `earlier`.

        Samples exist from then on. A counter that began at 0 again and then jumped would look like
        samples a second.
        """
        self.exposition.gauge("splittracr_samples_expected").set(expected)
        self._samples = {("ok",): 0.0, ("failed",): 0.0}
        for record in earlier:
            self.recorded(record)

    def recorded(self, record: Record) -> None:
        """Count a sample; `planned` comes first."""
        self._samples[record.outcome,] += 1
        if record.network is not None:
            self._cascade[record.network,] += 1
        if record.audit is not None:
            self._audits[record.audit,] += 1

    def decided(self, decision: Decision, cut: str) -> None:
        """Count a decision. `cut` is the cut's name."""
        if decision.choice != self._choice:
            if self._choice is not None:
                self._switches.inc()
            self._choice, self._cut = decision.choice, decision.cut
            self._candidate = {(cut, str(decision.codec)): 1.0}
        if decision.reason is not None:
            self._decisions[decision.reason].inc()
            self._predicted_regret.inc(max(0.0, decision.predicted_regret_ms or 0.0) / 1e3)

    def encoded(self, raw: int, encoded: int) -> None:
        """Count the bytes of a frame's live tensors before and after the codec."""
        self._raw.inc(raw)
        self._encoded.inc(encoded)

    def finished(
        self, outcome: Outcome, own_ms: Mapping[str, float], source: str, late: Fallback | None
    ) -> None:
        """Count a finished frame.

        `own_ms` are the stages that this edge measured, `source` is the origin of the result.
        `late` is why the edge started the tail before the server's reply, if it did.
        """
        self.stages(own_ms)
        if late == "deadline":
            self._misses.inc()
        elif late == "hedge":
            (self._won if source == "hedge" else self._lost).inc()
        if not outcome.ok:
            return
        self._latency[source].observe(outcome.total_ms / 1e3)
        if outcome.decision.predicted_ms is not None:
            self._predicted_frames.inc()
            self._predicted.inc(max(0.0, outcome.decision.predicted_ms) / 1e3)
            self._measured.inc(outcome.total_ms / 1e3)

    def profiled(self, profile: Profile) -> None:
        """Show the agreement of lossy codecs if start-up measured it: the worst of all cuts."""
        lossy = [one for one in profile.codecs if Codec.parse(one.codec).lossy]
        lossy += [one for one in profile.picture_codecs if PictureCodec.parse(one.codec).lossy]
        for one in lossy:
            if one.agreement is not None:
                self.agreed(EVERY_CUT, one.codec, one.agreement)

    def agreed(self, cut: str, codec: str, share: float) -> None:
        """Show the share of samples whose result a lossy codec left as it was."""
        self._agreement[cut, codec] = share

    def _show_link(self) -> None:
        """Without a link all counts are 0, and its speed is unknown."""
        made = self.exposition

        def count(name: str, value: Callable[[EdgeLink], int]) -> None:
            made.read_one(name, lambda: 0 if self._link is None else value(self._link))

        count("splittracr_link_sessions", lambda link: link.sessions)
        count("splittracr_requests_in_flight", lambda link: link.in_flight)
        count("splittracr_link_sessions_lost", lambda link: link.losses)
        count("splittracr_link_reconnects", lambda link: link.reconnects)
        count("splittracr_requests_resent", lambda link: link.resent)
        made.read("splittracr_link_bytes", lambda: _traffic(self._link))
        made.read("splittracr_link_goodput_bytes_per_second", self._goodput)
        made.read_one("splittracr_link_round_trip_seconds", self._round_trip)

    def _goodput(self) -> Values:
        """By direction. Decisions estimate the downlink from replies, which may be tiny."""
        if self._link is None:
            return {}
        meter, up = self._link.meter, self._link.meter.up_bytes_per_second
        if self._beliefs is not None:
            up = self._beliefs().up.bits_per_second / 8
        seen = {("up",): up, ("down",): meter.down_bytes_per_second}
        return {direction: rate for direction, rate in seen.items() if rate is not None}

    def _round_trip(self) -> float | None:
        if self._beliefs is not None:
            believed = self._beliefs()
            return (believed.up.fixed_ms + believed.down.fixed_ms) / 1e3
        seen = None if self._link is None else self._link.meter.round_trip_ms
        return None if seen is None else seen / 1e3


@dataclass(frozen=True)
class ServerState:
    """The state of a server at a scrape.

    It has sessions, requests without a reply, requests that wait for the compute thread, seconds of
    work of this thread, and bytes in both directions.
    """

    sessions: int = 0
    in_flight: int = 0
    queue_length: int = 0
    busy_seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0


class ServerMetrics(Metrics):
    """The metrics of a server."""

    def __init__(self, study: Metadata | None = None, *, max_edges: int) -> None:
        super().__init__("server", study)
        made = self.exposition
        made.gauge("splittracr_server_edges_max").set(max_edges)
        self._requests = made.counters("splittracr_server_requests")
        self._waits = made.histogram("splittracr_server_queue_wait_seconds")
        self._batches = made.histogram("splittracr_server_batch_size")
        self._state: Callable[[], ServerState] = ServerState
        self._show_server()

    def use(self, state: Callable[[], ServerState]) -> None:
        """Show the state of a server from now on; it is read at each scrape."""
        self._state = state

    def answered(self, outcome: str, stages_ms: Mapping[str, float]) -> None:
        """Count an answered request by its outcome: ok, failed or cancelled."""
        self._requests[outcome].inc()
        self.stages(stages_ms)

    def waited(self, seconds: float) -> None:
        """Count a request that the compute thread has taken."""
        self._waits.observe(seconds)

    def computed(self, size: int) -> None:
        """Count requests that were computed together."""
        self._batches.observe(size)

    def _show_server(self) -> None:
        """Before there is a server, all values are 0."""
        made = self.exposition

        def count(name: str, value: Callable[[ServerState], float]) -> None:
            made.read_one(name, lambda: value(self._state()))

        count("splittracr_link_sessions", lambda server: server.sessions)
        count("splittracr_requests_in_flight", lambda server: server.in_flight)
        count("splittracr_server_queue_length", lambda server: server.queue_length)
        count("splittracr_server_busy_seconds", lambda server: server.busy_seconds)
        made.read("splittracr_link_bytes", lambda: _traffic(self._state()))


def _traffic(of: EdgeLink | ServerState | None) -> Values:
    """Bytes by direction."""
    return {
        ("up",): 0 if of is None else of.bytes_up,
        ("down",): 0 if of is None else of.bytes_down,
    }


def _by_zone(figures: ZoneFigures) -> Values:
    return {(z.component, z.zone, z.source, z.kind): value for z, value in figures.items()}


def _short(digest: str) -> str:
    """The start of a digest, which is written as `sha256:<hex>`."""
    return digest.rpartition(":")[2][:_DIGITS]
