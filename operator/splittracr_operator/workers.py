"""Derives workers from pods: terminations and restarts of their containers. Pure.

A pod may have other containers: sidecars from an admission webhook, or init containers of the
manifest. The state of a worker is that of its own container, which `container` returns.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from splittracr.experiment.contracts import ExitCode, Role, edge_name
from splittracr.experiment.report import from_message
from splittracr.experiment.status import Termination, Worker
from splittracr_operator.names import ROLE_LABEL
from splittracr_operator.study import Body

_INDEX = "batch.kubernetes.io/job-completion-index"
_MAX_TEXT, _MAX_TEXT_OF_ALL = 1024, 2**17
"""Max characters of one worker's message, and of the messages of all workers of a study."""

_BY_ITSELF = ("Completed", "Error")
"""Reasons of containers that ended with an exit code of their own."""


def merge(
    before: Sequence[Worker], pods: Sequence[Body], secrets: Sequence[str] = ()
) -> tuple[Worker, ...]:
    """Return the workers of `pods`, and those of `before` that no pod replaces.

    A pod replaces the worker of the same role and edge. Pods that are being deleted count only if
    no other pod replaces them. Messages are without `secrets`.
    """
    remaining = [pod for pod in pods if not _is_being_deleted(pod)]
    found = {pod["metadata"]["name"]: pod for pod in pods if _is_worker(pod)}
    places = {_place(pod) for pod in remaining if _is_worker(pod)}
    old = {worker.name: worker for worker in before}
    made = {name: _worker(pod, old.get(name), secrets) for name, pod in found.items()}
    known = {**old, **made}
    last = {(w.role, w.edge): w for w in known.values() if w.last_termination is not None}
    kept = []
    for name, worker in known.items():
        remains = name in found and not _is_being_deleted(found[name])
        if not remains and (worker.role, worker.edge) in places:
            continue
        if not remains:
            worker = worker.model_copy(update={"ready": False})
        earlier = last.get((worker.role, worker.edge))
        if worker.last_termination is None and earlier is not None:
            worker = worker.model_copy(update={"last_termination": earlier.last_termination})
        kept.append(worker)
    room = min(_MAX_TEXT, _MAX_TEXT_OF_ALL // max(1, len(kept)))
    kept = [_shortened(worker, room) for worker in kept]
    return tuple(sorted(kept, key=lambda worker: (worker.role, worker.name)))


def restarts(before: Sequence[Worker], now: Sequence[Worker]) -> Iterator[tuple[Role, str]]:
    """Role and event message of each restart since `before`."""
    counted = {worker.name: worker.restarts for worker in before}
    for worker in now:
        for count in range(counted.get(worker.name, 0) + 1, worker.restarts + 1):
            last = worker.last_termination if count == worker.restarts else None
            cause = f": it {how(last)}" if last is not None else ""
            yield worker.role, f"{worker.role} pod {worker.name} restarted ({count}){cause}."


def ending(worker: Worker) -> str:
    """How a worker ended: `edge pod a-edge-0 was OOMKilled (limit 96Mi), 2 times`."""
    last = worker.last_termination
    if last is None:
        return f"{worker.role} pod {worker.name} has not ended"
    times = f", {last.times} times" if last.times > 1 else ""
    return f"{worker.role} pod {worker.name} {how(last)}{times}"


def how(last: Termination) -> str:
    """How a container ended, as the rest of a sentence: `was OOMKilled (limit 96Mi)`."""
    if last.reason == "OOMKilled":
        return (
            f"was OOMKilled ({f'limit {last.memory_limit}' if last.memory_limit else 'no limit'})"
        )
    if last.exit_code is None or last.reason not in _BY_ITSELF:
        return f"was ended by Kubernetes ({last.reason})"
    if last.exit_code > ExitCode.SIGNAL:
        signal = last.exit_code - ExitCode.SIGNAL
        return f"was killed by signal {signal} (exit code {last.exit_code})"
    return f"ended with exit code {last.exit_code}"


def killed(last: Termination) -> bool:
    """Whether something other than the worker itself ended the container."""
    code = last.exit_code
    return code is None or code > ExitCode.SIGNAL or last.reason not in _BY_ITSELF


def termination(pod: Body, secrets: Sequence[str] = ()) -> Termination | None:
    """The last termination of the worker's container; None if it has not ended by itself.

    An end after the deletion of the pod does not count. The message is without `secrets`.
    """
    deleted = _deleted_at(pod)
    # The reason of a whole pod, such as Evicted, explains more than those of its containers.
    whole = pod["status"].get("reason") if pod["status"].get("phase") == "Failed" else None
    for ended in terminations(pod):
        finished = ended.get("finishedAt")
        at = None if finished is None else datetime.fromisoformat(finished)
        if deleted is not None and (at is None or at >= deleted):
            continue
        code = ended.get("exitCode")
        return Termination(
            reason=whole or ended.get("reason") or ("Error" if code else "Completed"),
            exit_code=code,
            memory_limit=_memory_limit(pod),
            finished_at=at,
            times=_times(pod),
            message=termination_message(ended.get("message"), secrets),
        )
    return None if whole is None else Termination(reason=whole)


def termination_message(message: str | None, secrets: Sequence[str] = ()) -> str | None:
    """The text of a container's termination message, without control characters.

    That is the error in its report or, if there is no report, the last lines of its log.
    """
    report = from_message(message)
    text = (message or "") if report is None else (report.error or "")
    for secret in secrets:
        text = text.replace(secret, "***")
    shown = "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text.strip())
    return shown[-_MAX_TEXT:] or None


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()


def _shortened(worker: Worker, room: int) -> Worker:
    """The worker with the last `room` characters of its termination message."""
    last = worker.last_termination
    if last is None or last.message is None or len(last.message) <= room:
        return worker
    last = last.model_copy(update={"message": last.message[-room:]})
    return worker.model_copy(update={"last_termination": last})


def container(pod: Body) -> Mapping[str, Any]:
    """Status of the worker's own container, which has the name of its role; empty if there is none.

    It alone determines the state of a worker. The pod's phase depends on other containers, too.
    """
    role = role_of(pod)
    statuses = pod["status"].get("containerStatuses", ())
    return next((status for status in statuses if status["name"] == role), {})


def terminations(pod: Body) -> Iterator[Any]:
    """Yield the terminations of the worker's container, the latest first."""
    own = container(pod)
    for state in ("state", "lastState"):
        ended = own.get(state, {}).get("terminated")
        if ended is not None:
            yield ended


def waiting(pod: Body) -> Mapping[str, Any]:
    """Return the waiting state of the worker's container; empty if it runs or has ended."""
    found: Mapping[str, Any] = container(pod).get("state", {}).get("waiting") or {}
    return found


def has_started(pod: Body) -> bool:
    """Whether the worker's container runs, or ran."""
    return "running" in container(pod).get("state", {}) or any(terminations(pod))


def has_succeeded(pod: Body) -> bool:
    """Whether the worker's container has succeeded; other containers may still run."""
    ended = container(pod).get("state", {}).get("terminated")
    phase = pod["status"].get("phase")
    if ended is None:
        return bool(phase == "Succeeded")
    return bool(ended.get("exitCode") == 0 and phase != "Failed")


def will_end(pod: Body) -> bool:
    """Whether the worker has succeeded and no other container keeps its pod from ending.

    Kubernetes stops native sidecars. A container beside the worker keeps the pod until it has
    succeeded, too; Kubernetes restarts one that failed.
    """
    states = [status.get("state", {}) for status in pod["status"].get("containerStatuses", ())]
    ended = [state.get("terminated", {}).get("exitCode") == 0 for state in states]
    return has_succeeded(pod) and all(ended)


def failures(pod: Body) -> int:
    """Return how often the worker's container has failed: each restart follows a failure."""
    own = container(pod)
    last = next(terminations(pod), {"exitCode": 0})
    down = "running" not in own.get("state", {}) and last.get("exitCode") != 0
    return int(own.get("restartCount", 0)) + down


def init_containers(pod: Body) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Yield statuses of the pod's init containers, and whether each is a native sidecar."""
    specs = pod["spec"].get("initContainers", ())
    sidecars = {spec["name"] for spec in specs if spec.get("restartPolicy") == "Always"}
    for status in pod["status"].get("initContainerStatuses", ()):
        yield status, status["name"] in sidecars


def role_of(pod: Body) -> str | None:
    """Return the role in the pod's labels; None if there is none."""
    role: str | None = pod["metadata"].get("labels", {}).get(ROLE_LABEL)
    return role


def edge_of(pod: Body) -> str | None:
    """Return the name of the pod's edge; None for a pod of a server."""
    index = pod["metadata"].get("labels", {}).get(_INDEX)
    return None if index is None or role_of(pod) != Role.EDGE else edge_name(index)


def is_ready(pod: Body) -> bool:
    """Whether the worker's container is ready, on a node that answers.

    The pod's own condition also requires other containers to be ready. If a node does not answer,
    Kubernetes sets its pods to not ready and leaves the statuses of their containers unchanged.
    """
    conditions = {c["type"]: c for c in pod["status"].get("conditions", ())}
    whole, inner = conditions.get("Ready", {}), conditions.get("ContainersReady", {})
    lost = (
        whole.get("status") == "False"
        and inner.get("status") == "True"
        and whole.get("reason") != "ReadinessGatesNotReady"
    )
    return bool(container(pod).get("ready")) and not lost


def _worker(pod: Body, before: Worker | None, secrets: Sequence[str]) -> Worker:
    last = termination(pod, secrets)
    return Worker(
        name=pod["metadata"]["name"],
        role=Role(pod["metadata"]["labels"][ROLE_LABEL]),
        edge=edge_of(pod),
        node=pod["spec"].get("nodeName"),
        ready=is_ready(pod),
        restarts=container(pod).get("restartCount", 0),
        last_termination=last or (before.last_termination if before else None),
    )


def _times(pod: Body) -> int:
    """How often the container has ended: once for each restart, and once more if it is down."""
    own = container(pod)
    restarts: int = own.get("restartCount", 0)
    return max(1, restarts + ("running" not in own.get("state", {})))


def _memory_limit(pod: Body) -> str | None:
    for spec in pod["spec"].get("containers", ()):
        if spec.get("name") == role_of(pod):
            limit = spec.get("resources", {}).get("limits", {}).get("memory")
            return None if limit is None else str(limit)
    return None


def _deleted_at(pod: Body) -> datetime | None:
    """Time of the pod's deletion: its deadline minus the grace period."""
    metadata = pod["metadata"]
    if not _is_being_deleted(pod):
        return None
    grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)
    return datetime.fromisoformat(metadata["deletionTimestamp"]) - grace


def _is_being_deleted(pod: Body) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _is_worker(pod: Body) -> bool:
    return role_of(pod) in tuple(Role)


def _place(pod: Body) -> tuple[str | None, str | None]:
    return role_of(pod), edge_of(pod)
