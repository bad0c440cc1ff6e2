"""The sections and keys of tracr's configuration, and the outcome for each.

The keys are those of its README, its template, its configurations and its code. If these differ,
the code counts, so that a converted study measures the same.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from splittracr.convert import checks
from splittracr.convert.checks import Check
from splittracr.convert.notes import Fate, Outcome, carried, dropped, replaced

MAX_CUTS = 4096
_MAX_WARM_UP = 1000
_OWN_DATASETS = ("imagenet", "onion")
_IMAGENET_CLASSES = 1000

# torchvision's classifiers that have the weight set of this name, which tracr loads; for many of
# them it is not the default one.
IMAGENET_V1 = "IMAGENET1K_V1"
HAVE_IMAGENET_V1 = re.compile(
    r"alexnet|vgg(11|13|16|19)(_bn)?|(wide_)?resnet\d+(_2)?|resnext\d+_\d+x\d+d|densenet\d+|"
    r"squeezenet1_[01]|googlenet|inception_v3|mobilenet_(v2|v3_large|v3_small)|mnasnet[01]_\d+|"
    r"shufflenet_v2_x[012]_[05]|regnet_(?!y_128gf)[xy]_\w+|efficientnet_(b[0-7]|v2_[sml])|"
    r"convnext_(tiny|small|base|large)|vit_[bl]_(16|32)|swin_(v2_)?[tsb]|maxvit_t"
)

_NOT_READ = "tracr never reads it"
_PREPARED = (
    "pictures are prepared as the model's weights want it; spec.dataset.transform takes a "
    "callable of your own, module:callable"
)
_LOGS = "each worker logs to standard error and to a file in the results folder's logs"


@dataclass(frozen=True)
class Context:
    """The whole configuration, for keys that depend on others.

    `path` converts a path of tracr to one of the manifest. `names_file` is the file for a list of
    class names, as the manifest names it.
    """

    sections: Mapping[str, Mapping[str, Any]]
    path: Callable[[str], str] = field(repr=False)
    names_file: str

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key such as `model.depth`; the default if it is missing or null."""
        section, _, name = key.partition(".")
        value = self.sections.get(section, {}).get(name)
        return default if value is None else value

    @property
    def model(self) -> str:
        """The network's name."""
        return str(self.get("model.model_name") or self.get("model.name", "")).lower()

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return str(self.get("dataset.name", "")).lower()

    @property
    def layer(self) -> int:
        """The layer to split after; -1 for all."""
        return int(self.get("model.split_layer", -1))


Becomes = Callable[[Any, Context], Outcome]


@dataclass(frozen=True)
class Key:
    """The values that a key takes, and the outcome for one that is not null."""

    check: Check
    becomes: Becomes


def _dropped(check: Check, reason: str) -> Key:
    return Key(check, lambda _value, _context: dropped(reason))


# -------------------------------------------------------------------------------------- default


def _device(value: str, _: Context) -> Outcome:
    if value.lower() == "cpu":
        return Outcome(Fate.CARRIED, {"edge.device": "cpu", "server.device": "cpu"})
    return replaced(
        "auto takes the accelerator that is there, else the CPU, as tracr does; "
        "name the device to insist on it",
        edge__device="auto",
        server__device="auto",
    )


def _pictures(value: bool, _: Context) -> Outcome:
    if not value:
        return carried("results.pictures", 0)
    return Outcome(Fate.CARRIED, {"results.pictures": "All", "results.picturesPerCut": True})


def _level(value: str, _: Context) -> Outcome:
    if value.upper() == "CRITICAL":
        return replaced("Error is the highest level", logging__level="Error")
    return carried("logging.level", value.capitalize())


def _metrics(_: bool, _context: Context) -> Outcome:
    return replaced(
        "every study measures stages, bytes and work, each operation, and energy if there is a "
        "sensor"
    )


# ---------------------------------------------------------------------------------------- model


def _name(value: str, _: Context) -> Outcome:
    return carried("model.name", value.lower())


def _pretrained(value: bool, context: Context) -> Outcome:
    if context.get("model.weight_path") is not None:
        return replaced("model.weight_path has the weights")
    if "yolo" in context.model and not value:
        reason = "tracr loads the published weights of a YOLO in either case"
        return replaced(reason, model__weights="official")
    if not value:
        return carried("model.weights", "none", "seeded random weights")
    if HAVE_IMAGENET_V1.fullmatch(context.model):
        return carried("model.weights", IMAGENET_V1, "the set that tracr loads")
    return carried("model.weights", "official")


def _weight_path(value: str, context: Context) -> Outcome:
    return carried("model.weightsFile", context.path(value))


def _input_size(value: list[int], _: Context) -> Outcome:
    return carried("model.inputSize", value[1:], "the channels are the model's own")


def _split_layer(value: int, context: Context) -> Outcome:
    if value != -1:
        return carried("partition.layer", value, f"the cut after layer {value}")
    reason = "every cut, those inside layers too; spec.partition.maxCuts takes fewer"
    return Outcome(Fate.CARRIED, every_cut(), reason)


