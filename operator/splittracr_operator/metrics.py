"""The operator's metrics: its own work, and a snapshot of each study.

Names, labels and help texts are in `experiment/metrics.py`. All series of a study come from its
snapshot and are removed with it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from splittracr import __version__
from splittracr.experiment.contracts import Role
from splittracr.experiment.metrics import OPERATOR
from splittracr.experiment.status import ExperimentStatus
from splittracr.exposition import Exposition, Values
from splittracr_operator.connection import Permission
from splittracr_operator.lifecycle import Stage
from splittracr_operator.store import Store
from splittracr_operator.study import Study
from splittracr_operator.watches import Watches
from splittracr_operator.work_queue import WorkQueue

_TRUTHS = ("True", "False", "Unknown")


@dataclass(frozen=True)
class _Snapshot:
    """Values of a study at one time. `identity` is its uid, model and mode, if known."""

    place: tuple[str, str]
    status: ExperimentStatus
    identity: tuple[str, str, str] | None = None
    samples: Mapping[str, float] = field(default_factory=dict)
    reported: Mapping[str, float] = field(default_factory=dict)
    roles: tuple[Role, ...] = ()
    restarts: Mapping[tuple[Role, str], int] = field(default_factory=dict)


class Metrics:
    """The metrics of one operator."""

    def __init__(self) -> None:
        self.exposition = made = Exposition(OPERATOR)
        made.gauge("splittracr_operator_build_info").labels(__version__).set(1)
        self.reconcile = made.histogram("splittracr_operator_reconcile_seconds")
        self.errors = made.counter("splittracr_operator_reconcile_errors")
        self._wait = made.histogram("splittracr_operator_work_queue_wait_seconds")
        self._requests = made.counter("splittracr_operator_api_requests")
        self._snapshots: dict[str, _Snapshot] = {}
        self._denied: Collection[str] = ()
        made.read("splittracr_operator_namespace_denied", lambda: {(s,): 1.0 for s in self._denied})
        made.read("splittracr_studies", self._states)
        for name, values in _STUDY.items():
            made.read(name, self._of_studies(values))

    def add_sources(self, queue: WorkQueue, store: Store) -> None:
        """Add the metrics of the work queue and of the results store."""
        made = self.exposition
        made.read_one("splittracr_operator_work_queue_length", lambda: queue.waiting)
        made.read(
            "splittracr_operator_handovers",
            lambda: {(outcome,): count for outcome, count in store.handovers.items()},
        )
        made.read_one("splittracr_operator_handover_bytes", lambda: store.handover_bytes)
        made.read_one("splittracr_operator_store_bytes", lambda: store.bytes)
        made.read_one("splittracr_operator_store_free_bytes", lambda: store.free_bytes)

    def add_watches(self, watches: Watches) -> None:
        """Add the counts of reopened watches."""
        self.exposition.read(
            "splittracr_operator_watch_restarts",
            lambda: {(kind,): count for kind, count in watches.restarts.items()},
        )

    def denied(self, namespaces: Collection[str]) -> None:
        """Set the namespaces that may not be read."""
        self._denied = tuple(namespaces)

    def waited(self, seconds: float) -> None:
        """Observe the wait of a study in the work queue."""
        self._wait.observe(seconds)

    def request(self, used: Permission) -> None:
        """Count a request to the API server."""
        self._requests.labels(*used).inc()

    def study(self, study: Study, status: ExperimentStatus, reported: Mapping[str, float]) -> None:
        """Replace the snapshot of a study.

        `reported` is the Unix time of each edge's last answer.
        """
        before = self._snapshots.get(study.uid)
        spec = study.spec
        self._snapshots[study.uid] = _Snapshot(
            place=(study.namespace, study.name),
            status=status,
            identity=(study.uid, spec.model.name, str(spec.partition.mode)),
            samples=_samples(status, before.samples if before else {}),
            reported={} if status.completion_time else dict(reported),
            roles=tuple(Role) if study.needs_server else (Role.EDGE,),
            restarts=_restarts(status, before.restarts if before else {}),
        )

    def unreadable(self, uid: str, namespace: str, name: str, status: ExperimentStatus) -> None:
        """Replace the snapshot of a study whose manifest this operator cannot read."""
        self._snapshots[uid] = _Snapshot((namespace, name), status)

    def remove(self, uid: str) -> None:
        """Remove the series of a deleted study."""
        self._snapshots.pop(uid, None)

    def _states(self) -> Values:
        count: dict[tuple[str, ...], float] = {(str(stage),): 0.0 for stage in Stage}
        for snapshot in self._snapshots.values():
            if snapshot.status.state is not None:
                count[snapshot.status.state,] += 1
        return count

    def _of_studies(self, values: Callable[[_Snapshot], Values]) -> Callable[[], Values]:
        return lambda: {
            (*snapshot.place, *labels): value
            for snapshot in self._snapshots.values()
            for labels, value in values(snapshot).items()
        }


def _samples(status: ExperimentStatus, before: Mapping[str, float]) -> Mapping[str, float]:
    """Samples by outcome. Counts never decrease, even if an edge restarts."""
    progress = status.progress
    if progress is None:
        return before
    now = {
        "ok": progress.done - progress.failed,
        "failed": progress.failed,
        "unanswered": progress.unanswered,
    }
    return {outcome: max(count, before.get(outcome, 0)) for outcome, count in now.items()}


def _restarts(
    status: ExperimentStatus, before: Mapping[tuple[Role, str], int]
) -> Mapping[tuple[Role, str], int]:
    """Restarts by role and pod, including those of deleted pods."""
    now = {(w.role, w.name): w.restarts for w in status.workers if w.restarts}
    return {**before, **now}


def _info(snapshot: _Snapshot) -> Values:
    return {} if snapshot.identity is None else {snapshot.identity: 1.0}


def _conditions(snapshot: _Snapshot) -> Values:
    return {
        (condition.type, truth): float(condition.status == truth)
        for condition in snapshot.status.conditions
        for truth in _TRUTHS
    }


def _expected(snapshot: _Snapshot) -> Values:
    progress = snapshot.status.progress
    return {} if progress is None or progress.total is None else {(): progress.total}


def _latency(snapshot: _Snapshot) -> Values:
    latency = snapshot.status.latency
    if latency is None:
        return {}
    quantiles = {"0.5": latency.p50, "0.95": latency.p95}
    return {(q,): _seconds(text) for q, text in quantiles.items() if text is not None}


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("ms")) / 1e3


def _ready(snapshot: _Snapshot) -> Values:
    workers = snapshot.status.workers
    return {
        (str(role),): sum(worker.ready for worker in workers if worker.role is role)
        for role in snapshot.roles
    }


def _restarted(snapshot: _Snapshot) -> Values:
    def of(role: Role) -> Iterator[int]:
        yield from (count for (its, _), count in snapshot.restarts.items() if its is role)

    return {(str(role),): sum(of(role)) for role in snapshot.roles}


def _by_one(values: Mapping[str, float]) -> Values:
    return {(label,): value for label, value in values.items()}


_STUDY: Mapping[str, Callable[[_Snapshot], Values]] = {
    "splittracr_study_info": _info,
    "splittracr_study_condition": _conditions,
    "splittracr_study_samples": lambda snapshot: _by_one(snapshot.samples),
    "splittracr_study_samples_expected": _expected,
    "splittracr_study_latency_seconds": _latency,
    "splittracr_study_edge_last_report_timestamp_seconds": (
        lambda snapshot: _by_one(snapshot.reported)
    ),
    "splittracr_study_workers_ready": _ready,
    "splittracr_study_worker_restarts": _restarted,
}
"""Metrics of a study, with the function that reads them from its snapshot."""
