"""Builds the NetworkPolicies of a study. Pure."""

from collections.abc import Iterable, Sequence

from splittracr.experiment.contracts import METRICS_PORT, SESSION_PORT, Role
from splittracr.experiment.spec import ModelSpec
from splittracr_operator.objects import Manifest, child, selector
from splittracr_operator.settings import Settings
from splittracr_operator.study import Study

_DNS: Manifest = {"ports": [{"protocol": p, "port": 53} for p in ("UDP", "TCP")]}


def edge_policy(study: Study, settings: Settings) -> Manifest:
    """Edges accept the operator and monitoring, and connect to the server, DNS and the store."""
    egress = [
        _DNS,
        # The second port is for pods from before the store had TLS.
        _allow("to", [_operator(settings)], settings.results_port, settings.port),
        *([_allow("to", [_pods(study, Role.SERVER)], SESSION_PORT)] if study.needs_server else []),
        *_sensors(settings),
        *_weights(study.spec.edge_models.values()),
    ]
    return _policy(study, Role.EDGE, [_scraping(settings)], egress)


def server_policy(study: Study, settings: Settings) -> Manifest:
    """The server accepts this study's edges, and the operator and monitoring as edges do.

    Where edges outside of the cluster come from is not known.
    """
    edges = _allow("from", [_pods(study, Role.EDGE)], SESSION_PORT)
    if study.outside:  # from any address
        edges = {"ports": edges["ports"]}
    outside = [*_sensors(settings), *_weights([study.spec.model])]
    egress = [_DNS, *outside] if outside else []
    return _policy(study, Role.SERVER, [edges, _scraping(settings)], egress)


def _weights(models: Iterable[ModelSpec]) -> list[Manifest]:
    """Allow the download of official weights if a model uses them."""
    if all(model.weights == "none" or model.weights_file is not None for model in models):
        return []
    return [{"ports": [{"protocol": "TCP", "port": 443}]}]


def _sensors(settings: Settings) -> list[Manifest]:
    """Allow access to the energy sensors, if there are any."""
    sensor = settings.sensor
    if sensor is None:
        return []
    peer = {**_operator(settings), "podSelector": {"matchLabels": sensor.pod_labels}}
    return [_allow("to", [peer], sensor.port)]


def _allow(direction: str, peers: Sequence[Manifest], *ports: int) -> Manifest:
    return {direction: list(peers), "ports": [{"protocol": "TCP", "port": port} for port in ports]}


def _pods(study: Study, role: Role) -> Manifest:
    return {"podSelector": {"matchLabels": selector(study, role)}}


def _operator(settings: Settings) -> Manifest:
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": settings.namespace}},
        "podSelector": {"matchLabels": settings.pod_labels},
    }


def _scraping(settings: Settings) -> Manifest:
    """Allow the operator and monitoring to read a worker's metrics and reports."""
    peers, monitoring = [_operator(settings)], settings.monitoring
    if monitoring is not None:
        # Without a namespace selector, a peer means only the study's own namespace.
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
    return child("networking.k8s.io/v1", "NetworkPolicy", study, str(role), role) | {
        "spec": {
            "podSelector": {"matchLabels": selector(study, role)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": list(ingress),
            "egress": list(egress),
        }
    }
