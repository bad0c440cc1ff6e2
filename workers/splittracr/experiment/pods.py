"""The pod settings of a manifest: a selected part of Kubernetes' own pod template.

A whole template in the CustomResourceDefinition would be larger than `kubectl apply` can record.
Nothing here makes a pod fail Pod Security's level `restricted`, except a volume of the kind nfs: no
capabilities, no root user, no mounts of the host. Parts "as in a pod" are passed through.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from splittracr.experiment.contracts import EDGE, SERVER
from splittracr.experiment.rules import ExactlyOne, Has, Is, Matches, Not, Rule, SomeKeyBegins
from splittracr.experiment.types import ObjectName, SpecModel

_QUANTITY = r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]{1,3})?$"
_ENVIRONMENT_NAME = r"^[-._A-Za-z][-._A-Za-z0-9]*$"
_LABEL_VALUE = r"^([A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?)?$"
_CONTAINER_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

CONTAINERS = (EDGE, SERVER)
"""Names of the workers' containers."""

VOLUMES = ("manifest", "results", "tls", "tmp", "weight-cache")
"""Names of the operator's volumes."""

RESULTS_FOLDER = "/var/lib/splittracr"
WEIGHTS_FOLDER = "/var/cache/splittracr"
MANIFEST_FOLDER = "/etc/splittracr"
TLS_FOLDER = "/etc/splittracr-tls"
TEMPORARY_FOLDER = "/tmp"
TERMINATION_PATH = "/dev/termination-log"
RESERVED_PATH = (
    f"^/+(({RESULTS_FOLDER[1:]}|{WEIGHTS_FOLDER[1:]}|{MANIFEST_FOLDER[1:]}|{TLS_FOLDER[1:]})(/|$)"
    f"|({TEMPORARY_FOLDER[1:]}|{TERMINATION_PATH[1:]})/*$)"
)
"""The operator's mounts: nothing may be mounted there, nor below those that are not for writing."""

RESERVED_KEYS = ("splittracr.io/", "batch.kubernetes.io/")
"""Beginnings of labels and annotations that the operator and Kubernetes set."""

Text = Annotated[str, StringConstraints(max_length=253)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=317)]


def _without_floats(value: Any) -> Any:
    """A number with a fraction or an exponent as text, which keeps its digits."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= 2**53 else repr(value)
    return value


Quantity = Annotated[
    Annotated[int, Field(ge=0, le=2**53)]
    | Annotated[str, StringConstraints(pattern=_QUANTITY, max_length=32)],
    BeforeValidator(_without_floats),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 2**53},
                {"type": "string", "pattern": _QUANTITY, "maxLength": 32},
            ]
        }
    ),
]
"""An amount, as Kubernetes reads it: a number such as 0.5, or text such as `500m`."""


def _given(values: Any) -> Any:
    """`values` without nulls: the API server keeps them here, as an amount's node has no type."""
    if not isinstance(values, dict):
        return values
    return {key: value for key, value in values.items() if value is not None}


Quantities = Annotated[dict[str, Quantity], Field(max_length=32), BeforeValidator(_given)]

_Id = Annotated[int, Field(ge=0, le=2**31 - 1)]
_UserId = Annotated[int, Field(ge=1, le=2**31 - 1)]
_Argument = Annotated[str, StringConstraints(max_length=4096)]
_Image = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
_PullPolicy = Literal["Always", "IfNotPresent", "Never"]
LabelValue = Annotated[str, StringConstraints(pattern=_LABEL_VALUE, max_length=63)]
ContainerName = Annotated[str, StringConstraints(pattern=_CONTAINER_NAME, max_length=63)]

ONE_SOURCE = Rule(
    ExactlyOne(
        [Has(key) for key in ("persistentVolumeClaim", "configMap", "secret", "emptyDir", "nfs")]
    ),
    "a volume is one of persistentVolumeClaim, configMap, secret, emptyDir and nfs",
)
OWN_VOLUME = Rule(
    Not(Is("name", VOLUMES)), "a volume has another name than those of the operator", ("name",)
)
OWN_MOUNT = Rule(
    Not(Matches("mountPath", RESERVED_PATH)),
    "mountPath is none of the operator's folders, nor inside of one",
    ("mountPath",),
)
OWN_CONTAINER = Rule(
    Not(Is("name", CONTAINERS)), "an init container is not called edge or server", ("name",)
)
OWN_LABELS, OWN_ANNOTATIONS = (
    Rule(
        Not(reserved),
        f"no key of {reserved.key} begins with {' or '.join(RESERVED_KEYS)}",
        culprit=reserved,
    )
    for reserved in (SomeKeyBegins(field, RESERVED_KEYS) for field in ("labels", "annotations"))
)

PATTERNS = {
    _QUANTITY: "a quantity such as 500m or 2Gi",
    _ENVIRONMENT_NAME: "letters, digits, - _ and .",
    _LABEL_VALUE: "empty, or letters and digits with - _ and . between them",
    _CONTAINER_NAME: "lower-case letters and digits, with - between them",
}
"""The patterns above in words."""


