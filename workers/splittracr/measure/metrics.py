"""Prometheus metrics of a worker: base units, the stage as a label, nothing a sample."""

from collections.abc import Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from splittracr import __version__
from splittracr.planning.choice import Choice

_BUCKETS = tuple(round(m * 10.0**e, 10) for e in range(-4, 2) for m in (1, 1.8, 3.2, 5.6))


class Metrics:
    """One worker's metrics, on a registry of its own."""

    def __init__(self, role: str) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, namespace="splittracr", registry=self.registry)
        gauge = partial(Gauge, namespace="splittracr", registry=self.registry)
        self._frames = counter("frames", "Frames by outcome.", ["role", "outcome"])
        self._stages = Histogram(
            "stage_seconds",
            "Time of a frame's stage.",
            ["role", "stage"],
            namespace="splittracr",
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self._bytes = counter("wire_bytes", "Bytes on the wire.", ["role", "direction"])
        self._operations = counter("operations", "Operations of the network that ran.", ["role"])
        self._fallbacks = counter(
            "fallbacks", "Frames meant for the server that the edge finished.", ["role", "reason"]
        )
        self._decisions = counter("decisions", "Decisions by reason.", ["role", "reason"])
        self._regret = counter(
            "regret_seconds", "Expected latency above that of the best candidate.", ["role"]
        )
        self._cut = gauge("cut", "Index of the cut in use.", ["role"])
        self._switches = gauge("switches", "Changes of cut or codec.", ["role"])
        self._predicted = gauge("predicted_latency_seconds", "Of the last decision.", ["role"])
        self._measured = gauge("measured_latency_seconds", "Of the last frame.", ["role"])
        self.connected = gauge("sessions", "Open sessions.", ["role"]).labels(role)
        build = gauge("build_info", "Always 1.", ["role", "version"])
        build.labels(role, __version__).set(1)
        self._role = role

    def frame(self, outcome: str, stages_ms: Mapping[str, float], sent: int, received: int) -> None:
        """Count one frame with its stages in milliseconds and its bytes."""
        self._frames.labels(self._role, outcome).inc()
        for stage, elapsed in stages_ms.items():
            self._stages.labels(self._role, stage).observe(elapsed / 1e3)
        self._bytes.labels(self._role, "sent").inc(sent)
        self._bytes.labels(self._role, "received").inc(received)

    def decision(self, cut: int, choice: Choice) -> None:
        """Tell of a decision; of those that follow a schedule only the cut."""
        self._cut.labels(self._role).set(cut)
        if choice.reason is None or choice.predicted_ms is None:
            return
        self._decisions.labels(self._role, choice.reason).inc()
        self._regret.labels(self._role).inc(max(0.0, choice.regret_ms or 0.0) / 1e3)
        self._switches.labels(self._role).set(choice.epoch)
        self._predicted.labels(self._role).set(choice.predicted_ms / 1e3)

    def latency(self, total_ms: float) -> None:
        """Tell of a finished frame's end-to-end latency."""
        self._measured.labels(self._role).set(total_ms / 1e3)

    def fallback(self, reason: str) -> None:
        """Count one frame that the edge finished in the server's place."""
        self._fallbacks.labels(self._role, reason).inc()

    def operations(self, count: int) -> None:
        """Count operations of the network that ran here."""
        self._operations.labels(self._role).inc(count)
