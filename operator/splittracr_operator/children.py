"""Builds the children of a study: one pure function for each object.

A builder returns the whole manifest that is applied. Pods pass Pod Security
"restricted" and have no access to the API server.

The edges' pods are restarted in place (`OnFailure`): the journal lies on their volume, and the
next container goes on after its last record. Kubernetes allows a `podFailurePolicy` only where
pods are replaced, and counts the restarts of all containers against a Job's `backoffLimit`, those
of sidecars that others have added, too. So the operator itself counts the failures of edges and
ends the Job; the Job has the largest limit there is.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from splittracr.experiment import contracts
from splittracr.experiment.contracts import METRICS_PORT, SESSION_PORT, Role
from splittracr.experiment.pods import (
    LAST_WORDS_FILE,
    MANIFEST_FOLDER,
    RESULTS_FOLDER,
    TEMPORARY_FOLDER,
    TLS_FOLDER,
    WEIGHTS_FOLDER,
    InitContainer,
    PodSpec,
)
from splittracr.experiment.spec import API_VERSION, KIND
from splittracr.security import Credentials
from splittracr_operator import names
from splittracr_operator.keys import Keys
from splittracr_operator.pods import effective, tolerations
from splittracr_operator.settings import Settings, WorkerDefaults
from splittracr_operator.study import Study

Manifest = dict[str, Any]


_USER = 65532
_MANIFEST_FILE = f"{MANIFEST_FOLDER}/manifest.yaml"
_STORE = "results-url"
_PLAIN_STORE = "results-store"
"""The address for pods that were made before the store had TLS."""

_TLS_FILES = ("ca.crt", "tls.crt", "tls.key")
_EDGE = contracts.edge_name("$(JOB_COMPLETION_INDEX)")
_CACHE = {"name": "TORCH_HOME", "value": WEIGHTS_FOLDER}
_SENSOR = {"name": contracts.SENSOR, "value": f"{MANIFEST_FOLDER}/{contracts.SENSOR_FILE}"}
_SCRAPE = {
    "prometheus.io/scrape": "true",
    "prometheus.io/port": str(METRICS_PORT),
    "prometheus.io/path": contracts.METRICS_PATH,
}
_ANY_ADDRESS = '"::"'
"""All addresses of both IP families; in quotes, which make it a text of YAML."""

_GRACE_SECONDS = 30
_NO_LIMIT = 2**31 - 1
_UNPRIVILEGED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_PATIENT = 1800
"""Seconds that a server may take to load and prove its network."""


def everything(study: Study, settings: Settings, authority: str) -> list[Manifest]:
    """All children of a study that is to run, less the secret.

    `authority` is the certificate (PEM) that edges trust for the results store.
    """
    edge = [
        manifest_map(study, settings, authority),
        *_edge_policies(study, settings),
        edge_job(study, settings),
    ]
    if not study.needs_server:
        return edge
    policies = [server_policy(study, settings)] if settings.network_policy.enabled else []
    return [*edge, *policies, server_service(study), server_deployment(study, settings)]


def remains(study: Study, settings: Settings, authority: str, *, stop: bool) -> list[Manifest]:
    """What is left of a study that has ended: the edges' pods with their logs, and no server.

    `stop` deletes the pods that still run, and makes no others.
    """
    job = edge_job(study, settings)
    job["spec"]["suspend"] = stop
    return [manifest_map(study, settings, authority), *_edge_policies(study, settings), job]


def manifest_map(study: Study, settings: Settings, authority: str) -> Manifest:
    """The manifest as the workers read it, and the address and authority of the results store.

    The address is a file and no variable: a pod outlives an upgrade that changes the operator's
    Service or port, and Kubernetes updates a file in place.
    """
    data = {"manifest.yaml": study.text}
    if settings.sensor_url is not None:
        data[contracts.SENSOR_FILE] = settings.sensor_url
    if study.spec.results.claim is None:
        data |= {
            _STORE: f"{settings.store_url}/{study.uid}",
            contracts.STORE_AUTHORITY: authority,
            _PLAIN_STORE: f"{settings.plain_store_url}/{study.uid}",
        }
    return _object("v1", "ConfigMap", study, "manifest") | {"data": data}


def server_hosts(study: Study) -> list[str]:
    """The names of the server within the cluster, which its certificate has to bear."""
    name = names.child(study.name, "server")
    return [name, f"{name}.{study.namespace}", f"{name}.{study.namespace}.svc"]


def secret(study: Study, keys: Keys, tls: Credentials | None, owner: Mapping[str, str]) -> Manifest:
    """The study's tokens and, for TLS, the server's certificate and the authority behind it.

    Its owner is the ConfigMap (`name`, `uid`): both leave together. So the operator needs no
    permission to read, change or delete secrets.
    """
    content = {"token": keys.session(study.uid), "control-token": keys.control(study.uid)}
    if tls is not None:
        content |= {
            "ca.crt": tls.authority.certificate.decode(),
            "tls.crt": tls.server.certificate.decode(),
            "tls.key": tls.server.key.decode(),
        }
    made = _object("v1", "Secret", study, _secret_suffix(study)) | {
        "type": "Opaque",
        "immutable": True,
        "data": {name: base64.b64encode(v.encode()).decode() for name, v in content.items()},
    }
    reference = {"apiVersion": "v1", "kind": "ConfigMap", **owner}
    made["metadata"]["ownerReferences"] = [reference]
    return made


def server_deployment(study: Study, settings: Settings) -> Manifest:
    """The server worker: one pod, replaced only when the old one is gone."""
    scheme = "HTTPS" if study.uses_tls else "HTTP"
    page = {"path": contracts.HEALTH_PATH, "port": "session", "scheme": scheme}
    probe = {"httpGet": page, "timeoutSeconds": 5}
    container = _container(study, Role.SERVER, settings) | {
        "args": [
            *("server", _MANIFEST_FILE),
            *_set("spec.server.host", _ANY_ADDRESS),
            *_set("spec.server.port", SESSION_PORT),
            *_set("spec.server.metricsPort", METRICS_PORT),
        ],
        "ports": [
            {"name": "session", "containerPort": SESSION_PORT},
            {"name": "metrics", "containerPort": METRICS_PORT},
        ],
        "startupProbe": {**probe, "periodSeconds": 1, "failureThreshold": _PATIENT},
        "readinessProbe": {**probe, "periodSeconds": 2},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
    }
    _mount_tls(study, container)
    volumes = _tls(study, settings, *_TLS_FILES)
    return _object("apps/v1", "Deployment", study, "server", Role.SERVER) | {
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "progressDeadlineSeconds": 2 * _PATIENT,
            "revisionHistoryLimit": 0,
            "selector": {"matchLabels": _selector(study, Role.SERVER)},
            "template": _template(study, Role.SERVER, container, volumes, settings),
        }
    }


def server_service(study: Study) -> Manifest:
    """The address that edges dial."""
    port = {"name": "session", "port": SESSION_PORT, "targetPort": "session"}
    return _object("v1", "Service", study, "server", Role.SERVER) | {
        "spec": {
            "type": "ClusterIP",
            # It listens only once it can serve: an edge need not wait for a probe to find that out.
            "publishNotReadyAddresses": True,
            "selector": _selector(study, Role.SERVER),
            "ports": [port | {"protocol": "TCP"}],
        }
    }


def edge_job(study: Study, settings: Settings) -> Manifest:
    """The edge workers: a pod for each index."""
    spec = study.spec
    results = {"name": "results", "mountPath": RESULTS_FOLDER}
    container = _container(study, Role.EDGE, settings) | {
        "args": _edge_arguments(study),
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT}],
    }
    container["env"] = [*_edge_environment(study), *container["env"]]
    container["volumeMounts"] = [results, *container["volumeMounts"]]
    _mount_tls(study, container)
    volumes = {"results": _journal(study, settings), **_tls(study, settings, "ca.crt")}
    job: Manifest = {
        "completionMode": "Indexed",
        "completions": spec.edge.replicas,
        "parallelism": spec.edge.replicas,
        "backoffLimit": _NO_LIMIT,
        "suspend": False,
        "template": _template(study, Role.EDGE, container, volumes, settings),
    }
    job["template"]["spec"]["restartPolicy"] = "OnFailure"
    if spec.active_deadline_seconds is not None:
        job["activeDeadlineSeconds"] = spec.active_deadline_seconds
    return _object("batch/v1", "Job", study, "edge", Role.EDGE) | {"spec": job}


def edge_policy(study: Study, settings: Settings) -> Manifest:
    """Edges: reached by the operator and monitoring; they reach the server, DNS and the store."""
    egress = [
        _DNS,
        # The second is for pods that were made before the store had TLS.
        _allow("to", [_operator(settings)], settings.results_port, settings.port),
        *([_allow("to", [_pods(study, Role.SERVER)], SESSION_PORT)] if study.needs_server else []),
        *_sensors(settings),
        *_outside(study),
    ]
    return _policy(study, Role.EDGE, [_scraping(settings)], egress)


def server_policy(study: Study, settings: Settings) -> Manifest:
    """The server: reached by this study's edges, and for metrics as the edges are."""
    edges = _allow("from", [_pods(study, Role.EDGE)], SESSION_PORT)
    outside = [*_sensors(settings), *_outside(study)]
    egress = [_DNS, *outside] if outside else []
    return _policy(study, Role.SERVER, [edges, _scraping(settings)], egress)


