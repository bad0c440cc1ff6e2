import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import WeightsEnum
from torchvision.ops.misc import FrozenBatchNorm2d

from splittracr.experiment.errors import InvalidInput
from splittracr.models.network import Task
from splittracr.models.torchvision import _freeze_norms
from splittracr.splitting.capture import capture
from splittracr.splitting.prove import prove
from tests.models.helpers import build, identical, published_state, random_picture, tensors

_SMALL = {
    "fasterrcnn_mobilenet_v3_large_fpn": (64, 96),
    "fcos_resnet50_fpn": (64, 96),
    "keypointrcnn_resnet50_fpn": (64, 96),
    "retinanet_resnet50_fpn": (64, 96),
    "ssdlite320_mobilenet_v3_large": None,
}

_FEW: dict[str, Any] = {
    "score_thresh": 0.0,
    "topk_candidates": 20,
    "_post_nms_top_n": {"training": 0, "testing": 3},
}


def _accept_a_few(detector: nn.Module) -> None:
    """Random scores may all be too low, and a comparison of nothing with nothing proves nothing."""
    for module in detector.modules():
        for attribute, value in _FEW.items():
            if hasattr(module, attribute):
                setattr(module, attribute, value)


@pytest.mark.parametrize(("name", "size"), _SMALL.items())
def test_official_weights_detect_as_in_torchvision(
    name: str, size: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = models.get_model_weights(name).DEFAULT
    count = len(entry.meta["categories"])
    state = published_state(name, gain=1.0, weights_backbone=None, num_classes=count)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: copy.copy(state))
    edges = {} if size is None else {"min_size": size[0], "max_size": size[1]}
    official = models.get_model(name, weights=entry, **edges).eval()
    network = build(name=name, input_size=size)
    for detector in (official, network.module):
        _accept_a_few(detector)
    picture = random_picture()
    expected = official([entry.transforms()(picture)])
    assert identical(network.module(network.prepare(picture)[None]), expected)
    assert network.variable_shape
    assert network.classes == tuple(entry.meta["categories"])
    assert network.postprocessor == "torchvision-detection"
    assert network.task is (Task.POSE if "keypoint" in name else Task.DETECT)
    assert network.keypoints == (17 if "keypoint" in name else None)


def test_every_cut_is_exact_and_carries_no_picture() -> None:
    network = build(
        name="fasterrcnn_mobilenet_v3_large_320_fpn", weights="none", input_size=(64, 96)
    )
    _accept_a_few(network.module)
    example = network.prepare(random_picture(60, 90))[None]
    proof = prove(capture(network.module, example, network.leaves), example)
    assert len(proof.cuts) > 150
    assert proof.refused == {}
    middle = proof.cuts[len(proof.cuts) // 2]
    assert all(spec.shape[1] > 3 for spec in middle.live)


def test_pictures_of_any_size_run_on_one_tape() -> None:
    network = build(name="ssdlite320_mobilenet_v3_large", weights="none")
    example = network.prepare(random_picture(60, 90))[None]
    tape = capture(network.module, example, network.leaves)
    other = network.prepare(random_picture(90, 60))[None]
    assert identical(tape(other), network.module(other))


def test_another_number_of_classes() -> None:
    network: Any = build(name="retinanet_resnet50_fpn", weights="none", num_classes=3)
    head = network.module.heads.detector.head.classification_head
    assert head.cls_logits.out_channels == 9 * 3
    assert network.classes == ()


def test_backbone_in_half_precision_heads_in_full() -> None:
    network = build(name="ssdlite320_mobilenet_v3_large", weights="none", dtype="bfloat16")
    found = network.module(network.prepare(random_picture())[None])
    assert {t.dtype for t in tensors(found)} == {torch.float32, torch.int64}


def test_size_is_that_of_the_resized_picture() -> None:
    network: Any = build(name="fcos_resnet50_fpn", weights="none", input_size=(48, 32))
    assert network.module.pixels.transform.min_size == (32,)
    assert network.module.pixels.transform.max_size == 48
    with pytest.raises(InvalidInput, match=r"\[320, 320\], ssdlite320"):
        build(name="ssdlite320_mobilenet_v3_large", weights="none", input_size=(300, 300))


@pytest.mark.parametrize("backbone", ["counts", "frozen"])
@pytest.mark.parametrize(
    "name",
    [
        "fasterrcnn_resnet50_fpn",
        "fasterrcnn_mobilenet_v3_large_fpn",
        "keypointrcnn_resnet50_fpn",
        "maskrcnn_resnet50_fpn",
        "retinanet_resnet50_fpn",
    ],
)
def test_a_state_dict_of_ones_own_detects_as_in_torchvision(
    name: str, backbone: str, tmp_path: Path
) -> None:
    own: Any = models.get_model(
        name, weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=96
    ).eval()
    own.load_state_dict(published_state(name, gain=1.0, weights_backbone=None, num_classes=3))
    if backbone == "frozen":  # as with a pretrained backbone
        _freeze_norms(own.backbone, 1e-5)
    torch.save(own.state_dict(), tmp_path / "mine.pth")
    fields = {"weights_file": "mine.pth", "num_classes": 3, "input_size": (64, 96)}
    network = build(tmp_path, name=name, **fields)
    for detector in (own, network.module):
        _accept_a_few(detector)
    picture = network.prepare(random_picture())
    expected = own([picture / 255])
    assert identical(network.module(picture[None]), expected)
    assert network.weights == "file mine.pth"


def test_a_file_beside_a_named_weight_set_is_built_for_it(tmp_path: Path) -> None:
    name = "retinanet_resnet50_fpn"
    torch.save(published_state(name, weights_backbone=None), tmp_path / "mine.pth")
    epsilons = {}
    for chosen in ("official", "none", "COCO_V1"):
        network = build(tmp_path, name=name, weights_file="mine.pth", weights=chosen)
        frozen = [m for m in network.module.modules() if isinstance(m, FrozenBatchNorm2d)]
        epsilons[chosen] = {norm.eps for norm in frozen} or {1e-5}
    assert epsilons == {"official": {1e-5}, "none": {1e-5}, "COCO_V1": {0.0}}
