"""The operator's settings: the file that SPLITTRACR_CONFIG names, and the operator's namespace."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from splittracr.experiment import manifest
from splittracr.experiment.contracts import CONFIG as CONFIG
from splittracr.experiment.contracts import (
    HEALTH_PATH,
    METRICS_PATH,
    OPERATOR_PORT,
    OPERATOR_RESULTS_PORT,
    RESULTS_PATH,
    SENSOR_PORT,
)
from splittracr.experiment.contracts import NAMESPACE as NAMESPACE
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.pods import Key, Resources, Text, Toleration, amount
from splittracr.experiment.types import ObjectName, SpecModel

Labels = Annotated[dict[Key, Text], Field(max_length=64)]
Image = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class LabelSelector(SpecModel):
    """A selector as in a NetworkPolicy; an empty one selects all."""

    match_labels: Labels = Field(default_factory=dict, description="Labels and their values.")
    match_expressions: tuple[dict[str, Any], ...] = Field(
        default=(), max_length=32, description="Conditions on labels, as in a NetworkPolicy."
    )


class Monitoring(SpecModel):
    """The pods that may scrape the metrics of workers."""

    namespace_selector: LabelSelector = Field(
        default=LabelSelector(), description="Their namespaces; left out or empty: all."
    )
    pod_selector: LabelSelector = Field(
        default=LabelSelector(), description="The pods themselves; left out or empty: all."
    )


class PolicySettings(SpecModel):
    """NetworkPolicies of studies."""

    enabled: bool = Field(default=True, description="Whether studies get NetworkPolicies.")


class SensorSettings(SpecModel):
    """The energy sensors of the nodes, behind one Service that routes to the own node."""

    service: ObjectName = Field(description="Their Service, in the operator's namespace.")
    port: int = Field(default=SENSOR_PORT, ge=1, le=65535, description="Port of the Service.")
    pod_labels: Labels = Field(description="Labels that select their pods in NetworkPolicies.")


class WorkerDefaults(SpecModel):
    """Defaults of one role's pods.

    Each field of `spec.edge.pod` or `spec.server.pod` replaces the default. Tolerations and pull
    secrets are added; resources, labels and annotations are merged by name.
    """

    image: Image = Field(description="Image of the worker.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When the image is pulled."
    )
    image_pull_secrets: tuple[ObjectName, ...] = Field(
        default=(), max_length=16, description="Names of secrets in the study's namespace."
    )
    node_selector: Annotated[dict[str, Text], Field(max_length=32)] | None = Field(
        default=None,
        description="Labels of the node; left out: `splittracr.io/role` is `edge` or `server`; "
        "empty: any node.",
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(), max_length=32, description="Taints that the pod accepts."
    )
    affinity: dict[str, Any] = Field(default_factory=dict, description="As in a pod.")
    resources: Resources = Field(default=Resources(), description="Of the container.")
    runtime_class_name: ObjectName | None = Field(default=None, description="As in a pod.")
    priority_class_name: ObjectName | None = Field(default=None, description="As in a pod.")
    labels: Labels = Field(default_factory=dict, description="More labels of the pod.")
    annotations: dict[Key, str] = Field(
        default_factory=dict, max_length=64, description="More annotations of the pod."
    )
    weight_cache: dict[str, Any] | None = Field(
        default=None, description="Volume for downloaded weights, as in a pod, without a name."
    )

    @field_validator("resources")
    @classmethod
    def _below_limits(cls, given: Resources) -> Resources:
        for key in given.requests.keys() & given.limits.keys():
            if amount(given.requests[key]) > amount(given.limits[key]):
                raise ValueError(
                    f"requests.{key}, {given.requests[key]}, is at most "
                    f"limits.{key}, {given.limits[key]}"
                )
        return given

    @field_validator("weight_cache", "journal", check_fields=False)
    @classmethod
    def _one_source(cls, volume: dict[str, Any] | None) -> dict[str, Any] | None:
        if volume is not None and (
            len(volume) != 1 or not all(isinstance(source, dict) for source in volume.values())
        ):
            raise ValueError(
                "it is one volume source, such as {persistentVolumeClaim: {claimName: NAME}}"
            )
        return volume


class EdgeDefaults(WorkerDefaults):
    """Defaults of edge pods."""

    # A worker holds 370 MB before it loads a model.
    resources: Resources = Field(
        default=Resources(requests={"cpu": "250m", "memory": "512Mi"}),
        description="Of the container; what is given replaces all of the default.",
    )
    lite_image: Image | None = Field(
        default=None,
        description="Image without PyTorch, for studies with `spec.edge.runtime: OnnxRuntime`; "
        "left out: `image`.",
    )
    # An edge keeps working while its node is unreachable; the default of Kubernetes is 300 s.
    toleration_seconds: int = Field(
        default=86400,
        ge=0,
        le=2**31 - 1,
        description="Seconds that an edge stays on a node that is unreachable or not ready.",
    )
    journal: dict[str, Any] | None = Field(
        default=None, description="Volume for the edge's records; left out: an emptyDir."
    )


class ServerDefaults(WorkerDefaults):
    """Defaults of server pods."""

    resources: Resources = Field(
        default=Resources(requests={"cpu": "500m", "memory": "1Gi"}),
        description="Of the container; what is given replaces all of the default.",
    )


_ADDRESS = r"^[a-z0-9][a-z0-9.-]*:[0-9]{1,5}$"


class Config(SpecModel):
    """The configuration file; its keys are camelCase."""

    service: ObjectName = Field(
        default="splittracr-operator",
        description="The operator's own Service: edges send their results there.",
    )
    pod_labels: Labels = Field(
        default={"app.kubernetes.io/name": "splittracr-operator"},
        description="Labels that select the operator's pod in NetworkPolicies.",
    )
    key_secret: ObjectName = Field(
        default="splittracr-operator-key",
        description="Secret with the operator's key; created if it is missing. Another key makes "
        "the tokens of all running studies invalid.",
    )
    port: int = Field(
        default=OPERATOR_PORT,
        ge=1,
        le=65535,
        description=f"{HEALTH_PATH} and {METRICS_PATH}, over plain HTTP.",
    )
    results_port: int = Field(
        default=OPERATOR_RESULTS_PORT,
        ge=1,
        le=65535,
        description="Results store, over TLS; another than `port`.",
    )
    join_address: Annotated[str, StringConstraints(pattern=_ADDRESS)] | None = Field(
        default=None,
        description="Where edges outside of the cluster reach the results store, as `HOST:PORT`; "
        "left out: nowhere.",
    )
    client_certificates: bool = Field(
        default=True,
        description="Whether users may authenticate with their certificate for the API server.",
    )
    watch_namespaces: tuple[ObjectName, ...] = Field(
        default=(), max_length=1024, description="Namespaces with studies; empty: all."
    )
    keep_deleted_days: int = Field(
        default=7, ge=0, le=36500, description="Days to keep the results of a deleted study."
    )
    poll_seconds: int = Field(
        default=2, ge=1, le=3600, description="Seconds between two requests to running edges."
    )
    resync_seconds: int = Field(
        default=60, ge=1, le=86400, description="Seconds between two lists of all objects."
    )
    fixed_user_ids: bool = Field(
        default=True,
        description="Whether pods run as user and group 65532; false if the cluster assigns ids.",
    )
    network_policy: PolicySettings = Field(
        default=PolicySettings(), description="NetworkPolicies of studies."
    )
    monitoring: Monitoring | None = Field(
        default=None, description="The pods that may scrape workers; left out: none."
    )
    scrape_annotations: bool = Field(
        default=False, description="Whether pods have the annotations prometheus.io/*."
    )
    sensor: SensorSettings | None = Field(
        default=None, description="Energy sensors of the nodes; left out: there are none."
    )
    edge: EdgeDefaults = Field(description="Defaults of edge pods.")
    server: ServerDefaults = Field(description="Defaults of server pods.")

    @model_validator(mode="after")
    def _two_ports(self) -> Self:
        if self.results_port == self.port:
            raise ValueError(f"resultsPort is another port than port, {self.port}")
        return self


class Settings(Config):
    """The configuration file, plus the namespace and the results folder."""

    namespace: ObjectName = Field(description="The operator's own namespace.")
    results: Path = Field(
        default=Path("/var/lib/splittracr"), description="Folder of the results store."
    )

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables SPLITTRACR_CONFIG and SPLITTRACR_OPERATOR_NAMESPACE.

        Raises InvalidInput naming the variable, or the file and its field, that is wrong.
        """
        config = _read(environment.get(CONFIG))
        namespace = environment.get(NAMESPACE)
        if not namespace:
            raise InvalidInput(NAMESPACE, namespace, "the name of the operator's namespace")
        values = {name: getattr(config, name) for name in Config.model_fields}
        return cls(namespace=namespace, **values)

    @property
    def store_hosts(self) -> tuple[str, ...]:
        """Names of the results store; edges use the first.

        `localhost` is for `kubectl port-forward`.
        """
        name = f"{self.service}.{self.namespace}"
        inside = f"{name}.svc", name, f"{name}.svc.cluster.local", "localhost"
        if self.join_address is None:
            return inside
        return *inside, self.join_address.rpartition(":")[0]

    @property
    def store_url(self) -> str:
        """URL to which edges send their results."""
        return f"https://{self.store_hosts[0]}:{self.results_port}{RESULTS_PATH}"

    @property
    def sensor_url(self) -> str | None:
        """URL of the energy sensors of a worker's own node; None if there are none."""
        if self.sensor is None:
            return None
        return f"http://{self.sensor.service}.{self.namespace}.svc:{self.sensor.port}"

    @property
    def plain_store_url(self) -> str:
        """The same URL for pods from before the store had TLS."""
        return f"http://{self.store_hosts[0]}:{self.port}{RESULTS_PATH}"


def _read(file: str | None) -> Config:
    expected = "the path of the operator's configuration file"
    if not file:
        raise InvalidInput(CONFIG, file, expected)
    try:
        text = Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidInput(CONFIG, file, f"{expected} ({reason})") from error
    try:
        return manifest.parse_as(Config, text, file)
    except InvalidInput as error:
        field = error.field if error.field == file else f"{file}: {error.field}"
        raise InvalidInput(field, error.value, error.expected) from error
