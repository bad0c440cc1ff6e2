"""The rules between fields of a `SplitExperiment`. The models in `spec.py` name theirs."""

from splittracr.experiment.contracts import OUTPUT, RANKED, Runtime
from splittracr.experiment.rules import (
    All,
    AnyItem,
    Either,
    ExactlyOne,
    Has,
    Is,
    IsText,
    Matches,
    Multiple,
    Not,
    Positive,
    Product,
    Rule,
    Same,
    Some,
    Within,
)

_FOLDERS = Is("source", ["Folder", "LabelledFolder", "Coco", "Yolo", "Masks"])
_CLASSES, _LISTED = Is("source", ["Class"]), Is("source", ["Coco", "Masks"])
_ANNOTATED = Is("source", ["Coco", "Yolo", "Masks"])
_AT_CUT, _ADAPTIVE = Is("mode", ["Static", "Cascade"]), Is("mode", ["Adaptive"])
_ENERGY = Either([Is("objective", ["Energy"]), Positive("energyWeight")])
_WEIGHTS = Either([Positive(f"{name}Weight") for name in ("latency", "throughput", "energy")])
_FLOAT32 = Within("model", Is("dtype", ["float32"]))
_WITHOUT_ONNX = Not(Is("runtime", [Runtime.ONNX_RUNTIME]))
_EDGE_WITHOUT_ONNX = Within("edge", _WITHOUT_ONNX)
_UPLINK, _DOWNLINK = "uplinkKilobitsPerSecond", "downlinkKilobitsPerSecond"