# ------------------------------------------------------------------------------------------ parts


def _object(
    version: str, kind: str, study: Study, suffix: str, role: Role | None = None
) -> Manifest:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": names.child(study.name, suffix),
            "namespace": study.namespace,
            "labels": _labels(study, role),
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": study.name,
                    "uid": study.uid,
                    "controller": True,
                }
            ],
        },
    }


def _labels(study: Study, role: Role | None) -> dict[str, str]:
    common = {
        "app.kubernetes.io/name": "splittracr",
        "app.kubernetes.io/managed-by": names.MANAGER,
        names.STUDY_LABEL: names.label(study.name),
        names.UID_LABEL: study.uid,
    }
    return common if role is None else common | {names.ROLE_LABEL: str(role)}


def _selector(study: Study, role: Role) -> dict[str, str]:
    return {names.UID_LABEL: study.uid, names.ROLE_LABEL: str(role)}


def _given(study: Study, role: Role) -> PodSpec:
    """The manifest's settings of this role's pods."""
    return study.spec.edge.pod if role is Role.EDGE else study.spec.server.pod


def _defaults(settings: Settings, role: Role) -> WorkerDefaults:
    return settings.edge if role is Role.EDGE else settings.server


def _template(
    study: Study,
    role: Role,
    container: Manifest,
    volumes: Mapping[str, Manifest],
    settings: Settings,
) -> Manifest:
    """A pod template with everything that the namespace's policies may ask for."""
    given, defaults = _given(study, role), _defaults(settings, role)
    pod = effective(given, defaults)
    values = pod.model_dump(mode="json", by_alias=True, exclude_none=True)
    wanted = {
        "affinity": values.get("affinity"),
        "imagePullSecrets": [{"name": name} for name in pod.image_pull_secrets],
        "priorityClassName": pod.priority_class_name,
        "runtimeClassName": pod.runtime_class_name,
        "initContainers": [_init_container(one, pod) for one in pod.init_containers],
        "serviceAccountName": pod.service_account_name,
        "topologySpreadConstraints": [
            {"labelSelector": {"matchLabels": _selector(study, role)}, **constraint}
            for constraint in values["topologySpreadConstraints"]
        ],
        "tolerations": [
            toleration.model_dump(mode="json", by_alias=True, exclude_none=True)
            for toleration in tolerations(pod)
        ],
    }
    own: dict[str, Manifest] = {
        "manifest": {"configMap": {"name": names.child(study.name, "manifest")}},
        "tmp": {"emptyDir": {}},
        **volumes,
    }
    if defaults.weight_cache is not None:
        own["weight-cache"] = defaults.weight_cache
    selector, grace = pod.node_selector, pod.termination_grace_period_seconds
    ids = {"runAsUser": _USER, "runAsGroup": _USER, "fsGroup": _USER}
    return {
        "metadata": {
            "labels": {**pod.labels, **_labels(study, role)},
            "annotations": {
                "kubectl.kubernetes.io/default-container": str(role),
                **(_SCRAPE if settings.scrape_annotations else {}),
                **pod.annotations,
                names.POD_SETTINGS: _digest(role, given),
                names.POD_DEFAULTS: _digest(role, defaults),
            },
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "nodeSelector": {names.ROLE_LABEL: str(role)} if selector is None else selector,
            "terminationGracePeriodSeconds": _GRACE_SECONDS if grace is None else grace,
            "securityContext": {
                "runAsNonRoot": True,
                **(ids if settings.fixed_user_ids else {}),
                "seccompProfile": {"type": "RuntimeDefault"},
                **{key: value for key, value in values["securityContext"].items() if value != []},
            },
            "containers": [container],
            "volumes": [
                *({"name": name, **volume} for name, volume in own.items()),
                *values["volumes"],
            ],
            **{key: value for key, value in wanted.items() if value},
        },
    }


