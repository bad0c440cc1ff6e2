"""Builds the children of a study: one pure function for each object.

A builder returns the whole manifest that is applied. Pods pass Pod Security
"restricted" and have no access to the API server.

The containers of edges restart in their pods (`OnFailure`): the journal is on the pod's volume, and
the next container continues after its last record. Kubernetes allows a `podFailurePolicy` only if
pods are replaced. It counts the restarts of all containers against a Job's `backoffLimit`, also
those of sidecars from an admission webhook. So the operator counts the failures of edges and ends
the Job; the Job itself has the largest possible limit.
"""

import base64
from collections.abc import Mapping

from splittracr.experiment import contracts
from splittracr.experiment.contracts import METRICS_PORT, SESSION_PORT, Role
from splittracr.experiment.pods import MANIFEST_FOLDER, RESULTS_FOLDER, TLS_FOLDER
from splittracr.security import Credentials
from splittracr_operator import names
from splittracr_operator.keys import Keys
from splittracr_operator.network_policies import edge_policy, server_policy
from splittracr_operator.objects import Manifest, child, from_secret, secret_suffix, selector
from splittracr_operator.pod_template import pod_template, worker_container
from splittracr_operator.settings import Settings
from splittracr_operator.study import Study

_MANIFEST_FILE = f"{MANIFEST_FOLDER}/manifest.yaml"
_STORE = "results-url"
_PLAIN_STORE = "results-store"
"""The address for pods from before the store had TLS."""

_TLS_FILES = ("ca.crt", "tls.crt", "tls.key")
_EDGE = contracts.edge_name("$(JOB_COMPLETION_INDEX)")
_ANY_ADDRESS = '"::"'
"""All addresses of both IP families. Quoted, so that YAML reads a string."""

_NO_LIMIT = 2**31 - 1
_MAX_LOADING_SECONDS = 1800
"""Seconds that a server may take to load and prove its network."""


def everything(study: Study, settings: Settings, authority: str) -> list[Manifest]:
    """All children of a study that should run, without the secret.

    `authority` is the certificate (PEM) that edges trust for the results store.
    """
    edge = [manifest_map(study, settings, authority), *_of_edges(study, settings)]
    if not study.needs_server:
        return edge
    policies = [server_policy(study, settings)] if settings.network_policy.enabled else []
    return [*edge, *policies, server_service(study), server_deployment(study, settings)]


def remains(study: Study, settings: Settings, authority: str, *, stop: bool) -> list[Manifest]:
    """The children of a study that has ended: the edges' pods with their logs, and no server.

    `stop` deletes the pods that still run, and keeps the Job from creating others.
    """
    edges = _of_edges(study, settings)
    for made in edges:
        if made["kind"] == "Job":
            made["spec"]["suspend"] = stop
    return [manifest_map(study, settings, authority), *edges]


