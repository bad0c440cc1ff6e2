"""`summary.json` as frozen models: the figures of a study, one entry a cut."""

from typing import Any

from pydantic import Field

from splittracr.experiment.energy import FrameEnergy
from splittracr.experiment.types import (
    MILLISECONDS,
    SHARE,
    UNIX_SECONDS,
    Exactness,
    Frozen,
    Tier,
    Versioned,
    renamed,
)

FILE = "summary.json"
"""The file's name in a results folder."""


class Study(Frozen):
    """The study in words and names."""

    name: str = Field(description="Name of the manifest.")
    uid: str = Field(description="Uid of the study.")
    model: str = Field(description="Name of the model.")
    weights: str = Field(description="The weights that were loaded.")
    random_weights: bool = Field(description="The weights are random: predictions mean nothing.")
    labels: str | None = Field(
        default=None,
        description="How labels were matched with the model's classes, and what was left out.",
    )
    link: str = Field(description="The link between the two ends, in words.")
    mode: str = Field(description="How the cut was chosen.")
    cascade: bool = Field(
        default=False,
        description="A small model or exits could answer first, so that cuts are no alternatives: "
        "each has samples of its own.",
    )
    emulated: str | None = Field(description="What was emulated, in words; null for nothing.")
    finished: bool = Field(description="The study came to its end.")
    one_machine: bool = Field(
        default=False,
        description="Both ends ran on one machine, by its name: energy is that of all of it.",
    )


class Counts(Frozen):
    """Samples by outcome, all cuts together."""

    samples: int = Field(description="Records: samples times cuts times repeats.")
    ok: int = Field(description="Records with a prediction.")
    failed: int = Field(description="Records without a prediction.")
    missing: int | None = Field(
        default=None,
        description="Samples that the edges set out to record and have not; null if not known.",
    )
    first_error: str | None = Field(
        default=None, description="Why the first failed sample failed; null if none did."
    )
    frames_per_second: float | None = Field(
        description="Successful samples over the time from first start to last end of each "
        "repeat, all cuts together, summed over edges."
    )
    p50_ms: float | None = Field(
        default=None,
        description="Median latency of all cuts together, over the frames that `p50_ms` of each "
        "cut covers.",
        json_schema_extra=MILLISECONDS,
    )
    cut_changes: int | None = Field(
        default=None,
        description="Number of changes of the cut between consecutive samples of an edge, by "
        "start time.",
    )


MIN_FRAMES = 5
"""Fewer frames have no confidence interval."""

MIN_PAIRS = 6
"""With fewer pairs not even all of them of one sign say anything at the level of 95 %."""


class Mean(Frozen):
    """A mean and the 95 % confidence interval of that mean, which fewer than five frames lack."""

    mean: float = Field(description="The mean.", json_schema_extra=MILLISECONDS)
    low: float | None = Field(
        description="Lower end of the interval.", json_schema_extra=MILLISECONDS
    )
    high: float | None = Field(
        description="Upper end of the interval.", json_schema_extra=MILLISECONDS
    )

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends; None if there is none."""
        return None if self.low is None or self.high is None else (self.low, self.high)


class Accuracy(Frozen):
    """Share of labelled samples whose class was found. A sample's repeats are averaged."""

    n: int = Field(description="Distinct labelled samples.")
    top1: float = Field(description="Share whose class is ranked first.", json_schema_extra=SHARE)
    top5: float | None = Field(
        description="Share whose class is among the first five.", json_schema_extra=SHARE
    )


class Estimate(Frozen):
    """A figure of an accuracy, and its 95 % confidence interval if it has one."""

    value: float = Field(description="The figure.", json_schema_extra=SHARE)
    low: float | None = Field(description="Lower end of the interval.", json_schema_extra=SHARE)
    high: float | None = Field(description="Upper end of the interval.", json_schema_extra=SHARE)


class Detection(Frozen):
    """COCO's figures for detections against labelled boxes, by pycocotools.

    A picture's repeats count once if codec and predictions are equal.
    """

    n: int = Field(description="Distinct pictures with known boxes, pictures without any included.")
    boxes: int = Field(description="Labelled boxes of the results, without crowds.")
    classes: int = Field(description="Classes that have boxes.")
    map50_95: Estimate = Field(
        description="Mean over overlaps (IoU) from 0.50 to 0.95 in steps of 0.05."
    )
    map50: Estimate = Field(description="At an overlap of 0.50.")


class Keypoints(Frozen):
    """COCO's figures for keypoints against labelled ones, by pycocotools. As `Detection`, with the
    similarity of objects (OKS) in place of the overlap.
    """

    n: int = Field(description="Distinct pictures, those without objects included.")
    objects: int = Field(
        description="Labelled objects of the results with labelled keypoints, without crowds."
    )
    classes: int = Field(description="Classes that have such objects.")
    map50_95: Estimate = Field(
        description="Mean over similarities (OKS) from 0.50 to 0.95 in steps of 0.05."
    )
    map50: Estimate = Field(description="At a similarity of 0.50.")


