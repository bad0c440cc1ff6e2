"""Decides the stage of a study from its children and reports. Pure.

`decide` calls the rules in order and returns the first verdict.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from splittracr.experiment.contracts import ExitCode, Role, edge_name
from splittracr.experiment.report import Phase, WorkerReport, from_message
from splittracr.experiment.status import Worker
from splittracr_operator.reports import finished_edges
from splittracr_operator.study import Body, Study
from splittracr_operator.warning_events import is_new, may_recover
from splittracr_operator.workers import (
    edge_of,
    ending,
    failures,
    has_started,
    has_succeeded,
    how,
    init_containers,
    is_ready,
    killed,
    role_of,
    termination,
    terminations,
    waiting,
    will_end,
)

FINAL = {ExitCode.INVALID_INPUT: "InvalidInput", ExitCode.ALL_FAILED: "AllSamplesFailed"}
"""Reason by exit code, if a restart of the worker would fail again."""


class Stage(StrEnum):
    """The stage of a study. It determines the conditions and the children."""

    SUSPENDED = "Suspended"
    STARTING = "Starting"
    STALLED = "Stalled"
    RUNNING = "Running"
    WAITING = "Waiting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def ended(self) -> bool:
        """Whether the study has ended."""
        return self in (Stage.SUCCEEDED, Stage.FAILED)


@dataclass(frozen=True)
class Verdict:
    """The stage, a CamelCase reason, and a sentence."""

    stage: Stage
    reason: str
    message: str


@dataclass(frozen=True)
class Observed:
    """A study's children and reports. `reports` are by the edge's name."""

    pods: Sequence[Body] = ()
    job: Body | None = None
    deployment: Body | None = None
    reports: dict[str, WorkerReport] = field(default_factory=dict)
    stale: frozenset[str] = frozenset()
    """Edges whose report is of a container before the current one."""

    silent: Mapping[str, datetime] = field(default_factory=dict)
    """Edges that run and have stopped answering, with the time of the last answer."""

    joined: frozenset[str] = frozenset()
    """The edges outside of the cluster that have joined."""

    archived: frozenset[str] = frozenset()
    """The edges whose results are in the store."""

    workers: Sequence[Worker] = ()
    """The workers, including those whose pods are deleted."""

    refusal: str | None = None
    """The API server's message if it refused a child."""

    warnings: Mapping[str, str] = field(default_factory=dict)
    """Lasting warnings about a Job without a pod, or a pod that does not start, by uid."""

    def of(self, role: Role) -> list[Body]:
        """The pods of one role that are not being deleted."""
        return [pod for pod in self.pods if role_of(pod) == role]


def decide(study: Study, observed: Observed, now: datetime) -> Verdict:
    """The first verdict of RULES; without one, the workers start."""
    for rule in RULES:
        verdict = rule(study, observed, now)
        if verdict is not None:
            return verdict
    return Verdict(Stage.STARTING, "WorkersStarting", _starting(study, observed))


def ended_before(study: Study, _: Observed, __: datetime) -> Verdict | None:
    """A study that has ended stays so, also after its pods are deleted."""
    if study.status.completion_time is None:
        return None
    for condition in study.status.conditions:
        if condition.type == "Succeeded":
            stage = Stage.SUCCEEDED if condition.status == "True" else Stage.FAILED
            return Verdict(stage, condition.reason, condition.message)
    return None


def completed(study: Study, observed: Observed, _: datetime) -> Verdict | None:
    """All edges have finished. Other containers of their pods may still run.

    Those outside of the cluster have also brought their results.
    """
    if not _ended(study, observed) or not observed.archived.issuperset(study.outside):
        return None
    reports = observed.reports.values()
    done, failed = sum(r.done for r in reports), sum(r.failed for r in reports)
    outcome = f"{done} samples were recorded" if done else "All edges have finished"
    return Verdict(Stage.SUCCEEDED, "Completed", f"{outcome}{_failures(failed)}.")