def _digest(role: Role, given: BaseModel) -> str:
    """Identifies the pod settings of a study, or those of the operator.

    Only what is given counts: a field that only a newer operator knows does not change the digest,
    so an upgrade replaces no pods that run.
    """
    settings = given.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    text = json.dumps([role, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _container(study: Study, role: Role, settings: Settings) -> Manifest:
    defaults = _defaults(settings, role)
    pod = effective(_given(study, role), defaults)
    values = pod.model_dump(mode="json", by_alias=True, exclude_none=True)
    cached = defaults.weight_cache is not None
    named = any(variable.name == _CACHE["name"] for variable in pod.env)
    environment: list[Manifest] = [
        {"name": contracts.TOKEN, "valueFrom": _from_secret(study, "token")},
        {"name": contracts.LAST_WORDS, "value": LAST_WORDS_FILE},
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
        "terminationMessagePath": LAST_WORDS_FILE,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "manifest", "mountPath": MANIFEST_FOLDER, "readOnly": True},
            {"name": "tmp", "mountPath": TEMPORARY_FOLDER},
            *([{"name": "weight-cache", "mountPath": WEIGHTS_FOLDER}] if cached else []),
            *values["volumeMounts"],
        ],
    }


def _init_container(container: InitContainer, pod: PodSpec) -> Manifest:
    """A container of the manifest's that runs before the worker, or beside it."""
    values = container.model_dump(mode="json", by_alias=True, exclude_none=True)
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