class Segmentation(Frozen):
    """Masks against labelled ones, at the pixels of the pictures.

    A picture's repeats count once if codec and counts are equal.
    """

    n: int = Field(description="Distinct pictures with a labelled mask.")
    classes: int = Field(description="Classes that were labelled or predicted.")
    miou: Estimate = Field(
        description="Mean over those classes of the overlap (IoU) of all pictures' pixels."
    )
    pixel_accuracy: Estimate = Field(description="Share of labelled pixels of the right class.")


class CutFigures(Frozen):
    """The figures of one cut.

    They cover its `n` samples. Failed samples are left out, and samples that the server did not
    answer. If `n` is 0, every figure is null or empty. Times are milliseconds.
    """

    cut: str = Field(description="Name of the cut.")
    index: int = Field(description="Operations on the edge; a manifest takes it for the name.")
    work: float | None = Field(
        description="The head's share of the floating-point operations; null if they cannot be "
        "counted.",
        json_schema_extra=SHARE,
    )
    live_bytes: int | None = Field(description="Bytes of the live tensors, by the raw codec.")
    exactness: Exactness | None = Field(
        default=None, description="How exact the cut is, as in `environment.json`; null if unknown."
    )
    largest_error: float | None = Field(
        default=None,
        description="Largest relative error at start-up; null if the cut is exact.",
    )
    top1_agreement: float | None = Field(
        default=None,
        description="Share at start-up whose first class is PyTorch's; null as above.",
        json_schema_extra=SHARE,
    )
    n: int = Field(description="Samples that the figures cover.")
    frames: int = Field(
        description="Frames that they came in; a latency counts once a frame, not once a picture."
    )
    failed: int = Field(description="Samples that failed.")
    unanswered: int = Field(
        description="Samples finished on the edge since the server did not answer."
    )
    resent: int = Field(
        default=0,
        description="Samples whose request waited for a lost server. They count in `n`; times and "
        "bytes leave them out.",
    )
    repeats: int = Field(description="Times the workload was measured at this cut.")
    total_ms: Mean | None = Field(description="End-to-end latency.")
    p50_ms: float | None = Field(description="Median latency.")
    p95_ms: float | None = Field(description="95th percentile of the latency.")
    p99_ms: float | None = Field(
        description="99th percentile; below 100 frames close to the largest."
    )
    tiers_ms: dict[Tier, float] = Field(
        description="Mean time on the edge, on the link, which is what neither end measured, and "
        "on the server; they sum to the mean latency."
    )
    stages_ms: dict[str, float] = Field(description="Mean by stage; they sum to the mean latency.")
    bytes_up: float | None = Field(description="Mean of the records' `bytes_up`.")
    bytes_down: float | None = Field(description="Mean of the records' `bytes_down`.")
    frames_per_second: float | None = Field(
        description="As in `counts`, for this cut; null if its samples alternated with those of "
        "other cuts."
    )
    accuracy: Accuracy | None = Field(description="Null if no sample had a label.")
    detection: Detection | None = Field(
        default=None,
        description="Null if no sample had labelled boxes, or without pycocotools.",
    )
    detection_by_codec: dict[str, Detection] = Field(
        default_factory=dict,
        description="The same for the samples of each codec, if several were used.",
    )
    keypoints: Keypoints | None = Field(
        default=None,
        description="Null if no sample had labelled keypoints, or without pycocotools.",
    )
    keypoints_by_codec: dict[str, Keypoints] = Field(
        default_factory=dict, description="As above, for keypoints."
    )
    segmentation: Segmentation | None = Field(
        default=None, description="Null if no sample had a labelled mask."
    )
    segmentation_by_codec: dict[str, Segmentation] = Field(
        default_factory=dict, description="As above, for masks."
    )
    digests: int | None = Field(
        description="Distinct digests of raw outputs; null if none was asked for."
    )
    energy: tuple[FrameEnergy, ...] = Field(
        default=(),
        description="Energy of a frame, one entry a zone; empty without sensor and declared power.",
    )
    codecs: dict[str, int] = Field(
        default_factory=dict,
        description="Samples that were sent, by codec. The figures average all of them: there are "
        "several if the codec changed while the study ran, or in mode Adaptive.",
    )
    finished_on: dict[str, int] = Field(
        description="Successful samples by the end that ran the last operation."
    )

    @property
    def scores(self) -> dict[str, Estimate]:
        """The main figure against each kind of labels, by the name that tables give it."""
        return _scores(self.detection, self.keypoints, self.segmentation)

    @property
    def scores_by_codec(self) -> dict[str, dict[str, Estimate]]:
        """The same for each codec, if several were used."""
        found = (self.detection_by_codec, self.keypoints_by_codec, self.segmentation_by_codec)
        codecs = sorted({codec for each in found for codec in each})
        return {
            codec: _scores(
                self.detection_by_codec.get(codec),
                self.keypoints_by_codec.get(codec),
                self.segmentation_by_codec.get(codec),
            )
            for codec in codecs
        }


