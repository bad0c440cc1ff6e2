"""Drawing for pictures of all tasks: colours, the font, and bars below a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

MIN_SIZE = 320
"""A picture with a shorter longer side (in pixels) is enlarged, so that its text is readable."""

PALETTE: tuple[Colour, ...] = (
    *((0, 130, 200), (60, 180, 75), (245, 130, 48), (230, 25, 75), (145, 30, 180)),
    *((240, 50, 230), (70, 240, 240), (255, 225, 25), (210, 245, 60), (0, 128, 128)),
    *((250, 190, 212), (170, 110, 40), (128, 0, 0), (220, 190, 255), (128, 128, 0)),
    *((170, 255, 195), (255, 215, 180), (0, 0, 128), (255, 250, 200)),
)
"""Easily distinguished colours (after Sasha Trubetskoy's list of 20)."""

MUTED: Colour = (150, 150, 150)
_PAPER, _INK, _TRACK = (250, 250, 250), (30, 30, 30), (226, 226, 226)


@dataclass(frozen=True)
class Bar:
    """One line below a picture. A `share` of 0 to 1 is drawn as a bar, None as text only."""

    label: str
    share: float | None = None
    colour: Colour = PALETTE[0]


def colour(index: int) -> Colour:
    """Return the colour of a class. Colours repeat after the length of PALETTE."""
    return PALETTE[index % len(PALETTE)]


def text_colour(background: Colour) -> Colour:
    """Return black or white, whichever is easier to read on `background`."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def font_size(width: int, height: int) -> int:
    """Return the height of text in pixels for a picture of this size."""
    return max(12, round(0.03 * min(width, 1.5 * height)))


def line_width(width: int, height: int) -> int:
    """Return the width of lines in pixels for a picture of this size."""
    return max(2, round(0.0025 * (width + height)))


@cache
def font_file() -> str | None:
    """Return DejaVu Sans of matplotlib (Latin, Greek, Cyrillic); None without matplotlib."""
    package = find_spec("matplotlib")
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return str(path) if path.exists() else None


def _font(size: int) -> Font:
    path = font_file()
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


def label_boxes(
    picture: Image.Image,
    corners: Sequence[tuple[float, float]],
    labels: Sequence[str],
    colours: Sequence[Colour],
) -> None:
    """Write each label on its colour, in place, above the top left corner (x, y) of its box.

    A label that would leave the picture is moved inside.
    """
    draw, size = ImageDraw.Draw(picture), font_size(*picture.size)
    font, height, gap = _font(size), round(size * 1.3), size // 5
    for (x, y), label, fill in zip(corners, labels, colours, strict=True):
        width = round(font.getlength(label)) + 2 * gap
        left = max(0, min(round(x), picture.width - width))
        top = round(y) - height if y >= height else max(0, round(y))
        draw.rectangle((left, top, left + width, top + height), fill)
        draw.text((left + gap, top + height // 2), label, text_colour(fill), font, "lm")


def with_bars(picture: Image.Image, bars: Sequence[Bar]) -> Image.Image:
    """Return a copy of the picture with bars below it, at least `MIN_SIZE` wide."""
    if max(picture.size) < MIN_SIZE:
        scale = MIN_SIZE / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    width = max(picture.width, MIN_SIZE)
    font = _font(font_size(width, max(picture.height, MIN_SIZE)))
    line = round(font_size(width, max(picture.height, MIN_SIZE)) * 1.7)
    margin = line // 3
    canvas = Image.new(
        "RGB", (width, picture.height + bool(bars) * (line * len(bars) + 2 * margin)), _PAPER
    )
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    for number, bar in enumerate(bars):
        top = picture.height + margin + number * line
        _draw_bar(draw, bar, (margin, top, width - margin, top + line), font)
    return canvas


def _draw_bar(
    draw: ImageDraw.ImageDraw, bar: Bar, box: tuple[int, int, int, int], font: Font
) -> None:
    """Draw the label and, if there is a share, the bar and its value in per cent."""
    left, top, right, bottom = box
    middle, gap = (top + bottom) // 2, (bottom - top) // 4
    if bar.share is None:
        draw.text((left, middle), _fit(bar.label, right - left, font), _INK, font, "lm")
        return
    number_left = right - round(font.getlength("100.0 %"))
    bar_left, bar_right = left + (right - left) * 45 // 100, number_left - 2 * gap
    label = _fit(bar.label, bar_left - left - gap, font)
    draw.text((left, middle), label, _INK, font, "lm")
    if bar_right > bar_left:
        end = bar_left + round((bar_right - bar_left) * min(max(bar.share, 0.0), 1.0))
        draw.rectangle((bar_left, top + gap, bar_right, bottom - gap), _TRACK)
        draw.rectangle((bar_left, top + gap, end, bottom - gap), bar.colour)
    draw.text((right, middle), f"{bar.share:.1%}".replace("%", " %"), _INK, font, "rm")


def _fit(text: str, width: float, font: Font) -> str:
    """Return the text, shortened with an ellipsis to `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