def _edge_arguments(study: Study) -> list[str]:
    # Below a claim, studies of one name that came one after the other must not meet.
    folder = f"{RESULTS_FOLDER}/{study.name}-{study.uid[:8]}/{_EDGE}"
    scheme = "wss" if study.uses_tls else "ws"
    url = f"{scheme}://{names.child(study.name, 'server')}:{SESSION_PORT}{contracts.SESSION_PATH}"
    return [
        *("edge", _MANIFEST_FILE, "--name", _EDGE, "--resume", "--out", folder),
        *_set("spec.edge.host", _ANY_ADDRESS),
        *_set("spec.edge.metricsPort", METRICS_PORT),
        *(["--server", url] if study.needs_server else []),
    ]


def _edge_environment(study: Study) -> list[Manifest]:
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    own: list[Manifest] = [
        {"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": index}}},
        {"name": contracts.CONTROL_TOKEN, "valueFrom": _from_secret(study, "control-token")},
    ]
    if study.spec.results.claim is None:
        own.append({"name": contracts.STORE, "value": f"{MANIFEST_FOLDER}/{_STORE}"})
    return own


def _journal(study: Study, settings: Settings) -> Manifest:
    """The volume for an edge's records: the manifest's claim, the operator's, or an empty one."""
    if study.spec.results.claim is not None:
        return {"persistentVolumeClaim": {"claimName": study.spec.results.claim}}
    return settings.edge.journal or {"emptyDir": {}}


