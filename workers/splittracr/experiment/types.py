"""Types that every layer shares: tensors and cuts as data, and the record of one sample."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
OBJECT_NAME = rf"^{_LABEL}(\.{_LABEL})*$"
ObjectName = Annotated[str, StringConstraints(pattern=OBJECT_NAME, max_length=253)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=253)]


class Frozen(BaseModel):
    """A closed, immutable value: unknown keys fail where they enter."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _readable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


Readable = Annotated[str, AfterValidator(_readable)]
"""Text from outside: what no UTF-8 can carry, as of a file name in another encoding, is escaped."""


class SpecModel(Frozen):
    """A part of the manifest; keys are camelCase there and snake_case in Python."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)


class TensorSpec(Frozen):
    """One live tensor: its name in the graph, shape, torch dtype name and size in bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int


class Cut(Frozen):
    """A position in the order of operations.

    Operations `[0, index)` run on the edge, the rest on the server. `name` is `input` for cut 0,
    `output` for the last one, otherwise the name of the last operation on the edge.
    `bytes` is what the raw codec sends of the live tensors; storage that two of them share counts
    once. `work` is the head's share of the network's floating-point operations, 0 to 1; if these
    cannot be counted, of the time that they took when the network was proven, as `work_by` says.
    """

    index: int
    name: str
    live: tuple[TensorSpec, ...]
    bytes: int
    work: float
    work_by: Literal["operations", "time"] = "operations"


class Place(StrEnum):
    """Where the network's last operation ran."""

    EDGE = "edge"
    SERVER = "server"


STAGES = (
    "load",  # edge: read and decode the picture
    "prepare",  # edge: resize, crop, letterbox
    "edge_wait",  # edge: wait for the compute thread
    "head",  # edge: operations before the cut
    "encode",  # edge: live tensors to bytes
    "network",  # what is left of the total: both directions, both kernels, both event loops
    "other",  # edge: the same where nothing was sent
    "decode",  # server: bytes to live tensors
    "server_wait",  # server: wait for the compute thread
    "tail",  # server: operations after the cut
    "reduce",  # where the tail ran: numeric post-processing
    "reply",  # server: result to bytes
    "finish",  # edge: result to labelled prediction, and its digest where outputs are raw
)
"""Stages of a frame in the order they happen; a record's `stages` sum to its `total_ms`."""

SERVER_STAGES = ("decode", "server_wait", "tail", "reduce", "reply")
"""Those that a server measures."""

EDGE_STAGES = tuple(s for s in STAGES if s not in ("decode", "server_wait", "reply"))
"""Those that an edge measures; `tail` and `reduce` if it finishes a frame itself."""


class Record(Frozen):
    """What happened to one sample. The key is (uid, edge, trial, sample); one record per key.

    Times are milliseconds, sizes bytes on the wire, message headers included. A failed record
    has an `error` and no prediction; its times cover what was done.
    """

    uid: str
    edge: str
    trial: int = Field(description="Number of the (cut, repeat) pair within the study.")
    repeat: int
    sample: int = Field(description="Position in the workload.")
    name: Readable = Field(description="The sample's own name, such as its file name.")
    cut: str
    cut_index: int
    outcome: Literal["ok", "failed"]
    error: Readable | None = None
    finished_on: Place
    fallback: Literal["deadline", "hedge", "server-lost"] | None = Field(
        default=None, description="Why the edge finished a sample that was meant for the server."
    )
    codec: str = Field(default="raw", description="How the live tensors travelled.")
    epoch: int = Field(default=0, description="Counts the changes of cut or codec before it.")
    batch: int = Field(default=1, description="Requests that the server computed together.")
    predicted_ms: float | None = Field(
        default=None, description="The total that the decision expected, where one was made."
    )
    reason: str | None = Field(default=None, description="Why this cut and codec were chosen.")
    emulated: bool = Field(description="The edge was slowed down on purpose.")
    started_at: float = Field(description="Unix time in seconds at which the sample was due.")
    bytes_up: int
    bytes_down: int
    total_ms: float
    stages: dict[str, float] = Field(description="Milliseconds by stage, keys of STAGES.")
    prediction: Any = Field(default=None, description="JSON as the post-processor describes it.")
    label: int | None = Field(default=None, description="The true class where the data has one.")
    top1: bool | None = None
    top5: bool | None = None
    output_digest: str | None = Field(
        default=None, description="SHA-256 of the raw output where the manifest asks for it."
    )
