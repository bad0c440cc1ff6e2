"""Annotated pictures for the report, small enough to stand inside it."""

import base64
import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from splittracr.experiment.types import Record
from splittracr.results.words import best_prediction

FOLDER = "pictures"
"""Where a results folder keeps pictures with predictions drawn on them."""

MAX_PICTURES = 24
"""Pictures that the report shows; the others stay in their folder."""

_SIDE = 420
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shown:
    """A picture of the gallery; `uri` is a data URI, width and height are its pixels."""

    uri: str
    width: int
    height: int
    name: str
    prediction: str
    score: float | None
    correct: bool | None


def gallery(out: Path, records: Sequence[Record]) -> list[Shown]:
    """The first pictures of `out`/pictures, scaled down, each with its first good record.

    A picture's file name is the number of its sample, or begins with it: `0003.jpg`,
    `0003-bus.jpg`.
    """
    first: dict[int, Record] = {}
    for record in records:
        if record.outcome == "ok":
            first.setdefault(record.sample, record)
    numbered = [(_number(path), path) for path in (out / FOLDER).glob("*.jpg")]
    found = sorted((number, path) for number, path in numbered if number in first)
    shown = (_shown(path, first[number]) for number, path in found[:MAX_PICTURES])
    return [picture for picture in shown if picture is not None]


def _number(path: Path) -> int:
    """The sample's number; -1, which no sample has, for another picture."""
    digits = re.match(r"\d+(?=[-.])", path.name)
    return int(digits.group()) if digits else -1


def _shown(path: Path, record: Record) -> Shown | None:
    """The picture for the report; None, with a warning, if the file is no picture."""
    buffer = io.BytesIO()
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
    except OSError as error:
        _log.warning("left out of the report: %s", error)
        return None
    small.thumbnail((_SIDE, _SIDE))
    small.save(buffer, "JPEG", quality=82)
    data = base64.b64encode(buffer.getvalue()).decode()
    text, score = best_prediction(record.prediction)
    return Shown(
        uri=f"data:image/jpeg;base64,{data}",
        width=small.width,
        height=small.height,
        name=record.name,
        prediction=text,
        score=score,
        correct=record.top1,
    )
