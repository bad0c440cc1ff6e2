"""Studies and children as the API server returns them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from splittracr.experiment.report import WorkerReport
from splittracr_operator.lifecycle import Observed
from splittracr_operator.settings import EdgeDefaults, ServerDefaults, Settings
from splittracr_operator.study import Study, read
from splittracr_operator.workers import merge

ALL_KEYS = Path(__file__).parent / "all-keys.yaml"
"""A configuration file with every key, none of which has its default."""

UID = "6f2f8d9e-9f0a-4a53-8f2e-0d6f6a1f1c11"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SETTINGS = Settings(
    namespace="splittracr-system",
    results=Path("/results"),
    edge=EdgeDefaults(image="registry.example/edge:1"),
    server=ServerDefaults(image="registry.example/server:1"),
)


ALL = Settings.read(
    {"SPLITTRACR_CONFIG": str(ALL_KEYS), "SPLITTRACR_OPERATOR_NAMESPACE": "operators"}
)


def settings(**changed: Any) -> Settings:
    """SETTINGS with other values, validated like them."""
    return Settings.model_validate({**dict(SETTINGS), **changed})


def body(
    *, name: str = "alexnet", status: dict[str, Any] | None = None, **spec: Any
) -> dict[str, Any]:
    minimal = {"model": {"name": "alexnet", "weights": "none"}, "partition": {"cut": 5}}
    return {
        "apiVersion": "splittracr.io/v1alpha1",
        "kind": "SplitExperiment",
        "metadata": {
            "name": name,
            "namespace": "lab",
            "uid": UID,
            "generation": 1,
            "resourceVersion": "10",
            "creationTimestamp": "2026-03-01T11:00:00Z",
        },
        "spec": {**minimal, **spec},
        "status": status or {},
    }


def study(**given: Any) -> Study:
    return read(body(**given))


def pod(
    role: str,
    *,
    phase: str = "Running",
    ready: bool = True,
    index: int = 0,
    age: float = 10,
    conditions: tuple[dict[str, str], ...] = (),
    container: dict[str, Any] | None = None,
    ip: str | None = "10.0.0.7",
) -> dict[str, Any]:
    labels = {"splittracr.io/uid": UID, "splittracr.io/role": role}
    if role == "edge":
        labels["batch.kubernetes.io/job-completion-index"] = str(index)
    made = (NOW - timedelta(seconds=age)).isoformat()
    readiness = {"type": "Ready", "status": str(ready)}
    state = container or {"state": {} if phase == "Pending" else {"running": {}}}
    return {
        "metadata": {
            "name": f"alexnet-{role}-{index}",
            "namespace": "lab",
            "uid": f"pod-{role}-{index}",
            "resourceVersion": "11",
            "labels": labels,
            "creationTimestamp": made,
        },
        "spec": {"nodeName": "edge-1" if role == "edge" else "gpu-1"},
        "status": {
            "phase": phase,
            "podIP": ip,
            "conditions": [readiness, *conditions],
            "containerStatuses": [{"name": role, "ready": ready, "restartCount": 0, **state}],
        },
    }


def ended(code: int, report: WorkerReport | None = None, text: str = "") -> dict[str, Any]:
    """A container that has ended."""
    message = report.model_dump_json() if report else text
    return {"state": {"terminated": {"exitCode": code, "message": message}}}


def waiting(reason: str, message: str = "cause") -> dict[str, Any]:
    """A container that does not run."""
    return {"state": {"waiting": {"reason": reason, "message": message}}}


def warning(
    component: str, message: str, first: float, last: float | None = None
) -> dict[str, Any]:
    """A warning of a component, repeated from `first` to `last` seconds after NOW."""
    times = [NOW + timedelta(seconds=at) for at in (first, first if last is None else last)]
    return {
        "type": "Warning",
        "message": message,
        "source": {"component": component},
        "firstTimestamp": times[0].isoformat(),
        "lastTimestamp": times[1].isoformat(),
    }


def job(condition: str, reason: str = "") -> dict[str, Any]:
    found = {"type": condition, "status": "True", "reason": reason, "message": "by Kubernetes"}
    return {"metadata": {"uid": "uid-job"}, "status": {"conditions": [found]}}


def observed(*pods: dict[str, Any], **more: Any) -> Observed:
    return Observed(**{"pods": pods, "workers": merge((), pods), **more})
