"""Networks of ultralytics: YOLO from v3 to 26 and RT-DETR, built from the library's own configs.

Ultralytics is AGPL-3.0 and therefore an optional extra. It is imported when a network is built.
Names are those of its published weights, such as yolov8n, yolo11n-seg or yolov5nu.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from splittracr.data.importing import import_ultralytics
from splittracr.experiment.errors import InvalidInput, SplittracrError, nearest
from splittracr.experiment.spec import Letterbox, ModelSpec, Source
from splittracr.models import weights
from splittracr.models.network import Network, Task
from splittracr.models.pictures import FromPixels, ResizeAndCrop, Scale
from splittracr.models.random_weights import WithoutRandomInit, randomise

_DETECTION_SIZE = (640, 640)
_CLASSIFICATION_SIZE = (224, 224)
_SCORE_BIAS = -4.0
"""Added to the bias of random weights. Otherwise suppression has to compare thousands of boxes."""


@dataclass(frozen=True)
class _Kind:
    """Properties of a head: the class that builds the network, its task and its classes."""

    model: str
    task: Task
    postprocessor: str
    dataset: str | None  # ultralytics' description of the official weights' training data


_DETECT = _Kind("DetectionModel", Task.DETECT, "ultralytics-detect", "coco")
_SEGMENT = _Kind("SegmentationModel", Task.INSTANCES, "ultralytics-segment", "coco")
_POSE = _Kind("PoseModel", Task.POSE, "ultralytics-pose", "coco-pose")
_OBB = _Kind("OBBModel", Task.OBB, "ultralytics-obb", "DOTAv1")
_RTDETR = _Kind("RTDETRDetectionModel", Task.DETECT, "torchvision-detection", "coco")
_KINDS = {
    "Detect": _DETECT,
    "v10Detect": _DETECT,
    "RTDETRDecoder": _RTDETR,
    "Segment": _SEGMENT,
    "Segment26": _SEGMENT,
    "Pose": _POSE,
    "Pose26": _POSE,
    "OBB": _OBB,
    "OBB26": _OBB,
    "Classify": _Kind("ClassificationModel", Task.CLASSIFY, "ultralytics-classify", "ImageNet"),
    "SemanticSegment": _Kind("SemanticSegmentationModel", Task.SEGMENT, "raw", "cityscapes"),
    "Depth": _Kind("DepthModel", Task.OTHER, "raw", None),
}
"""Kinds by the last layer of a config, without networks that need a prompt (World, YOLOE)."""


@dataclass(frozen=True)
class LetterBox:
    """Makes pixels `[3, H, W]` uint8 by ultralytics' own resize, with grey bars or stretched.

    With `rect` the bars end at the next multiple of `stride`.
    """

    size: tuple[int, int]
    fill: bool = False
    rect: bool = False
    stride: int = 32

    @property
    def in_words(self) -> str:
        """For results."""
        height, width = self.size
        if self.fill:
            return f"stretched to {height} x {width}"
        if self.rect:
            return (
                f"letterbox Rect: fitted into {height} x {width}, grey bars up to a multiple of "
                f"{self.stride}, as YOLO.predict() does with rect=True"
            )
        return (
            f"letterbox Square: fitted into {height} x {width} with grey bars, as YOLO.predict() "
            "does with rect=False"
        )

    def __call__(self, picture: Image.Image) -> Tensor:
        augment = import_ultralytics("ultralytics.data.augment")
        letterbox = augment.LetterBox(
            self.size, auto=self.rect, scale_fill=self.fill, stride=self.stride
        )
        pixels = letterbox(image=np.asarray(picture))
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


@dataclass(frozen=True)
class _Checkpoint:
    """The content of a `.pt` file: weights, class names and the shape of keypoints."""

    state: Mapping[str, Tensor]
    classes: tuple[str, ...]
    keypoints: tuple[int, int] | None


def names() -> list[str]:
    """Return all networks of this family; none if ultralytics is not installed."""
    return sorted(configs())


def build(spec: ModelSpec, base: Path) -> Network:
    """Build the network of `spec`; a relative weights file starts at the folder `base`.

    Raises InvalidInput for an unknown name, weights that do not exist, or a size that is no
    multiple of the network's stride. Raises SplittracrError if ultralytics is not installed or
    official weights cannot be downloaded.
    """
    import_ultralytics("ultralytics")
    if spec.name not in configs():
        expected = f"a model of ultralytics, {nearest(spec.name, names())}"
        raise InvalidInput("spec.model.name", spec.name, expected)
    if spec.args:
        raise InvalidInput("spec.model.args", spec.args, "nothing, they are for custom models")
    config = _read_config(spec.name)
    kind = _KINDS[config["head"][-1][2]]
    checkpoint, label = _checkpoint(spec, base)
    classes = (checkpoint.classes if checkpoint else ()) or _dataset_classes(kind)
    count = spec.num_classes or max(1, len(classes))
    net = _construct(config, kind, checkpoint, count)
    if checkpoint is None:
        _randomise(net, spec.seed)
    else:
        label = _load(net, checkpoint, spec, label)
    return _network(spec, kind, net, label, classes if count == len(classes) else ())


@cache
def configs() -> Mapping[str, str]:
    """Return the config's file name for each network, without importing ultralytics."""
    package = find_spec("ultralytics")
    if package is None or not package.submodule_search_locations:
        return {}
    folder = Path(package.submodule_search_locations[0]) / "cfg" / "models"
    return {
        name: config
        for path in sorted(folder.glob("*/*.yaml"))
        for name, config in _names_in(path.stem, path.read_text("utf-8"))
    }


