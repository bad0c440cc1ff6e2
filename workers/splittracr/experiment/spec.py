"""`SplitExperiment`, the description of a study.

The same models read a file here, are the API server's schema (`crd.py`) and travel to the
workers. Field names are camelCase in manifests, units stand in the name, and no field is a
floating-point number.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, StringConstraints

from splittracr.experiment.codec import CODEC_PATTERN, PICTURE_PATTERN, Codec, PictureCodec
from splittracr.experiment.contracts import Runtime, Statistic
from splittracr.experiment.marks import DEFINES, LIVE, UNTIL_REPORT
from splittracr.experiment.pods import PATTERNS as POD_PATTERNS
from splittracr.experiment.pods import PodSpec
from splittracr.experiment.rules import Rule
from splittracr.experiment.spec_rules import (
    ACCURACY_NEEDS_PERCENT,
    ADAPTIVE_DECIDES,
    ADAPTIVE_NEEDS_ADAPTIVE,
    ARGS_NEED_TRANSFORM,
    BANDIT_LEARNS_LATENCY,
    CASCADE_NEEDS_CASCADE,
    CLASS_NEEDS_CLASS,
    CLASSES_NEED_MODEL,
    CUT_NEEDS_STATIC,
    CUTS_NEED_SWEEP,
    GRAPHS_NEED_CUDA,
    HEDGE_COMPUTES_TWICE,
    HOST_NEEDS_OUTSIDE,
    KEYS_NEED_CLASS,
    LISTED_NEEDS_ANNOTATIONS,
    MODEL_OR_EXITS,
    ONE_LINK,
    ONE_RADIO,
    ONE_SIZE,
    PATH_NEEDS_FOLDER,
    SOME_EDGE,
    SOME_RATE,
    TOLERANCE_NEEDS_BOUNDED,
    WEIGHTS_NEED_WEIGHTED,
    WHOLE_BATCHES,
)
from splittracr.experiment.types import OBJECT_NAME, Exactness, Name, ObjectName, SpecModel

GROUP = "splittracr.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "SplitExperiment"

# Everything has bounds: the API server charges a rule for the largest value its field allows.
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
_CLASS = r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$"
ClassPath = Annotated[str, StringConstraints(pattern=_CLASS, max_length=253)]
_DEVICE = r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$"
_POLICY = (
    r"^(Adaptive|Deadline|Hedge|Bandit|"
    r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$"
)
PolicyName = Annotated[str, StringConstraints(pattern=_POLICY, max_length=253)]
Device = Annotated[str, StringConstraints(pattern=_DEVICE, max_length=16)]
CodecName = Annotated[str, StringConstraints(pattern=CODEC_PATTERN, max_length=64)]
PictureCodecName = Annotated[str, StringConstraints(pattern=PICTURE_PATTERN, max_length=16)]
Seconds = Annotated[int, Field(ge=1, le=2**31 - 1)]
Port = Annotated[int, Field(ge=0, le=65535)]
Pixels = Annotated[int, Field(ge=1, le=16384)]
CutRef = Annotated[int, Field(ge=0, le=1_000_000)] | Name
"""A cut by name, or by index: the number of operations that run on the edge."""


@dataclass(frozen=True)
class LayerRef:
    """A cut by layer: after layer `index`, counted from 0 over modules down to `depth`."""

    index: int
    depth: int


ALL = "All"
PictureCount = (
    Annotated[int, Field(ge=0, le=10_000)]
    | Annotated[str, StringConstraints(pattern=r"^All$", max_length=3)]
)
"""How many pictures to draw on, or `All` of them."""

StaticCut = CutRef | LayerRef
"""The ways in which a manifest names the cut of modes Static and Cascade."""

PATTERNS = {
    **POD_PATTERNS,
    _CLASS: "package.module:Class",
    _POLICY: "Adaptive, Deadline, Hedge, Bandit or package.module:Class",
    _DEVICE: "auto, cpu, mps, cuda or cuda:0",
    OBJECT_NAME: "lower-case letters and digits, with - and . between them",
    r"^All$": "All",
    CODEC_PATTERN: Codec.EXPECTED,
    PICTURE_PATTERN: PictureCodec.EXPECTED,
}
"""The patterns above in words."""
CUT_REF = "a cut by index, 0 or more, or by name"
UNIONS = {"cut": CUT_REF, "cuts": CUT_REF, "pictures": "0 to 10000 or All"}
"""Fields that take one of several types, in words."""


class Source(StrEnum):
    """The family that builds the model."""

    TORCHVISION = "torchvision"
    ULTRALYTICS = "ultralytics"
    EFFICIENTNET_LITE = "efficientnet_lite"
    TIMM = "timm"
    TRANSFORMERS = "transformers"
    CUSTOM = "custom"


TIMM_PREFIX = "timm/"
TRANSFORMERS_PREFIX = "transformers/"
"""How names of models of these families begin."""


class DType(StrEnum):
    """Element type of the model's parameters and activations."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class InputType(StrEnum):
    """Element type of a model's input."""

    UINT8 = "uint8"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class InputSpec(SpecModel):
    """The tensors of the data set, for a model that takes them unchanged."""

    shape: tuple[Pixels, ...] = Field(
        min_length=1, max_length=6, description="Shape of one sample, without the batch."
    )
    dtype: InputType = Field(
        default=InputType.FLOAT32,
        description="Element type. Pictures in `uint8` go through the model's normalisation; "
        "values of other types are taken to be normalised.",
    )


