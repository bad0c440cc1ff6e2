"""Bytes against accuracy: operating points, their Pareto front, and BD-rates against JPEG."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field

from splittracr.experiment.codec import Codec, PictureCodec
from splittracr.experiment.errors import InvalidInput, why
from splittracr.experiment.facts import model_values
from splittracr.experiment.identity import ModelIdentity
from splittracr.experiment.profile import CodecProfile, Profile
from splittracr.experiment.types import SHARE, Frozen, Versioned
from splittracr.experiment.versions import parse
from splittracr.results.bjontegaard import Curve, Point, front
from splittracr.results.summary import Estimate

FILE = "rate"
"""The files' name in a folder, without its ending."""

ANCHOR = "input jpeg"
"""The family that others are compared with: JPEG of the whole picture, at every quality."""

CUTS, PICTURES = "all cuts", "all pictures"
"""Families of several others. Cascades belong to none of them."""


class Metric(StrEnum):
    """The measure of accuracy."""

    TOP1 = "top1"
    MAP = "map50_95"
    KEYPOINTS = "keypoint_map50_95"
    MIOU = "miou"
    CLASSES = "same_class"
    DETECTIONS = "same_detections"
    PIXELS = "same_pixels"


METRICS = {
    Metric.TOP1: "top-1 accuracy",
    Metric.MAP: "mAP 50-95",
    Metric.KEYPOINTS: "mAP 50-95 of keypoints (OKS)",
    Metric.MIOU: "mIoU",
    Metric.CLASSES: "same first class as the uncut, uncoded model",
    Metric.DETECTIONS: "same detections as the uncut, uncoded model",
    Metric.PIXELS: "same class of pixels as the uncut, uncoded model",
}

AS_NUMBER = (Metric.MAP, Metric.KEYPOINTS, Metric.MIOU)
"""Written as 0.448, others in per cent."""

LABELLED = (Metric.TOP1, *AS_NUMBER)
"""These need labels. The others are agreement."""


class RatePoint(Frozen):
    """A cut with a codec."""

    family: str = Field(
        description="The curve that it belongs to: a cut, or `input` with a picture format and its "
        "size, such as `input webp@50`."
    )
    cut: str = Field(description="Name of the cut; `input` sends the whole picture.")
    cut_index: int = Field(description="Its index.")
    codec: str = Field(description="Name of the codec.")
    work: float = Field(
        description="The share of the model's work on the edge.", json_schema_extra=SHARE
    )
    bytes: float = Field(description="Mean size of a sample's message, its header included.")
    accuracy: Estimate = Field(description="By the file's `metric`.")
    agreement: float | None = Field(
        description="Share of first classes, or else of detections or pixels, that the uncut, "
        "uncoded model has, too.",
        json_schema_extra=SHARE,
    )
    encode_ms: float | None = Field(
        default=None, description="Median time of encoding a sample on the machine that ran it."
    )
    decode_ms: float | None = Field(
        default=None, description="Median time of decoding it on the same machine."
    )
    on_front: bool = Field(
        default=False, description="No other point has as few bytes and as much accuracy."
    )
    excess: float | None = Field(
        default=None,
        description=f"How many more bytes it takes than `{ANCHOR}` does for the same accuracy; "
        "null outside of that curve.",
        json_schema_extra=SHARE,
    )


class CascadePoint(RatePoint):
    """A small model or exits that answer first.

    Cut, codec and work are those of the samples that go on.
    """

    answered: float = Field(
        description="Share of the samples that the small model or the exits answer.",
        json_schema_extra=SHARE,
    )
    threshold_per_million: int = Field(description="Min sureness of such an answer, in millionths.")


class RateCurve(Frozen):
    """The points of a family, or of several."""

    family: str = Field(
        description=f"Name of the family; `{CUTS}` and `{PICTURES}` have the points of several."
    )
    points: int = Field(description="Points on its own Pareto front.")
    bd_rate: float | None = Field(
        description=f"Bjontegaard delta rate against `{ANCHOR}`: how many more bytes it takes for "
        "the same accuracy, on average; below 0 it takes fewer.",
        json_schema_extra=SHARE,
    )
    reason: str | None = Field(description="Why there is none.")


class Rate(Versioned):
    """Bytes against accuracy of a study's model on its data set."""

    study: str = Field(description="Name of the study.")
    model: str = Field(description="Name of the model.")
    weights: str = Field(description="Its weights.")
    identity: ModelIdentity | None = Field(
        default=None, description="The model; null in earlier files."
    )
    samples: int = Field(description="Samples that were run.")
    failed: int = Field(description="Samples that were left out.")
    reason: str | None = Field(description="Why the first of them was; null if none was.")
    metric: Metric = Field(description="What `accuracy` is.")
    judged: int = Field(description="Samples that count for it.")
    uncut: Estimate = Field(description="Accuracy of the uncut, uncoded model.")
    points: tuple[RatePoint, ...] = Field(description="All points that were measured.")
    cascades: tuple[CascadePoint, ...] = Field(
        default=(), description="With `--small` or `--exits`: cascades at several thresholds."
    )
    curves: tuple[RateCurve, ...] = Field(description="One for each family, and for several.")

    @property
    def identifying_values(self) -> dict[str, Any]:
        """The values that other sources have, too, by the path of the key."""
        return model_values(self.weights, self.identity)

    @property
    def everything(self) -> tuple[RatePoint, ...]:
        """The points and the cascades."""
        return self.points + self.cascades

    def kept(self, one: RatePoint) -> float:
        """The share of the uncut, uncoded model's accuracy that a point keeps, at most 1."""
        return round(min(1.0, one.accuracy.value / self.uncut.value), 6)


