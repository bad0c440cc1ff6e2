"""Torchvision's detectors, on the outputs of real networks with random weights."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone
from torchvision.ops import box_iou
from torchvision.transforms.v2.functional import pil_to_tensor

from splittracr.data.contracts import Geometry
from splittracr.data.postprocess import create, masks
from splittracr.experiment.spec import PostprocessSpec
from tests.data.helpers import size_of, travelled

CLASSES = tuple(f"name {i}" for i in range(91))
ALL = PostprocessSpec(confidence_percent=0, iou_percent=100, max_detections=1000)


@pytest.fixture(scope="module", params=[detection.MaskRCNN, detection.KeypointRCNN])
def found(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    """The output for one picture of 90 x 120 pixels."""
    torch.manual_seed(0)
    network = request.param(
        mobilenet_backbone(
            backbone_name="mobilenet_v3_small", weights=None, fpn=True, trainable_layers=6
        ),
        num_classes=5,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3),
        min_size=64,
        max_size=96,
        box_score_thresh=0.0,
        box_detections_per_img=20,
    ).eval()
    with torch.inference_mode():
        output: list[dict[str, Tensor]] = network([torch.rand(3, 90, 120)])
    assert len(output[0]["scores"]) > 5
    return output[0]


def test_everything_passes_when_nothing_is_asked(found: dict[str, Tensor]) -> None:
    processor = create("torchvision-detection", ALL, CLASSES)
    reduced = travelled(processor.reduce([found])[0])
    order = found["scores"].argsort(descending=True, stable=True)
    assert torch.equal(reduced["scores"], found["scores"][order])
    assert torch.equal(reduced["boxes"], found["boxes"][order])
    assert torch.equal(reduced["classes"].long(), found["labels"][order])
    if "masks" in found:
        assert torch.equal(masks.decode(reduced), found["masks"][order, 0] > 0.5)
        assert size_of(reduced) < found["masks"].numel() / 4
    if "keypoints" in found:
        assert torch.equal(reduced["keypoints"][..., :2], found["keypoints"][order, :, :2])
        assert torch.equal(reduced["keypoints"][..., 2], found["keypoints_scores"][order])


def test_limits_are_kept(found: dict[str, Tensor]) -> None:
    middle = float(found["scores"].median())
    spec = PostprocessSpec(confidence_percent=int(middle * 100), iou_percent=20, max_detections=3)
    reduced = create("torchvision-detection", spec, CLASSES).reduce([found])[0]
    assert 0 < len(reduced["scores"]) <= 3
    assert float(reduced["scores"].min()) >= spec.confidence_percent / 100
    overlap = box_iou(reduced["boxes"], reduced["boxes"]).triu(1)
    same = reduced["classes"][:, None] == reduced["classes"][None]
    assert float((overlap * same).max()) <= 0.2


def test_prediction_is_json_in_the_pictures_pixels(found: dict[str, Tensor]) -> None:
    processor = create("torchvision-detection", ALL, CLASSES)
    reduced = processor.reduce([found])[0]
    same = processor.describe(reduced, Geometry((90, 120), (90, 120)))
    twice = processor.describe(reduced, Geometry((180, 360), (90, 120)))
    json.dumps(same, allow_nan=False)
    for a, b, box in zip(same, twice, reduced["boxes"].tolist(), strict=True):
        assert a["box"] == pytest.approx(box, abs=0.051)
        assert b["box"] == pytest.approx([box[0] * 3, box[1] * 2, box[2] * 3, box[3] * 2], abs=0.06)
        assert ("area" in a) == ("masks" in found)
        assert ("keypoints" in a) == ("keypoints" in found)
        if "area" in a:
            assert b["area"] == a["area"] * 6
    assert processor.ranking(reduced) is None


def test_drawing_leaves_the_picture_alone(found: dict[str, Tensor]) -> None:
    processor = create("torchvision-detection", ALL, CLASSES)
    picture = Image.new("RGB", (120, 90))
    drawn = processor.draw(picture, processor.reduce([found])[0], Geometry((90, 120), (90, 120)))
    assert drawn.size == picture.size
    assert picture.getbbox() is None
    assert drawn.getbbox() is not None


@pytest.mark.parametrize("more", [{}, {"masks": (1, 90, 120)}, {"keypoints": (17, 3)}])
def test_nothing_found(cat: Image.Image, more: Mapping[str, tuple[int, ...]]) -> None:
    output: dict[str, Any] = {
        "boxes": torch.zeros(0, 4),
        "scores": torch.zeros(0),
        "labels": torch.zeros(0, dtype=torch.int64),
        "keypoints_scores": torch.zeros(0, 17),
    } | {key: torch.zeros(0, *shape) for key, shape in more.items()}
    processor = create("torchvision-detection", PostprocessSpec(), CLASSES)
    reduced = travelled(processor.reduce([output])[0])
    geometry = Geometry((300, 451), (300, 451))
    assert processor.describe(reduced, geometry) == []
    assert processor.draw(cat, reduced, geometry).tobytes() == cat.tobytes()


def test_a_whole_picture_goes_through_ssdlite(cat: Image.Image) -> None:
    torch.manual_seed(0)
    network = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    with torch.inference_mode():
        output = network([pil_to_tensor(cat).float() / 255])
    spec = PostprocessSpec(confidence_percent=0, max_detections=7)
    processor = create("torchvision-detection", spec, CLASSES)
    described = processor.describe(processor.reduce(output)[0], Geometry((300, 451), (300, 451)))
    assert len(described) == 7
    for one in described:
        left, top, right, bottom = one["box"]
        assert 0 <= left < right <= 451
        assert 0 <= top < bottom <= 300
