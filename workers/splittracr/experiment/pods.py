"""What a manifest may say of a worker's pod: a chosen part of Kubernetes' own pod template.

A whole template in the CustomResourceDefinition would be larger than `kubectl apply` can record.
What decides whether a pod is safe (users, capabilities, mounts of the host) is not here.
"""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema, model_validator

from splittracr.experiment.rules import Rule
from splittracr.experiment.types import ObjectName, SpecModel

_QUANTITY = (
    r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]{1,3})?$"
)
_ENVIRONMENT_NAME = r"^[-._A-Za-z][-._A-Za-z0-9]*$"

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

Quantities = Annotated[dict[str, Quantity], Field(max_length=32)]

ONE_SOURCE = Rule("a volume is one of persistentVolumeClaim, configMap, emptyDir and nfs")

PATTERNS = {
    _QUANTITY: "a quantity such as 500m or 2Gi",
    _ENVIRONMENT_NAME: "letters, digits, - _ and .",
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
    """What the container asks for and may take."""

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
    """A volume from one of the sources that lead to nothing of the node's own."""

    name: ObjectName = Field(description="Its name.")
    persistent_volume_claim: dict[str, Any] | None = Field(
        default=None, description="A claim; as in a pod."
    )
    config_map: dict[str, Any] | None = Field(default=None, description="As in a pod.")
    empty_dir: dict[str, Any] | None = Field(default=None, description="As in a pod.")
    nfs: dict[str, Any] | None = Field(default=None, description="As in a pod.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = (self.persistent_volume_claim, self.config_map, self.empty_dir, self.nfs)
        if sum(source is not None for source in sources) != 1:
            raise ONE_SOURCE.broken(self)
        return self


class VolumeMount(SpecModel):
    """Where a volume appears in the container."""

    name: ObjectName = Field(description="Name of the volume.")
    mount_path: Annotated[str, StringConstraints(min_length=1, max_length=4096)] = Field(
        description="Path in the container."
    )
    sub_path: Annotated[str, StringConstraints(max_length=4096)] | None = Field(
        default=None, description="Path within the volume."
    )
    read_only: bool = Field(default=False, description="Whether writing is forbidden.")


class PodSpec(SpecModel):
    """What differs from the pod that the operator makes by itself."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None = Field(
        default=None, description="Image of the worker; left out: the operator's own choice."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
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
    runtime_class_name: ObjectName | None = Field(
        default=None, description="Such as `nvidia`, which k3s wants for a GPU."
    )
    resources: Resources = Field(default=Resources(), description="Of the container.")
    env: tuple[EnvVar, ...] = Field(
        default=(), max_length=64, description="Environment variables, besides the operator's."
    )
    volumes: tuple[Volume, ...] = Field(
        default=(), max_length=16, description="For a data set or weights, say."
    )
    volume_mounts: tuple[VolumeMount, ...] = Field(
        default=(), max_length=16, description="Where they appear."
    )
    service_account_name: ObjectName | None = Field(
        default=None, description="Left out: the namespace's default; its token is not mounted."
    )
    priority_class_name: ObjectName | None = Field(default=None, description="As in a pod.")
