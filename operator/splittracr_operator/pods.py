"""Merges the pod settings of a manifest with the operator's defaults. Pure."""

from collections.abc import Mapping

from splittracr.experiment.pods import PodSpec, Quantity, Resources, Toleration, amount
from splittracr_operator.settings import EdgeDefaults, WorkerDefaults

_AWAY = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
"""Taints of a node that does not answer."""


def effective(pod: PodSpec, defaults: WorkerDefaults) -> PodSpec:
    """`pod` with a default for each missing field.

    Tolerations and pull secrets are added to the defaults; labels, annotations and resources are
    merged by key.
    """
    secrets = (*defaults.image_pull_secrets, *pod.image_pull_secrets)
    selector = defaults.node_selector if pod.node_selector is None else pod.node_selector
    return pod.model_copy(
        update={
            "labels": {**defaults.labels, **pod.labels},
            "annotations": {**defaults.annotations, **pod.annotations},
            "image": pod.image or defaults.image,
            "image_pull_policy": pod.image_pull_policy or defaults.image_pull_policy,
            "image_pull_secrets": tuple(dict.fromkeys(secrets)),
            "node_selector": selector,
            "tolerations": tuple(dict.fromkeys((*defaults.tolerations, *pod.tolerations))),
            "toleration_seconds": _toleration_seconds(pod, defaults),
            "affinity": pod.affinity or defaults.affinity,
            "resources": _resources(pod.resources, defaults.resources),
            "runtime_class_name": pod.runtime_class_name or defaults.runtime_class_name,
            "priority_class_name": pod.priority_class_name or defaults.priority_class_name,
        }
    )


def tolerations(pod: PodSpec) -> tuple[Toleration, ...]:
    """The pod's tolerations, and those that keep it on a node that is unreachable or not ready."""
    if pod.toleration_seconds is None:
        return pod.tolerations
    added = (
        Toleration(
            key=key,
            operator="Exists",
            effect="NoExecute",
            toleration_seconds=pod.toleration_seconds,
        )
        for key in _AWAY
        # If several tolerations match a taint, Kubernetes uses the shortest time.
        if not any(_covers(own, key) for own in pod.tolerations)
    )
    return (*pod.tolerations, *added)


def _covers(own: Toleration, key: str) -> bool:
    if own.effect not in (None, "NoExecute"):
        return False
    return own.key == key or (own.key is None and own.operator == "Exists")


def _toleration_seconds(pod: PodSpec, defaults: WorkerDefaults) -> int | None:
    if pod.toleration_seconds is None and isinstance(defaults, EdgeDefaults):
        return defaults.toleration_seconds
    return pod.toleration_seconds


def _resources(own: Resources, defaults: Resources) -> Resources:
    """Merge by key. Defaults are adjusted if the API server would refuse the combination."""
    requests = {**_capped(defaults.requests, own.limits), **own.requests}
    limits = {**defaults.limits, **own.limits}
    for key in limits.keys() & own.requests.keys() - own.limits.keys():
        limits[key] = max(limits[key], own.requests[key], key=amount)
    return Resources(requests=requests, limits=limits)


def _capped(
    requests: Mapping[str, Quantity], limits: Mapping[str, Quantity]
) -> dict[str, Quantity]:
    """`requests`, none above its limit."""
    return {
        key: min(value, limits[key], key=amount) if key in limits else value
        for key, value in requests.items()
    }