def _names_in(stem: str, text: str) -> list[tuple[str, str]]:
    """Return the networks of one file, each with the name by which ultralytics finds the config."""
    head = re.findall(r"^\s*- \[.*?, *\d+, *([A-Za-z]\w*),", text, re.M)[-1]
    if head not in _KINDS:
        return []
    scales = re.findall(r"^  ([a-z]): *\[", text, re.M)
    family = re.fullmatch(r"(yolov?\d+)(-.+)?", stem)
    if family is None or not scales:  # one file for one scale, as in rtdetr-l
        found = [stem]
    else:
        found = [f"{family[1]}{scale}{family[2] or ''}" for scale in scales]
    # The anchor-free networks of the older families are published with a u at the end.
    older = [name + "u" for name in found if re.match(r"yolov[35]", name)]
    return [(name, f"{name}.yaml") for name in found] + [(n, f"{n[:-1]}.yaml") for n in older]


def _read_config(name: str) -> dict[str, Any]:
    tasks = import_ultralytics("ultralytics.nn.tasks")
    config: dict[str, Any] = tasks.yaml_model_load(configs()[name])
    if not config["scale"] and config.get("scales"):
        config["scale"] = next(iter(config["scales"]))
    for _, _, layer, arguments in config["backbone"]:
        if layer == "TorchVision":
            arguments[2] = None  # otherwise building it downloads torchvision's weights
    return config


def _dataset_classes(kind: _Kind) -> tuple[str, ...]:
    if kind.dataset is None:
        return ()
    utils = import_ultralytics("ultralytics.utils")
    found = utils.YAML.load(utils.ROOT / "cfg" / "datasets" / f"{kind.dataset}.yaml")["names"]
    return tuple(str(found[i]) for i in range(len(found)))


def _construct(
    config: dict[str, Any], kind: _Kind, checkpoint: _Checkpoint | None, count: int
) -> Any:
    tasks = import_ultralytics("ultralytics.nn.tasks")
    builder: Callable[..., Any] = getattr(tasks, kind.model)
    if checkpoint and checkpoint.keypoints:
        config["kpt_shape"] = list(checkpoint.keypoints)
    with WithoutRandomInit():
        return builder(config, nc=count, verbose=False).eval()