def _tls(study: Study, settings: Settings, *files: str) -> dict[str, Manifest]:
    """The volume with those of the secret's files that a worker needs; none for plain text."""
    if not study.uses_tls:
        return {}
    # Without fsGroup the files belong to group root, which the worker need not be in.
    source = {
        "secretName": names.child(study.name, _secret_suffix(study)),
        "defaultMode": 0o440 if settings.fixed_user_ids else 0o444,
        "items": [{"key": file, "path": file} for file in files],
    }
    return {"tls": {"secret": source}}


def _mount_tls(study: Study, container: Manifest) -> None:
    if study.uses_tls:
        container["volumeMounts"].append({"name": "tls", "mountPath": TLS_FOLDER, "readOnly": True})
        container["env"].append({"name": contracts.TLS, "value": TLS_FOLDER})


def _from_secret(study: Study, key: str) -> Manifest:
    name = names.child(study.name, _secret_suffix(study))
    return {"secretKeyRef": {"name": name, "key": key}}


def _secret_suffix(study: Study) -> str:
    """With part of the uid: the secret of an earlier study of the same name may still be there."""
    return f"secret-{study.uid[:8]}"


def _set(path: str, value: object) -> tuple[str, str]:
    return "--set", f"{path}={value}"


_DNS: Manifest = {"ports": [{"protocol": p, "port": 53} for p in ("UDP", "TCP")]}


def _outside(study: Study) -> list[Manifest]:
    """Allow to fetch official weights if the manifest wants them."""
    model = study.spec.model
    if model.weights == "none" or model.weights_file is not None:
        return []
    return [{"ports": [{"protocol": "TCP", "port": 443}]}]


def _sensors(settings: Settings) -> list[Manifest]:
    """Allow to read the energy sensors, if there are any."""
    sensor = settings.sensor
    if sensor is None:
        return []
    peer = {**_operator(settings), "podSelector": {"matchLabels": sensor.pod_labels}}
    return [_allow("to", [peer], sensor.port)]


def _allow(direction: str, peers: Sequence[Manifest], *ports: int) -> Manifest:
    return {direction: list(peers), "ports": [{"protocol": "TCP", "port": port} for port in ports]}


def _pods(study: Study, role: Role) -> Manifest:
    return {"podSelector": {"matchLabels": _selector(study, role)}}


def _edge_policies(study: Study, settings: Settings) -> list[Manifest]:
    return [edge_policy(study, settings)] if settings.network_policy.enabled else []


def _operator(settings: Settings) -> Manifest:
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": settings.namespace}},
        "podSelector": {"matchLabels": settings.pod_labels},
    }


def _scraping(settings: Settings) -> Manifest:
    """The operator and monitoring may read a worker's metrics and reports."""
    peers, monitoring = [_operator(settings)], settings.monitoring
    if monitoring is not None:
        # Both are always named: without one, a peer would mean only the study's own namespace.
        selectors = {
            "namespaceSelector": monitoring.namespace_selector,
            "podSelector": monitoring.pod_selector,
        }
        peers.append(
            {
                key: selector.model_dump(mode="json", by_alias=True, exclude_defaults=True)
                for key, selector in selectors.items()
            }
        )
    return _allow("from", peers, METRICS_PORT)


def _policy(
    study: Study, role: Role, ingress: Sequence[Manifest], egress: Sequence[Manifest]
) -> Manifest:
    return _object("networking.k8s.io/v1", "NetworkPolicy", study, str(role), role) | {
        "spec": {
            "podSelector": {"matchLabels": _selector(study, role)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": list(ingress),
            "egress": list(egress),
        }
    }