class Letterbox(StrEnum):
    """How pictures of any shape become the input of a model of ultralytics."""

    SQUARE = "Square"
    RECT = "Rect"


class ModelSpec(SpecModel):
    """The model."""

    rules = (ONE_SIZE, TOLERANCE_NEEDS_BOUNDED)

    name: Name = Field(
        description="Model, as `splittracr models` lists it, such as `timm/convnext_atto`; "
        "`transformers/FOLDER`: an image classifier of transformers; or `package.module:callable`: "
        "a module's class, or a function that returns a module."
    )
    source: Source | None = Field(
        default=None, description="Family; found from the name if left out."
    )
    weights: Name = Field(
        default="official",
        description="`official`, the name of one of the model's official weight sets, or "
        "`none` for seeded random weights.",
    )
    weights_file: FilePath | None = Field(
        default=None, description="State dict to load instead; read as weights only."
    )
    num_classes: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Number of classes. If the model has another number, its last layer is "
        "replaced.",
    )
    input_size: tuple[Pixels, Pixels] | None = Field(
        default=None, description="Height and width in pixels, if not the model's own."
    )
    input: InputSpec | None = Field(
        default=None,
        description="The tensors that your data set or its transform yields; left out: pictures.",
    )
    letterbox: Letterbox = Field(
        default=Letterbox.SQUARE,
        description="Of detectors of ultralytics. `Square` pads pictures to `inputSize`. `Rect` "
        "pads them to multiples of the model's stride only, as `YOLO.predict()` does by default; "
        "inputs then have several shapes.",
    )
    dtype: DType = Field(default=DType.FLOAT32, description="Element type of the computation.")
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Seed of random weights.")
    args: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments for the class or function in `name`."
    )
    exactness: Exactness = Field(
        default=Exactness.EXACT,
        description="Min exactness of a cut; others are refused. `Exact`: its output is that "
        "of the uncut model in PyTorch, bit for bit. `Consistent`: that of the uncut model in the "
        "same runtime. `Bounded`: within `tolerancePerMillion` of PyTorch's.",
    )
    tolerance_per_million: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="With exactness Bounded: the largest difference of an output, in millionths "
        "of the largest size in it; left out: 100.",
    )

    @property
    def folder(self) -> str | None:
        """The folder of a model of transformers, as the manifest names it; None for others."""
        if self.source is Source.TRANSFORMERS or self.name.startswith(TRANSFORMERS_PREFIX):
            return self.name.removeprefix(TRANSFORMERS_PREFIX)
        return None

    @property
    def tolerance(self) -> float:
        """The largest difference as a share."""
        return (self.tolerance_per_million or 100) / 1e6


class DatasetSource(StrEnum):
    """Where the pictures come from."""

    SAMPLES = "Samples"
    FOLDER = "Folder"
    LABELLED_FOLDER = "LabelledFolder"
    COCO = "Coco"
    YOLO = "Yolo"
    MASKS = "Masks"
    CLASS = "Class"


