"""Points of bytes and accuracy: their front, their curves, the table and the figure."""

import math
from itertools import pairwise
from pathlib import Path

import pytest

from splittracr.experiment.errors import InvalidInput
from splittracr.results import plots, rate, tables
from splittracr.results.bjontegaard import Curve, Point
from splittracr.results.rate import Metric, Rate, RatePoint, compared
from splittracr.results.rate_plot import rate_plot
from splittracr.results.summary import Estimate
from tests.planning.profiles import codec, profile


def point(family: str, codec: str, size: float, accuracy: float, cut: int = 0) -> RatePoint:
    return RatePoint(
        family=family,
        cut="input" if cut == 0 else family,
        cut_index=cut,
        codec=codec,
        work=cut / 10,
        bytes=size,
        accuracy=Estimate(value=accuracy, low=None, high=None),
        agreement=accuracy,
    )


POINTS = [
    point("input lossless", "png", 50_000, 0.8),
    point("input jpeg", "jpeg10", 2_000, 0.4),
    point("input jpeg", "jpeg50", 4_000, 0.6),
    point("input jpeg", "jpeg90", 8_000, 0.8),
    point("input webp", "webp10", 1_000, 0.4),
    point("input webp", "webp50", 2_000, 0.6),
    point("input webp", "webp90", 4_000, 0.8),
    point("_relu", "uint4", 3_000, 0.6, cut=2),
    point("_relu", "uint8", 6_000, 0.8, cut=2),
    point("fc", "uint8", 900, 0.95, cut=9),
]


def made() -> Rate:
    points, curves = compared(POINTS)
    return Rate(
        study="a",
        model="m",
        weights="none",
        samples=20,
        failed=1,
        reason="b.png: broken",
        metric=Metric.TOP1,
        judged=20,
        uncut=Estimate(value=0.95, low=0.76, high=0.99),
        points=points,
        curves=curves,
    )


def test_points_on_the_front_have_no_better_one() -> None:
    found = made().points
    for one in found:
        better = [
            other
            for other in found
            if other is not one
            and other.bytes <= one.bytes
            and other.accuracy.value >= one.accuracy.value
        ]
        assert one.on_front == (not better)
    assert [one.family for one in found if one.on_front] == ["fc"]


def test_points_are_compared_with_jpeg_of_the_same_accuracy() -> None:
    excess = {(one.family, one.codec): one.excess for one in made().points}
    assert excess["input jpeg", "jpeg50"] == pytest.approx(0)
    assert excess["input webp", "webp50"] == pytest.approx(-0.5)
    assert excess["_relu", "uint8"] == pytest.approx(-0.25)
    assert excess["input lossless", "png"] == pytest.approx(5.25)
    assert excess["fc", "uint8"] is None


def test_every_family_has_a_rate_or_the_reason_why_not() -> None:
    curves = {one.family: one for one in made().curves}
    assert list(curves) == [
        "input lossless", "input jpeg", "input webp", "_relu", "fc", "all pictures", "all cuts"
    ]  # fmt: skip
    assert curves["input jpeg"].bd_rate == pytest.approx(0)
    assert curves["input webp"].bd_rate == pytest.approx(-0.5)
    assert curves["all pictures"].bd_rate == pytest.approx(-0.5)
    jpeg = Curve.through([Point(2_000, 0.4), Point(4_000, 0.6), Point(8_000, 0.8)])
    assert jpeg is not None
    # Bytes double from 0.6 to 0.8 on both curves: the cut takes three quarters of them.
    assert curves["_relu"].bd_rate == pytest.approx(math.expm1(math.log(0.75)))
    assert (curves["fc"].bd_rate, curves["fc"].points) == (None, 1)
    assert curves["fc"].reason == "it has a single accuracy"
    assert curves["all cuts"].reason == "it has a single accuracy"
    apart = compared([*POINTS[1:4], point("high", "a", 10, 0.9, 1), point("high", "b", 20, 1.0, 1)])
    assert apart[1][-1].reason == "its accuracies are not those of input jpeg"


