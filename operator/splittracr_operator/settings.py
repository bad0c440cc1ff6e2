"""The operator's own settings, from environment variables; its manifests set them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Settings:
    """How this operator works. Times are seconds."""

    namespace: str
    """Its own namespace: from there edges may be asked, and there edges bring their results."""

    edge_image: str
    server_image: str
    """Images of workers whose manifest names none."""

    watched: tuple[str, ...] = ()
    """Namespaces to look after; empty for all of them."""

    port: int = 8080
    """Results store, health and metrics."""

    service: str = "splittracr-operator"
    """The operator's own service, and the name of the secret with its key."""

    results: Path = Path("/var/lib/splittracr")
    """Folder of the results store."""

    keep_deleted_days: int = 7
    """How long the store keeps results of a study that was deleted."""

    poll: float = 2.0
    """Between two looks at the edges of a running study; its status changes no more often."""

    resync: float = 60.0
    """Between two comparisons of what is remembered with what the API server has."""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """From the variables SPLITTRACR_*; KeyError names one that has to be set."""
        watched = environment.get("SPLITTRACR_NAMESPACES", "").replace(",", " ").split()
        return cls(
            namespace=environment["SPLITTRACR_OPERATOR_NAMESPACE"],
            edge_image=environment["SPLITTRACR_EDGE_IMAGE"],
            server_image=environment["SPLITTRACR_SERVER_IMAGE"],
            watched=tuple(watched),
            results=Path(environment.get("SPLITTRACR_RESULTS", cls.results)),
            keep_deleted_days=int(environment.get("SPLITTRACR_KEEP_DAYS", cls.keep_deleted_days)),
            poll=float(environment.get("SPLITTRACR_POLL_SECONDS", cls.poll)),
        )

    @property
    def store_path(self) -> str:
        """Where people fetch results: the path to the store by way of the API server."""
        service = f"namespaces/{self.namespace}/services/{self.service}:results"
        return f"/api/v1/{service}/proxy/v1/results"

    @property
    def store_url(self) -> str:
        """Where edges bring their results."""
        return f"http://{self.service}.{self.namespace}.svc:{self.port}/v1/results"
