"""Rows under pictures and labels on them, at any size."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from splittracr.data.drawing import MIN_SIZE, Bar, font_file, label_boxes, with_bars

ROWS = [Bar("Egyptian cat", 0.4), Bar("жук " * 40, 1.0, (255, 0, 0)), Bar("no bar")]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700))
def test_picture_stays_whole_and_rows_are_below(width: int, height: int) -> None:
    picture = Image.new("RGB", (width, height), (1, 2, 3))
    drawn = with_bars(picture, ROWS)
    assert picture.getcolors() == [(width * height, (1, 2, 3))]
    assert drawn.width >= max(MIN_SIZE, width)
    enlarged = max(1.0, MIN_SIZE / max(width, height))
    tall = max(1, round(height * enlarged))
    assert drawn.height > tall + 3 * 12
    above = drawn.crop((0, 0, drawn.width, tall)).getcolors()
    assert above is not None
    assert (1, 2, 3) in [colour for _, colour in above]
    below = drawn.crop((0, tall, drawn.width, drawn.height)).getcolors(1 << 20)
    assert below is not None
    assert (1, 2, 3) not in [colour for _, colour in below]
    assert (255, 0, 0) in [colour for _, colour in below]


def test_without_rows_nothing_is_added() -> None:
    picture = Image.new("RGB", (400, 300))
    assert with_bars(picture, []).size == (400, 300)


@pytest.mark.parametrize("corner", [(-20.0, -20.0), (0.0, 0.0), (390.0, 290.0), (200.0, 150.0)])
def test_labels_stay_inside(corner: tuple[float, float]) -> None:
    picture = Image.new("RGB", (400, 300))
    label_boxes(picture, [corner], ["person 0.88"], [(9, 200, 9)])
    filled = picture.point(lambda value: 255 if value == 200 else 0).getbbox()
    assert filled is not None
    left, top, right, bottom = filled
    assert right - left > 60
    assert bottom - top >= 12


def test_font_has_more_than_latin() -> None:
    assert font_file() is not None