def final_failure(study: Study, observed: Observed, _: datetime) -> Verdict | None:
    """A worker cannot run this manifest, or all samples of an edge failed.

    An edge outside of the cluster that cannot run the manifest may lack a file: it can start again.
    """
    for edge in study.outside:
        report = observed.reports.get(edge)
        if report is not None and report.exit_code == ExitCode.ALL_FAILED:
            message = report.error or f"All samples of {edge} failed."
            return Verdict(Stage.FAILED, FINAL[ExitCode.ALL_FAILED], message)
    for role in Role:
        for pod in observed.of(role):
            for ended in terminations(pod):
                reason = FINAL.get(ended.get("exitCode", 0))
                if reason is not None:
                    return Verdict(Stage.FAILED, reason, _end_message(pod, ended))
    return None


def job_failed(_: Study, observed: Observed, __: datetime) -> Verdict | None:
    """Kubernetes has marked the Job as failed."""
    condition = _condition(observed.job, "Failed")
    if condition is None:
        return None
    if condition.get("reason") == "DeadlineExceeded":
        message = "The edges ran for longer than spec.activeDeadlineSeconds."
        return Verdict(Stage.FAILED, "ActiveDeadlineExceeded", message)
    return _edge_failed(observed, condition.get("message") or "An edge failed")


def outside_overdue(study: Study, observed: Observed, now: datetime) -> Verdict | None:
    """An edge outside of the cluster, which is in no Job, has run for longer than allowed."""
    deadline = study.spec.active_deadline_seconds
    for edge in study.outside:
        report = observed.reports.get(edge)
        since = None if report is None else report.first_record_at
        if deadline is not None and since is not None and now.timestamp() - since > deadline:
            message = f"{edge} ran for longer than spec.activeDeadlineSeconds."
            return Verdict(Stage.FAILED, "ActiveDeadlineExceeded", message)
    return None


def failed_too_often(study: Study, observed: Observed, _: datetime) -> Verdict | None:
    """The failures of all edges together exceed the manifest's limit."""
    pods = [p for p in observed.of(Role.EDGE) if p["status"].get("phase") != "Failed"]
    replaced = (observed.job or {}).get("status", {}).get("failed", 0)
    limit, failed = study.spec.backoff_limit, replaced + sum(map(failures, pods))
    if failed <= limit:
        return None
    last = next((_end_message(pod, ended) for pod in pods for ended in terminations(pod)), None)
    counted = f"An edge failed: {failed} failures, spec.backoffLimit is {limit}"
    return _edge_failed(observed, f"{counted}; {last}" if last else counted)


def _edge_failed(observed: Observed, otherwise: str) -> Verdict:
    causes = [r.error for r in observed.reports.values() if r.error]
    edges = [w for w in observed.workers if w.role is Role.EDGE and w.last_termination]
    causes += [ending(w) for w in edges if w.last_termination and killed(w.last_termination)]
    message = "; ".join(dict.fromkeys(causes)) or otherwise
    return Verdict(Stage.FAILED, "EdgeFailed", f"{message.rstrip('.')}.")


def suspended(study: Study, _: Observed, __: datetime) -> Verdict | None:
    """The manifest suspends the study."""
    if not study.spec.suspend:
        return None
    return Verdict(Stage.SUSPENDED, "Suspended", "spec.suspend is true: there are no workers.")


def refused(_: Study, observed: Observed, __: datetime) -> Verdict | None:
    """The API server refused a child."""
    if observed.refusal is None:
        return None
    return Verdict(Stage.STALLED, "ChildRefused", observed.refusal)


def closed(study: Study, _: Observed, __: datetime) -> Verdict | None:
    """No edge outside of the cluster can join."""
    if not study.outside or study.closed is None:
        return None
    message = f"spec.edge.outside is {len(study.outside)}, and {study.closed}."
    return Verdict(Stage.STALLED, "EdgesCannotJoin", message)


