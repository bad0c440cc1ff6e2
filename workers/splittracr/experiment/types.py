"""Types that every layer shares: tensors and cuts as data, and the record of one sample."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from splittracr.experiment import contracts
from splittracr.experiment.rules import Rule

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
OBJECT_NAME = rf"^{_LABEL}(\.{_LABEL})*$"
ObjectName = Annotated[str, StringConstraints(pattern=OBJECT_NAME, max_length=253)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=253)]


class Frozen(BaseModel):
    """A closed, immutable value: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


SHARE: JsonDict = {"unit": "0 to 1"}
MILLISECONDS: JsonDict = {"unit": "ms"}
UNIX_SECONDS: JsonDict = {"unit": "s since 1970"}
"""Units of fields whose names do not end in them, for `json_schema_extra`."""

SCHEMA_VERSION: Literal[2] = 2
"""Version of the keys of all public files; `versions.py` reads older ones."""

SCHEMA_KEY = "schemaVersion"


class Versioned(Frozen):
    """A public file, or one line of a public file."""

    model_config = ConfigDict(
        validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )

    schema_version: Literal[2] = Field(
        default=SCHEMA_VERSION, alias=SCHEMA_KEY, description="Version of these keys."
    )

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Content of the version before, with the keys of this one."""
        return content


_VERSION_1 = {"network": "link"}
"""Keys of version 1 that have another name in version 2."""


def renamed(content: dict[str, Any], *paths: tuple[str, ...]) -> dict[str, Any]:
    """Content of version 1 with today's keys in the mappings at `paths`.

    A path is the keys from the outermost mapping inwards; it leads into each entry of a list.
    """
    for path in paths:
        content = _renamed(content, path)
    return content


def _renamed(value: Any, path: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_renamed(part, path) for part in value]
    if not isinstance(value, dict):
        return value  # which validation refuses
    if path:
        return {k: _renamed(v, path[1:]) if k == path[0] else v for k, v in value.items()}
    return {_VERSION_1.get(k, k): v for k, v in value.items()}


def _readable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


Readable = Annotated[str, AfterValidator(_readable)]
"""Text from outside: what no UTF-8 can carry, as of a file name in another encoding, is escaped."""


RULES_KEY = "x-kubernetes-validations"


def _with_rules(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Put the model's rules into its JSON schema, in CEL."""
    if issubclass(model, SpecModel) and model.rules:
        schema[RULES_KEY] = [rule.validation() for rule in model.rules]


class SpecModel(Frozen):
    """A part of the manifest; keys are camelCase there and snake_case in Python.

    `rules` are conditions between values. The model and the API server check them.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, json_schema_extra=_with_rules
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        for rule in self.rules:
            rule.check(self)
        return self


class Exactness(StrEnum):
    """How close `tail(head(x))` is to `model(x)` of PyTorch, from the closest on."""

    EXACT = "Exact"
    CONSISTENT = "Consistent"
    BOUNDED = "Bounded"

    def meets(self, demand: "Exactness") -> bool:
        """Whether it is as close as `demand`, or closer."""
        order = list(Exactness)
        return order.index(self) <= order.index(demand)


class TensorSpec(Frozen):
    """One live tensor."""

    name: str = Field(description="Name in the graph.")
    shape: tuple[int, ...] = Field(description="Elements of each dimension.")
    dtype: str = Field(description="Element type, as PyTorch names it.")
    bytes: int = Field(description="Size in memory.")


class Cut(Frozen):
    """A position in the order of operations: those before it run on the edge, the rest on the
    server.
    """

    index: int = Field(description="Number of operations on the edge.")
    name: str = Field(
        description="`input` for the first cut, `output` for the last, else the last operation on "
        "the edge."
    )
    live: tuple[TensorSpec, ...] = Field(description="The live tensors, in order.")
    bytes: int = Field(
        description="Size of the live tensors by the codec `raw`; shared storage counts once."
    )
    work: float = Field(
        description="The head's share of the model's work, as `work_by` counts it.",
        json_schema_extra=SHARE,
    )
    work_by: Literal["operations", "time"] = Field(
        default="operations",
        description="Floating-point operations; if these cannot be counted, the time that they "
        "took at start-up.",
    )
    exactness: Exactness = Field(
        default=Exactness.EXACT,
        description="`Exact`: the output is that of the uncut model in PyTorch, bit for bit. "
        "`Consistent`: it is that of the uncut model in the same runtime. `Bounded`: neither.",
    )
    largest_error: float | None = Field(
        default=None,
        description="Largest difference from the output of PyTorch at start-up, relative to the "
        "largest size in it; null if the cut is exact.",
    )
    top1_agreement: float | None = Field(
        default=None,
        description="Share of the samples at start-up whose first class is that of PyTorch; null "
        "if the cut is exact or results rank no classes.",
        json_schema_extra=SHARE,
    )


class Operation(Frozen):
    """One operation of the model, in the order in which they run."""

    name: str = Field(description="Its name, which is also that of the cut behind it.")
    module: str = Field(
        description="Path of the module that it is or that calls it; empty for the model itself."
    )
    type: str = Field(description="Class of the module, or name of the function.")
    shapes: tuple[tuple[int, ...], ...] = Field(
        description="Shape of each tensor that it makes, the batch first."
    )
    bytes: int = Field(description="Size of these tensors.")
    parameters: int = Field(
        description="Elements of the parameters that it uses. A parameter that several operations "
        "share counts at each of them."
    )
    flops: int | None = Field(
        description="Floating-point operations of a frame, two for a multiplication with an "
        "addition, as PyTorch counts them; null if they cannot be counted."
    )
    whole: bool = Field(
        default=False, description="It is a module with others inside, between which is no cut."
    )


class OperationTime(Frozen):
    """How long one operation takes, without waiting for a core (for a frame, not a sample)."""

    mean_ms: float = Field(description="The mean.")
    p95_ms: float = Field(
        description="95th percentile, interpolated; below 20 readings close to the largest."
    )
    readings: int = Field(
        description="Times that it was measured: while the worker warmed up or, if that was fewer "
        "than three times, in the proof as well."
    )


class Place(StrEnum):
    """The end that ran the network's last operation."""

    EDGE = contracts.EDGE
    SERVER = contracts.SERVER


