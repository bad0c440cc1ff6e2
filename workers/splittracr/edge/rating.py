"""Measures bytes and accuracy at operating points, in one process and without a link.

An operating point is a cut with a codec. It needs head, encode, decode and tail only. Points that
send something else take part as another function that yields `Tried`.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np

from splittracr.backends.columns import Clock, request_bytes
from splittracr.backends.protocol import Backend, Input, Live
from splittracr.data import agreement, datasets
from splittracr.data import masks as labelled_masks
from splittracr.data.agreement import Agreed
from splittracr.data.cascade import in_picture
from splittracr.data.containment import contained
from splittracr.data.contracts import Dataset, Reduced, Sample
from splittracr.edge import masks
from splittracr.edge.calibrating import described
from splittracr.edge.first_answers import FirstAnswer, FirstAnswers, thresholds
from splittracr.edge.frame import Prediction, Truth, Usable
from splittracr.edge.stages import geometry, prediction
from splittracr.experiment.codec import Codec, PictureCodec
from splittracr.experiment.errors import InvalidInput, reason
from splittracr.results import detection, segmentation
from splittracr.results.bjontegaard import Point, front
from splittracr.results.intervals import resamples, share_interval
from splittracr.results.rate import CascadePoint, Metric, RatePoint
from splittracr.results.summary import MIN_FRAMES, Estimate
from splittracr.wire import codec as wire
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.payload import Payload

log = logging.getLogger(__name__)

DEFAULT_CUTS = 6


@dataclass(frozen=True)
class OperatingPoint:
    """How a sample is sent. Points of one `family` are a curve. `work` is the edge's share."""

    family: str
    cut: str
    cut_index: int
    codec: str
    work: float


@dataclass(frozen=True)
class Tried:
    """A sample at one operating point: the bytes of its message, and the result on the host.

    `result` is None if there was none, such as an output that is not finite. It counts as wrong.
    Times are those of this machine without waiting for a core, None if none were measured.
    """

    at: OperatingPoint
    bytes: int
    result: "Reduced | None"
    encode_ms: float | None = None
    decode_ms: float | None = None


Tries = Callable[[Input], Iterable[Tried]]
"""Sends a batch of one sample at some operating points, the same ones each time."""


