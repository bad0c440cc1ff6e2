"""Reports of edges: the container that made each, and the edges that are silent. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Self

from splittracr.experiment.report import Phase, WorkerReport, from_message
from splittracr_operator.study import Body
from splittracr_operator.workers import container, edge_of

SILENT_SECONDS = 30.0
"""Seconds without an answer after which an edge counts as silent. A busy edge takes several."""

OUTSIDE = "outside"
"""The run of an edge outside of the cluster, which has no container."""


@dataclass(frozen=True)
class Reports:
    """The reports of a study's edges so far."""

    latest: Mapping[str, WorkerReport] = field(default_factory=dict)
    """The last report of each edge, by the edge's name."""

    runs: Mapping[str, str] = field(default_factory=dict)
    """The run of a container that made each report."""

    ended: frozenset[str] = frozenset()
    """Runs whose termination message was read."""

    answered: Mapping[str, float] = field(default_factory=dict)
    """Unix time of the last answer of each edge that has not finished."""

    def update(
        self, pods: Sequence[Body], answers: Mapping[str, WorkerReport], now: datetime
    ) -> Self:
        """Add the termination messages of `pods`, each once, and then `answers`."""
        final, current = final_reports(pods), runs(pods)
        made = {edge: one for edge, one in final.items() if one[0] not in self.ended}
        made |= {edge: (current.get(edge, OUTSIDE), report) for edge, report in answers.items()}
        reports = {**self.latest, **{edge: report for edge, (_, report) in made.items()}}
        answered = {**self.answered, **dict.fromkeys(answers, now.timestamp())}
        finished = finished_edges(reports)
        return replace(
            self,
            latest=reports,
            runs={**self.runs, **{edge: run for edge, (run, _) in made.items()}},
            ended=self.ended | {run for run, _ in final.values()},
            answered={edge: at for edge, at in answered.items() if edge not in finished},
        )

    def stale(self, pods: Sequence[Body]) -> frozenset[str]:
        """Edges whose report is of an earlier run than the current one."""
        current = runs(pods)
        return frozenset(edge for edge, run in current.items() if self.runs.get(edge, run) != run)


def finished_edges(reports: Mapping[str, WorkerReport]) -> set[str]:
    """Edges that have recorded all of their samples."""
    return {edge for edge, report in reports.items() if report.phase is Phase.FINISHED}


def final_reports(pods: Sequence[Body]) -> dict[str, tuple[str, WorkerReport]]:
    """Reports in termination messages, with the run of the container, by edge.

    If an edge has several, the latest one of the newest pod counts.
    """
    found: dict[str, tuple[str, WorkerReport]] = {}
    for pod in sorted(pods, key=_made):
        for state, behind in (("lastState", 1), ("state", 0)):
            ended = container(pod).get(state, {}).get("terminated", {})
            report = from_message(ended.get("message"))
            if report is not None and report.edge is not None:
                found[report.edge] = _run(pod, behind), report
    return found


def runs(pods: Sequence[Body]) -> dict[str, str]:
    """The run of each edge's current container, by edge: the pod's uid and its restart count."""
    return {
        edge: _run(pod)
        for pod in sorted(pods, key=_made)
        if (edge := edge_of(pod)) and container(pod)
    }


def silent(
    pods: Sequence[Body], answered: Mapping[str, float], seen: float | None, now: datetime
) -> dict[str, datetime]:
    """Edges that run and have not answered for SILENT_SECONDS, with the time of the last answer.

    `answered` are Unix times. An edge without one counts from `seen` on if its container ran at
    that time. If `seen` is None, such an edge does not count.
    """
    found = {}
    for pod in pods:
        edge = edge_of(pod)
        started = _started(pod)
        if edge is None or started is None:
            continue
        last = answered.get(edge)
        if last is None and seen is not None and started.timestamp() < seen:
            last = seen
        if last is not None and now.timestamp() - last >= SILENT_SECONDS:
            found[edge] = datetime.fromtimestamp(last, UTC)
    return found


def silent_outside(
    edges: Collection[str], answered: Mapping[str, float], seen: float | None, now: datetime
) -> dict[str, datetime]:
    """The same for those of `edges`, outside of the cluster, that have not finished."""
    last = {edge: answered.get(edge, seen) for edge in edges}
    return {
        edge: datetime.fromtimestamp(at, UTC)
        for edge, at in last.items()
        if at is not None and now.timestamp() - at >= SILENT_SECONDS
    }


def running_edges(pods: Sequence[Body]) -> dict[str, str]:
    """Address of each edge whose container runs, by the edge's name."""
    return {
        edge: pod["status"]["podIP"]
        for pod in pods
        if pod["status"].get("phase") == "Running"
        and "running" in container(pod).get("state", {})
        and pod["status"].get("podIP")
        and (edge := edge_of(pod))
    }


def _run(pod: Body, behind: int = 0) -> str:
    """Identifies one run of the container; `behind` is how many runs before the current one."""
    return f"{pod['metadata']['uid']}/{container(pod).get('restartCount', 0) - behind}"


def _started(pod: Body) -> datetime | None:
    """Start of the container; None if it does not run."""
    running = container(pod).get("state", {}).get("running") or {}
    stamp = running.get("startedAt")
    return None if stamp is None else datetime.fromisoformat(stamp)


def _made(pod: Body) -> datetime:
    return datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
