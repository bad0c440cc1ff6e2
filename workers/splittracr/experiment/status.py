"""The status that the operator writes: conditions for programs, a few texts for columns.

It never has data of single samples. Every field may be missing: a status grows as the study runs.
"""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints
from pydantic.config import JsonDict

from splittracr.experiment.contracts import Role
from splittracr.experiment.figures import Count, ReportedStatus, Summary
from splittracr.experiment.types import Name, SpecModel


def _keyed_by(key: str) -> JsonDict:
    """Merge rule of a list of objects: one entry for each value of `key`."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


CONDITION_TYPES = (
    "Ready",
    "Progressing",
    "Reconciling",
    "Succeeded",
    "Stalled",
    "Suspended",
    "Degraded",
)
"""Types of all conditions, in order."""


class Condition(SpecModel):
    """One observed fact about the study."""

    type: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=316)] = Field(
        description=f"{', '.join(CONDITION_TYPES[:-1])} or {CONDITION_TYPES[-1]}."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    observed_generation: Count = Field(description="Generation of the spec that was reconciled.")
    last_transition_time: AwareDatetime = Field(description="When `status` last changed.")
    reason: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=1024)] = (
        Field(description="One CamelCase word for programs.")
    )
    message: Annotated[str, StringConstraints(max_length=32768)] = Field(
        description="A sentence for people."
    )


class StoredArchive(SpecModel):
    """One archive (tar, gzip) of the results store."""

    name: Name = Field(description="Name of the edge, or `logs` for the logs of the workers.")
    bytes: Count = Field(description="Size of the archive.")
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", max_length=64)] = Field(
        description="SHA-256 digest of the archive."
    )


LOGS = "logs"
"""Name of the archive with the logs of a study's workers."""


class StoredResults(SpecModel):
    """The place of the records. `splittracr results NAME` fetches them."""

    edges: tuple[Name, ...] = Field(
        default=(), max_length=1024, description="Edges whose results are there."
    )
    archives: tuple[StoredArchive, ...] = Field(
        default=(),
        max_length=1025,
        description="The archives of the results store, with sizes and digests.",
        json_schema_extra=_keyed_by("name"),
    )
    path: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        default=None,
        description="Path in the operator's results store. Who may get `splitexperiments/results` "
        "of the study may read it.",
    )
    service: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        default=None, description="The store's Service, as `NAMESPACE/NAME`."
    )
    authority: Annotated[str, StringConstraints(max_length=4096)] | None = Field(
        default=None, description="Certificate (PEM) of the authority behind the store's TLS."
    )
    claim: Name | None = Field(default=None, description="The claim that holds them instead.")


class JoinPoint(SpecModel):
    """The place where `splittracr join-token` asks for tokens."""

    service: Annotated[str, StringConstraints(max_length=512)] = Field(
        description="The operator's Service, as `NAMESPACE/NAME`."
    )
    authority: Annotated[str, StringConstraints(max_length=4096)] = Field(
        description="Certificate (PEM) of the authority behind its TLS; edges trust it, too."
    )


class Termination(SpecModel):
    """How a worker's container ended."""

    reason: Annotated[str, StringConstraints(min_length=1, max_length=1024)] = Field(
        description="Reason that Kubernetes gives, such as `OOMKilled`, `Error` or `Evicted`."
    )
    exit_code: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] | None = Field(
        default=None, description="Exit code of the container; 128 + N if signal N ended it."
    )
    memory_limit: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None, description="Memory limit of the container, such as `96Mi`."
    )
    finished_at: AwareDatetime | None = Field(default=None, description="When it ended.")
    times: Count = Field(default=1, description="How often containers of this pod have ended.")
    message: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        default=None, description="Its error, or the last lines of its log."
    )


class Worker(SpecModel):
    """One worker. A worker whose pod is gone stays until another pod takes its place."""

    name: Name = Field(description="Name of the pod; of an edge outside, its own.")
    role: Role = Field(description="`edge` or `server`.")
    edge: Name | None = Field(default=None, description="Name of the edge, such as `edge-0`.")
    node: Name | None = Field(default=None, description="Node it was scheduled to.")
    outside: bool = Field(
        default=False, description="It runs outside of the cluster and has no pod."
    )
    ready: bool = Field(
        default=False,
        description="Whether the pod is ready; of an edge outside, whether it reports.",
    )
    restarts: Count = Field(default=0, description="Times its container was started again.")
    last_termination: Termination | None = Field(
        default=None, description="How its last container ended, also if that was in another pod."
    )


class ExperimentStatus(ReportedStatus):
    """The observed state of the study; programs may rely on the conditions."""

    observed_generation: Count | None = Field(
        default=None, description="Generation of the spec that this status describes."
    )
    state: Name | None = Field(
        default=None, description="One word for the column; programs read `conditions`."
    )
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=16,
        description=f"{', '.join(CONDITION_TYPES[:-1])} and {CONDITION_TYPES[-1]}.",
        json_schema_extra=_keyed_by("type"),
    )
    start_time: AwareDatetime | None = Field(
        default=None, description="When the workers were first created."
    )
    completion_time: AwareDatetime | None = Field(
        default=None, description="When the study ended, well or not."
    )
    placement: Summary | None = Field(
        default=None, description="For the wide column, such as `edge-1 -> gpu-1`."
    )
    workers: tuple[Worker, ...] = Field(
        default=(),
        max_length=2050,
        description="The workers: pods, and edges outside of the cluster.",
        json_schema_extra=_keyed_by("name"),
    )
    results: StoredResults | None = Field(default=None, description="Where the records are.")
    join: JoinPoint | None = Field(
        default=None, description="For a study with edges outside of the cluster."
    )

    def standing(self) -> str:
        """The state and its reason, in a sentence."""
        ready = next((c for c in self.conditions if c.type == "Ready"), None)
        if ready is None:
            return "not known yet: no operator has reconciled it"
        return f"{self.state}: {ready.message}"