def every_cut() -> dict[str, Any]:
    """The fields of a sweep over all cuts."""
    return {"partition.mode": "Sweep", "partition.maxCuts": MAX_CUTS}


def _depth(value: int, context: Context) -> Outcome:
    if context.layer == -1:
        return dropped("a sweep takes the cuts at any depth")
    return carried("partition.layerDepth", value)


def _num_classes(value: int, _: Context) -> Outcome:
    return carried("model.numClasses", value)


def _mode(value: str, _: Context) -> Outcome:
    if value.lower() == "eval":
        return replaced("models always run in evaluation mode")
    return dropped("models always run in evaluation mode: dropout would make results random")


def _warm_up(value: int, context: Context) -> Outcome:
    if context.layer == -1 and value > 1:
        reason = "these frames are run at every cut, tracr's once for all"
        return replaced(reason, workload__warmUp=1)
    if value > _MAX_WARM_UP:
        return replaced(f"at most {_MAX_WARM_UP}", workload__warmUp=_MAX_WARM_UP)
    return carried("workload.warmUp", value)


def _percent(path: str) -> Becomes:
    def becomes(value: float, _: Context) -> Outcome:
        return carried(path, round(value * 100))

    return becomes


def _batch(value: int, _: Context) -> Outcome:
    if value == 1:
        return carried("workload.batchSize", 1)
    reason = "tracr computes the pictures of a batch one by one, so that a frame has one here"
    return replaced(reason, workload__batchSize=1)


# -------------------------------------------------------------------------------------- dataset


def pictures_folder(context: Context) -> str | None:
    """The folder with the pictures, as tracr names it; None if it has no name."""
    root, folder = context.get("dataset.root"), context.get("dataset.img_directory")
    if folder is None:
        return None if root is None else f"{root.rstrip('/')}/images"
    own = context.dataset in _OWN_DATASETS or root is None
    if own or folder.startswith((root.rstrip("/") + "/", "/", "~")):
        return str(folder)
    return f"{root.rstrip('/')}/{folder}"


def _dataset_name(value: str, context: Context) -> Outcome:
    if context.get("dataset.class") is not None:
        return replaced("dataset.class has the data")
    if value.lower() == "imagenet":
        return replaced(
            "a folder of pictures without labels; tracr's came from the order of file names. "
            "For an accuracy make one folder a class and set spec.dataset.source: LabelledFolder"
        )
    if value.lower() == "onion":
        return replaced("a folder of pictures; they keep their proportions, tracr stretches them")
    return replaced("a folder of pictures; a data set of your own is spec.dataset.source: Class")


def _folder_key(value: str, context: Context) -> Outcome:
    if context.get("dataset.class") is not None:
        return dropped("dataset.class has the data")
    found = pictures_folder(context)
    path = value if found is None else found
    return carried("dataset.path", context.path(path))


def _root(value: str, context: Context) -> Outcome:
    if context.get("dataset.class") is not None:
        return dropped("dataset.class has the data")
    if context.get("dataset.img_directory") is not None:
        return replaced("dataset.img_directory has the pictures")
    reason = "the pictures are in its folder images, tracr's default"
    return replaced(reason, dataset__path=context.path(f"{value.rstrip('/')}/images"))


def _class_names(value: str | list[str], context: Context) -> Outcome:
    outputs = context.get("model.num_classes")
    listed = isinstance(value, list)
    known = _IMAGENET_CLASSES if context.dataset == "imagenet" else None
    count = len(value) if listed else known
    if not value:
        return dropped("it has no names")
    if outputs is not None and count is not None and count != outputs:
        return dropped(f"{count} names cannot be those of {outputs} outputs")
    if not listed:
        return carried("dataset.classNames", context.path(str(value)))
    reason = "a file with one name a line"
    return replaced(reason, dataset__classNames=context.names_file)


def _max_samples(value: int, _: Context) -> Outcome:
    if value < 1:
        return carried("workload.samples", None, "all pictures")
    return carried("workload.samples", value, "a smaller data set is repeated")


def _class(value: str, context: Context) -> Outcome:
    module = context.get("dataset.module", "custom")
    reason = "put its module beside the manifest; it returns pictures, without BaseDataset"
    sets = {"dataset.source": "Class", "dataset.class": f"{module}:{value}"}
    return Outcome(Fate.CARRIED, sets, reason)


def _module(value: str, context: Context) -> Outcome:
    if context.get("dataset.class") is None:
        return dropped("there is no dataset.class")
    return Outcome(Fate.CARRIED, _class(context.get("dataset.class"), context).sets)


def _args(value: dict[str, Any], context: Context) -> Outcome:
    if context.get("dataset.class") is None:
        return dropped("there is no dataset.class")
    return carried("dataset.args", value, "relative paths start where the worker starts")


# ---------------------------------------------------------------------------------- compression


def codec(context: Context) -> str:
    """The codec that the three keys name together, with tracr's defaults."""
    level = context.get("compression.clevel", 3)
    name = context.get("compression.codec", "ZSTD").lower()
    default = "NOSHUFFLE" if context.sections.get("compression") else "SHUFFLE"
    order = _FILTERS.get(context.get("compression.filter", default).upper(), "shuffle")
    return f"raw+blosc2-{name}-{level}-{order}" if level else "raw"


