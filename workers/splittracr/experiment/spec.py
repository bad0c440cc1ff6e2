"""`SplitExperiment`, the description of a study.

The same models read a file here, are the API server's schema (`crd.py`) and travel to the
workers. Field names are camelCase in manifests, units stand in the name, and no field is a
floating-point number. The sections of a manifest are in `spec_model.py`, `spec_workers.py` and,
for the partition, here; others import all of them from this module.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from splittracr.experiment.contracts import Statistic
from splittracr.experiment.marks import DEFINES, LIVE
from splittracr.experiment.spec_model import (
    TIMM_PREFIX,
    TRANSFORMERS_PREFIX,
    DatasetSource,
    DatasetSpec,
    DType,
    InputSpec,
    InputType,
    Letterbox,
    ModelSpec,
    PostprocessSpec,
    Source,
)
from splittracr.experiment.spec_rules import (
    ACCURACY_NEEDS_PERCENT,
    ADAPTIVE_DECIDES,
    ADAPTIVE_NEEDS_ADAPTIVE,
    BANDIT_HAS_NO_CASCADE,
    BANDIT_LEARNS_LATENCY,
    CASCADE_HAS_NO_BATCHES,
    CASCADE_NEEDS_CASCADE,
    CLASSES_NEED_MODEL,
    CUT_NEEDS_STATIC,
    CUTS_NEED_SWEEP,
    EXITS_NEED_TORCH,
    EXITS_RANK,
    HEDGE_COMPUTES_TWICE,
    MODEL_OR_EXITS,
    ONNX_IS_FLOAT32,
    RECALIBRATE_CAN_PROVE,
    RECALIBRATE_NEEDS_AUDITS,
    SMALL_ENDS_BEFORE_OUTPUT,
    WEIGHTS_NEED_WEIGHTED,
)
from splittracr.experiment.spec_values import (
    CodecName,
    CutRef,
    FilePath,
    LayerRef,
    Milliwatts,
    PictureCodecName,
    PolicyName,
    Seconds,
    StaticCut,
)
from splittracr.experiment.spec_workers import (
    ClosedLoop,
    EdgeSpec,
    LinkSpec,
    LoggingSpec,
    LogLevel,
    OpenLoop,
    PhaseSpec,
    PowerSpec,
    ResultsSpec,
    Security,
    ServerSpec,
    ServiceSpec,
    TransportSpec,
    WorkerSpec,
    WorkloadSpec,
)
from splittracr.experiment.types import OBJECT_NAME, Name, SpecModel

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "LONGEST_NAME",
    "TIMM_PREFIX",
    "TRANSFORMERS_PREFIX",
    "VERSION",
    "AdaptiveObjective",
    "AdaptiveSpec",
    "CascadeSpec",
    "ClosedLoop",
    "DType",
    "DatasetSource",
    "DatasetSpec",
    "EdgeSpec",
    "ExperimentSpec",
    "InputSpec",
    "InputType",
    "LayerRef",
    "Letterbox",
    "LinkSpec",
    "LogLevel",
    "LoggingSpec",
    "Metadata",
    "Mode",
    "ModelSpec",
    "OnServerLoss",
    "OpenLoop",
    "PartitionSpec",
    "PhaseSpec",
    "PostprocessSpec",
    "PowerSpec",
    "ResultsSpec",
    "Security",
    "ServerSpec",
    "ServiceSpec",
    "Source",
    "SplitExperiment",
    "StaticCut",
    "StudyName",
    "TransportSpec",
    "WorkerSpec",
    "WorkloadSpec",
]

GROUP = "splittracr.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "SplitExperiment"


class Mode(StrEnum):
    """How the cut is chosen."""

    STATIC = "Static"
    SWEEP = "Sweep"
    EDGE_ONLY = "EdgeOnly"
    SERVER_ONLY = "ServerOnly"
    ADAPTIVE = "Adaptive"
    CASCADE = "Cascade"


class OnServerLoss(StrEnum):
    """What happens to the study when the server is lost."""

    FAIL = "Fail"
    WAIT = "Wait"
    FINISH_ON_EDGE = "FinishOnEdge"


class AdaptiveObjective(StrEnum):
    """What a decision minimises."""

    LATENCY = "Latency"
    THROUGHPUT = "Throughput"
    ENERGY = "Energy"
    WEIGHTED = "Weighted"


Weight = Annotated[int, Field(ge=0, le=1000)]


class AdaptiveSpec(SpecModel):
    """How mode Adaptive chooses cut and codec while the study runs."""

    rules = (
        WEIGHTS_NEED_WEIGHTED,
        HEDGE_COMPUTES_TWICE,
        BANDIT_LEARNS_LATENCY,
        ACCURACY_NEEDS_PERCENT,
    )

    policy: PolicyName = Field(
        default="Deadline",
        description="`Adaptive` takes the best cut and codec by the estimates of link and "
        "server. `Deadline` does so and finishes a frame on the edge when its reply is overdue. "
        "`Hedge` also runs the tail of every frame on the edge, which costs energy, and the first "
        "answer counts. `Bandit` learns from end-to-end times alone: it sends no probes, and "
        "percentile, hysteresis, dwell and period have no effect. `package.module:Class` is a "
        "policy of your own.",
    )
    objective: AdaptiveObjective = Field(
        default=AdaptiveObjective.LATENCY,
        description="`Latency` of a frame, the slowest stage (`Throughput`), the edge's `Energy`, "
        "or their `Weighted` sum, each divided by that of the edge alone. Energy is predicted from "
        "the watts that the edge's sensors show at the start, without sensors from `edge.power`.",
    )
    latency_percentile: int = Field(
        default=50, ge=50, le=99, description="The percentile of latency that is minimised."
    )
    latency_weight: Weight = Field(default=0, description="With objective Weighted only.")
    throughput_weight: Weight = Field(default=0, description="With objective Weighted only.")
    energy_weight: Weight = Field(default=0, description="With objective Weighted only.")
    hysteresis_percent: int = Field(
        default=10, ge=0, le=1000, description="A switch has to gain more than this."
    )
    min_dwell_milliseconds: int = Field(
        default=0, ge=0, le=3_600_000, description="Min time from one switch to the next."
    )
    period_milliseconds: int = Field(
        default=0, ge=0, le=3_600_000, description="Time between decisions; 0 is every frame."
    )
    deadline_percent: int = Field(
        default=150,
        ge=100,
        le=10_000,
        description="With policy Deadline: a reply is overdue after this share of the expected "
        "wait for it.",
    )
    probe_after_milliseconds: int = Field(
        default=1000,
        ge=10,
        le=3_600_000,
        description="While nothing is sent, the link is measured this often by a transfer of at "
        "most 64 KiB.",
    )
    codecs: tuple[CodecName, ...] = Field(
        default=(),
        max_length=64,
        description="Codecs of live tensors to choose from; if empty, `transport.codec`.",
    )
    picture_codecs: tuple[PictureCodecName, ...] = Field(
        default=(),
        max_length=64,
        description="Codecs of the cut `input` to choose from; if empty, `transport.pictureCodec`.",
    )
    edge_memory_mebibytes: int | None = Field(
        default=None,
        ge=1,
        le=1_048_576,
        description="Max memory of the weights and the live tensors of a head. The edge alone "
        "stays a candidate: it is the only one without a server.",
    )
    agreement_percent: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="Lossy codecs are used only if at least this share of first classes is that of "
        "the uncoded model, or of a detector's detections match, or of pixels have the same class. "
        "Start-up measures it on up to 16 samples. A model whose results have none of these then "
        "uses lossless codecs only.",
    )
    accuracy_percent: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="Only candidates are used that keep at least this share of the uncut, uncoded "
        "model's accuracy, by `accuracyFile`; left out: by the agreement that start-up measures, "
        "as for `agreementPercent`. A lossy candidate without a figure is not used.",
    )
    accuracy_file: FilePath | None = Field(
        default=None,
        description="`rate.json` of `splittracr rate`: accuracy by cut and codec, or agreement if "
        "its samples had no labels. In pods the file has to be in the image.",
    )
    compute_milliwatts: Milliwatts | None = Field(
        default=None, description="Deprecated: `edge.power.computeMilliwatts`."
    )
    transmit_milliwatts: Milliwatts | None = Field(
        default=None, description="Deprecated: `edge.power.transmitMilliwatts`."
    )
    idle_milliwatts: Milliwatts = Field(
        default=0, description="Deprecated: `edge.power.idleMilliwatts`."
    )

    @property
    def declares_power(self) -> bool:
        """Whether a deprecated key is in use."""
        return (self.compute_milliwatts, self.transmit_milliwatts, self.idle_milliwatts) != (
            None,
            None,
            0,
        )


class CascadeSpec(SpecModel):
    """The small model that answers on the edge if it is sure enough, or the exits that do.

    `splittracr calibrate` finds the threshold.
    """

    rules = (
        MODEL_OR_EXITS,
        CLASSES_NEED_MODEL,
        EXITS_RANK,
        RECALIBRATE_NEEDS_AUDITS,
        RECALIBRATE_CAN_PROVE,
    )

    model: ModelSpec | None = Field(
        default=None, description="The small model. Only the edge has it."
    )
    exits: FilePath | None = Field(
        default=None,
        description="Instead of a small model: a file of `splittracr exits train`, which only the "
        "edge needs, or `Declared`: the exits that a model of your own declares. A sample ends at "
        "the first exit that is sure enough. `cut` is after the last one, or `input`. In pods the "
        "file has to be in the image. With `edge.runtime: Torch` only.",
    )
    statistic: Statistic = Field(
        description="How sureness follows from scores. Of classes, as exits have them: `Margin`, "
        "the first probability less the second; `Probability`, the first; `Entropy`, 1 less the "
        "entropy as a share of the largest one. Of detections: `MeanScore`, `MinScore`, "
        "`LowerQuartile`."
    )
    threshold_per_million: int = Field(
        ge=1,
        le=1_000_001,
        description="The small model, or an exit, answers if its sureness, in millionths, is at "
        "least this.",
    )
    max_disagreement_per_million: int | None = Field(
        default=None,
        ge=1,
        le=999_999,
        description="The promise that the calibration proved: at most this share of these answers "
        "disagree with the large model. Audits watch it; left out: they only count. Mode Adaptive "
        "does not use a small model or exits whose audits refute it.",
    )
    audit_percent: int = Field(
        default=5,
        ge=0,
        le=100,
        description="Share of these answers whose sample goes to the large model all the same, "
        "after the answer. At 0 a drift goes unnoticed.",
    )
    recalibrate: int | None = Field(
        default=None,
        ge=1,
        le=20_000,
        description="Pictures that choose a new threshold after audits have refuted the promise, "
        "at least 5,000,000 / `maxDisagreementPerMillion`. The large model answers all samples "
        "until the pictures prove the same promise again. Left out: the threshold stays.",
    )
    match_percent: int = Field(
        default=50,
        ge=1,
        le=100,
        description="Answers of detectors agree if at least this share of detections match (class, "
        "IoU 0.5).",
    )
    classes: dict[str, Any] | None = Field(
        default=None,
        description="Class names or numbers of the small model as those of the large one. A null "
        "is a class with which the small model must not answer. Left out: both have the same.",
    )


class PartitionSpec(SpecModel):
    """Where the model is cut."""

    rules = (
        CUT_NEEDS_STATIC,
        CUTS_NEED_SWEEP,
        CASCADE_NEEDS_CASCADE,
        BANDIT_HAS_NO_CASCADE,
        SMALL_ENDS_BEFORE_OUTPUT,
        ADAPTIVE_NEEDS_ADAPTIVE,
        ADAPTIVE_DECIDES,
    )

    mode: Annotated[Mode, DEFINES] = Field(
        default=Mode.STATIC,
        description="`Static`: at `cut`. `Sweep`: at each of `cuts` in turn. `EdgeOnly` and "
        "`ServerOnly` do not split. `Adaptive`: split if it pays, decided before each frame; with "
        "`cascade` also whether the small model or the exits go first. "
        "`Cascade`: a small model on the edge, or an exit, answers the samples that it is sure of, "
        "the others go on at `cut`.",
    )
    cut: Annotated[CutRef | None, LIVE] = Field(
        default=None, description="The cut of modes Static and Cascade."
    )
    layer: Annotated[int | None, LIVE] = Field(
        default=None,
        ge=0,
        le=100_000,
        description="The same cut as SplitTracr (tracr) counts it: after this layer. "
        "Layers are the model's modules in order, from 0, down to `layerDepth`.",
    )
    layer_depth: Annotated[int, LIVE] = Field(
        default=2,
        ge=1,
        le=32,
        description="With `layer`: the depth of modules that count as layers. At 2 `features.3` "
        "is a layer and `features` is not; at 1 `features` is one and `features.3` is not.",
    )
    cuts: Annotated[tuple[CutRef, ...], DEFINES] = Field(
        default=(),
        max_length=4096,
        description="In mode Sweep the cuts to measure; if empty, `maxCuts` spread over the work. "
        "In mode Adaptive the cuts to choose from, beside the edge alone; if empty, all.",
    )
    max_cuts: Annotated[int, DEFINES] = Field(
        default=16, ge=2, le=4096, description="Max number of cuts that a sweep chooses itself."
    )
    repeats: int = Field(
        default=1, ge=1, le=10000, description="Times each sample is measured at each cut."
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=2**31 - 1,
        description="Seed of a sweep's order, and of the samples of a cascade that are audited or "
        "judged.",
    )
    adaptive: Annotated[AdaptiveSpec | None, DEFINES] = Field(
        default=None, description="How mode Adaptive chooses."
    )
    cascade: Annotated[CascadeSpec | None, DEFINES] = Field(
        default=None,
        description="The small model or the exits of mode Cascade, and when they answer. In mode "
        "Adaptive they go first if that pays.",
    )
    on_server_loss: OnServerLoss | None = Field(
        default=None,
        description="If the server is lost: `Wait` for it and send the requests again, finish "
        "samples on the edge (`FinishOnEdge`), or end the study (`Fail`). Left out: `Wait`, and "
        "`FinishOnEdge` in mode Adaptive.",
    )
    deadline_milliseconds: Annotated[int | None, LIVE] = Field(
        default=None,
        ge=1,
        le=3_600_000,
        description="If there is no reply this long after a sample was handed to the link, the "
        "edge finishes it from the kept live tensors.",
    )
    hedge_delay_milliseconds: Annotated[int | None, LIVE] = Field(
        default=None,
        ge=0,
        le=3_600_000,
        description="The edge starts the tail itself this long after the head (0: at once, beside "
        "the encoder). The first result counts.",
    )

    @property
    def static_cut(self) -> StaticCut | None:
        """The cut of mode Static or Cascade, by name, index or layer; None in other modes."""
        return self.cut if self.layer is None else LayerRef(self.layer, self.layer_depth)

    def compares(self, cuts: int) -> bool:
        """Whether the figures of this many cuts that were used can be compared.

        In a sweep all cuts have the same frames. In other modes a frame has one cut, and link and
        samples may differ from cut to cut.
        """
        if self.mode is Mode.SWEEP:
            return True
        return cuts < 2 and self.mode is not Mode.ADAPTIVE and self.cascade is None

    @property
    def server_loss(self) -> OnServerLoss:
        """What to do if the server is lost; the default depends on the mode."""
        adaptive = self.mode is Mode.ADAPTIVE
        return self.on_server_loss or (
            OnServerLoss.FINISH_ON_EDGE if adaptive else OnServerLoss.WAIT
        )


class ExperimentSpec(SpecModel):
    """The study itself."""

    rules = (CASCADE_HAS_NO_BATCHES, EXITS_NEED_TORCH, ONNX_IS_FLOAT32)

    model: Annotated[ModelSpec, DEFINES]
    dataset: Annotated[DatasetSpec, DEFINES] = DatasetSpec()
    postprocess: Annotated[PostprocessSpec, DEFINES] = PostprocessSpec()
    partition: PartitionSpec
    transport: TransportSpec = TransportSpec()
    workload: WorkloadSpec = WorkloadSpec()
    edge: EdgeSpec = EdgeSpec()
    server: ServerSpec = ServerSpec()
    results: ResultsSpec = ResultsSpec()
    logging: LoggingSpec = LoggingSpec()
    suspend: Annotated[bool, LIVE] = Field(
        default=False,
        description="In a cluster: no workers as long as this is true. Records are kept.",
    )
    active_deadline_seconds: Annotated[Seconds | None, LIVE] = Field(
        default=None,
        description="In a cluster: the study fails when its edges have run for longer; a "
        "suspension restarts the count.",
    )
    pending_deadline_seconds: Annotated[Seconds | None, LIVE] = Field(
        default=None,
        description="In a cluster: the study fails when a pod has waited longer for a node, an "
        "image or a volume. Left out: it waits for ever.",
    )
    backoff_limit: Annotated[int, LIVE] = Field(
        default=6,
        ge=0,
        le=1000,
        description="In a cluster: max failures of all edges together; one more fails the study. "
        "Failures of other containers in their pods do not count.",
    )
    ttl_seconds_after_finished: Annotated[int | None, LIVE] = Field(
        default=None,
        ge=0,
        le=2**31 - 1,
        description="In a cluster: pods, service and secret are deleted this long after the end; "
        "the study and its results stay.",
    )

    @property
    def edge_models(self) -> dict[str, ModelSpec]:
        """The models that an edge builds, by their place in the manifest."""
        cascade = self.partition.cascade
        if cascade is None or cascade.model is None:
            return {"spec.model": self.model}
        return {"spec.model": self.model, "spec.partition.cascade.model": cascade.model}

    @property
    def declared_power(self) -> PowerSpec | None:
        """`edge.power`, or the deprecated fields below `partition.adaptive`."""
        old = self.partition.adaptive
        if self.edge.power is not None or old is None or not old.declares_power:
            return self.edge.power
        return PowerSpec(
            compute_milliwatts=old.compute_milliwatts,
            transmit_milliwatts=old.transmit_milliwatts,
            idle_milliwatts=old.idle_milliwatts,
        )

    @property
    def deprecations(self) -> tuple[str, ...]:
        """A sentence for each key that the next version will refuse."""
        old = self.partition.adaptive
        if old is None or not old.declares_power:
            return ()
        place = "spec.partition.adaptive"
        return (f"the watts below {place} have moved to spec.edge.power: move them",)


LONGEST_NAME = 200
"""Of a study: its results lie in a folder with its name and part of its uid."""

StudyName = Annotated[str, StringConstraints(pattern=OBJECT_NAME, max_length=LONGEST_NAME)]


class Metadata(SpecModel):
    """The part of Kubernetes' metadata that a local run uses; the rest is accepted and unused."""

    model_config = ConfigDict(extra="ignore")

    name: StudyName
    namespace: Name = "default"
    uid: Name | None = None


class SplitExperiment(SpecModel):
    """A manifest."""

    api_version: Literal["splittracr.io/v1alpha1"] = "splittracr.io/v1alpha1"
    kind: Literal["SplitExperiment"] = "SplitExperiment"
    metadata: Metadata
    spec: ExperimentSpec