_UNITS = {
    "": Decimal(1),
    **{unit: Decimal("0.001") ** (at + 1) for at, unit in enumerate("mun")},
    **{unit: Decimal(1000) ** (at + 1) for at, unit in enumerate("kMGTPE")},
    **{f"{unit}i": Decimal(1024) ** (at + 1) for at, unit in enumerate("KMGTPE")},
}


def amount(quantity: Quantity) -> Decimal:
    """The value of a quantity: `500m` is 0.5, `1Ki` is 1024, `1e3` is 1000."""
    text = str(quantity)
    number = re.match(r"[+0-9.]+", text)
    digits = number.group() if number else ""
    unit = _UNITS.get(text[len(digits) :])
    return Decimal(text) if unit is None else Decimal(digits) * unit


def _distinct(field: str, key: str) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """A validator of lists in which no two items may have the same `field`; `key` in manifests."""

    def check(items: tuple[BaseModel, ...]) -> tuple[BaseModel, ...]:
        values = [getattr(item, field) for item in items]
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise ValueError(f"each item has a {key} of its own ({twice} is there twice)")
        return items

    return check


def _keyed(key: str) -> dict[str, Any]:
    """The same for the API server."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


class Toleration(SpecModel):
    """A taint that the pod accepts."""

    key: Key | None = Field(default=None, description="Key of the taint; left out: any.")
    operator: Literal["Exists", "Equal"] | None = Field(
        default=None, description="Whether the value counts; left out: `Equal`."
    )
    value: Text | None = Field(default=None, description="Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint; left out: any."
    )
    toleration_seconds: int | None = Field(
        default=None, ge=0, le=2**31 - 1, description="How long a NoExecute is tolerated."
    )


class Resources(SpecModel):
    """Requests and limits of the container."""

    requests: Quantities = Field(default_factory=dict, description="What the scheduler reserves.")
    limits: Quantities = Field(
        default_factory=dict, description="What it may take at most; `nvidia.com/gpu` goes here."
    )


class EnvVar(SpecModel):
    """An environment variable."""

    name: Annotated[str, StringConstraints(pattern=_ENVIRONMENT_NAME, max_length=253)] = Field(
        description="Its name."
    )
    value: Annotated[str, StringConstraints(max_length=4096)] | None = Field(
        default=None, description="Its value."
    )
    value_from: dict[str, Any] = Field(
        default_factory=dict, description="Where its value is, as in a pod."
    )


class Volume(SpecModel):
    """A volume from one of the sources that use nothing of the node."""

    rules = (ONE_SOURCE, OWN_VOLUME)

    name: ObjectName = Field(
        description="Its name; not `manifest`, `results`, `tls`, `tmp` or `weight-cache`."
    )
    persistent_volume_claim: dict[str, Any] | None = Field(
        default=None, description="A claim; as in a pod."
    )
    config_map: dict[str, Any] | None = Field(default=None, description="As in a pod.")
    secret: dict[str, Any] | None = Field(
        default=None, description="A secret, such as `{secretName: NAME}`; as in a pod."
    )
    empty_dir: dict[str, Any] | None = Field(default=None, description="As in a pod.")
    nfs: dict[str, Any] | None = Field(default=None, description="As in a pod.")


class VolumeMount(SpecModel):
    """Where a volume appears in the container."""

    rules = (OWN_MOUNT,)

    name: ObjectName = Field(description="Name of the volume.")
    mount_path: Annotated[str, StringConstraints(min_length=1, max_length=4096)] = Field(
        description="Path in the container; not `/tmp`, nor `/etc/splittracr`, "
        "`/etc/splittracr-tls`, `/var/lib/splittracr`, `/var/cache/splittracr` or below them."
    )
    sub_path: Annotated[str, StringConstraints(max_length=4096)] | None = Field(
        default=None, description="Path within the volume."
    )
    read_only: bool = Field(default=False, description="Whether writing is forbidden.")


Volumes = Annotated[
    tuple[Volume, ...],
    Field(max_length=16, json_schema_extra=_keyed("name")),
    AfterValidator(_distinct("name", "name")),
]
VolumeMounts = Annotated[
    tuple[VolumeMount, ...],
    Field(max_length=16, json_schema_extra=_keyed("mountPath")),
    AfterValidator(_distinct("mount_path", "mountPath")),
]


class PodSecurity(SpecModel):
    """Ids of the pod's processes and files, in place of the operator's."""

    run_as_user: _UserId | None = Field(default=None, description="User; left out: 65532.")
    run_as_group: _Id | None = Field(default=None, description="Group; left out: 65532.")
    fs_group: _Id | None = Field(
        default=None, description="Group that owns the files of volumes; left out: 65532."
    )
    fs_group_change_policy: Literal["Always", "OnRootMismatch"] | None = Field(
        default=None, description="When files are given to that group; left out: `Always`."
    )
    supplemental_groups: tuple[_Id, ...] = Field(
        default=(), max_length=32, description="More groups of the processes, for NFS."
    )


class ContainerSecurity(SpecModel):
    """Ids of a container, and whether its file system is read-only.

    Containers have no capabilities and no way to root.
    """

    run_as_user: _UserId | None = Field(default=None, description="User; left out: the pod's.")
    run_as_group: _Id | None = Field(default=None, description="Group; left out: the pod's.")
    read_only_root_filesystem: bool | None = Field(
        default=None,
        description="Whether only volumes can be written; left out: true for the worker.",
    )


class InitContainer(SpecModel):
    """A container that runs before the worker or, with `restartPolicy: Always`, beside it."""

    rules = (OWN_CONTAINER,)

    name: ContainerName = Field(description="Its name; not `edge` or `server`.")
    image: _Image | None = Field(default=None, description="Left out: the worker's image.")
    image_pull_policy: _PullPolicy | None = Field(
        default=None, description="When the image is pulled."
    )
    command: tuple[_Argument, ...] = Field(
        default=(), max_length=64, description="What runs; left out: the image's own."
    )
    args: tuple[_Argument, ...] = Field(
        default=(), max_length=64, description="Arguments of the command."
    )
    env: tuple[EnvVar, ...] = Field(default=(), max_length=64, description="Environment variables.")
    resources: Resources = Field(default=Resources(), description="Requests and limits.")
    restart_policy: Literal["Always"] | None = Field(
        default=None,
        description="`Always` makes a sidecar of it, which ends when the worker has.",
    )
    security_context: ContainerSecurity = Field(
        default=ContainerSecurity(), description="Ids of this container."
    )
    startup_probe: dict[str, Any] = Field(
        default_factory=dict, description="When a sidecar counts as started; as in a pod."
    )
    volume_mounts: VolumeMounts = Field(default=(), description="Volumes in this container.")


InitContainers = Annotated[
    tuple[InitContainer, ...],
    Field(max_length=8, json_schema_extra=_keyed("name")),
    AfterValidator(_distinct("name", "name")),
]


class PodSpec(SpecModel):
    """Changes to the pod that the operator makes."""

    rules = (OWN_LABELS, OWN_ANNOTATIONS)

    labels: Annotated[dict[str, LabelValue], Field(max_length=64)] = Field(
        default_factory=dict,
        description="More labels; the operator's own win, and those that begin with "
        "`splittracr.io/` or `batch.kubernetes.io/` are refused.",
    )
    annotations: Annotated[
        dict[str, Annotated[str, StringConstraints(max_length=65536)]], Field(max_length=64)
    ] = Field(default_factory=dict, description="More annotations; as labels.")
    image: _Image | None = Field(
        default=None, description="Image of the worker; left out: the operator's own choice."
    )
    image_pull_policy: _PullPolicy | None = Field(
        default=None, description="When the image is pulled."
    )
    image_pull_secrets: tuple[ObjectName, ...] = Field(
        default=(), max_length=16, description="Names of secrets with a registry's credentials."
    )
    node_selector: Annotated[dict[str, Text], Field(max_length=32)] | None = Field(
        default=None,
        description="Labels of the node; left out: `splittracr.io/role` is `edge` or `server`.",
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(), max_length=32, description="Taints that the pod accepts."
    )
    toleration_seconds: int | None = Field(
        default=None,
        ge=0,
        le=2**31 - 1,
        description="Seconds that the pod stays on a node that is unreachable or not ready; left "
        "out: the operator's own choice, a day for an edge.",
    )
    affinity: dict[str, Any] = Field(default_factory=dict, description="As in a pod.")
    topology_spread_constraints: tuple[dict[str, Any], ...] = Field(
        default=(),
        max_length=16,
        description="As in a pod; a labelSelector left out selects this study's pods of the role.",
    )
    termination_grace_period_seconds: _Id | None = Field(
        default=None,
        description="Seconds from the request to end until the pod is killed; left out: 30.",
    )
    security_context: PodSecurity = Field(default=PodSecurity(), description="Ids of the pod.")
    container_security_context: ContainerSecurity = Field(
        default=ContainerSecurity(), description="Ids of the worker's container."
    )
    init_containers: InitContainers = Field(
        default=(), description="Containers that run before the worker's, in this order."
    )
    runtime_class_name: ObjectName | None = Field(
        default=None, description="Such as `nvidia`, which k3s needs for a GPU."
    )
    resources: Resources = Field(default=Resources(), description="Requests and limits.")
    env: tuple[EnvVar, ...] = Field(
        default=(), max_length=64, description="Environment variables, besides the operator's."
    )
    volumes: Volumes = Field(default=(), description="For example for a data set or weights.")
    volume_mounts: VolumeMounts = Field(default=(), description="Where they appear.")
    service_account_name: ObjectName | None = Field(
        default=None, description="Left out: the namespace's default; its token is not mounted."
    )
    priority_class_name: ObjectName | None = Field(default=None, description="As in a pod.")