class DatasetSpec(SpecModel):
    """The pictures. Relative paths start at the manifest's folder."""

    rules = (
        PATH_NEEDS_FOLDER,
        CLASS_NEEDS_CLASS,
        KEYS_NEED_CLASS,
        LISTED_NEEDS_ANNOTATIONS,
        ARGS_NEED_TRANSFORM,
    )

    source: DatasetSource = Field(
        default=DatasetSource.SAMPLES,
        description="`Samples`: pictures shipped here. `Folder`: every picture below `path`. "
        "`LabelledFolder`: one folder a class below `path`. `Coco`: pictures with labelled boxes "
        "in `annotations`. `Yolo`: the same with one text file a picture, in `labels` beside "
        "`images`. `Masks`: pictures whose pixels have classes, with a PNG mask each. `Class`: a "
        "class of your own.",
    )
    path: FilePath | None = Field(
        default=None,
        description="Folder of pictures. Of `Yolo`: one that is or has a folder `images`, or is "
        "below one. Of `Masks` with a list: VOC's folder.",
    )
    annotations: FilePath | None = Field(
        default=None,
        description="`Coco`: the JSON file with images, annotations and categories. `Yolo`: the "
        "YAML file with the class `names`; left out: `data.yaml` beside `images` if there is one, "
        "else classes are the model's by number. `Masks`: the folder of masks, or a list of names "
        "as VOC has it, such as `VOC2012/ImageSets/Segmentation/val.txt`.",
    )
    class_: ClassPath | None = Field(
        default=None, alias="class", description="`package.module:Class`, called with `args`."
    )
    args: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments for `class`.")
    input_key: Name | None = Field(
        default=None,
        description="Key of the picture or tensor in samples that are mappings; left out: `image`, "
        "`video` or another usual name.",
    )
    label_key: Name | None = Field(
        default=None,
        description="Key of the label in samples that are mappings; left out: `label`, `target` or "
        "another usual name, if there is one.",
    )
    transform: ClassPath | None = Field(
        default=None,
        description="`package.module:callable`, called with each picture or tensor. It returns a "
        "picture, or the tensor that the model takes. A class is made with `transformArgs` once.",
    )
    transform_args: dict[str, Any] | None = Field(
        default=None, description="Keyword arguments for `transform`."
    )
    class_names: FilePath | None = Field(
        default=None, description="Text file with one class name a line, in the order of outputs."
    )


class PostprocessSpec(SpecModel):
    """From the model's output to a prediction."""

    name: Name | None = Field(
        default=None, description="A registered post-processor; the task's own if left out."
    )
    top_k: int = Field(default=5, ge=1, le=1000, description="Classes reported a picture.")
    confidence_percent: int = Field(
        default=25, ge=0, le=100, description="Detections below this score are dropped."
    )
    iou_percent: int = Field(
        default=70, ge=0, le=100, description="Overlap above which NMS drops the weaker box."
    )
    max_detections: int = Field(default=300, ge=1, le=10000, description="Detections a picture.")


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
Milliwatts = Annotated[int, Field(ge=0, le=10_000_000)]


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

    rules = (MODEL_OR_EXITS, CLASSES_NEED_MODEL)

    model: ModelSpec | None = Field(
        default=None, description="The small model. Only the edge has it."
    )
    exits: FilePath | None = Field(
        default=None,
        description="Instead of a small model: a file of `splittracr exits train`, which only the "
        "edge needs, or `Declared`: the exits that a model of your own declares. A sample ends at "
        "the first exit that is sure enough. `cut` is after the last one, or `input`.",
    )
    statistic: Statistic = Field(
        description="How sureness follows from scores. Of classes: `Margin`, the first probability "
        "less the second; `Probability`, the first; `Entropy`, 1 less the entropy as a share of "
        "the largest one. Of detections: `MeanScore`, `MinScore`, `LowerQuartile`."
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
        "disagree with the large model. Audits watch it; left out: they only count.",
    )
    audit_percent: int = Field(
        default=5,
        ge=0,
        le=100,
        description="Share of these answers whose sample goes to the large model all the same, "
        "after the answer. At 0 a drift goes unnoticed.",
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
        ADAPTIVE_NEEDS_ADAPTIVE,
        ADAPTIVE_DECIDES,
    )

    mode: Annotated[Mode, DEFINES] = Field(
        default=Mode.STATIC,
        description="`Static`: at `cut`. `Sweep`: at each of `cuts` in turn. `EdgeOnly` and "
        "`ServerOnly` do not split. `Adaptive`: split if it pays, decided before each frame. "
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
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Seed of a sweep's order.")
    adaptive: Annotated[AdaptiveSpec | None, DEFINES] = Field(
        default=None, description="How mode Adaptive chooses."
    )
    cascade: Annotated[CascadeSpec | None, DEFINES] = Field(
        default=None,
        description="The small model or the exits of mode Cascade, and when they answer.",
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

    @property
    def server_loss(self) -> OnServerLoss:
        """What to do if the server is lost; the default depends on the mode."""
        adaptive = self.mode is Mode.ADAPTIVE
        return self.on_server_loss or (
            OnServerLoss.FINISH_ON_EDGE if adaptive else OnServerLoss.WAIT
        )


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
        default=1, ge=1, le=1024, description="Samples in one frame."
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
        "which takes up to twice its weights. One that is dropped is made again if it is needed. "
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


class ExperimentSpec(SpecModel):
    """The study itself."""

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
