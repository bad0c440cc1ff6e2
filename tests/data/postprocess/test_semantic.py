"""Semantic segmentation, against argmax on a real network's output."""

import json

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from splittracr.data.contracts import Geometry
from splittracr.data.drawing import colour
from splittracr.data.postprocess import create
from splittracr.experiment.spec import PostprocessSpec
from tests.data.helpers import travelled

CLASSES = ("__background__", *(f"name {i}" for i in range(1, 21)))
GEOMETRY = Geometry((300, 451), (64, 96))


@pytest.fixture(scope="module")
def output() -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    with torch.inference_mode():
        found: dict[str, Tensor] = network(torch.rand(2, 3, 64, 96))
    return found


def test_mask_is_the_argmax(output: dict[str, Tensor]) -> None:
    processor = create("semantic-segmentation", PostprocessSpec(), CLASSES)
    for given in (output, output["out"], (output["out"], None)):
        reduced = [travelled(one) for one in processor.reduce(given)]
        assert all(one["mask"].dtype == torch.uint8 for one in reduced)
        best = output["out"].argmax(1)
        assert all(torch.equal(one["mask"].long(), best[i]) for i, one in enumerate(reduced))
        assert processor.ranking(reduced[0]) is None


def test_shares_sum_to_one(output: dict[str, Tensor]) -> None:
    processor = create("semantic-segmentation", PostprocessSpec(), CLASSES)
    described = processor.describe(processor.reduce(output)[0], GEOMETRY)
    assert sum(one["share"] for one in described) == pytest.approx(1, abs=1e-3)
    assert [one["share"] for one in described] == sorted(
        (one["share"] for one in described), reverse=True
    )
    json.dumps(described, allow_nan=False)


def test_one_channel_and_many() -> None:
    one = create("semantic-segmentation", PostprocessSpec(), ("no", "yes"))
    mask = one.reduce(torch.tensor([[[[-1.0, 2.0]]]]))[0]["mask"]
    assert mask.tolist() == [[0, 1]]
    many = create("semantic-segmentation", PostprocessSpec(), ())
    scores = torch.zeros(1, 300, 1, 2)
    scores[0, 299, 0, 1] = 1
    reduced = many.reduce(scores)[0]
    assert (reduced["mask"].tolist(), reduced["mask"].dtype) == ([[0, 299]], torch.int32)
    assert many.describe(reduced, GEOMETRY)[1] == {"label": "class 299", "class": 299, "share": 0.5}


def test_only_the_foreground_is_coloured(cat: Image.Image) -> None:
    processor = create("semantic-segmentation", PostprocessSpec(), CLASSES)
    scores = torch.zeros(1, 21, 2, 2)
    scores[0, 8, 0, 0] = 1  # a quarter of the picture, top left
    drawn = processor.draw(cat, processor.reduce({"out": scores})[0], GEOMETRY)
    assert drawn.getpixel((400, 250)) == cat.getpixel((400, 250))
    before, after = cat.getpixel((10, 10)), drawn.getpixel((10, 10))
    assert isinstance(before, tuple)
    assert isinstance(after, tuple)
    mixed = [0.4 * b + 0.6 * c for b, c in zip(before, colour(8), strict=True)]
    assert after == pytest.approx(mixed, abs=1)
    nothing = processor.reduce({"out": torch.zeros(1, 21, 2, 2)})[0]
    plain = processor.draw(cat, nothing, GEOMETRY).crop((0, 0, *cat.size))
    assert plain.tobytes() == cat.tobytes()