def test_without_a_curve_of_jpeg_nothing_is_compared() -> None:
    points, curves = compared([POINTS[1], *POINTS[4:7]])
    assert {one.excess for one in points} == {None}
    assert {one.reason for one in curves} == {"input jpeg has a single accuracy"}


def test_the_table_has_a_row_for_each_point() -> None:
    table = tables.rates(made())
    assert table.height == len(POINTS)
    assert table["accuracy"].to_list() == [one.accuracy.value for one in POINTS]
    assert table["metric"].unique().to_list() == ["top1"]
    assert Rate.model_validate_json(made().model_dump_json()) == made()


def test_the_figure_names_all_families_and_describes_the_front() -> None:
    plot = rate_plot(made())
    texts = [text.get_text() for text in plot.figure.legends[0].get_texts()]
    assert texts == [
        "Pareto front", "lossless", "jpeg", "webp", "_relu", "fc", "uncut, uncoded"
    ]  # fmt: skip
    assert plot.alt == "Bytes against accuracy. On the Pareto front: uint8 at fc: 900 B, 95 %."
    assert plots.svg(plot) == plots.svg(rate_plot(made()))
    (axes,) = plot.figure.axes
    ticks = [tick for tick in axes.get_xticks() if 1_000 <= tick <= 50_000]
    assert all(before < after for before, after in pairwise(ticks))
    assert axes.get_xscale() == "log"


# ------------------------------------------------------------------------ for profiles and plans


def test_codecs_of_a_profile_get_the_share_of_the_accuracy_that_they_keep() -> None:
    """Of 95 % of the uncut model, 80 % are 16/19, and 95 % everything."""
    sizes = [900, 900, 900, 900]
    codecs = [codec("raw", sizes), codec("uint8", sizes), codec("uint4", sizes)]
    pictures = [codec("uint8", [900]), codec("jpeg50", [90]), codec("jpeg70", [90])]
    cuts = ("input", "_relu", "fc", "output")
    one = rate.with_accuracy(profile([1, 1, 1], sizes[:3], codecs, pictures, cuts=cuts), made())
    assert {c.codec: c.accuracy for c in one.codecs} == {
        "raw": (1.0, 1.0, 1.0, 1.0),
        "uint8": (None, pytest.approx(16 / 19), 1.0, None),
        "uint4": (None, pytest.approx(12 / 19), None, None),
    }
    assert {c.codec: c.accuracy for c in one.picture_codecs} == {
        "uint8": (1.0,),
        "jpeg50": (pytest.approx(12 / 19),),
        "jpeg70": (None,),
    }


def test_pictures_that_a_profile_lacks_become_candidates() -> None:
    timed = {"encode_ms": 2.5, "decode_ms": 0.5}
    points = [
        point("input jpeg", "jpeg50", 4_000.6, 0.6).model_copy(update=timed),
        point("input jpeg", "jpeg90", 8_000, 0.8).model_copy(update=timed),
        point("input webp", "webp50", 2_000, 0.6),  # without times
        point("_relu", "uint8", 6_000, 0.8, cut=1).model_copy(update=timed),
    ]
    found = made().model_copy(update={"points": tuple(points)})
    one = rate.with_pictures(profile([1, 1], [900, 900], (), [codec("jpeg90", [90])]), found)
    assert [(c.codec, c.bytes, c.encode_ms, c.decode_ms) for c in one.picture_codecs] == [
        ("jpeg90", (90,), (0.0,), (0.0,)),
        ("jpeg50", (4_001,), (2.5,), (0.5,)),
    ]


def test_what_is_no_file_of_accuracies_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rate.json"
    with pytest.raises(InvalidInput, match=r"--rate: .*No such file"):
        rate.read(file, "--rate")
    file.write_text("{}")
    with pytest.raises(InvalidInput, match=r"rate\.json"):
        rate.read(file, "--rate")
    nothing = Estimate(value=0, low=None, high=None)
    file.write_text(made().model_copy(update={"uncut": nothing}).model_dump_json())
    with pytest.raises(InvalidInput, match="an uncut model that is right at least once"):
        rate.read(file, "--rate")
    file.write_text(made().model_dump_json())
    assert rate.read(file, "--rate") == made()