_FILTERS = {
    "NOFILTER": "noshuffle",
    "NOSHUFFLE": "noshuffle",
    "SHUFFLE": "shuffle",
    "BITSHUFFLE": "bitshuffle",
}


def _codec(_: Any, context: Context) -> Outcome:
    return carried("transport.codec", codec(context))


def _filter(value: str, context: Context) -> Outcome:
    if value.upper() in _FILTERS:
        return _codec(value, context)
    reason = f"there is no filter {value} here, shuffle comes nearest"
    return replaced(reason, transport__codec=codec(context))


_TEXT, _PATH = checks.text(), checks.text(checks.MAX_PATH)
_COUNT = checks.integer(0, 2**31 - 1)
_POSITIVE = checks.integer(1, 2**31 - 1)
_LEVEL = checks.word("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

SECTIONS: Mapping[str, Mapping[str, Key]] = {
    "default": {
        "device": Key(checks.word("cuda", "mps", "cpu", "gpu"), _device),
        "save_layer_images": Key(checks.boolean, _pictures),
        "collect_metrics": Key(checks.boolean, _metrics),
    },
    "logging": {
        "log_level": Key(_LEVEL, _level),
        "log_file": _dropped(_PATH, _LOGS),
        "level": Key(_LEVEL, _level),
        "file": _dropped(_PATH, _LOGS),
        "format": _dropped(_PATH, _LOGS),
        "remote": _dropped(checks.boolean, _LOGS),
        "enable_console": _dropped(checks.boolean, _LOGS),
        "enable_file": _dropped(checks.boolean, _LOGS),
        "enable_rich_tracebacks": _dropped(checks.boolean, _LOGS),
    },
    "model": {
        "model_name": Key(_TEXT, _name),
        "name": Key(_TEXT, _name),
        "version": _dropped(checks.either(_TEXT, checks.number(0, 1e9)), _NOT_READ),
        "pretrained": Key(checks.boolean, _pretrained),
        "weight_path": Key(_PATH, _weight_path),
        "input_size": Key(
            checks.listed(
                checks.integer(1, 16384), "[channels, height, width], each 1 to 16384", 3, 3
            ),
            _input_size,
        ),
        "split_layer": Key(checks.integer(-1, 100_000), _split_layer),
        "save_layers": _dropped(
            checks.listed(_COUNT, "a list of layer numbers"),
            "the graph says which tensors a cut needs",
        ),
        "num_classes": Key(checks.integer(1, 1_000_000), _num_classes),
        "mode": Key(checks.word("eval", "train"), _mode),
        "depth": Key(checks.integer(1, 32), _depth),
        "flush_buffer_size": _dropped(_POSITIVE, "each record is written at once"),
        "warmup_iterations": Key(_COUNT, _warm_up),
        "log_file": _dropped(_PATH, _LOGS),
        "batch_size": Key(_POSITIVE, _batch),
        "conf_threshold": Key(checks.number(0, 1), _percent("postprocess.confidencePercent")),
        "iou_threshold": Key(checks.number(0, 1), _percent("postprocess.iouPercent")),
        "font_size": _dropped(_POSITIVE, "the size of letters follows that of the picture"),
        "node_name": _dropped(_TEXT, "`splittracr edge --name` names an edge"),
    },
    "dataset": {
        "name": Key(_TEXT, _dataset_name),
        "root": Key(_PATH, _root),
        "class_names": Key(
            checks.either(_PATH, checks.listed(_TEXT, "a list of names")), _class_names
        ),
        "img_directory": Key(_PATH, _folder_key),
        "transform": _dropped(_TEXT, _PREPARED),
        "max_samples": Key(checks.integer(-1, 10_000_000), _max_samples),
        "module": Key(checks.identifier, _module),
        "class": Key(checks.identifier, _class),
        "args": Key(checks.mapping, _args),
    },
    "dataloader": {
        "batch_size": Key(_POSITIVE, _batch),
        "shuffle": _dropped(
            checks.boolean,
            "one cut takes the pictures in order, a sweep shuffles cuts and pictures by "
            "spec.partition.seed",
        ),
        "num_workers": _dropped(_COUNT, "the edge reads each picture when its frame is due"),
        "collate_fn": _dropped(_TEXT, "frames are made of pictures, there is nothing to collate"),
        "transform": _dropped(_TEXT, _PREPARED),
    },
    "compression": {
        "clevel": Key(checks.integer(0, 9), _codec),
        "filter": Key(checks.word(*_FILTERS, "DELTA", "TRUNC_PREC", "BYTEDELTA", "ZSTD"), _filter),
        "codec": Key(checks.word("ZSTD", "BLOSCLZ", "LZ4", "LZ4HC", "ZLIB"), _codec),
    },
    "experiment": {
        "type": Key(
            checks.word("auto", "local", "networked"),
            lambda _value, _context: replaced(
                "`splittracr run` has both ends here, `server` and `edge` have two machines"
            ),
        ),
    },
}
"""Every key, by section."""