def _scores(
    detected: Detection | None, posed: Keypoints | None, segmented: Segmentation | None
) -> dict[str, Estimate]:
    found = {
        "mAP": detected.map50_95 if detected else None,
        "OKS mAP": posed.map50_95 if posed else None,
        "mIoU": segmented.miou if segmented else None,
    }
    return {name: one for name, one in found.items() if one is not None}


class Best(Frozen):
    """The cut with the lowest median."""

    cut: str = Field(description="Name of the cut.")
    index: int = Field(description="Operations on the edge.")
    p50_ms: float = Field(description="Its median latency.")
    tie: str | None = Field(
        default=None,
        description="Name of the cut with the next median if their order is not certain.",
    )
    pairs: int = Field(default=0, description="Frames measured at both of them.")
    why: str = Field(description="One phrase: what it was better than, and how surely.")


class Outputs(Frozen):
    """Whether the raw output of a sample depended on the cut."""

    samples: int = Field(description="Samples whose raw output was digested more than once.")
    differing: int = Field(description="Those with more than one digest.")
    cuts: tuple[str, ...] = Field(
        default=(),
        description="Cuts at which some sample's digest is not that of its last cut, the one with "
        "the most operations on the edge.",
    )
    reference: str | None = Field(
        default=None, description="The last cut of those samples; null if several were last."
    )
    reason: str | None = Field(
        default=None,
        description="What explains it: lossy codecs, other processors, threads or versions, or a "
        "model that is not the same twice. Null if nothing differs.",
    )


class Agreement(Frozen):
    """The effect of a lossy codec at a cut on the results of some of the study's samples."""

    cut: str = Field(description="Name of the cut.")
    codec: str = Field(description="Name of the codec.")
    samples: int = Field(description="Samples that were compared with the uncoded model.")
    top1: float | None = Field(
        description="Share with the same first class; null if nothing is ranked.",
        json_schema_extra=SHARE,
    )
    detections: float | None = Field(
        default=None,
        description="Share of the detections of both that have a partner in the other: the same "
        "class and an overlap (IoU) of 0.5; 1 without any, null if results are no boxes.",
        json_schema_extra=SHARE,
    )
    pixels: float | None = Field(
        default=None,
        description="Share of pixels with the same class; null if results are no masks.",
        json_schema_extra=SHARE,
    )

    @property
    def share(self) -> float | None:
        """The share of first classes that are the same, or else of detections, or of pixels."""
        known = (self.top1, self.detections, self.pixels)
        return next((share for share in known if share is not None), None)

    largest_error: float = Field(
        description="Largest difference of a raw output, relative to the largest output.",
        json_schema_extra={"unit": "share"},
    )


class Gap(Frozen):
    """A time without records, as between two pods of an edge."""

    edge: str = Field(description="Name of the edge.")
    started_at: float = Field(
        description="The end of the last record.", json_schema_extra=UNIX_SECONDS
    )
    seconds: float = Field(
        description="Time until the start of the next record.", json_schema_extra={"unit": "s"}
    )
    after: int = Field(description="Sample of the last record before the gap.")
    before: int = Field(description="Sample of the first record after it.")
    restarted: bool = Field(
        default=False,
        description="The edge started again in the gap, as after a suspension, a lost node or a "
        "crash. False: it ran on, or its starts were not noted.",
    )


class Summary(Versioned):
    """The figures of a study."""

    study: Study = Field(description="What was studied.")
    counts: Counts = Field(description="Samples by outcome.")
    cuts: tuple[CutFigures, ...] = Field(description="One entry a cut, in order of index.")
    best: Best | None = Field(
        description="Null if no sample finished, or if cuts are no alternatives: with a cascade, "
        "in mode Adaptive, or if the cut was changed while the study ran."
    )
    outputs: Outputs | None = Field(description="Null if no output was digested twice.")
    agreement: tuple[Agreement, ...] = Field(
        default=(), description="What lossy codecs did, by cut; empty if none was used."
    )
    gaps: tuple[Gap, ...] = Field(
        default=(), description="Times without records that are much longer than usual."
    )
    method: str = Field(description="How the confidence intervals were made.")

    @property
    def winner(self) -> int | None:
        """The index of the best cut if there are several and the order is certain."""
        if self.best is None or self.best.tie is not None or len(self.cuts) < 2:
            return None
        return self.best.index

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Content of the version before, with the keys of this one."""
        content = renamed(content, ("study",), ("cuts", "stages_ms"))
        cuts = content.get("cuts")
        if not isinstance(cuts, list):
            return content
        return {**content, "cuts": [_with_tiers(c) if isinstance(c, dict) else c for c in cuts]}


_TIER_KEYS = {"edge_ms": Tier.EDGE, "network_ms": Tier.LINK, "server_ms": Tier.SERVER}


def _with_tiers(cut: dict[str, Any]) -> dict[str, Any]:
    tiers = {tier: cut[key] for key, tier in _TIER_KEYS.items() if cut.get(key) is not None}
    return {key: value for key, value in cut.items() if key not in _TIER_KEYS} | {"tiers_ms": tiers}