def compared(points: Sequence[RatePoint]) -> tuple[tuple[RatePoint, ...], tuple[RateCurve, ...]]:
    """The points and cascades with front and excess, and the curves. Cut `output` is no point."""
    best = set(front(list(map(_point, points))))
    anchor = _curve(points, ANCHOR)
    made = [
        one.model_copy(
            update={
                "on_front": i in best,
                "excess": anchor.excess(_point(one)) if anchor is not None else None,
            }
        )
        for i, one in enumerate(points)
    ]
    families = list(dict.fromkeys(one.family for one in points))
    several = [
        name for name in (PICTURES, CUTS) if len({one.family for one in _of(points, name)}) > 1
    ]
    return tuple(made), tuple(_rated(points, name, anchor) for name in (*families, *several))


def _rated(points: Sequence[RatePoint], name: str, anchor: Curve | None) -> RateCurve:
    found = _of(points, name)
    count = len(front(list(map(_point, found))))
    curve = _curve(points, name)
    rate = None if anchor is None or curve is None else curve.delta_rate(anchor)
    reason = None
    if anchor is None:
        reason = f"{ANCHOR} has a single accuracy"
    elif curve is None:
        reason = "it has a single accuracy"
    elif rate is None:
        reason = f"its accuracies are not those of {ANCHOR}"
    return RateCurve(family=name, points=count, bd_rate=rate, reason=reason)


def _of(points: Sequence[RatePoint], name: str) -> list[RatePoint]:
    """The points of a family, or of several."""
    if name in (CUTS, PICTURES):
        single = [one for one in points if not isinstance(one, CascadePoint)]
        return [one for one in single if (one.cut_index > 0) == (name == CUTS)]
    return [one for one in points if one.family == name]


def _curve(points: Sequence[RatePoint], name: str) -> Curve | None:
    return Curve.through(list(map(_point, _of(points, name))))


def _point(one: RatePoint) -> Point:
    return Point(one.bytes, one.accuracy.value)


# ------------------------------------------------------------------- what others do with the file


def read(path: Path, field: str) -> Rate:
    """The file at `path`, which the user named as `field`.

    Raises InvalidInput if it cannot be read, or if no share of its accuracy can be kept.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        expected = f"a file made by `splittracr rate` ({why(error)})"
        raise InvalidInput(field, str(path), expected) from error
    made = parse(Rate, text, str(path), "a file made by `splittracr rate`")
    if made.uncut.value <= 0:
        expected = "a file with an uncut model that is right at least once"
        raise InvalidInput(field, str(path), expected)
    return made


def with_accuracy(profile: Profile, made: Rate) -> Profile:
    """The profile with the share of the accuracy that its codecs keep by the file.

    A lossless codec without a figure in the file keeps all of it.
    """
    kept = {(one.cut, one.codec): made.kept(one) for one in made.points}

    def judged(codec: CodecProfile, *, lossy: bool) -> CodecProfile:
        unknown = None if lossy else 1.0
        cuts = profile.cuts[: len(codec.bytes)]
        shares = tuple(kept.get((cut, codec.codec), unknown) for cut in cuts)
        return codec.model_copy(update={"accuracy": shares})

    codecs = [judged(one, lossy=Codec.parse(one.codec).lossy) for one in profile.codecs]
    pictures = [
        judged(one, lossy=PictureCodec.parse(one.codec).lossy) for one in profile.picture_codecs
    ]
    changes = {"codecs": tuple(codecs), "picture_codecs": tuple(pictures)}
    return profile.model_copy(update=changes)


def with_pictures(profile: Profile, made: Rate) -> Profile:
    """The profile with the picture codecs that the file has beyond those of the profile.

    Points without times are left out, as in a file of an earlier version.
    """
    known = {codec.codec for codec in profile.picture_codecs}
    more = [
        CodecProfile(
            codec=one.codec,
            bytes=(round(one.bytes),),
            encode_ms=(one.encode_ms,),
            decode_ms=(one.decode_ms,),
            agreement=one.agreement,
        )
        for one in made.points
        if one.cut_index == 0
        and one.codec not in known
        and one.encode_ms is not None
        and one.decode_ms is not None
    ]
    return profile.model_copy(update={"picture_codecs": (*profile.picture_codecs, *more)})
