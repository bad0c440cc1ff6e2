"""Builds the pod template of a worker from the manifest and the operator's defaults. Pure."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from splittracr.experiment import contracts
from splittracr.experiment.contracts import METRICS_PORT, Role, Runtime
from splittracr.experiment.pods import (
    MANIFEST_FOLDER,
    TEMPORARY_FOLDER,
    TERMINATION_PATH,
    WEIGHTS_FOLDER,
    InitContainer,
    PodSpec,
)
from splittracr_operator import names
from splittracr_operator.objects import Manifest, from_secret, labels, selector
from splittracr_operator.pods import effective, tolerations
from splittracr_operator.settings import Settings, WorkerDefaults
from splittracr_operator.study import Study

_USER = 65532
_GRACE_SECONDS = 30
_UNPRIVILEGED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_CACHE = {"name": "TORCH_HOME", "value": WEIGHTS_FOLDER}
_SENSOR = {"name": contracts.SENSOR, "value": f"{MANIFEST_FOLDER}/{contracts.SENSOR_FILE}"}
_SCRAPE = {
    "prometheus.io/scrape": "true",
    "prometheus.io/port": str(METRICS_PORT),
    "prometheus.io/path": contracts.METRICS_PATH,
}


def pod_template(
    study: Study,
    role: Role,
    container: Manifest,
    volumes: Mapping[str, Manifest],
    settings: Settings,
) -> Manifest:
    """A pod template with everything that the namespace's policies may require.

    `container` is the worker's own. `volumes` are those that only this role has, by name.
    """
    defaults = _defaults(settings, role, study)
    pod = effective(_given(study, role), defaults)
    values = _values(pod)
    node_selector, grace = pod.node_selector, pod.termination_grace_period_seconds
    return {
        "metadata": _metadata(study, role, pod, settings),
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "nodeSelector": (
                {names.ROLE_LABEL: str(role)} if node_selector is None else node_selector
            ),
            "terminationGracePeriodSeconds": _GRACE_SECONDS if grace is None else grace,
            "securityContext": _security_context(values["securityContext"], settings),
            "containers": [container],
            "volumes": [*_volumes(study, defaults, volumes), *values["volumes"]],
            **_optional_fields(study, role, pod),
        },
    }


def worker_container(study: Study, role: Role, settings: Settings) -> Manifest:
    """The worker's container: all but its arguments, ports and probes."""
    defaults = _defaults(settings, role, study)
    pod = effective(_given(study, role), defaults)
    values = _values(pod)
    cached = defaults.weight_cache is not None
    named = any(variable.name == _CACHE["name"] for variable in pod.env)
    environment: list[Manifest] = [
        {"name": contracts.TOKEN, "valueFrom": from_secret(study, "token")},
        {"name": contracts.TERMINATION_FILE, "value": TERMINATION_PATH},
        *([_SENSOR] if settings.sensor is not None else []),
        *([_CACHE] if cached and not named else []),
        *_variables(values),
    ]
    return {
        "name": str(role),
        "image": pod.image,
        "imagePullPolicy": pod.image_pull_policy,
        "env": environment,
        "resources": {k: v for k, v in values["resources"].items() if v},
        "securityContext": {
            **_UNPRIVILEGED,
            "readOnlyRootFilesystem": True,
            **values["containerSecurityContext"],
        },
        "terminationMessagePath": TERMINATION_PATH,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "manifest", "mountPath": MANIFEST_FOLDER, "readOnly": True},
            {"name": "tmp", "mountPath": TEMPORARY_FOLDER},
            *([{"name": "weight-cache", "mountPath": WEIGHTS_FOLDER}] if cached else []),
            *values["volumeMounts"],
        ],
    }


def _metadata(study: Study, role: Role, pod: PodSpec, settings: Settings) -> Manifest:
    """Labels and annotations; the operator's own replace those of the manifest."""
    return {
        "labels": {**pod.labels, **labels(study, role)},
        "annotations": {
            "kubectl.kubernetes.io/default-container": str(role),
            **(_SCRAPE if settings.scrape_annotations else {}),
            **pod.annotations,
            names.POD_SETTINGS: _digest(role, _given(study, role)),
            names.POD_DEFAULTS: _digest(role, _defaults(settings, role, study)),
        },
    }


