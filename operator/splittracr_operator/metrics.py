"""The operator's own Prometheus metrics, and what it knows of the studies it looks after."""

from collections.abc import Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from splittracr.experiment.report import WorkerReport
from splittracr.experiment.status import ExperimentStatus
from splittracr_operator.cluster import Permission
from splittracr_operator.lifecycle import Stage
from splittracr_operator.study import Study

_NAMESPACE = "splittracr_operator"
_BUCKETS = tuple(round(m * 10.0**e, 10) for e in range(-3, 1) for m in (1, 1.5, 2, 3, 5, 7))


class Metrics:
    """On a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter = partial(Counter, namespace=_NAMESPACE, registry=self.registry)
        gauge = partial(Gauge, namespace=_NAMESPACE, registry=self.registry)
        study = ["namespace", "name"]
        self.reconcile = Histogram(
            "reconcile_seconds",
            "Time of one look at a study.",
            namespace=_NAMESPACE,
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self.errors = counter(
            "reconcile_errors", "Looks that ended with an error, by its kind.", ["kind"]
        )
        self._requests = counter(
            "api_requests", "Requests to the API server.", ["group", "resource", "verb"]
        )
        self.waiting = gauge("agenda_length", "Studies that a look is planned for.")
        self._experiments = gauge("experiments", "Studies by state.", ["state"])
        self._cut = gauge("current_cut", "1 for the cut in use.", [*study, "cut"])
        self._latency = gauge(
            "latency_seconds",
            "End-to-end time at the cut in use: p50, p95, predicted.",
            [*study, "kind"],
        )
        self._samples = gauge("samples", "Samples recorded so far.", [*study, "outcome"])
        self._decisions = gauge("decisions", "Decisions of adaptive edges.", [*study, "reason"])
        self._states: dict[str, str] = {}
        self._series: dict[str, set[tuple[Gauge, tuple[str, ...]]]] = {}
        for stage in Stage:
            self._experiments.labels(stage).set(0)

    def study(
        self, study: Study, status: ExperimentStatus, reports: Sequence[WorkerReport]
    ) -> None:
        """Take over what is known of a study now."""
        self._state(study.uid, status.state)
        if not reports:
            return
        place = (study.namespace, study.name)
        now: dict[tuple[Gauge, tuple[str, ...]], float] = {}
        if status.cut is not None:
            now[self._cut, (*place, status.cut)] = 1
        done, failed = sum(r.done for r in reports), sum(r.failed for r in reports)
        now[self._samples, (*place, "ok")] = done - failed
        now[self._samples, (*place, "failed")] = failed
        slowest = max(
            (r.latency for r in reports if r.latency), key=lambda cut: cut.p95_ms, default=None
        )
        if slowest is not None:
            now[self._latency, (*place, "p50")] = slowest.p50_ms / 1e3
            now[self._latency, (*place, "p95")] = slowest.p95_ms / 1e3
        for report in reports:
            if report.decisions is None:
                continue
            if report.decisions.predicted_ms is not None:
                now[self._latency, (*place, "predicted")] = report.decisions.predicted_ms / 1e3
            for reason, count in report.decisions.by_reason.items():
                key = (self._decisions, (*place, reason))
                now[key] = now.get(key, 0) + count
        self._replace(study.uid, now)

    def request(self, used: Permission) -> None:
        """Count a request to the API server."""
        self._requests.labels(*used).inc()

    def forget(self, uid: str) -> None:
        """A study is gone."""
        self._state(uid, None)
        self._replace(uid, {})

    def _state(self, uid: str, state: str | None) -> None:
        before = self._states.pop(uid, None)
        if before is not None:
            self._experiments.labels(before).dec()
        if state is not None:
            self._states[uid] = state
            self._experiments.labels(state).inc()

    def _replace(self, uid: str, now: dict[tuple[Gauge, tuple[str, ...]], float]) -> None:
        """Set a study's series, and remove those that it had and has no more."""
        for gauge, labels in self._series.pop(uid, set()) - now.keys():
            gauge.remove(*labels)
        for (gauge, labels), value in now.items():
            gauge.labels(*labels).set(value)
        if now:
            self._series[uid] = set(now)
