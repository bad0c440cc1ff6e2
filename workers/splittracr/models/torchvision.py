"""Networks of torchvision: classification, segmentation, video and detection.

A network is built for its weight set, so that random and trained weights give the same operations
and cuts. A user's own file belongs to a weight set only if the manifest names one with it, or if it
is the published file itself. Otherwise the network is built as by torchvision without weights.
"""

import hashlib
import math
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import detection, segmentation, video
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings
from torchvision.ops.misc import FrozenBatchNorm2d

from splittracr.experiment.errors import InvalidInput, nearest
from splittracr.experiment.spec import ModelSpec, Source
from splittracr.models import weights
from splittracr.models.detection import LEAVES, Detector
from splittracr.models.network import Network, Task, check_size
from splittracr.models.pictures import (
    FromPixels,
    Pixels,
    ResizeAndCrop,
    StillClip,
    Values,
    keep_size,
)
from splittracr.models.random_weights import HE_GAIN, WithoutRandomInit, randomise

SIZE = "spec.model.inputSize"
FRAMES = 16
"""Frames of a clip. torchvision's MViT requires this number, and the other networks accept it."""

_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.", "aux_classifier.")  # only used in training
_PICTURE = (480, 640)  # the example for networks that keep a picture's own size

# torchvision's builders do this only if they load official weights themselves.
_FROZEN_NORMS = {
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fcos_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
}
_NO_EPSILON = {
    "fasterrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
}
_EXTRA: Mapping[str, Mapping[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}
_TRANSFORMED_INPUT = frozenset(_EXTRA)
"""Networks whose weight sets require a second normalisation."""

# Gains of random weights. Branches add up along a residual network without normalisation.
_GAINS = (("rcnn", 1.0), ("resn", 1.0), ("regnet", 1.0), ("efficientnet_v2", 1.5), ("mnasnet", 1.5))


@dataclass(frozen=True)
class _Kind:
    """One of torchvision's four packages of networks, and how to build a Network from it."""

    package: Any
    network: Callable[["_Loaded"], Network]
    extra: Mapping[str, Any]


@dataclass(frozen=True)
class _Loaded:
    """A network with its weights, and the weight set that it was built for."""

    spec: ModelSpec
    entry: Any  # member of the network's WeightsEnum, with transforms and class names
    net: nn.Module
    label: str

    @property
    def size(self) -> tuple[int, int] | None:
        if self.spec.input_size is None and isinstance(self.net, VisionTransformer):
            return (self.net.image_size, self.net.image_size)
        return self.spec.input_size

    def network(self, **fields: Any) -> Network:
        """Make a Network with the fields that all kinds have in common."""
        categories = tuple(self.entry.meta["categories"])
        count = self.spec.num_classes
        return Network(
            name=self.spec.name,
            source=Source.TORCHVISION,
            weights=self.label,
            classes=categories if count in (None, len(categories)) else (),
            **fields,
        )


def names() -> list[str]:
    """Return the networks of this family, without quantised networks and optical flow."""
    return sorted(name for kind in _KINDS for name in models.list_models(module=kind.package))


def build(spec: ModelSpec, base: Path) -> Network:
    """Build the network of `spec`; a relative weights file starts at the folder `base`.

    Raises InvalidInput for an unknown name, weight set or file, or a size that the network does not
    accept, and SplittracrError if official weights cannot be downloaded.
    """
    kind = _kind(spec.name)
    if spec.args:
        raise InvalidInput("spec.model.args", spec.args, "nothing, they are for custom models")
    path = weights.file_path(spec, base)
    entry = _weight_set(spec)
    file = weights.read_file(path) if path is not None else None
    made_for = entry if path is None else _weight_set_of(spec, path)
    entry = made_for or entry  # for transforms and class names
    net = _construct(spec, kind, entry, made_for, file.state if file else None)
    label = _load(spec, net, entry, file, made_for)
    network = kind.network(_Loaded(spec, entry, net, label))
    network.module.eval()
    if spec.input_size is not None:
        min_size = " x ".join(str(n) for n in entry.meta.get("min_size", ()))
        check_size(network, spec.input_size, f"at least {min_size} for {network.name}")
    return network


def _kind(name: str) -> _Kind:
    for kind in _KINDS:
        if name in models.list_models(module=kind.package):
            return kind
    raise InvalidInput("spec.model.name", name, f"a model of torchvision, {nearest(name, names())}")


def _weight_set(spec: ModelSpec) -> Any:
    """Return the weight set of `spec`, or the default one for transforms and class names."""
    known = models.get_model_weights(spec.name)
    if spec.weights in (weights.OFFICIAL, weights.NONE):
        return known.DEFAULT
    if spec.weights in known.__members__:
        return known[spec.weights]
    names = [weights.OFFICIAL, weights.NONE, *(entry.name for entry in known)]
    raise InvalidInput("spec.model.weights", spec.weights, "one of " + ", ".join(names))


def _weight_set_of(spec: ModelSpec, path: Path) -> Any:
    """Return the weight set of a file: that of `spec`, or the one that publishes it, or None."""
    known = models.get_model_weights(spec.name)
    if spec.weights in known.__members__:
        return known[spec.weights]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # torch.hub's file names end with the beginning of their digests.
    ends = ((entry, re.search(r"-([0-9a-f]{8,})\.pth$", entry.url)) for entry in known)
    return next((entry for entry, end in ends if end and digest.startswith(end[1])), None)


def _construct(
    spec: ModelSpec,
    kind: _Kind,
    entry: Any,
    made_for: Any,
    state: Mapping[str, Tensor] | None,
) -> nn.Module:
    """Build the network for the weight set `made_for`, without loading weights.

    If it is None, the network is built as by torchvision without weights, adapted to the tensors of
    `state`.
    """
    options = {
        **kind.extra,
        **_EXTRA.get(spec.name, {}),
        **_size_options(spec, kind, made_for, state),
        "num_classes": spec.num_classes or len(entry.meta["categories"]),
    }
    if spec.name in _TRANSFORMED_INPUT:
        options["transform_input"] = made_for is not None
    try:
        with WithoutRandomInit():
            net: nn.Module = models.get_model(spec.name, weights=None, **options)
    except ValueError as error:
        if spec.input_size is None:
            raise
        expected = f"a size that {spec.name} accepts ({weights.brief(error)})"
        raise InvalidInput(SIZE, list(spec.input_size), expected) from error
    if spec.name in _FROZEN_NORMS and (made_for is not None or not _has_counters(state or {})):
        no_epsilon = spec.name in _NO_EPSILON and made_for is not None
        no_epsilon = no_epsilon and made_for.name == "COCO_V1"
        _freeze_norms(net.backbone, 0.0 if no_epsilon else 1e-5)
    return net


def _has_counters(state: Mapping[str, Tensor]) -> bool:
    """Whether the norms of the backbone count batches, so that they were not frozen."""
    return any("backbone." in name and name.endswith("num_batches_tracked") for name in state)


def _size_options(
    spec: ModelSpec, kind: _Kind, made_for: Any, state: Mapping[str, Tensor] | None
) -> dict[str, Any]:
    """Return the builder arguments for the size of the input."""
    name, size = spec.name, spec.input_size
    usual = made_for.meta.get("min_size", (0, 0)) if made_for is not None else (224, 224)
    height, width = size or (made_for is None and _size_of_vit(name, state or {})) or usual
    if kind.package is detection and size is not None:
        return _detector_size(name, height, width)
    if name.startswith("vit_"):
        patch = int(name.rpartition("_")[2])
        if height != width or height % patch:
            raise InvalidInput(SIZE, [height, width], f"a square with sides a multiple of {patch}")
        return {"image_size": height}
    if name == "maxvit_t":
        return {"input_size": (height, width)}
    if name.startswith("mvit_") and (height, width) != (224, 224):
        raise InvalidInput(SIZE, [height, width], f"[224, 224], {name} has no other")
    return {}


def _size_of_vit(name: str, state: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Return the size for which a vision transformer has positions; None if it has none."""
    found = (value for name, value in state.items() if name.endswith("encoder.pos_embedding"))
    positions = next(found, None)
    if positions is None or positions.dim() != 3 or not name.startswith("vit_"):
        return None
    side = math.isqrt(max(0, positions.shape[1] - 1)) * int(name.rpartition("_")[2])
    return (side, side) if side else None


def _detector_size(name: str, height: int, width: int) -> dict[str, Any]:
    """Return the limits of a detector's own resizing; pictures keep their size until then."""
    if name.startswith("ssd"):
        fixed = 300 if name == "ssd300_vgg16" else 320
        if (height, width) != (fixed, fixed):
            raise InvalidInput(SIZE, [height, width], f"[{fixed}, {fixed}], {name} has no other")
        return {}
    return {"min_size": min(height, width), "max_size": max(height, width)}


def _freeze_norms(module: Any, eps: float) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, eps))
        else:
            _freeze_norms(child, eps)


