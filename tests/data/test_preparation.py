"""Pictures prepared without torchvision have the pixels of torchvision's own transforms."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import models
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from splittracr.data import datasets
from splittracr.data.preparation import Preparation
from splittracr.data.rgb import UnreadablePicture
from splittracr.experiment.spec import DatasetSpec, ModelSpec
from splittracr.models import registry
from splittracr.models.pictures import ResizeAndCrop, StillClip, described, keep_size

SHIPPED = datasets.open_dataset(DatasetSpec(), Path())
PICTURES = [datasets.load(SHIPPED, i).picture for i in range(len(SHIPPED))]


def official(weights: object) -> list[np.ndarray]:
    """The values that the published transform of a weight set makes of the pictures."""
    preset = weights.transforms()  # type: ignore[attr-defined]
    return [preset(picture).numpy() for picture in PICTURES]


def normalised(pixels: np.ndarray, preset: object) -> np.ndarray:
    mean, std = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (preset.mean, preset.std))  # type: ignore[attr-defined]
    return (pixels.astype(np.float32) / np.float32(255) - mean) / std


@pytest.mark.parametrize(
    "weights",
    [
        models.AlexNet_Weights.IMAGENET1K_V1,
        models.ResNet50_Weights.IMAGENET1K_V2,
        models.EfficientNet_B0_Weights.IMAGENET1K_V1,
        models.EfficientNet_B1_Weights.IMAGENET1K_V2,
        models.Inception_V3_Weights.IMAGENET1K_V1,
        models.MobileNet_V3_Small_Weights.IMAGENET1K_V1,
        models.RegNet_Y_400MF_Weights.IMAGENET1K_V2,
        models.Swin_T_Weights.IMAGENET1K_V1,
        models.Swin_V2_T_Weights.IMAGENET1K_V1,
        models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1,
        models.ConvNeXt_Tiny_Weights.IMAGENET1K_V1,
        models.MaxVit_T_Weights.IMAGENET1K_V1,
    ],
)
def test_pixels_and_values_equal_the_published_transform(weights: object) -> None:
    preset = weights.transforms()  # type: ignore[attr-defined]
    made = ResizeAndCrop(
        tuple(preset.resize_size), tuple(preset.crop_size * 2)[:2], preset.interpolation
    ).description
    for picture, expected in zip(PICTURES, official(weights), strict=True):
        assert picture is not None
        assert np.array_equal(normalised(made(picture), preset), expected)


@pytest.mark.parametrize("name", ["alexnet", "mobilenet_v3_small", "efficientnet_lite0", "swin_t"])
def test_a_shipped_network_and_its_description_prepare_the_same(name: str) -> None:
    network = registry.build(ModelSpec(name=name, weights="none"))
    made = described(network.prepare)
    assert made is not None
    for picture in PICTURES:
        assert picture is not None
        assert np.array_equal(made(picture), network.prepare(picture).numpy())


@pytest.mark.parametrize("interpolation", list(InterpolationMode))
@pytest.mark.parametrize("size", [(40, 31), (31, 40), (224, 224), (13, 500)])
@pytest.mark.parametrize("resize", [(33,), (57, 64)])
def test_odd_sizes_and_borders_are_torchvisions(
    interpolation: InterpolationMode, size: tuple[int, int], resize: tuple[int, ...]
) -> None:
    assert PICTURES[0] is not None
    picture = PICTURES[0].resize(size)
    wanted = ResizeAndCrop(resize, (48, 51), interpolation)
    assert np.array_equal(wanted.description(picture), wanted(picture).numpy())


def test_a_picture_that_keeps_its_size_is_passed_on() -> None:
    made = described(keep_size)
    assert made == Preparation()
    assert PICTURES[1] is not None
    assert np.array_equal(made(PICTURES[1]), transforms.pil_to_tensor(PICTURES[1]).numpy())


def test_a_clip_has_no_description_since_torch_resizes_it() -> None:
    clip = StillClip(2, (128,), (112, 112))
    assert described(clip) is None
    assert PICTURES[0] is not None
    # The reason: torchvision resizes tensors without Pillow's antialiasing.
    pillow = Preparation(resize=(128,), crop=(112, 112))(PICTURES[0])
    assert not np.array_equal(clip(PICTURES[0])[0].numpy(), pillow)


def test_a_thin_picture_is_refused() -> None:
    with pytest.raises(UnreadablePicture, match=r"20000 pixels.*limit"):
        Preparation(resize=(256,))(Image.new("RGB", (1, 20_000)))