def overdue(study: Study, observed: Observed, now: datetime) -> Verdict | None:
    """A pod has been pending for longer than the manifest allows, for any reason."""
    deadline = study.spec.pending_deadline_seconds
    if deadline is None:
        return None
    for role in Role:
        for pod in observed.of(role):
            since = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
            late = now - since >= timedelta(seconds=deadline)
            over = pod["status"].get("phase") in ("Succeeded", "Failed")
            if late and not over and not has_started(pod):
                _, cause = _obstacle(pod, observed, now) or ("", _pending_cause(pod))
                message = f"{role} pod {pod['metadata']['name']}: {cause}"
                message = f"{message} (after spec.pendingDeadlineSeconds, {deadline} s)"
                return Verdict(Stage.FAILED, "PendingDeadlineExceeded", message)
    return None


def blocked(_: Study, observed: Observed, now: datetime) -> Verdict | None:
    """A pod cannot start until a user changes something."""
    for role in Role:
        for pod in observed.of(role):
            found = _obstacle(pod, observed, now)
            if found is not None:
                reason, cause = found
                message = f"{role} pod {pod['metadata']['name']}: {cause}"
                return Verdict(Stage.STALLED, reason, message)
    return None


def no_pods(_: Study, observed: Observed, now: datetime) -> Verdict | None:
    """Kubernetes refuses to create a pod: a quota, a policy, an unknown runtime class."""
    warning = observed.warnings.get(observed.job["metadata"]["uid"]) if observed.job else None
    if warning is not None and not observed.of(Role.EDGE):
        return Verdict(Stage.STALLED, "PodRefused", warning)
    for condition in (observed.deployment or {}).get("status", {}).get("conditions", ()):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            message = condition.get("message", "")
            if not may_recover(message, _time(condition.get("lastTransitionTime")), now):
                return Verdict(Stage.STALLED, "PodRefused", message)
    return None


def running(study: Study, observed: Observed, _: datetime) -> Verdict | None:
    """All edges run, or wait for a server that is not ready."""
    edges = observed.of(Role.EDGE)
    alive = [pod for pod in edges if pod["status"].get("phase") != "Failed"]
    started = [pod for pod in alive if has_started(pod) or has_succeeded(pod)]
    if len(started) < study.spec.edge.replicas:
        return None
    crashed = next((pod for pod in edges if _restarting(pod)), None)
    if crashed is not None:
        return Verdict(Stage.WAITING, "EdgeRestarting", _crash(Role.EDGE, crashed))
    replaced = next((pod for pod in edges if edge_of(pod) in observed.stale), None)
    if replaced is not None:
        name = replaced["metadata"]["name"]
        message = f"edge pod {name} has not reported since its container was replaced."
        return Verdict(Stage.WAITING, "EdgeRestarting", message)
    silent = next((pod for pod in edges if edge_of(pod) in observed.silent), None)
    if silent is not None:
        return Verdict(Stage.WAITING, "EdgeUnreachable", _unreachable(silent, observed))
    measuring = any(report.phase is not Phase.STARTING for report in observed.reports.values())
    if study.outside:
        found = _outside_waits(study, observed)
        if found is not None and (measuring or _server_ready(study, observed)):
            return Verdict(Stage.WAITING, *found)
        # After a start of the operator, they have not reported yet.
        unheard = observed.joined - observed.reports.keys()
        measuring = measuring or bool(unheard and study.status.state == Stage.RUNNING)
    if not _server_ready(study, observed):
        if not measuring:
            return None
        return Verdict(Stage.WAITING, "ServerNotReady", "The edges wait for the server.")
    if not measuring:
        return None
    return Verdict(Stage.RUNNING, "Measuring", _measuring(observed))


RULES: Sequence[Callable[[Study, Observed, datetime], Verdict | None]] = (
    ended_before,
    completed,
    final_failure,
    job_failed,
    outside_overdue,
    failed_too_often,
    suspended,
    refused,
    closed,
    overdue,
    blocked,
    no_pods,
    running,
)


# --------------------------------------------------------------------------------- edges, server