def default_cuts(own: Backend) -> list[int]:
    """Up to six cuts, evenly spread over those with fewer live bytes than all before them."""
    least, found = float("inf"), []
    for index, cut in sorted(own.proof.offered().items()):
        if 0 < index < own.proof.last and cut.bytes < least:
            least = cut.bytes
            found.append(index)
    return found[:: -(-len(found) // DEFAULT_CUTS) or 1]


def sent(
    own: Backend,
    cuts: Sequence[int],
    codecs: Sequence[Codec],
    pictures: Sequence[PictureCodec],
    batch: Input,
) -> Iterator[Tried]:
    """Send a batch at each of the `cuts` with each of the `codecs`, and whole as `pictures`."""
    sets: list[tuple[int, Sequence[Codec | PictureCodec]]] = [(0, pictures)]
    sets += [(cut, codecs) for cut in cuts]
    for cut, each in sets:
        live = own.pack(own.head(cut, batch))
        for codec in each:
            yield _sent(own, cut, codec, live)


def _sent(own: Backend, index: int, codec: Codec | PictureCodec, live: Payload) -> Tried:
    cut, clock = own.proof.cuts[index], Clock(own.device)
    encoded, encode_ms = clock(wire.encode, live, codec)
    decoded, decode_ms = clock(_decoded, own, encoded)
    at = OperatingPoint(_family(cut.name, codec), cut.name, index, str(codec), cut.work)
    result = None
    try:
        with contained():
            result = own.on_host(own.reduce(own.tail(index, decoded)))[0]
    except Exception as error:  # noqa: BLE001 - own code may fail on values that a codec has changed
        log.info("no result with %s at cut %s: %s", codec, cut.name, reason(error))
    return Tried(at, request_bytes(index, encoded), result, encode_ms, decode_ms)


def _decoded(own: Backend, encoded: EncodedPayload) -> Live:
    return own.unpack(wire.decode(encoded))


def _family(cut: str, codec: Codec | PictureCodec) -> str:
    """A cut, or a picture format in a size; lossless codecs of the whole picture are together."""
    if isinstance(codec, Codec):
        return cut
    if not codec.lossy:
        return f"{cut} lossless"
    return f"{cut} {codec.format}" + (f"@{codec.scale}" if codec.scale < 100 else "")


@dataclass(frozen=True)
class _Seen:
    """A sample at one operating point: the bytes of its message, and its prediction.

    The prediction has no tensors; it is None if there was no result. `agreed` is None if the result
    cannot be compared.
    """

    bytes: int
    prediction: Prediction | None
    agreed: Agreed | None = None


_First = Sequence[tuple[int, _Seen]]
"""The answers of a small model or of exits to a sample, each with its sureness."""


@dataclass
class _Tally:
    """The samples at one operating point, in order."""

    seen: list[_Seen] = field(default_factory=list)
    encode_ms: list[float] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)

    @property
    def known(self) -> list[Agreed] | None:
        """The agreement of each sample; None if results of one cannot be compared."""
        known = [one.agreed for one in self.seen if one.agreed is not None]
        return known if len(known) == len(self.seen) else None


@dataclass(frozen=True)
class Measured:
    """All operating points, and the uncut, uncoded model beside them."""

    points: tuple[RatePoint, ...]
    cascades: tuple[CascadePoint, ...]
    metric: Metric
    judged: int
    uncut: Estimate
    samples: int
    failures: tuple[str, ...]


def measure(
    own: Backend,
    dataset: Dataset,
    indices: Iterable[int],
    truth: Callable[[Sample], Truth],
    tries: Sequence[Tries],
    first: FirstAnswers | None = None,
) -> Measured:
    """Send the samples at `indices` at all operating points. The batch of the model is one sample.

    With `first` cascades are judged as well, of a small model or of exits.

    Raises InvalidInput if no sample can be run, or results can be compared with nothing, or there
    are labelled boxes and pycocotools is missing.
    """
    assert own.identity.batch == 1
    uncut, tallies, failures = _Tally(), dict[OperatingPoint, _Tally](), list[str]()
    kinds, firsts = set[Metric | None](), list[_First]()
    for index in indices:
        try:
            with contained():
                sample = datasets.load(dataset, index)
                batch = own.stack([own.prepare(sample)])
                usable = Usable(sample, geometry(sample, batch))
                exact = _whole(own, batch)
                known = _known(truth, sample)
                answers = first.of(sample) if first else ()
                uncut.seen.append(_Seen(0, _compared(own, known, usable, exact)))
        except Exception as error:  # noqa: BLE001 - the user's data set and model can raise anything
            failures.append(f"{dataset.name(index)}: {reason(error)}")
            continue
        _check_boxes(uncut.seen[-1].prediction, sample.name)
        kinds.add(_kind(own, exact))
        judged = partial(_judged, own, known, usable, exact)
        for one in (one for each in tries for one in each(batch)):
            tally = tallies.setdefault(one.at, _Tally())
            tally.seen.append(judged(one.result, one.bytes))
            if one.encode_ms is not None and one.decode_ms is not None:
                tally.encode_ms.append(one.encode_ms)
                tally.decode_ms.append(one.decode_ms)
        if first is not None:
            found = first.judged(answers, described(own, exact, usable.geometry))
            seen = partial(_answered, own, known, usable, exact)
            firsts.append([(sureness, seen(answer)) for sureness, answer in found])
    if not uncut.seen:
        why = failures[0] if failures else "there is none"
        raise InvalidInput("spec.dataset", None, f"samples that the model takes ({why})")
    scale = _scale(own, uncut, kinds)
    points = tuple(RatePoint(**_figures(at, tally, scale)) for at, tally in tallies.items())
    return Measured(
        points=points,
        cascades=tuple(_cascades(first, firsts, points, tallies, scale)) if first else (),
        metric=scale.metric,
        judged=len(scale.counted),
        uncut=scale.accuracy(uncut),
        samples=len(uncut.seen),
        failures=tuple(failures),
    )


def _check_boxes(exact: Prediction | None, name: str) -> None:
    """Refuse at the first sample to judge labelled detections by something else than mAP."""
    if exact is None or exact.truth.boxes is None or detection.is_available():
        return
    if detection.are_detections(exact.described):
        expected = "pip install 'splittracr[coco]' for mAP, or samples without boxes"
        raise InvalidInput("spec.dataset", f"labelled boxes of {name}", expected)


def _whole(own: Backend, batch: Input) -> Reduced:
    """The result of the uncut, uncoded model, on the host."""
    live = own.unpack(own.pack(own.head(0, batch)))
    return own.on_host(own.reduce(own.tail(0, live)))[0]


def _known(truth: Callable[[Sample], Truth], sample: Sample) -> Truth:
    """The label, boxes and mask of a sample. The mask is read once for all operating points."""
    known = truth(sample)
    return known if known.mask is None else replace(known, mask=cache(known.mask))


def _compared(own: Backend, known: Truth, usable: Usable, reduced: Reduced) -> Prediction:
    """The prediction compared with the labels, without its tensors: masks take much memory."""
    made = prediction(own, lambda _: known, usable, reduced)
    return replace(masks.counted(made), reduced={})


def _kind(own: Backend, exact: Reduced) -> Metric | None:
    """The metric of results like this one without labels; None if they cannot be compared."""
    ranking, one = own.postprocessor.ranking, [exact]
    agreed = {
        Metric.CLASSES: agreement.first_classes(ranking, one, one),
        Metric.DETECTIONS: agreement.detections(one, one),
        Metric.PIXELS: agreement.pixels(one, one),
    }
    return next((metric for metric, found in agreed.items() if found is not None), None)


def _judged(
    own: Backend, known: Truth, usable: Usable, exact: Reduced, result: "Reduced | None", size: int
) -> _Seen:
    """A sample with its result (None if there is none) and the size of its message in bytes."""
    ranking = own.postprocessor.ranking
    if result is None:
        more = agreement.results(ranking, [exact], [exact])
        return _Seen(size, None, None if more is None else Agreed(0, more.total))
    agreed = agreement.results(ranking, [exact], [result])
    return _Seen(size, _compared(own, known, usable, result), agreed)


def _answered(
    own: Backend, known: Truth, usable: Usable, exact: Reduced, answer: FirstAnswer
) -> _Seen:
    """A sample with the answer of a small model or of an exit, which sends nothing."""
    if answer.described is None:
        return _judged(own, known, usable, exact, answer.result, 0)
    whole = in_picture(exact, own.postprocessor.describe(exact, usable.geometry))
    agreed = agreement.results(own.postprocessor.ranking, [whole], [answer.result])
    return _Seen(0, Prediction({}, usable.geometry, answer.described, known), agreed)


def _figures(at: OperatingPoint, tally: _Tally, scale: "_Scale") -> dict[str, Any]:
    """The fields of a point."""
    return {
        "family": at.family,
        "cut": at.cut,
        "cut_index": at.cut_index,
        "codec": at.codec,
        "work": at.work,
        "bytes": float(np.mean([one.bytes for one in tally.seen])),
        "encode_ms": _typical(tally.encode_ms),
        "decode_ms": _typical(tally.decode_ms),
        "accuracy": scale.accuracy(tally),
        "agreement": None if tally.known is None else sum(tally.known, Agreed()).share,
    }


def _cascades(
    first: FirstAnswers,
    firsts: Sequence[_First],
    points: Sequence[RatePoint],
    tallies: Mapping[OperatingPoint, _Tally],
    scale: "_Scale",
) -> Iterator[CascadePoint]:
    """Cascades at several thresholds, with the operating points on the front for their rest."""
    rests = [
        (at, tally, point)
        for (at, tally), point in zip(tallies.items(), points, strict=True)
        if first.goes_on(at.cut_index)
    ]
    best = front([Point(point.bytes, point.accuracy.value) for *_, point in rests])
    for threshold in thresholds([max(sureness for sureness, _ in one) for one in firsts]):
        answers = [_sure(one, threshold) for one in firsts]
        share = sum(one is not None for one in answers) / len(answers)
        for at, tally, _ in (rests[i] for i in best):
            made = _Tally([one or rest for one, rest in zip(answers, tally.seen, strict=True)])
            figures = {**_figures(at, made, scale), "family": first.family}
            yield CascadePoint(**figures, answered=share, threshold_per_million=threshold)


def _sure(first: _First, threshold: int) -> _Seen | None:
    """The first answer that is sure enough."""
    return next((seen for sureness, seen in first if sureness >= threshold), None)


def _typical(times: Sequence[float]) -> float | None:
    return round(float(np.median(times)), 4) if times else None


# ------------------------------------------------------------------------------------ accuracy


_KINDS: Mapping[Metric, detection.Kind] = {Metric.KEYPOINTS: "keypoints", Metric.MAP: "bbox"}
"""Metrics by pycocotools. Keypoints come first: a model that finds them is judged by them."""


@dataclass(frozen=True)
class _Scale:
    """The measure of accuracy: the metric, the places of the samples that count, and their boxes,
    or the pixels of the uncut model.
    """

    metric: Metric
    counted: Sequence[int]
    labels: Sequence[list[dict[str, Any]]] = ()

    def accuracy(self, tally: _Tally) -> Estimate:
        """The accuracy at an operating point, or of the uncut model, which agrees with itself."""
        predictions = [tally.seen[i].prediction for i in self.counted]
        if self.metric is Metric.TOP1:
            hits = sum(one is not None and bool(one.top1) for one in predictions)
            return _share(hits, len(predictions))
        if self.metric in _KINDS:
            found = [[] if one is None else one.described for one in predictions]
            kind, places = _KINDS[self.metric], np.arange(len(found))
            return detection.evaluate(self.labels, found, places, kind).map50_95
        if self.metric is Metric.MIOU:
            return _overlap(predictions, self.labels)
        if not tally.known:
            return Estimate(value=1, low=None, high=None)
        total = sum(tally.known, Agreed())
        if self.metric is Metric.CLASSES:
            return _share(total.same, total.total)
        return _resampled(tally.known, total.share)


def _scale(own: Backend, uncut: _Tally, kinds: set[Metric | None]) -> _Scale:
    """The metric that labels and results allow: labels first, then agreement."""
    found = [one.prediction for one in uncut.seen if one.prediction is not None]
    labelled = [i for i, one in enumerate(found) if one.top1 is not None]
    if labelled:
        return _Scale(Metric.TOP1, labelled)
    boxes = {i: one.truth.boxes for i, one in enumerate(found) if one.truth.boxes is not None}
    described = [one.described for one in found]
    for metric, kind in _KINDS.items():
        if detection.can_compare(list(boxes.values()), described, kind):
            return _Scale(metric, list(boxes), list(boxes.values()))
    pixels = {i: one.pixels for i, one in enumerate(found) if one.pixels is not None}
    if any(one["labelled"] for each in pixels.values() for one in each):
        return _Scale(Metric.MIOU, list(pixels), list(pixels.values()))
    agreed = next(iter(kinds)) if len(kinds) == 1 else None
    if agreed is not None:
        return _Scale(agreed, range(len(found)))
    expected = "a model whose results are classes, upright boxes or masks, to compare them"
    raise InvalidInput("spec.model.name", own.network.name, expected)


def _overlap(
    predictions: Sequence[Prediction | None], exact: Sequence[list[dict[str, Any]]]
) -> Estimate:
    """The mean overlap of classes. A sample without a result has its labelled pixels only."""
    pixels = [
        labelled_masks.missed(whole) if one is None or one.pixels is None else one.pixels
        for one, whole in zip(predictions, exact, strict=True)
    ]
    made = segmentation.evaluate(pixels, np.arange(len(pixels)))
    assert made is not None  # some pixel is labelled
    return made.miou


def _share(hits: int, count: int) -> Estimate:
    low, high = share_interval(hits / count, count)
    return Estimate(value=hits / count, low=low, high=high)


def _resampled(counts: Sequence[Agreed], share: float) -> Estimate:
    """The share of all counts; its interval by bootstrap over samples, since those of a sample
    agree or differ together.
    """
    if len(counts) < MIN_FRAMES:
        return Estimate(value=share, low=None, high=None)
    same, total = (np.array([getattr(one, key) for one in counts]) for key in ("same", "total"))
    times = resamples(len(counts))
    sums = times @ total
    shares = np.divide(times @ same, sums, out=np.ones(len(times)), where=sums > 0)
    low, high = np.quantile(shares, (0.025, 0.975))
    return Estimate(value=share, low=min(float(low), share), high=max(float(high), share))
