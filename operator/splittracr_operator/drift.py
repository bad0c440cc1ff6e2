"""Compares children with their manifests. Pure."""

from collections.abc import Sequence
from typing import Any

from splittracr_operator.names import POD_DEFAULTS, POD_SETTINGS, ROLE_LABEL
from splittracr_operator.objects import Manifest
from splittracr_operator.study import Body
from splittracr_operator.workers import container, role_of

WITH_PODS = ("Deployment", "Job")


def differs(wanted: Manifest, live: Body | None) -> bool:
    """Whether the live object is missing or differs in a field that the manifest sets.

    Fields that other clients or the API server have added do not count.
    """
    if live is None:
        return True
    return not _within(_comparable(wanted), live)


def patchable(wanted: Manifest) -> Manifest:
    """The merge patch for a child that exists: all fields but the pods of a Job or Deployment.

    A Job's pod template is immutable, and an upgraded operator must not replace a running server.
    A field that is no longer in the study is null, so that the patch removes it.
    """
    if wanted["kind"] not in WITH_PODS:
        return wanted
    spec = {k: v for k, v in wanted["spec"].items() if k not in ("template", "selector")}
    removed: Manifest = {"activeDeadlineSeconds": None} if wanted["kind"] == "Job" else {}
    return {**wanted, "spec": removed | spec}


def outdated(wanted: Manifest, live: Body) -> bool:
    """Whether a live Job or Deployment has pods with older settings of the study."""
    return wanted["kind"] in WITH_PODS and _settings(live) not in (None, _settings(wanted))


def superseded(wanted: Manifest, live: Body, pods: Sequence[Body]) -> bool:
    """Whether no worker of a Job or Deployment runs, and the operator's defaults have changed.

    Replacing it lets it recover from a wrong default, such as a missing image. `pods` are those of
    the study.
    """
    if wanted["kind"] not in WITH_PODS:
        return False
    role = wanted["metadata"]["labels"][ROLE_LABEL]
    used, now = (_annotation(one["spec"]["template"], POD_DEFAULTS) for one in (live, wanted))
    running = any(
        "running" in container(pod).get("state", {}) for pod in pods if role_of(pod) == role
    )
    return used not in (None, now) and not running


def current(pods: Sequence[Body], owners: Sequence[Body]) -> list[Body]:
    """The pods of `owners`, without those being deleted.

    Other pods belong to a deleted Job or Deployment with other settings.
    """
    known = {None, *map(_settings, owners)}
    return [
        pod
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"] and _annotation(pod) in known
    ]


def _settings(owner: Body) -> str | None:
    """The digest on the pods of a Job or Deployment; None if an older operator created it."""
    return _annotation(owner["spec"]["template"])


def _annotation(pod: Body, name: str = POD_SETTINGS) -> str | None:
    found: str | None = pod.get("metadata", {}).get("annotations", {}).get(name)
    return found


def _comparable(wanted: Manifest) -> Manifest:
    return {k: v for k, v in patchable(wanted).items() if k not in ("apiVersion", "kind")}


def _within(wanted: Any, live: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(
            _within(value, live.get(key)) or (key not in live and value in ({}, []))
            for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        same = isinstance(live, list) and len(live) == len(wanted)
        return same and all(_within(*pair) for pair in zip(wanted, live, strict=True))
    return bool(wanted == live)