def _ended(study: Study, observed: Observed) -> bool:
    """Whether all edges have finished."""
    finished = finished_edges(observed.reports)
    if not finished.issuperset(study.outside):
        return False
    if not study.inside or _condition(observed.job, "Complete"):
        return True
    ended = {edge_of(pod) for pod in observed.of(Role.EDGE) if has_succeeded(pod)}
    ended |= {edge_name(index) for index in _indexes(observed.job)}
    return ended.issuperset(study.inside)


def _server_ready(study: Study, observed: Observed) -> bool:
    return not study.needs_server or any(map(is_ready, observed.of(Role.SERVER)))


def _outside_waits(study: Study, observed: Observed) -> tuple[str, str] | None:
    """Reason and message if the study waits for an edge outside of the cluster."""
    missing = [edge for edge in study.outside if edge not in observed.joined]
    if missing:
        command = f"splittracr join-token {study.name} -n {study.namespace} --edge {missing[0]}"
        names = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        return "EdgeNotJoined", f"Not joined: {names}. `{command}` prints the command of an edge."
    for edge in study.outside:
        report, since = observed.reports.get(edge), observed.silent.get(edge)
        if report is not None and report.phase is Phase.FAILED:
            message = f"{edge}, outside of the cluster, ended: {report.error}"
            return "EdgeStopped", f"{message.rstrip('.')}. Its command starts it again."
        if since is not None:
            message = f"{edge}, outside of the cluster, has not reported since"
            return "EdgeUnreachable", f"{message} {since:%Y-%m-%d %H:%M:%S} UTC."
    late = sorted(set(study.outside) - observed.archived)
    if late and _ended(study, observed):
        return "ResultsMissing", f"Not brought yet: the results of {', '.join(late[:5])}."
    return None


# -------------------------------------------------------------------------- pods, jobs, messages


def creating(pod: Body) -> bool:
    """Whether the pod has a node, which still prepares its volumes, images or network."""
    if waiting(pod).get("reason") == "PodInitializing":
        inits = [status for status, _ in init_containers(pod)]
        return all("waiting" in i.get("state", {}) and not i.get("lastState") for i in inits)
    return waiting(pod).get("reason") == "ContainerCreating"


def to_stop(job: Body | None, pods: Sequence[Body], edges: Sequence[str]) -> bool:
    """Whether the Job of a study that has succeeded has to be suspended.

    Otherwise a sidecar from an admission webhook may keep the pod, or a new pod may run the edge
    again. A suspended Job stays suspended.
    """
    if job is None or _condition(job, "Complete"):
        return False
    done = {edge_of(pod) for pod in pods if will_end(pod)}
    done |= {edge_name(index) for index in _indexes(job)}
    return bool(job.get("spec", {}).get("suspend")) or not done.issuperset(edges)


def _indexes(job: Body | None) -> set[int]:
    """The indexes that a Job counts as completed, from a text such as `0,3-5`."""
    text = (job or {}).get("status", {}).get("completedIndexes") or ""
    ends = [part.split("-") for part in text.split(",") if part]
    return {index for part in ends for index in range(int(part[0]), int(part[-1]) + 1)}


def _starting(study: Study, observed: Observed) -> str:
    missing = [
        role
        for role, wanted in ((Role.EDGE, bool(study.inside)), (Role.SERVER, study.needs_server))
        if wanted and not any(map(is_ready, observed.of(role)))
    ]
    if missing:
        return f"Waiting for the {' and the '.join(missing)}."
    return "The edge and the server load the model and prove it."


def _unreachable(pod: Body, observed: Observed) -> str:
    since = observed.silent[edge_of(pod) or ""]
    where = f"{edge_of(pod)} on node {pod['spec'].get('nodeName')}"
    others = f" {len(observed.silent) - 1} more are silent." if len(observed.silent) > 1 else ""
    return f"{where} has not answered since {since:%Y-%m-%d %H:%M:%S} UTC.{others}"


def _measuring(observed: Observed) -> str:
    resumed = sum(report.resumed for report in observed.reports.values())
    again = f" {resumed} samples were recorded before a restart." if resumed else ""
    return f"The edges are measuring.{again}"


