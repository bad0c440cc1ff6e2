"""The pod settings in force: what a manifest says, over the operator's defaults. Pure."""

from collections.abc import Mapping

from splittracr.experiment.pods import PodSpec, Quantity, Resources, amount
from splittracr_operator.settings import WorkerDefaults


def effective(pod: PodSpec, defaults: WorkerDefaults) -> PodSpec:
    """`pod` with a default for each field that it leaves out.

    Tolerations and pull secrets are added to the defaults; resources are merged by key.
    """
    secrets = (*defaults.image_pull_secrets, *pod.image_pull_secrets)
    selector = defaults.node_selector if pod.node_selector is None else pod.node_selector
    return pod.model_copy(
        update={
            "image": pod.image or defaults.image,
            "image_pull_policy": pod.image_pull_policy or defaults.image_pull_policy,
            "image_pull_secrets": tuple(dict.fromkeys(secrets)),
            "node_selector": selector,
            "tolerations": tuple(dict.fromkeys((*defaults.tolerations, *pod.tolerations))),
            "affinity": pod.affinity or defaults.affinity,
            "resources": _resources(pod.resources, defaults.resources),
            "runtime_class_name": pod.runtime_class_name or defaults.runtime_class_name,
            "priority_class_name": pod.priority_class_name or defaults.priority_class_name,
        }
    )


def _resources(own: Resources, defaults: Resources) -> Resources:
    """Merged by key. A default yields if the API server would refuse it beside the manifest's."""
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