def _randomise(net: Any, seed: int) -> None:
    # The distribution focal loss has a constant for a weight: 0, 1, 2, ...
    randomise(net, seed, keep=lambda name: name.endswith("dfl.conv.weight"))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if re.search(r"\.(one2one_)?cv3\.\d+\.\d+\.bias$", name):
                parameter += _SCORE_BIAS


def _checkpoint(spec: ModelSpec, base: Path) -> tuple[_Checkpoint | None, str]:
    """Return the weights of `spec` and their label."""
    path = weights.file_path(spec, base)
    if path is not None:
        return _read_checkpoint(path, weights.FILE), weights.file_label(path)
    if spec.weights == weights.NONE:
        return None, weights.none_label(spec)
    if spec.weights != weights.OFFICIAL:
        expected = f"one of {weights.OFFICIAL}, {weights.NONE}"
        raise InvalidInput("spec.model.weights", spec.weights, expected)
    path = _download(spec.name)
    return _read_checkpoint(path, "spec.model.weights"), path.name


def _download(name: str) -> Path:
    """Return the file of official weights, downloaded by ultralytics if it is missing."""
    downloads = import_ultralytics("ultralytics.utils.downloads")
    published = name.removesuffix("u") + "u" if re.match(r"yolov[35]", name) else name
    published = re.sub(r"^(yolov5.)-p6u$", r"\g<1>6u", published)
    if published not in downloads.GITHUB_ASSETS_STEMS:
        expected = f"{weights.NONE}, or a {weights.FILE}: ultralytics publishes none for {name}"
        raise InvalidInput("spec.model.weights", weights.OFFICIAL, expected)
    path = Path(torch.hub.get_dir()) / "checkpoints" / f"{published}.pt"
    try:
        downloads.attempt_download_asset(path)
    except (OSError, RuntimeError) as error:
        source = "https://github.com/ultralytics/assets"
        raise weights.download_failed(path.name, name, source, error) from error
    return path


def _read_checkpoint(path: Path, field: str) -> _Checkpoint:
    """Read a `.pt` file, a pickle in which only known layers are allowed.

    No method of the unpickled object is called. Raises InvalidInput for another file.
    """
    weights.refuse_foreign(path, field, "a checkpoint of ultralytics")
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        raise SplittracrError("Reading a .pt file safely needs torch 2.6 or newer.")
    with TemporaryDirectory() as folder:
        # By the file's own name ultralytics might download another file.
        link = Path(folder) / "checkpoint.pt"
        link.symlink_to(path.resolve())
        try:
            loaded, _ = import_ultralytics("ultralytics.nn.tasks").torch_safe_load(
                str(link), safe_only=True
            )
        except Exception as error:  # a damaged file can break the unpickler in any way
            reason = weights.brief(error).replace(str(link), path.name)
            expected = f"a checkpoint of ultralytics with nothing else in it ({reason})"
            raise InvalidInput(field, str(path), expected) from error
    model = loaded.get("ema") or loaded.get("model")
    if not isinstance(model, nn.Module):
        raise InvalidInput(field, str(path), "a checkpoint of ultralytics with a model in it")
    return _Checkpoint(_state(model), _names_of(model), _keypoints_of(model))


def _state(model: nn.Module) -> dict[str, Tensor]:
    # By nn.Module's own methods, so that no attribute from the file is called.
    named = chain(nn.Module.named_parameters(model), nn.Module.named_buffers(model))
    return {name: tensor.detach() for name, tensor in named}


def _names_of(model: nn.Module) -> tuple[str, ...]:
    match vars(model).get("names"):
        case dict() as found:
            return tuple(str(name) for name in found.values())
        case list() | tuple() as found:
            return tuple(str(name) for name in found)
        case _:
            return ()


def _keypoints_of(model: nn.Module) -> tuple[int, int] | None:
    match vars(model).get("kpt_shape"):
        case [int(count), int(values)]:
            return count, values
        case _:
            return None