class Tier(StrEnum):
    """The place of a sample's time."""

    EDGE = contracts.EDGE
    LINK = "link"
    SERVER = contracts.SERVER


@dataclass(frozen=True)
class Stage:
    """A timed part of a frame. A `tier` of None is that of the end that runs the last operation."""

    tier: Tier | None
    meaning: str


STAGES = {
    "load": Stage(Tier.EDGE, "Read and decode the picture."),
    "prepare": Stage(Tier.EDGE, "Resize, crop, letterbox."),
    "small": Stage(
        Tier.EDGE, "The small model of a cascade that was not sure, from reading to its result."
    ),
    "edge_wait": Stage(Tier.EDGE, "Wait for the edge's threads."),
    "head": Stage(Tier.EDGE, "Operations before the cut."),
    "exit": Stage(Tier.EDGE, "Exits of a cascade on the way to the cut, with their results."),
    "encode": Stage(Tier.EDGE, "Live tensors to bytes."),
    "link": Stage(
        Tier.LINK,
        "What is left of the latency: both directions, both kernels, both event loops, and waits "
        "for the session's window or a reconnect.",
    ),
    "other": Stage(
        Tier.EDGE,
        "What is left of the latency if nothing was sent or a hedge came first; `link` is then "
        "0 or missing.",
    ),
    "decode": Stage(Tier.SERVER, "Bytes to live tensors."),
    "server_wait": Stage(Tier.SERVER, "Wait for the compute thread."),
    "tail": Stage(None, "Operations after the cut."),
    "reduce": Stage(None, "Numeric post-processing."),
    "reply": Stage(Tier.SERVER, "Result to bytes."),
    "finish": Stage(Tier.EDGE, "Result to labelled prediction, and its digest if outputs are raw."),
}
"""Stages of a frame by name, in the order they happen; those of a record sum to its `total_ms`."""


def stages_of(*tiers: Tier | None) -> tuple[str, ...]:
    """The names of the stages of these tiers, in order."""
    return tuple(name for name, stage in STAGES.items() if stage.tier in tiers)


MEASURED: dict[str, tuple[str, ...]] = {
    contracts.EDGE: stages_of(Tier.EDGE, Tier.LINK, None),
    contracts.SERVER: stages_of(Tier.SERVER, None),
}
"""The stages that a worker of each role measures. The edge also measures the link, as the rest."""