def _failures(failed: int) -> str:
    return f", {failed} of them as failed" if failed else ""


def _condition(job: Body | None, kind: str) -> Any:
    """A condition of a Job that is true; None if there is none."""
    conditions = (job or {}).get("status", {}).get("conditions", ())
    return next((c for c in conditions if c["type"] == kind and c["status"] == "True"), None)


def _end_message(pod: Body, ended: Any) -> str:
    """Why a container ended: the error in its report, its signal, or the end of its log."""
    report = from_message(ended.get("message"))
    if report is not None and report.error:
        return report.error
    last = termination(pod)
    if last is not None and killed(last):
        return f"it {how(last)}"
    log = " ".join((ended.get("message") or "").split())[-1000:]
    return log or f"it ended with exit code {ended.get('exitCode')}"


def _restarting(pod: Body) -> bool:
    return bool(waiting(pod)) and any(terminations(pod))


def _crash(role: Role, pod: Body) -> str:
    ended = next(terminations(pod))
    return f"{role} pod {pod['metadata']['name']} starts again: {_end_message(pod, ended)}"


def _waiting_containers(pod: Body, now: datetime) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The waiting containers that keep the worker from running: name (empty: its own) and state.

    Containers beside the worker do not. A native sidecar that crashes does if it ends before
    kubelet has seen it run; otherwise kubelet may still pull the image of the worker.
    """
    own = waiting(pod)
    yield "", own
    if own.get("reason") != "PodInitializing":
        return
    since = _time(pod["status"].get("startTime"))
    pulling = since is None or (now - since).total_seconds() < _PULL_SECONDS
    for status, sidecar in init_containers(pod):
        state = status.get("state", {}).get("waiting") or {}
        if not (sidecar and pulling and state.get("reason") == _CRASHING):
            yield status["name"], state


_PULL_SECONDS = 180.0
"""Seconds for the pull of a worker's image beside a sidecar that crashes."""

_CRASHING = "CrashLoopBackOff"
_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
_CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}


def _obstacle(pod: Body, observed: Observed, now: datetime) -> tuple[str, str] | None:
    """Why a pod does not start (reason, message); None if it starts or only needs time."""
    for condition in pod["status"].get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            if is_new(_time(condition.get("lastTransitionTime")), now):
                continue
            return "Unschedulable", condition.get("message", "no node fits")
    for name, state in _waiting_containers(pod, now):
        reason = state.get("reason", "")
        message = state.get("message") or reason
        if may_recover(message, _time(pod["status"].get("startTime")), now):
            continue
        message = f"init container {name}: {message}" if name else message
        if reason in _IMAGE:
            return "ImagePullFailed", message
        if reason in _CONFIG:
            return "ContainerRefused", message
        if reason == _CRASHING and name:
            return "InitContainerFailed", message
        if reason == _CRASHING and role_of(pod) == Role.SERVER:
            return "ServerCrashing", _crash(Role.SERVER, pod)
    warning = observed.warnings.get(pod["metadata"]["uid"])
    if warning is not None and creating(pod):
        return "ContainerRefused", warning
    return None


def _time(stamp: str | None) -> datetime | None:
    return None if stamp is None else datetime.fromisoformat(stamp)


def _pending_cause(pod: Body) -> str:
    """The cause of a pending pod, even if it may end without help."""
    unscheduled = [
        condition.get("message")
        for condition in pod["status"].get("conditions", ())
        if condition["type"] == "PodScheduled" and condition["status"] == "False"
    ]
    inits = [
        f"init container {status['name']} {'runs' if 'running' in state else 'waits'}"
        for status, sidecar in init_containers(pod)
        if "terminated" not in (state := status.get("state", {}))
        and not (sidecar and "running" in state)
    ]
    state = waiting(pod)
    causes = [*unscheduled, state.get("message"), *inits, state.get("reason")]
    return next(filter(None, causes), "Pending")
