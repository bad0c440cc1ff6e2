"""The sections of a manifest about its run: link, transport, workload, workers, results, logs."""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from splittracr.experiment.contracts import Runtime
from splittracr.experiment.marks import DEFINES, LIVE, UNTIL_REPORT
from splittracr.experiment.pods import PodSpec
from splittracr.experiment.rules import Rule
from splittracr.experiment.spec_rules import (
    GRAPHS_NEED_CUDA,
    HOST_NEEDS_OUTSIDE,
    ONE_LINK,
    ONE_RADIO,
    SOME_EDGE,
    SOME_RATE,
    WHOLE_BATCHES,
)
from splittracr.experiment.spec_values import (
    CodecName,
    Device,
    FilePath,
    Milliwatts,
    PictureCodecName,
    PictureCount,
    Port,
)
from splittracr.experiment.types import Name, ObjectName, SpecModel

Kilobits = Annotated[int, Field(ge=1, le=400_000_000)]
KilobitsOrNone = Annotated[int, Field(ge=0, le=400_000_000)]
RoundTrip = Annotated[int, Field(ge=0, le=60_000)]


class PhaseSpec(SpecModel):
    """A time during which an emulated link stays as it is."""

    duration_seconds: int = Field(ge=1, le=1_000_000, description="How long it lasts.")
    uplink_kilobits_per_second: KilobitsOrNone = Field(
        description="Rate from edge to server; at 0 nothing gets through."
    )
    downlink_kilobits_per_second: KilobitsOrNone = Field(
        description="Rate from server to edge; at 0 nothing gets through."
    )
    round_trip_milliseconds: RoundTrip = Field(default=0, description="Round-trip time.")