def _load(
    spec: ModelSpec, net: nn.Module, entry: Any, file: weights.StateFile | None, made_for: Any
) -> str:
    """Load the weights into `net`; returns their label."""
    if file is not None:
        state, label = file.for_module(net)
        label += f", built for {made_for.name}" if made_for is not None else ""
    elif spec.weights == weights.NONE:
        gain = next((g for part, g in _GAINS if part in spec.name), HE_GAIN)
        randomise(net, spec.seed, gain=gain)
        return weights.none_label(spec)
    else:
        state, label = _download(spec.name, entry), entry.name
    return weights.load_state(net, _as_named_here(net, state), spec, label, _is_head)


def _download(name: str, entry: Any) -> Mapping[str, Tensor]:
    try:
        state: Mapping[str, Tensor] = entry.get_state_dict(
            map_location="cpu", weights_only=True, check_hash=True, progress=sys.stderr.isatty()
        )
    except (OSError, RuntimeError) as error:  # no network, or a file with another checksum
        raise weights.download_failed(entry.name, name, entry.url, error) from error
    return state


def _as_named_here(net: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the state with current names, without auxiliary heads, at the network's own size."""
    named = OrderedDict(
        (_dense_name(name), tensor)
        for name, tensor in state.items()
        if not name.startswith(_AUXILIARY)
    )
    if isinstance(net, VisionTransformer) and "encoder.pos_embedding" in named:
        named = interpolate_embeddings(net.image_size, net.patch_size, named)
    if hasattr(state, "_metadata"):
        named._metadata = state._metadata  # type: ignore[attr-defined]
    return named


def _dense_name(name: str) -> str:
    """Return the current name: files of DenseNet have norm.1.weight for norm1.weight."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", name)


def _is_head(_name: str, own: torch.Size, other: torch.Size) -> bool:
    """Whether shapes differ only in dimension 0, the number of classes of the last layers."""
    return own[1:] == other[1:]


def _dtype(spec: ModelSpec) -> torch.dtype:
    found: torch.dtype = getattr(torch, spec.dtype.value)
    return found


def _resize_and_crop(
    preset: Any, size: tuple[int, int] | None
) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The sizes of resizing and of the crop, which is `size` or the preset's own.

    The preset's resizing is scaled with the crop, so that it fills it.
    """
    own = preset.crop_size[0], preset.crop_size[-1]
    crop = size or own
    factor = max(crop[0] / own[0], crop[1] / own[1])
    return tuple(round(n * factor) for n in preset.resize_size), crop


def _classification(loaded: _Loaded) -> Network:
    preset = loaded.entry.transforms()
    resize, crop = _resize_and_crop(preset, loaded.size)
    prepare = ResizeAndCrop(resize, crop, preset.interpolation, preset.antialias)
    return _classifier(loaded, Pixels, prepare, (3, *crop))


def _classifier(
    loaded: _Loaded,
    pixels: type[Pixels],
    prepare: ResizeAndCrop | StillClip,
    shape: tuple[int, ...],
) -> Network:
    preset = loaded.entry.transforms()
    first = pixels(preset.mean, preset.std, _dtype(loaded.spec))
    return loaded.network(
        task=Task.CLASSIFY,
        module=FromPixels(first, weights.cast(loaded.net, loaded.spec)),
        prepare=prepare,
        shape=shape,
        postprocessor="classification",
        leaves=(Pixels,),
    )


class _Segmenter(FromPixels):
    """Returns only the scores, because the auxiliary head is for training."""

    def forward(self, batch: Tensor) -> object:
        return self.net(self.pixels(batch))["out"]


def _segmentation(loaded: _Loaded) -> Network:
    preset = loaded.entry.transforms()
    own = (preset.resize_size[0], preset.resize_size[0])
    dtype = _dtype(loaded.spec)
    return loaded.network(
        task=Task.SEGMENT,
        module=_Segmenter(
            Pixels(preset.mean, preset.std, dtype), weights.cast(loaded.net, loaded.spec)
        ),
        prepare=ResizeAndCrop(
            loaded.size or tuple(preset.resize_size), None, preset.interpolation, preset.antialias
        ),
        shape=(3, *(loaded.size or own)),
        postprocessor="semantic-segmentation",
        leaves=(Pixels,),
        variable_shape=loaded.size is None,
    )


class _ClipPixels(Pixels):
    """Converts clips `[N, T, 3, H, W]` to values `[N, 3, T, H, W]`."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels).permute(0, 2, 1, 3, 4)

    def values(self) -> Values:
        return _ClipValues(self.dtype)


class _ClipValues(Values):
    """The same for clips of values that the data set has normalised."""

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values).permute(0, 2, 1, 3, 4)


def _video(loaded: _Loaded) -> Network:
    preset = loaded.entry.transforms()
    resize, crop = _resize_and_crop(preset, loaded.size)
    prepare = StillClip(FRAMES, resize, crop, preset.interpolation)
    return _classifier(loaded, _ClipPixels, prepare, (FRAMES, 3, *crop))


def _detection(loaded: _Loaded) -> Network:
    tasks = {"maskrcnn": Task.INSTANCES, "keypointrcnn": Task.POSE}
    backbone: Any = loaded.net.backbone
    weights.cast(backbone, loaded.spec)
    return loaded.network(
        task=tasks.get(loaded.spec.name.partition("_")[0], Task.DETECT),
        module=Detector(loaded.net, _dtype(loaded.spec)),
        prepare=keep_size,
        shape=(3, *(loaded.size or _PICTURE)),
        postprocessor="torchvision-detection",
        leaves=LEAVES,
        variable_shape=True,
        keypoints=len(loaded.entry.meta.get("keypoint_names", ())) or None,
    )


_KINDS = (
    _Kind(models, _classification, {}),
    _Kind(segmentation, _segmentation, {"weights_backbone": None, "aux_loss": False}),
    _Kind(video, _video, {}),
    _Kind(detection, _detection, {"weights_backbone": None}),
)
