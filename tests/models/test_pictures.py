"""Pictures become input within bounds."""

import pytest
from PIL import Image

from splittracr.data.rgb import UnreadablePicture
from splittracr.models.pictures import ResizeAndCrop, StillClip


@pytest.mark.parametrize("size", [(1, 20_000), (60_000, 3)])
@pytest.mark.parametrize(
    "prepare", [ResizeAndCrop((256,), (224, 224)), StillClip(2, (128,), (9, 9))]
)
def test_a_thin_picture_is_refused_before_it_is_resized(
    prepare: ResizeAndCrop | StillClip, size: tuple[int, int]
) -> None:
    with pytest.raises(UnreadablePicture, match=f"{size[0]} x {size[1]} pixels.*limit"):
        prepare(Image.new("RGB", size))


def test_a_long_picture_within_the_limit_is_not() -> None:
    assert ResizeAndCrop((32,), (32, 32))(Image.new("RGB", (10, 10_000))).shape == (3, 32, 32)
    assert ResizeAndCrop((32, 32))(Image.new("RGB", (1, 20_000))).shape == (3, 32, 32)