def _load(net: Any, checkpoint: _Checkpoint, spec: ModelSpec, label: str) -> str:
    """Load the weights, with a new last layer for another number of classes; returns the label."""
    head = f"model.{len(net.model) - 1}."
    return weights.load_state(
        net, checkpoint.state, spec, label, lambda name, *_: name.startswith(head)
    )


class _Corners(nn.Module):
    """Converts RT-DETR's rows to boxes in pixels.

    A row has centre, width and height (as shares of the picture), score and class.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, rows: Tensor) -> list[dict[str, Tensor]]:
        rows = rows.float()
        height, width = self.size
        centre, extent = rows[..., :2], rows[..., 2:4] / 2
        corners = torch.cat([centre - extent, centre + extent], -1)
        boxes = corners * corners.new_tensor([width, height, width, height])
        labels = rows[..., 5].to(torch.int64)
        return [
            {"boxes": b, "scores": s, "labels": c}
            for b, s, c in zip(boxes, rows[..., 4], labels, strict=True)
        ]

    def extra_repr(self) -> str:
        return f"size={self.size}"


class _Rtdetr(FromPixels):
    """RT-DETR with boxes in pixels and one dict for each picture, as in torchvision."""

    def __init__(self, pixels: nn.Module, net: nn.Module, size: tuple[int, int]) -> None:
        super().__init__(pixels, net)
        self.corners = _Corners(size)

    def forward(self, batch: Tensor) -> object:
        return self.corners(self.net(self.pixels(batch))[0])


def _network(
    spec: ModelSpec, kind: _Kind, net: Any, label: str, classes: tuple[str, ...]
) -> Network:
    classify, stretched = kind.task is Task.CLASSIFY, kind is _RTDETR
    size = spec.input_size or (_CLASSIFICATION_SIZE if classify else _DETECTION_SIZE)
    stride, rect = int(net.stride.max()), spec.letterbox is Letterbox.RECT
    _check_size(spec, size, stride)
    if rect and (classify or stretched):
        expected = f"Square, pictures are not letterboxed for {spec.name}"
        raise InvalidInput("spec.model.letterbox", spec.letterbox.value, expected)
    letterbox = LetterBox(size, stretched, rect, stride)
    dtype: torch.dtype = getattr(torch, spec.dtype.value)
    scale, net = Scale(dtype), weights.cast(net, spec)
    module = _Rtdetr(scale, net, size) if stretched else FromPixels(scale, net)
    module.eval().requires_grad_(False)
    with torch.no_grad():
        # The first pass makes the anchors, which must not happen during capture.
        module(torch.zeros((1, 3, *size), dtype=torch.uint8))
    square = (size[0],) if size[0] == size[1] else size
    head: Any = net.model[-1]
    return Network(
        name=spec.name,
        source=Source.ULTRALYTICS,
        task=kind.task,
        module=module,
        prepare=ResizeAndCrop(square, size) if classify else letterbox,
        shape=(3, *size),
        postprocessor=kind.postprocessor,
        weights=label,
        classes=classes,
        leaves=_leaves(),
        variable_shape=rect,
        keypoints=int(head.kpt_shape[0]) if kind is _POSE else None,
    )


def _leaves() -> tuple[type[nn.Module], ...]:
    """Return the heads, whose shapes depend on values, and RT-DETR's position encoding."""
    modules = import_ultralytics("ultralytics.nn.modules")
    heads = (modules.Detect, modules.RTDETRDecoder, modules.SemanticSegment, modules.Depth)
    return (Scale, _Corners, modules.AIFI, *heads)


def _check_size(spec: ModelSpec, size: tuple[int, int], stride: int) -> None:
    if size[0] % stride or size[1] % stride:
        expected = f"height and width in multiples of {stride}, the stride of {spec.name}"
        raise InvalidInput("spec.model.inputSize", list(size), expected)