class LinkSpec(SpecModel):
    """An emulated link: each end delays its messages until they would have arrived.

    The time of the real link is added, so it should be much faster.
    """

    rules = (ONE_LINK, SOME_RATE)

    uplink_kilobits_per_second: Kilobits | None = Field(
        default=None, description="Rate from edge to server."
    )
    downlink_kilobits_per_second: Kilobits | None = Field(
        default=None, description="Rate from server to edge."
    )
    trace: FilePath | None = Field(
        default=None,
        description="A recorded link instead: CSV with the columns `duration_ms`, "
        "`bandwidth_kbps` and `latency_ms` (the round trip), repeated for ever. In pods the "
        "file has to be in the image; `phases` need none.",
    )
    phases: tuple[PhaseSpec, ...] = Field(
        default=(), max_length=1000, description="Rates by time instead, repeated for ever."
    )
    uplink_percent: int = Field(
        default=100, ge=1, le=10_000, description="Share of the rates that the uplink has."
    )
    downlink_percent: int = Field(
        default=100, ge=1, le=10_000, description="Share of the rates that the downlink has."
    )
    offset_seconds: int = Field(
        default=0, ge=0, le=10_000_000, description="Position in the trace or phases at the start."
    )
    round_trip_milliseconds: RoundTrip | None = Field(
        default=None, description="Round-trip time; the trace's or the phases' own if left out."
    )
    jitter_milliseconds: RoundTrip = Field(
        default=0, description="A packet takes up to this much longer, evenly distributed."
    )
    loss_per_million: int = Field(
        default=0,
        ge=0,
        le=500_000,
        description="Packets that are lost; the transport shows each as a stall.",
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Seed of jitter and loss.")


class Security(StrEnum):
    """How the connection is protected."""

    TLS = "TLS"
    PLAIN = "Plain"


class TransportSpec(SpecModel):
    """The websocket between edge and server."""

    security: Annotated[Security, DEFINES] = Field(
        default=Security.TLS,
        description="`TLS`, or `Plain` text that others on the path can read and change.",
    )
    connect_timeout_seconds: int = Field(
        default=120, ge=1, le=86400, description="How long the edge waits for the handshake."
    )
    codec: Annotated[CodecName, LIVE] = Field(
        default="raw",
        description="How live tensors travel: `raw`, `float16`, `uint8` or `uint4`, alone or "
        "with a lossless stage, such as `uint8+zstd1` or `raw+blosc2-zstd-3-shuffle`.",
    )
    picture_codec: Annotated[PictureCodecName, LIVE] = Field(
        default="uint8",
        description="How pictures travel at the cut `input`, such as `uint8`, `png`, `jpeg90`, "
        "`webp`, `avif60` or, in half the width and height, `webp75@50`.",
    )
    heartbeat_seconds: int = Field(
        default=10,
        ge=1,
        le=3600,
        description="After so long without a byte from the server, the edge pings it on the "
        "control connection. After as long again the server counts as lost, and the edge "
        "reconnects.",
    )
    max_message_mebibytes: int = Field(
        default=512,
        ge=1,
        le=4096,
        description="Max size of the encoded tensors of a frame that either end accepts.",
    )
    link: Annotated[LinkSpec | None, DEFINES] = Field(
        default=None, description="An emulated link; the real one alone if left out."
    )

    @property
    def max_message_bytes(self) -> int:
        """The same limit in bytes."""
        return self.max_message_mebibytes * 2**20


class ClosedLoop(SpecModel):
    """The next frame starts when one of those in flight has finished."""

    mode: Literal["Closed"] = Field(
        default="Closed",
        description="`Closed`: a frame starts when one has finished. `Open`: frames are due at "
        "scheduled times, and latency counts from then.",
    )
    in_flight: int = Field(
        default=1,
        ge=0,
        le=256,
        description="Max frames in flight; 0 takes as many as keep the slowest of the measured "
        "stages busy.",
    )


class OpenLoop(SpecModel):
    """Frames are due at scheduled times; latency counts from the time a frame was due."""

    mode: Literal["Open"]
    frames_per_minute: int = Field(ge=1, le=600000, description="Mean rate of arrivals.")
    process: Literal["Regular", "Poisson"] = Field(
        default="Regular", description="Equal gaps, or exponential ones."
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Seed of exponential gaps.")


class WorkloadSpec(SpecModel):
    """How many frames, and when."""

    rules = (WHOLE_BATCHES,)

    samples: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Samples at each cut; the data set is repeated or cut short. Left out: all of "
        "the data set; if that is no multiple of `batchSize`, the last frame is filled from its "
        "beginning.",
    )
    batch_size: Annotated[int, DEFINES] = Field(
        default=1, ge=1, le=1024, description="Samples in one frame; 1 with a cascade."
    )
    warm_up: int = Field(
        default=1, ge=0, le=1000, description="Frames run at each cut before any is recorded."
    )
    arrival: Annotated[ClosedLoop | OpenLoop, Field(discriminator="mode"), DEFINES] = Field(
        default=ClosedLoop(), description="Closed or open loop."
    )


class WorkerSpec(SpecModel):
    """The fields of both kinds of worker."""

    rules: ClassVar[tuple[Rule, ...]] = (GRAPHS_NEED_CUDA,)

    device: Annotated[Device, DEFINES] = Field(
        default="auto", description="`auto` takes an accelerator if there is one; output names it."
    )
    threads: Annotated[int, DEFINES] = Field(
        default=1, ge=1, le=1024, description="Threads of one operation."
    )
    runtime: Annotated[Runtime, DEFINES] = Field(
        default=Runtime.TORCH,
        description="What computes this end's operations: `Torch`; `OnnxRuntime` on the processor "
        "(extra `onnx`), which is faster there and not exact: see `model.exactness`; or "
        "`CudaGraphs` on a CUDA device, which computes the bits of `Torch` with fewer launches.",
    )
    session_mebibytes: int = Field(
        default=1024,
        ge=1,
        le=1_048_576,
        description="With runtime OnnxRuntime: memory of its sessions. Each cut in use needs one, "
        "which takes up to twice its weights. A sweep needs room for all of its cuts. In other "
        "modes a session that was dropped is made again if it is needed. "
        "With runtime CudaGraphs: memory of the device for graphs. A cut without one is computed "
        "eagerly.",
    )


class PowerSpec(SpecModel):
    """Power that you measured, for machines without a sensor. Values from it are `modelled`."""

    rules = (ONE_RADIO,)

    compute_milliwatts: Milliwatts | None = Field(
        default=None, description="Power while the edge computes."
    )
    transmit_milliwatts: Milliwatts | None = Field(
        default=None, description="Power while a frame is on the link."
    )
    idle_milliwatts: Milliwatts = Field(default=0, description="Power while the edge waits.")
    nanojoules_per_bit: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="Energy of each bit that the edge sends or receives.",
    )