def manifest_map(study: Study, settings: Settings, authority: str) -> Manifest:
    """The manifest for the workers, and the address and authority of the results store.

    The address is in a file, not in an environment variable: pods keep running through an upgrade
    that changes the operator's Service or port, and Kubernetes updates the file.
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
    return child("v1", "ConfigMap", study, "manifest") | {"data": data}


def server_hosts(study: Study) -> list[str]:
    """The names of the server, which its certificate has to contain."""
    name, host = names.child(study.name, "server"), study.spec.server.service.host
    inside = [name, f"{name}.{study.namespace}", f"{name}.{study.namespace}.svc"]
    return inside if host is None else [*inside, host]


def secret(study: Study, keys: Keys, tls: Credentials | None, owner: Mapping[str, str]) -> Manifest:
    """The study's tokens and, for TLS, the server's certificate and its authority.

    Its owner is the ConfigMap (`name`, `uid`): Kubernetes deletes both together. So the operator
    needs no permission to read, change or delete secrets.
    """
    content = {"token": keys.session(study.uid), "control-token": keys.control(study.uid)}
    if tls is not None:
        content |= {
            "ca.crt": tls.authority.certificate.decode(),
            "tls.crt": tls.server.certificate.decode(),
            "tls.key": tls.server.key.decode(),
        }
    made = child("v1", "Secret", study, secret_suffix(study)) | {
        "type": "Opaque",
        "immutable": True,
        "data": {name: base64.b64encode(v.encode()).decode() for name, v in content.items()},
    }
    reference = {"apiVersion": "v1", "kind": "ConfigMap", **owner}
    made["metadata"]["ownerReferences"] = [reference]
    return made


def server_deployment(study: Study, settings: Settings) -> Manifest:
    """The server worker: one pod, replaced only after the old one is deleted."""
    scheme = "HTTPS" if study.uses_tls else "HTTP"
    page = {"path": contracts.HEALTH_PATH, "port": "session", "scheme": scheme}
    probe = {"httpGet": page, "timeoutSeconds": 5}
    container = worker_container(study, Role.SERVER, settings) | {
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
        "startupProbe": {**probe, "periodSeconds": 1, "failureThreshold": _MAX_LOADING_SECONDS},
        "readinessProbe": {**probe, "periodSeconds": 2},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
    }
    _mount_tls(study, container)
    volumes = _tls(study, settings, *_TLS_FILES)
    return child("apps/v1", "Deployment", study, "server", Role.SERVER) | {
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "progressDeadlineSeconds": 2 * _MAX_LOADING_SECONDS,
            "revisionHistoryLimit": 0,
            "selector": {"matchLabels": selector(study, Role.SERVER)},
            "template": pod_template(study, Role.SERVER, container, volumes, settings),
        }
    }


def server_service(study: Study) -> Manifest:
    """The address to which edges connect."""
    port = {"name": "session", "port": SESSION_PORT, "targetPort": "session"}
    return child("v1", "Service", study, "server", Role.SERVER) | {
        "spec": {
            "type": study.spec.server.service.type,
            # The server listens only once it can serve, so an edge need not wait for the probe.
            "publishNotReadyAddresses": True,
            "selector": selector(study, Role.SERVER),
            "ports": [port | {"protocol": "TCP"}],
        }
    }


def edge_job(study: Study, settings: Settings) -> Manifest:
    """The edge workers: a pod for each index."""
    spec = study.spec
    results = {"name": "results", "mountPath": RESULTS_FOLDER}
    container = worker_container(study, Role.EDGE, settings) | {
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
        "template": pod_template(study, Role.EDGE, container, volumes, settings),
    }
    job["template"]["spec"]["restartPolicy"] = "OnFailure"
    if spec.active_deadline_seconds is not None:
        job["activeDeadlineSeconds"] = spec.active_deadline_seconds
    return child("batch/v1", "Job", study, "edge", Role.EDGE) | {"spec": job}


def _edge_arguments(study: Study) -> list[str]:
    # Successive studies of the same name must not share a folder of a claim.
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
        {"name": contracts.CONTROL_TOKEN, "valueFrom": from_secret(study, "control-token")},
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
    # Without fsGroup the files belong to group root, and the worker may be in another group.
    source = {
        "secretName": names.child(study.name, secret_suffix(study)),
        "defaultMode": 0o440 if settings.fixed_user_ids else 0o444,
        "items": [{"key": file, "path": file} for file in files],
    }
    return {"tls": {"secret": source}}


def _mount_tls(study: Study, container: Manifest) -> None:
    if study.uses_tls:
        container["volumeMounts"].append({"name": "tls", "mountPath": TLS_FOLDER, "readOnly": True})
        container["env"].append({"name": contracts.TLS, "value": TLS_FOLDER})


def _set(path: str, value: object) -> tuple[str, str]:
    return "--set", f"{path}={value}"


def _of_edges(study: Study, settings: Settings) -> list[Manifest]:
    """The Job of the edges in pods, and their NetworkPolicy."""
    if not study.inside:
        return []
    policies = [edge_policy(study, settings)] if settings.network_policy.enabled else []
    return [*policies, edge_job(study, settings)]
