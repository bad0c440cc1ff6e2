"""Reports of edges: which container made which, and which edges are silent. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Self

from splittracr.experiment.report import Phase, WorkerReport, from_message
from splittracr_operator.study import Body
from splittracr_operator.workers import container, edge_of

SILENT_SECONDS = 30.0
"""Seconds without an answer after which an edge counts as silent. A busy edge may take several."""


@dataclass(frozen=True)
class Heard:
    """The last report of each edge, by the edge's name."""

    reports: Mapping[str, WorkerReport] = field(default_factory=dict)
    runs: Mapping[str, str] = field(default_factory=dict)
    """The run of a container that made each report."""

    ended: frozenset[str] = frozenset()
    """Runs whose last report was taken over."""

    answered: Mapping[str, float] = field(default_factory=dict)
    """When each edge answered last, as a Unix time. An edge that has finished is left out."""

    def hear(
        self, pods: Sequence[Body], answers: Mapping[str, WorkerReport], now: datetime
    ) -> Self:
        """Take over the termination messages of `pods`, each once, and then `answers`."""
        last, present = last_reports(pods), runs(pods)
        made = {edge: one for edge, one in last.items() if one[0] not in self.ended}
        made |= {edge: (present[edge], report) for edge, report in answers.items()}
        reports = {**self.reports, **{edge: report for edge, (_, report) in made.items()}}
        answered = {**self.answered, **dict.fromkeys(answers, now.timestamp())}
        finished = finished_edges(reports)
        return replace(
            self,
            reports=reports,
            runs={**self.runs, **{edge: run for edge, (run, _) in made.items()}},
            ended=self.ended | {run for run, _ in last.values()},
            answered={edge: at for edge, at in answered.items() if edge not in finished},
        )

    def stale(self, pods: Sequence[Body]) -> frozenset[str]:
        """Edges whose report is of an earlier run than the present one."""
        present = runs(pods)
        return frozenset(edge for edge, run in present.items() if self.runs.get(edge, run) != run)


def finished_edges(reports: Mapping[str, WorkerReport]) -> set[str]:
    """Edges that have recorded all of their samples."""
    return {edge for edge, report in reports.items() if report.phase is Phase.FINISHED}


def last_reports(pods: Sequence[Body]) -> dict[str, tuple[str, WorkerReport]]:
    """What edges left as termination messages: the run of the container and its report, by edge.

    Of several, the latest one of the pod that was made last.
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
    """The run of each edge's present container, by edge: the pod's uid and its restart count."""
    return {
        edge: _run(pod)
        for pod in sorted(pods, key=_made)
        if (edge := edge_of(pod)) and container(pod)
    }


def silent(
    pods: Sequence[Body], answered: Mapping[str, float], seen: float | None, now: datetime
) -> dict[str, datetime]:
    """Edges that run and have not answered for some time, and when each answered last.

    `answered` are Unix times. An edge that is not among them counts from `seen` on, if its
    container ran by then; None is for edges that need not have answered yet.
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


def running_edges(pods: Sequence[Body]) -> dict[str, str]:
    """Address of each edge that can be asked, by the edge's name."""
    return {
        edge: pod["status"]["podIP"]
        for pod in pods
        if pod["status"].get("phase") == "Running"
        and "running" in container(pod).get("state", {})
        and pod["status"].get("podIP")
        and (edge := edge_of(pod))
    }


def _run(pod: Body, behind: int = 0) -> str:
    """Identifies one run of the container; `behind` is how many runs before the present one."""
    return f"{pod['metadata']['uid']}/{container(pod).get('restartCount', 0) - behind}"


def _started(pod: Body) -> datetime | None:
    """When the container was started; None if it does not run."""
    running = container(pod).get("state", {}).get("running") or {}
    stamp = running.get("startedAt")
    return None if stamp is None else datetime.fromisoformat(stamp)


def _made(pod: Body) -> datetime:
    return datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