class EdgeSpec(WorkerSpec):
    """The edge worker."""

    rules = (*WorkerSpec.rules, SOME_EDGE)

    slowdown_percent: Annotated[int, DEFINES] = Field(
        default=100,
        ge=100,
        le=100_000,
        description="Multiplies the CPU time of each stage on the edge by this share, not its "
        "waiting, by sleeping at the end of the stage; on CUDA the launches and what the device "
        "does after them. With `threads` above 1 it multiplies wall-clock time, so that cores have "
        "to be free. No stage takes more than this share of its own wall-clock time. Every output "
        "then says `emulated`.",
    )
    host: Name = Field(
        default="127.0.0.1", description="Address to listen on for health and metrics."
    )
    metrics_port: Port = Field(
        default=0, description="Port of health and metrics; 0 takes a free one."
    )
    power: PowerSpec | None = Field(
        default=None, description="Declared power, for edges without sensors."
    )
    model_path: FilePath | None = Field(
        default=None,
        description="With runtime OnnxRuntime, on an edge without PyTorch: folder that `splittracr "
        "export` has written. Left out: the server hands the model over, once.",
    )
    replicas: int = Field(
        default=1,
        ge=0,
        le=1024,
        description="Number of edges; each runs the whole workload.",
    )
    outside: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="In a cluster: number of further edges that run outside of it. `splittracr "
        "join-token` prints the command that starts one. Elsewhere they are edges like the others.",
    )
    pod: Annotated[PodSpec, UNTIL_REPORT] = Field(
        default=PodSpec(), description="The edges' pods in a cluster."
    )

    @property
    def count(self) -> int:
        """All edges, those outside of a cluster among them."""
        return self.replicas + self.outside


class ServiceSpec(SpecModel):
    """How edges outside of a cluster reach the server."""

    rules = (HOST_NEEDS_OUTSIDE,)

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        default="ClusterIP", description="As in a Service; edges outside need one of the others."
    )
    host: ObjectName | None = Field(
        default=None,
        description="Name or IPv4 address under which edges outside reach the Service: of a node, "
        "or of the load balancer. The server's certificate contains it.",
    )


class ServerSpec(WorkerSpec):
    """The server worker."""

    host: Name = Field(default="127.0.0.1", description="Address to listen on.")
    port: Port = Field(default=0, description="Port to listen on; 0 takes a free one.")
    metrics_port: Port = Field(
        default=0,
        description="Port of health and metrics, always over plain HTTP; 0 takes a free one.",
    )
    max_edges: int = Field(
        default=64, ge=1, le=4096, description="Max edges with a session; others have to wait."
    )
    max_batch: Annotated[int, DEFINES] = Field(
        default=1,
        ge=1,
        le=256,
        description="Max waiting requests at the same cut that are computed together, if start-up "
        "has shown that this gives the same results to within 1 in 1,000 of the largest. 1 keeps "
        "results exact; so does `results.outputs` Raw, with which nothing is batched.",
    )
    pod: Annotated[PodSpec, UNTIL_REPORT] = Field(
        default=PodSpec(), description="The server's pod in a cluster."
    )
    service: ServiceSpec = Field(
        default=ServiceSpec(), description="The server's Service in a cluster."
    )


class LogLevel(StrEnum):
    """What workers log."""

    DEBUG = "Debug"
    INFO = "Info"
    WARNING = "Warning"
    ERROR = "Error"


class LoggingSpec(SpecModel):
    """What workers log, on standard error and in files of the results folder."""

    level: LogLevel = Field(
        default=LogLevel.INFO,
        description="Lowest level that is logged. `Debug` logs each frame and request.",
    )


class ResultsSpec(SpecModel):
    """The results beside the records."""

    pictures: PictureCount = Field(
        default=8,
        description="Number of pictures to draw predictions on, from the first; or `All`.",
    )
    pictures_per_cut: bool = Field(
        default=False,
        description="Draw the prediction of each cut as well, below `pictures/INDEX-CUT`.",
    )
    outputs: Annotated[Literal["Reduced", "Raw"], DEFINES] = Field(
        default="Reduced",
        description="`Raw` returns the model's own output to the edge and records its digest.",
    )
    energy: Literal["Auto", "Off"] = Field(
        default="Auto",
        description="`Auto` reads the energy sensors that are there. A sweep then runs each cut "
        "for another second or more at its end, as sensors are too slow for single frames.",
    )
    claim: ObjectName | None = Field(
        default=None,
        description="PersistentVolumeClaim in the study's namespace that keeps the results in a "
        "cluster, below NAME-UID/EDGE with the first 8 characters of the UID. Left out: the "
        "operator keeps them.",
    )
