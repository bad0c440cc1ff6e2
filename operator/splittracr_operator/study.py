"""A study in the cluster: its manifest, with the fields that the API server adds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from splittracr.experiment import manifest
from splittracr.experiment.contracts import edge_names
from splittracr.experiment.settings import Live
from splittracr.experiment.spec import ExperimentSpec, Mode, Security, SplitExperiment
from splittracr.experiment.status import ExperimentStatus

Body = Mapping[str, Any]
"""An object of the API server."""


@dataclass(frozen=True)
class Study:
    """One SplitExperiment of the cluster."""

    experiment: SplitExperiment
    uid: str
    generation: int
    status: ExperimentStatus

    @property
    def name(self) -> str:
        return self.experiment.metadata.name

    @property
    def namespace(self) -> str:
        return self.experiment.metadata.namespace

    @property
    def spec(self) -> ExperimentSpec:
        return self.experiment.spec

    @cached_property
    def text(self) -> str:
        """The manifest as YAML. It is cached, since each plan of a reconcile compares it."""
        return manifest.dump(self.experiment)

    @property
    def live(self) -> Live:
        return Live.of(self.spec)

    def using(self, live: Live) -> Self:
        """The study with other live settings."""
        spec = live.within(self.spec)
        return replace(self, experiment=self.experiment.model_copy(update={"spec": spec}))

    @property
    def edges(self) -> list[str]:
        """The names of its edges."""
        return edge_names(self.spec.edge.count)

    @property
    def inside(self) -> list[str]:
        """The edges that have pods."""
        return edge_names(self.spec.edge.replicas)

    @property
    def outside(self) -> list[str]:
        """The edges outside of the cluster."""
        return edge_names(self.spec.edge.outside, self.spec.edge.replicas)

    @property
    def closed(self) -> str | None:
        """Why no edge can join from outside: a field, its value and what is expected of it."""
        spec = self.spec
        if not self.needs_server:
            return "spec.partition.mode is EdgeOnly, expected a mode that has a server"
        if not self.uses_tls:
            return "spec.transport.security is Plain, expected TLS"
        if spec.server.service.host is None:
            return "spec.server.service.type is ClusterIP, expected NodePort or LoadBalancer"
        if spec.results.claim is not None:
            return "spec.results.claim is given, expected none: no edge outside reaches the claim"
        return None

    @property
    def needs_server(self) -> bool:
        return self.spec.partition.mode is not Mode.EDGE_ONLY

    @property
    def uses_tls(self) -> bool:
        return self.needs_server and self.spec.transport.security is Security.TLS


def read(body: Body) -> Study:
    """The study in an object. Raises InvalidInput if this version cannot read its manifest."""
    metadata = body["metadata"]
    return Study(
        experiment=manifest.from_object(body),
        uid=metadata["uid"],
        generation=metadata["generation"],
        status=status_of(body),
    )


def status_of(body: Body) -> ExperimentStatus:
    """The status in an object; an empty one if there is none."""
    return ExperimentStatus.model_validate(body.get("status") or {})