PATH_NEEDS_FOLDER = Rule(
    Same(_FOLDERS, Has("path")),
    "path goes with source Folder, LabelledFolder, Coco, Yolo or Masks, and only with them",
    ("source", "path"),
)
CLASS_NEEDS_CLASS = Rule(
    Same(_CLASSES, Has("class")),
    "class goes with source Class, and only with it",
    ("source", "class"),
)
KEYS_NEED_CLASS = Rule(
    Either([_CLASSES, All([Not(Has("inputKey")), Not(Has("labelKey"))])]),
    "inputKey and labelKey go with source Class, and only with it",
    ("source", "inputKey", "labelKey"),
)
LISTED_NEEDS_ANNOTATIONS = Rule(
    All(
        [
            Either([Not(_LISTED), Has("annotations")]),
            Either([_ANNOTATED, Not(Has("annotations"))]),
        ]
    ),
    "annotations goes with source Coco or Masks, which need it, or Yolo, and only with them",
    ("source", "annotations"),
)
ARGS_NEED_TRANSFORM = Rule(
    Either([Has("transform"), Not(Has("transformArgs"))]),
    "transformArgs goes with transform, and only with it",
)
ONE_SIZE = Rule(
    Not(All([Has("inputSize"), Has("input")])),
    "inputSize or input, not both: input.shape has height and width",
)
TOLERANCE_NEEDS_BOUNDED = Rule(
    Either([Is("exactness", ["Bounded"]), Not(Has("tolerancePerMillion"))]),
    "tolerancePerMillion goes with exactness Bounded, and only with it",
    ("exactness", "tolerancePerMillion"),
)
CUT_NEEDS_STATIC = Rule(
    ExactlyOne([Not(_AT_CUT), Has("cut"), Has("layer")]),
    "cut goes with mode Static or Cascade, and only with them; layer may stand in its place",
    ("mode", "cut", "layer"),
)
CUTS_NEED_SWEEP = Rule(
    Either([Is("mode", ["Sweep", "Adaptive"]), Not(Some("cuts"))]),
    "cuts goes with mode Sweep or Adaptive, and only with them",
    ("mode",),
)
ADAPTIVE_DECIDES = Rule(
    Either(
        [
            Not(_ADAPTIVE),
            All([Not(Has("deadlineMilliseconds")), Not(Has("hedgeDelayMilliseconds"))]),
        ]
    ),
    "in mode Adaptive deadlines and hedges are the policy's, by partition.adaptive.policy",
    ("deadlineMilliseconds", "hedgeDelayMilliseconds"),
)
CASCADE_NEEDS_CASCADE = Rule(
    Either([Same(Is("mode", ["Cascade"]), Has("cascade")), All([_ADAPTIVE, Has("cascade")])]),
    "cascade goes with mode Cascade, which needs it, or Adaptive, and only with them",
    ("mode",),
)
BANDIT_HAS_NO_CASCADE = Rule(
    Either([Not(Has("cascade")), Within("adaptive", Not(Is("policy", ["Bandit"])))]),
    "policy Bandit cannot decide on a cascade: take Adaptive, Deadline or Hedge",
)
MODEL_OR_EXITS = Rule(
    ExactlyOne([Has("model"), Has("exits")]),
    "a cascade has a small model or exits, one of both",
)
CLASSES_NEED_MODEL = Rule(
    Either([Has("model"), Not(Has("classes"))]),
    "classes goes with model, and only with it: exits have the classes of the model",
)
RECALIBRATE_NEEDS_AUDITS = Rule(
    Either(
        [
            Not(Has("recalibrate")),
            All([Has("maxDisagreementPerMillion"), Positive("auditPercent")]),
        ]
    ),
    "recalibrate goes with maxDisagreementPerMillion, the promise, and audits of it",
    ("maxDisagreementPerMillion", "auditPercent"),
)
RECALIBRATE_CAN_PROVE = Rule(
    Either(
        [
            Not(All([Has("recalibrate"), Has("maxDisagreementPerMillion")])),
            Product("recalibrate", "maxDisagreementPerMillion", 5_000_000),
        ]
    ),
    "recalibrate is at least 5,000,000 / maxDisagreementPerMillion: fewer pictures prove no such "
    "promise",
    ("recalibrate", "maxDisagreementPerMillion"),
)
EXITS_RANK = Rule(
    Either([Not(Has("exits")), Is("statistic", RANKED)]),
    f"exits rank classes: their statistic is one of {', '.join(RANKED)}",
    ("statistic",),
)
SMALL_ENDS_BEFORE_OUTPUT = Rule(
    Either(
        [
            Not(Has("cascade")),
            Within("cascade", Not(Has("model"))),
            Not(IsText("cut", OUTPUT)),
        ]
    ),
    "with a small model cut is before output: there its own answers count",
    ("cut",),
)
CASCADE_HAS_NO_BATCHES = Rule(
    Either([Within("partition", Not(Has("cascade"))), Within("workload", Is("batchSize", [1]))]),
    "in a cascade each sample is decided alone: workload.batchSize is 1",
    ("workload.batchSize",),
)
EXITS_NEED_TORCH = Rule(
    Either(
        [
            Within("partition", Within("cascade", Not(Has("exits")))),
            Within("edge", Is("runtime", [Runtime.TORCH])),
        ]
    ),
    "exits go with edge.runtime Torch: a head continues from a cut",
    ("edge.runtime",),
)
ONNX_IS_FLOAT32 = Rule(
    All(
        [
            Either([_FLOAT32, All([_EDGE_WITHOUT_ONNX, Within("server", _WITHOUT_ONNX)])]),
            Either([Within("partition", Within("cascade", _FLOAT32)), _EDGE_WITHOUT_ONNX]),
        ]
    ),
    "runtime OnnxRuntime goes with dtype float32, of the model and of a small model",
    ("model.dtype", "partition.cascade.model.dtype", "edge.runtime", "server.runtime"),
)
ADAPTIVE_NEEDS_ADAPTIVE = Rule(
    Either([_ADAPTIVE, Not(Has("adaptive"))]),
    "adaptive goes with mode Adaptive, and only with it",
    ("mode",),
)
ONE_RADIO = Rule(
    Not(All([Has("transmitMilliwatts"), Has("nanojoulesPerBit")])),
    "sending costs transmitMilliwatts or nanojoulesPerBit, not both",
    ("transmitMilliwatts", "nanojoulesPerBit"),
)
GRAPHS_NEED_CUDA = Rule(
    Either([Not(Is("runtime", ["CudaGraphs"])), Matches("device", "^(auto|cuda)")]),
    "runtime CudaGraphs goes with device auto or cuda",
    ("runtime", "device"),
)
SOME_EDGE = Rule(
    Either([Positive("replicas"), Positive("outside")]),
    "a study has an edge: replicas or outside is above 0",
    ("replicas", "outside"),
)
HOST_NEEDS_OUTSIDE = Rule(
    Same(Is("type", ["NodePort", "LoadBalancer"]), Has("host")),
    "host goes with type NodePort or LoadBalancer, and only with them",
    ("type", "host"),
)
HEDGE_COMPUTES_TWICE = Rule(
    Either([Not(Is("policy", ["Hedge"])), Not(_ENERGY)]),
    "policy Hedge computes twice: no objective with energy goes with it",
    ("objective", "energyWeight"),
)
BANDIT_LEARNS_LATENCY = Rule(
    Either([Not(Is("policy", ["Bandit"])), Is("objective", ["Latency"])]),
    "policy Bandit learns latencies and goes with objective Latency only",
    ("objective",),
)
ACCURACY_NEEDS_PERCENT = Rule(
    Either([Has("accuracyPercent"), Not(Has("accuracyFile"))]),
    "accuracyFile goes with accuracyPercent, and only with it",
)
WEIGHTS_NEED_WEIGHTED = Rule(
    Same(Is("objective", ["Weighted"]), _WEIGHTS),
    "weights go with objective Weighted, one of them above 0, and only with it",
    ("objective", "latencyWeight", "throughputWeight", "energyWeight"),
)
WHOLE_BATCHES = Rule(
    Multiple("samples", of="batchSize"),
    "samples is a multiple of batchSize",
    ("samples", "batchSize"),
)
ONE_LINK = Rule(
    All(
        [
            Same(Has(_UPLINK), Has(_DOWNLINK)),
            ExactlyOne([Has(_UPLINK), Has("trace"), Some("phases")]),
        ]
    ),
    "a link has either both rates, or a trace, or phases",
)
SOME_RATE = Rule(
    Either(
        [
            Not(Some("phases")),
            All([AnyItem("phases", Positive(_UPLINK)), AnyItem("phases", Positive(_DOWNLINK))]),
        ]
    ),
    "phases have a rate above zero both ways at some time",
)
