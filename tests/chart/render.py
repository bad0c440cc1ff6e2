"""The chart as helm renders it: each combination of values once."""

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from splittracr.cli.chart import CHART, NAMESPACE, OLDEST, ROOT

Body = dict[str, Any]

HELM = shutil.which("helm")
needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not on the PATH")
FOLDER = ROOT / CHART
MONITORING = tuple(
    f"monitoring.coreos.com/v1/{kind}"
    for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule")
)
"""The API versions that the Prometheus operator adds to a cluster."""

CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace"}


class Refused(Exception):
    """helm does not render the chart; the text is its own."""


def helm(*arguments: str, **environment: str) -> str:
    """The output of a helm command. Raises Refused if it fails."""
    assert HELM is not None
    done = subprocess.run(
        [HELM, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "KUBECONFIG": os.devnull, **environment},
    )
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def render(
    values: Mapping[str, Any] | None = None,
    *,
    release: str = "splittracr",
    namespace: str = NAMESPACE,
    files: Sequence[Path] = (),
    api_versions: Sequence[str] = (),
    folder: Path = FOLDER,
) -> list[Body]:
    """All objects of the chart, hooks included, in the order in which helm shows them."""
    text = _render(
        json.dumps(values or {}), release, namespace, tuple(files), tuple(api_versions), folder
    )
    # The definition is long: libyaml reads it ten times as fast.
    return [body for body in yaml.load_all(text, Loader=yaml.CSafeLoader) if body]


def one(bodies: Sequence[Body], kind: str, name: str | None = None) -> Body:
    """The only object of a kind, or of a kind and name."""
    found = of_kind(bodies, kind)
    (body,) = [body for body in found if name is None or body["metadata"]["name"] == name]
    return body


def of_kind(bodies: Sequence[Body], kind: str) -> list[Body]:
    """Objects of a kind; those of `helm test` are left out."""
    return [body for body in bodies if body["kind"] == kind and not is_test(body)]


def is_test(body: Body) -> bool:
    """Whether an object is one of `helm test`."""
    name: str = body["metadata"].get("labels", {}).get("app.kubernetes.io/name", "")
    return name.endswith("-test")


def pod_of(bodies: Sequence[Body]) -> Body:
    """The operator's pod template."""
    template: Body = one(bodies, "Deployment")["spec"]["template"]
    return template


def config_of(bodies: Sequence[Body]) -> Body:
    """The operator's configuration file."""
    name = one(bodies, "Deployment")["metadata"]["name"]
    config: Body = yaml.safe_load(one(bodies, "ConfigMap", name)["data"]["config.yaml"])
    return config


@functools.cache
def _render(
    values: str,
    release: str,
    namespace: str,
    files: tuple[Path, ...],
    api_versions: tuple[str, ...],
    folder: Path,
) -> str:
    options = [f"--values={file}" for file in files]
    options += [f"--api-versions={version}" for version in api_versions]
    options += [
        f"--set-json={key}={json.dumps(value)}" for key, value in json.loads(values).items()
    ]
    options += [f"--namespace={namespace}", f"--kube-version={OLDEST}"]
    return helm("template", release, str(folder), *options)


def named(bodies: list[Body]) -> set[tuple[str, str, str]]:
    """Kind, namespace (empty: cluster-wide) and name of each object."""
    found = [(b["kind"], b["metadata"].get("namespace", ""), b["metadata"]["name"]) for b in bodies]
    assert len(found) == len(set(found))
    return set(found)


def reads_users_authority(body: Body) -> bool:
    """Whether it lets the operator read the API server's authority for client certificates."""
    space: str = body["metadata"].get("namespace", "")
    return body["kind"] in ("Role", "RoleBinding") and space == "kube-system"