def _volumes(
    study: Study, defaults: WorkerDefaults, of_role: Mapping[str, Manifest]
) -> list[Manifest]:
    """The operator's own volumes of a pod; `of_role` are those that only this role has."""
    volumes: dict[str, Manifest] = {
        "manifest": {"configMap": {"name": names.child(study.name, "manifest")}},
        "tmp": {"emptyDir": {}},
        **of_role,
    }
    if defaults.weight_cache is not None:
        volumes["weight-cache"] = defaults.weight_cache
    return [{"name": name, **volume} for name, volume in volumes.items()]


def _security_context(given: Manifest, settings: Settings) -> Manifest:
    """The pod's security context; `given` by the manifest."""
    ids = {"runAsUser": _USER, "runAsGroup": _USER, "fsGroup": _USER}
    return {
        "runAsNonRoot": True,
        **(ids if settings.fixed_user_ids else {}),
        "seccompProfile": {"type": "RuntimeDefault"},
        **{key: value for key, value in given.items() if value != []},
    }


def _optional_fields(study: Study, role: Role, pod: PodSpec) -> Manifest:
    """Fields of the pod's spec that are left out if they are empty."""
    values = _values(pod)
    fields = {
        "affinity": values.get("affinity"),
        "imagePullSecrets": [{"name": name} for name in pod.image_pull_secrets],
        "priorityClassName": pod.priority_class_name,
        "runtimeClassName": pod.runtime_class_name,
        "initContainers": [_init_container(one, pod) for one in pod.init_containers],
        "serviceAccountName": pod.service_account_name,
        "topologySpreadConstraints": [
            {"labelSelector": {"matchLabels": selector(study, role)}, **constraint}
            for constraint in values["topologySpreadConstraints"]
        ],
        "tolerations": [_values(toleration) for toleration in tolerations(pod)],
    }
    return {key: value for key, value in fields.items() if value}


def _init_container(container: InitContainer, pod: PodSpec) -> Manifest:
    """A container of the manifest that runs before the worker or, as a sidecar, beside it."""
    values = _values(container)
    made = {
        **values,
        "image": container.image or pod.image,
        "imagePullPolicy": container.image_pull_policy or pod.image_pull_policy,
        "env": _variables(values),
        "resources": {k: v for k, v in values["resources"].items() if v},
        "securityContext": {**_UNPRIVILEGED, **values["securityContext"]},
    }
    return {key: value for key, value in made.items() if value not in ([], {})}


def _variables(container: Manifest) -> list[Manifest]:
    """The environment variables of a container's settings, without empty sources."""
    return [{k: v for k, v in variable.items() if v != {}} for variable in container["env"]]


def _digest(role: Role, given: BaseModel) -> str:
    """Identifies the pod settings of a study, or those of the operator.

    Defaults do not count: a field that only a newer operator has does not change the digest. So an
    upgrade replaces no running pods.
    """
    settings = given.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    text = json.dumps([role, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _values(model: BaseModel) -> dict[str, Any]:
    """The fields of a model as Kubernetes has them, without nulls."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def _given(study: Study, role: Role) -> PodSpec:
    """The manifest's settings of this role's pods."""
    return study.spec.edge.pod if role is Role.EDGE else study.spec.server.pod


def _defaults(settings: Settings, role: Role, study: Study) -> WorkerDefaults:
    """The defaults of this role's pods in a study, whose edges may need no PyTorch."""
    if role is Role.SERVER:
        return settings.server
    edge, light = settings.edge, study.spec.edge.runtime is Runtime.ONNX_RUNTIME
    image = edge.lite_image if light and edge.lite_image is not None else edge.image
    return edge.model_copy(update={"image": image, "lite_image": None})
