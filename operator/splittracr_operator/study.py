"""A study as the operator sees it: the manifest with what the API server has added."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from splittracr.experiment import manifest
from splittracr.experiment.spec import (
    ExperimentSpec,
    Mode,
    PartitionSpec,
    Security,
    SplitExperiment,
    TransportSpec,
)
from splittracr.experiment.status import ExperimentStatus

Body = Mapping[str, Any]
"""An object of the API server."""

Live = tuple[PartitionSpec, TransportSpec]
"""The parts of a manifest that hold what may change while its edges run."""


@dataclass(frozen=True)
class Study:
    """One SplitExperiment of the cluster."""

    experiment: SplitExperiment
    uid: str
    generation: int
    created: datetime
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

    @property
    def live(self) -> Live:
        return self.spec.partition, self.spec.transport

    @property
    def needs_server(self) -> bool:
        return self.spec.partition.mode is not Mode.EDGE_ONLY

    @property
    def uses_tls(self) -> bool:
        return self.needs_server and self.spec.transport.security is Security.TLS


def read(body: Body) -> Study:
    """The study in an object. Raises InvalidInput where its manifest is none of this version's."""
    metadata = body["metadata"]
    return Study(
        experiment=manifest.from_object(body),
        uid=metadata["uid"],
        generation=metadata["generation"],
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        status=status_of(body),
    )


def status_of(body: Body) -> ExperimentStatus:
    """The status as it was written last; an empty one where there is none."""
    return ExperimentStatus.model_validate(body.get("status") or {})