class Record(Versioned):
    """The record of one sample.

    The key is (uid, edge, trial, sample); there is one record per key. A failed record has an
    `error` and no prediction; its times cover the stages until then.
    """

    uid: str = Field(description="Uid of the study.")
    edge: str = Field(description="Name of the edge.")
    trial: int = Field(description="Number of the (cut, repeat) pair within the study.")
    repeat: int = Field(description="Number of the repeat, from 0.")
    sample: int = Field(description="Position in the workload, from 0.")
    name: Readable = Field(description="The sample's own name, such as its file name.")
    cut: str = Field(description="Name of the cut: `input` is full offload, `output` is edge only.")
    cut_index: int = Field(description="Number of operations before the cut.")
    outcome: Literal["ok", "failed"] = Field(description="Whether there is a prediction.")
    error: Readable | None = Field(default=None, description="Why the sample failed.")
    finished_on: Place = Field(description="Where the last operation of the model ran.")
    fallback: Literal["deadline", "hedge", "server-lost"] | None = Field(
        default=None, description="Why the edge finished a sample that was meant for the server."
    )
    codec: str = Field(
        default="raw", description="How the live tensors travelled, such as `uint8+zstd1`."
    )
    epoch: int = Field(
        default=0,
        description="Counts the changes before it: of cut, codec, or whether the small model or "
        "the exits go first.",
    )
    batch: int = Field(default=1, description="Requests that the server computed together.")
    resent: bool = Field(
        default=False,
        description="Its request waited for a lost server, so `link` contains the outage.",
    )
    predicted_ms: float | None = Field(
        default=None, description="The total that the decision expected, if one was made."
    )
    reason: str | None = Field(default=None, description="Why this cut and codec were chosen.")
    network: Literal["small", "exit", "large"] | None = Field(
        default=None,
        description="In a cascade: what answered. An `exit` is the one at the record's `cut`.",
    )
    sureness: int | None = Field(
        default=None,
        description="In a cascade: how sure the small model was, in millionths, or the exit that "
        "answered; if none did, the surest exit. Absent if neither ran.",
    )
    threshold: int | None = Field(
        default=None,
        description="In a cascade: the threshold in force when the small model or the exits ran, "
        "in millionths. Absent if neither ran.",
    )
    audit: Literal["agrees", "disagrees", "failed"] | None = Field(
        default=None,
        description="Outcome of an audit: whether the large model agrees with the answer of the "
        "small one, or of an exit; `failed` if it had no result. The bytes are those of the audit. "
        "With network `large` it is that of a try of mode Adaptive: the small model or the exits "
        "ran after the answer, so that their figures are learnt.",
    )
    judged: tuple[tuple[int, bool], ...] | None = Field(
        default=None,
        description="Of a sample that was judged for a new threshold after its answer: sureness of "
        "the small model, or of each exit in order, and whether it agrees with the large model. "
        "Empty if one of the models had no result.",
    )
    emulated: bool = Field(description="The edge was slowed down on purpose.")
    started_at: float = Field(
        description="When the sample was due.", json_schema_extra=UNIX_SECONDS
    )
    bytes_up: int = Field(
        description="Sent from edge to server: the message with its header, without those of "
        "websocket, TLS and TCP."
    )
    bytes_down: int = Field(
        description="Sent from server to edge: the message with its header and that of its "
        "websocket frame, at most 10 bytes."
    )
    total_ms: float = Field(description="Latency; the sum of the stages.")
    stages: dict[str, float] = Field(
        description="Time by stage; a stage that did not happen may be missing.",
        json_schema_extra=MILLISECONDS,
    )
    prediction: Any = Field(default=None, description="JSON as the post-processor describes it.")
    label: int | None = Field(default=None, description="The true class if the data has one.")
    boxes: Any = Field(
        default=None,
        description="The labelled boxes if the data has them, a list: `class` (the model's), `box` "
        "(x1, y1, x2, y2 in pixels of the picture), `crowd` (a region of many objects), and if "
        "known `keypoints` (x, y, visibility of each) and `area` (of the object).",
    )
    pixels: Any = Field(
        default=None,
        description="Pixels of the picture by class of the model if the data has masks, a list: "
        "`class`, `labelled`, `predicted`, `both`. Pixels whose label is 255 do not count.",
    )
    top1: bool | None = Field(default=None, description="The true class is ranked first.")
    top5: bool | None = Field(default=None, description="The true class is among the first five.")
    output_digest: str | None = Field(
        default=None, description="SHA-256 of the raw output if the manifest asks for it."
    )

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Content of the version before, with the keys of this one."""
        return renamed(content, ("stages",))
