"""A cluster through kubectl: the commands of a user, with parsed answers and deadlines."""

import io
import json
import os
import subprocess
import tarfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from splittracr.experiment.status import LOGS
from splittracr_operator import client

OPERATOR = "splittracr-system"
STUDY = "splitexperiments.splittracr.io"
TOOL = "SPLITTRACR_CLUSTER_TOOL"
LOAD = float(os.environ.get("SPLITTRACR_E2E_PATIENCE", "1"))
"""Factor on every deadline, for a cluster that is slow or busy."""

Body = Mapping[str, Any]
T = TypeVar("T")


class Failed(Exception):
    """kubectl or a fault command ended with an error; the text is its own."""


def run(*argv: str, stdin: str | None = None, seconds: float = 60) -> str:
    done = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, timeout=seconds * LOAD, check=False
    )
    if done.returncode:
        raise Failed(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def kubectl(*argv: str, stdin: str | None = None, seconds: float = 60) -> str:
    return run("kubectl", *argv, stdin=stdin, seconds=seconds)


def apply(*bodies: Body) -> None:
    kubectl("apply", "-f", "-", stdin="\n---\n".join(json.dumps(body) for body in bodies))


def get(kind: str, namespace: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kubectl("-n", namespace, "get", kind, name, "-o", "json"))
    return found


def find(kind: str, namespace: str, selector: str = "") -> list[dict[str, Any]]:
    options = ["-l", selector] if selector else []
    shown = kubectl("-n", namespace, "get", kind, *options, "-o", "json")
    items: list[dict[str, Any]] = json.loads(shown)["items"]
    return items


def run_pod(
    namespace: str,
    image: str,
    command: Sequence[str],
    role: str,
    *,
    seconds: float = 60,
    volume: Body | None = None,
    root: bool = False,
    labels: Mapping[str, str] | None = None,
) -> str:
    """What a pod of no study prints, on the node for workers of this role.

    It has `volume` at /volume. One of `root` needs a namespace that lets it in.
    """
    restricted = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {
        "name": "pod",
        "image": image,
        "command": command,
        "securityContext": {"runAsUser": 0} if root else restricted,
        "volumeMounts": [{"name": "volume", "mountPath": "/volume"}],
    }
    spec = {
        "containers": [container],
        "nodeSelector": {"splittracr.io/role": role},
        "restartPolicy": "Never",
        "volumes": [{"name": "volume", **(volume or {"emptyDir": {}})}],
    }
    name = f"pod-{uuid.uuid4().hex[:8]}"
    metadata = {"name": name, "namespace": namespace, "labels": labels or {}}
    apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    ended = lambda: get("pod", namespace, name)["status"]["phase"] == "Succeeded"  # noqa: E731
    until(f"the end of pod {name}", ended, seconds)
    return kubectl("-n", namespace, "logs", name)


def until(expected: str, check: Callable[[], T | None], seconds: float) -> T:
    """Repeat `check` until its result is not None or False; AssertionError after `seconds`."""
    end = time.monotonic() + seconds * LOAD
    last_error: Exception | None = None
    while time.monotonic() < end:
        try:
            found = check()
            if found is not None and found is not False:
                return found
        except (Failed, subprocess.TimeoutExpired) as error:  # the API server may be away
            last_error = error
        time.sleep(0.3)
    raise AssertionError(f"not within {seconds * LOAD:.0f} s: {expected} ({last_error})")


def throughout(expected: str, check: Callable[[], bool], end: float) -> None:
    """Repeat `check` until the monotonic time `end`; AssertionError once it is false."""
    while time.monotonic() < end:
        assert check(), f"no more {end - time.monotonic():.0f} s before the end: {expected}"
        time.sleep(3)


def fault(*argv: str) -> str:
    """Run a command of the tool that causes faults."""
    return run(os.environ[TOOL], *argv, seconds=120)


@dataclass(frozen=True)
class Study:
    """One study in the cluster."""

    namespace: str
    name: str

    def body(self) -> dict[str, Any]:
        return get(STUDY, self.namespace, self.name)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.body().get("status", {})
        return found

    def condition(self, kind: str) -> dict[str, Any]:
        for condition in self.status().get("conditions", ()):
            if condition["type"] == kind:
                found: dict[str, Any] = condition
                return found
        return {}

    def state(self) -> str | None:
        return self.status().get("state")

    def done(self) -> int:
        return int(self.status().get("progress", {}).get("done", 0))

    def wait_for(self, *states: str, seconds: float = 120) -> dict[str, Any]:
        """The status once the study is in one of the states."""

        def check() -> dict[str, Any] | None:
            status = self.status()
            return status if status.get("state") in states else None

        try:
            return until(f"{self.name} {' or '.join(states)}", check, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {json.dumps(self.status())}") from error

    def wait_done(self, samples: int, seconds: float = 120) -> int:
        """The number of samples recorded, once it is at least `samples`."""
        check = lambda: done if (done := self.done()) >= samples else None  # noqa: E731
        return until(f"{samples} samples of {self.name}", check, seconds)

    def wait_reason(self, reason: str, seconds: float = 60) -> dict[str, Any]:
        """The condition Ready, once it has the reason."""

        def check() -> dict[str, Any] | None:
            condition = self.condition("Ready")
            return condition if condition.get("reason") == reason else None

        return until(f"{self.name} {reason}, not {self.condition('Ready')}", check, seconds)

    def wait_degraded(self, status: str, seconds: float = 30) -> dict[str, Any]:
        """The condition Degraded, once it has the status."""

        def check() -> dict[str, Any] | None:
            condition = self.condition("Degraded")
            return condition if condition.get("status") == status else None

        return until(f"{self.name} Degraded {status}", check, seconds)

    def patch(self, spec: Body) -> None:
        patch = json.dumps({"spec": spec})
        kubectl("-n", self.namespace, "patch", STUDY, self.name, "--type=merge", "-p", patch)

    def pods(self, role: str | None = None) -> list[dict[str, Any]]:
        uid = self.body()["metadata"]["uid"]
        selector = f"splittracr.io/uid={uid}" + (f",splittracr.io/role={role}" if role else "")
        return find("pods", self.namespace, selector)

    def children(self) -> list[str]:
        """Everything in the namespace that carries a study's label."""
        kinds = "pods,jobs,deployments,services,configmaps,secrets,networkpolicies"
        return [
            f"{item['kind']}/{item['metadata']['name']}"
            for item in find(kinds, self.namespace, "splittracr.io/uid")
        ]

    def records(self) -> list[dict[str, Any]]:
        """The records of all edges, from the operator's results store."""
        found: list[dict[str, Any]] = []
        for name, archive in client.archives(self.namespace, self.name).items():
            if name == LOGS:
                continue
            with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
                file = opened.extractfile("records.jsonl")
                assert file is not None
                found += [json.loads(line) for line in file]
        return found


def proxied(path: str) -> bytes:
    """A page of the operator's web server, through the API server."""
    return raw(f"/api/v1/namespaces/{OPERATOR}/services/splittracr-operator:metrics/proxy{path}")


def raw(path: str) -> bytes:
    """What the API server answers to a path."""
    done = subprocess.run(
        ["kubectl", "get", "--raw", path], capture_output=True, timeout=60, check=False
    )
    if done.returncode:
        raise Failed(done.stderr.decode())
    return done.stdout


def start(namespace: str, name: str, spec: Body) -> Study:
    """Apply a study."""
    apply(
        {
            "apiVersion": "splittracr.io/v1alpha1",
            "kind": "SplitExperiment",
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        }
    )
    return Study(namespace, name)


def small(samples: int, cut: object = 8, **more: Any) -> dict[str, Any]:
    """A study that starts fast: a small network on small pictures, with random weights."""
    spec: dict[str, Any] = {
        "model": {"name": "squeezenet1_1", "weights": "none", "inputSize": [64, 64]},
        "partition": {"cut": cut},
        "workload": {"samples": samples},
        "results": {"pictures": 0},
        "server": {"device": "cpu"},
        "edge": {"device": "cpu"},
    }
    return {**spec, **more}


def paced(samples: int, per_minute: int = 3600) -> Body:
    """A workload that takes a known time, so that a fast machine does not end it too early."""
    return {"samples": samples, "arrival": {"mode": "Open", "framesPerMinute": per_minute}}


def each_once(records: Sequence[Body], samples: int, edges: int = 1) -> None:
    """Every sample of every edge was recorded once, and none failed."""
    keys = [(r["edge"], r["trial"], r["sample"]) for r in records]
    assert len(keys) == len(set(keys))
    assert len(keys) == samples * edges
    assert {r["outcome"] for r in records} == {"ok"}
    assert {r["sample"] for r in records} == set(range(samples))
