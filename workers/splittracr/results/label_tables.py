"""The report's tables of figures against labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from splittracr.results import words
from splittracr.results.summary import CutFigures, Estimate, Summary

T = TypeVar("T")


@dataclass(frozen=True)
class Table:
    """Figures against labels, one row a cut, and one a codec at cuts with several."""

    caption: str
    heads: tuple[str, ...]
    rows: list[tuple[str, list[str]]]


def label_tables(figures: Summary, least: int) -> list[Table]:
    """The tables of detections, keypoints and masks that were compared with labelled ones.

    `least` is the score in per cent below which detections were dropped.
    """
    dropped = f"Detections with a score below {least} % were dropped: they count as not found."
    detected = _rows(
        figures,
        lambda cut: {_codecs(cut): cut.detection, **cut.detection_by_codec},
        lambda one: _cells((one.n, one.boxes, one.classes), (one.map50_95, one.map50)),
    )
    posed = _rows(
        figures,
        lambda cut: {_codecs(cut): cut.keypoints, **cut.keypoints_by_codec},
        lambda one: _cells((one.n, one.objects, one.classes), (one.map50_95, one.map50)),
    )
    segmented = _rows(
        figures,
        lambda cut: {_codecs(cut): cut.segmentation, **cut.segmentation_by_codec},
        lambda one: _cells((one.n, one.classes), (one.miou, one.pixel_accuracy)),
    )
    tables = [
        Table(
            "COCO's mean average precision of detections against labelled boxes, with its 95 % "
            f"interval. {dropped}",
            ("pictures", "boxes", "classes", "mAP 50–95", "mAP 50"),
            detected,
        ),
        Table(
            "COCO's mean average precision of keypoints against labelled ones by their similarity "
            f"(OKS), with its 95 % interval. {dropped}",
            ("pictures", "objects", "classes", "mAP 50–95", "mAP 50"),
            posed,
        ),
        Table(
            "Masks against labelled ones, with 95 % intervals. mIoU is the mean over classes of "
            "the overlap of all pictures' pixels.",
            ("pictures", "classes", "mIoU", "pixel accuracy"),
            segmented,
        ),
    ]
    return [table for table in tables if table.rows]


def _rows(
    figures: Summary,
    of_cut: Callable[[CutFigures], dict[str, T | None]],
    cells: Callable[[T], list[str]],
) -> list[tuple[str, list[str]]]:
    return [
        (cut.cut, [codec, *cells(one)])
        for cut in figures.cuts
        for codec, one in of_cut(cut).items()
        if one is not None
    ]


def _codecs(cut: CutFigures) -> str:
    return ", ".join(cut.codecs) or words.NOTHING


def _cells(counts: Sequence[int], estimates: Sequence[Estimate]) -> list[str]:
    return [f"{n:,}" for n in counts] + [words.interval(one) for one in estimates]
