"""Picture-like values: the right colours, or an error with the way out."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from splittracr.data.rgb import UnreadablePicture, to_rgb

WHITE, HALF, BLACK = (255, 255, 255), (128, 128, 128), (0, 0, 0)


def palette(transparency: bytes | int | None) -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def pixels(image: Image.Image) -> list[Any]:
    return [image.getpixel((x, 0)) for x in range(image.width)]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, WHITE),
        ("1", 0, BLACK),
        ("L", 128, HALF),
        ("LA", (128, 255), HALF),
        ("LA", (128, 0), HALF),
        ("La", (128, 255), HALF),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBA", (1, 2, 3, 255), (1, 2, 3)),
        ("RGBA", (1, 2, 3, 0), (1, 2, 3)),
        ("RGBa", (1, 2, 3, 255), (1, 2, 3)),
        ("RGBX", (1, 2, 3, 4), (1, 2, 3)),
        ("CMYK", (0, 0, 0, 0), WHITE),
        ("CMYK", (255, 255, 255, 0), BLACK),
        ("YCbCr", (255, 128, 128), WHITE),
        ("HSV", (0, 255, 255), (255, 0, 0)),
    ],
)
def test_modes_of_eight_bits(mode: str, colour: Any, expected: tuple[int, int, int]) -> None:
    made = to_rgb(Image.new(mode, (1, 1), colour), "x")
    assert (made.mode, pixels(made)) == ("RGB", [expected])


@pytest.mark.parametrize("transparency", [None, 0, b"\x00\xff"])
def test_a_palette_keeps_its_colours(transparency: bytes | int | None) -> None:
    assert pixels(to_rgb(palette(transparency), "x")) == [(10, 20, 30), (40, 50, 60)]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_colour_that_stands_for_transparent_stays(mode: str) -> None:
    image = Image.new(mode, (1, 1), 7 if mode == "L" else (7, 7, 7))
    image.info["transparency"] = 7 if mode == "L" else (7, 7, 7)
    assert pixels(to_rgb(image, "x")) == [(7, 7, 7)]


@pytest.mark.parametrize("mode", ["I", "F", "I;16", "I;16B", "I;16L"])
def test_modes_of_more_than_eight_bits_are_refused(mode: str) -> None:
    with pytest.raises(UnreadablePicture) as caught:
        to_rgb(Image.new(mode, (2, 2)), "depth.png")
    assert f"depth.png: more than 8 bits a channel (Pillow mode {mode})" in str(caught.value)
    assert "astype('uint8')" in str(caught.value)


MAKERS: list[Callable[[Any], Any]] = [
    lambda array: array,
    lambda array: torch.from_numpy(array.copy()),
    lambda array: array[::-1][::-1],
    lambda array: np.asfortranarray(array),
]


@pytest.mark.parametrize("make", MAKERS)
@given(height=st.integers(5, 9), width=st.integers(5, 9), seed=st.integers(0, 99))
def test_orders_of_dimensions(
    make: Callable[[Any], Any], height: int, width: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    rgba = draw.integers(0, 256, (height, width, 4), dtype=np.uint8)
    rgb, grey = rgba[:, :, :3], rgba[:, :, :1]
    for given_value, expected in (
        (rgb, rgb),
        (rgba, rgb),
        (rgb.transpose(2, 0, 1), rgb),
        (rgba.transpose(2, 0, 1), rgb),
        (grey, grey.repeat(3, 2)),
        (grey[:, :, 0], grey.repeat(3, 2)),
        (grey.transpose(2, 0, 1), grey.repeat(3, 2)),
    ):
        made = to_rgb(make(given_value), "x")
        assert made.mode == "RGB"
        assert np.array_equal(np.asarray(made), expected)


def test_if_both_orders_fit_the_usual_one_is_taken() -> None:
    values = np.arange(3 * 5 * 4, dtype=np.uint8).reshape(3, 5, 4)
    assert to_rgb(values, "x").size == (5, 3)
    assert to_rgb(torch.from_numpy(values), "x").size == (4, 5)


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_true_is_white(make: Callable[[Any], Any]) -> None:
    assert pixels(to_rgb(make([[True, False]]), "x")) == [WHITE, BLACK]


NUMPY = ["int8", "uint16", "int16", "int32", "int64", "uint32", "float16", "float32", "float64"]
TORCH = [torch.int8, torch.int32, torch.float16, torch.bfloat16, torch.float32, torch.complex64]


@pytest.mark.parametrize(
    "value",
    [
        *(np.zeros((8, 8, 3), dtype) for dtype in (*NUMPY, "complex64", "object")),
        *(torch.zeros((3, 8, 8), dtype=dtype) for dtype in TORCH),
    ],
    ids=lambda value: f"{type(value).__name__}-{value.dtype}",
)
def test_other_types_are_refused_with_the_way_out(value: Any) -> None:
    dtype = str(value.dtype).removeprefix("torch.")
    with pytest.raises(UnreadablePicture) as caught:
        to_rgb(value, "no. 3")
    assert str(caught.value).startswith(f"no. 3: values of type {dtype}, expected uint8")
    assert "astype('uint8')" in str(caught.value)
    assert "ToTensor" in str(caught.value)


@pytest.mark.parametrize("shape", [(7,), (8, 8, 2), (2, 8, 8), (8, 8, 5), (1, 3, 8, 8), ()])
def test_other_shapes_are_refused_with_the_way_out(shape: tuple[int, ...]) -> None:
    expected = re.escape(f"a: values of shape {list(shape)}; return one picture of shape [H, W]")
    with pytest.raises(UnreadablePicture, match=expected):
        to_rgb(np.zeros(shape, np.uint8), "a")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.zeros((0, 5, 3), np.uint8), "5 x 0 pixels"),
        (np.zeros((0, 5), np.uint8), "5 x 0 pixels"),
        (np.broadcast_to(np.uint8(1), (30_000, 30_000, 3)), "the limit is"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8).to_sparse(), "a torch.sparse_coo tensor"),
        (np.ma.masked_array(np.zeros((4, 4), np.uint8)), "a masked array"),
        ("a.jpg", "expected a picture, got str"),
        ([[1, 2], [3, 4]], "expected a picture, got list"),
    ],
)
def test_what_is_no_picture_is_refused(value: Any, expected: str) -> None:
    with pytest.raises(UnreadablePicture, match=f"^a: .*{re.escape(expected)}"):
        to_rgb(value, "a")
