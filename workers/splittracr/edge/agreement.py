"""How much a lossy codec changes the results: the same samples with and without it.

It runs on the edge alone after the last sample, so that it adds to no latency.
"""

from collections.abc import Iterable

from splittracr.backends import measuring
from splittracr.backends.protocol import Backend, Input
from splittracr.data.agreement import Agreed, detections, first_classes, pixels
from splittracr.data.contracts import Dataset
from splittracr.experiment.codec import Codec, PictureCodec
from splittracr.experiment.errors import FrameFailed
from splittracr.experiment.types import Cut
from splittracr.results.summary import Agreement
from splittracr.wire import codec as wire

SAMPLES = 16
"""Frames at each cut."""

LossyCodec = tuple[int, Codec | PictureCodec]
"""The index of a cut, and a lossy codec that was used there."""


def of_codecs(own: Backend, dataset: Dataset, used: Iterable[LossyCodec]) -> tuple[Agreement, ...]:
    """The agreement of each codec that was `used`, by cut and codec."""
    indices = range(min(len(dataset), SAMPLES))
    made = []
    for cut, codec in sorted(used, key=lambda one: (one[0], str(one[1]))):
        batches = measuring.batches(own, dataset, indices)
        made.append(measure(own, own.proof.cuts[cut], codec, batches))
    return tuple(made)


def measure(
    own: Backend, cut: Cut, codec: Codec | PictureCodec, batches: Iterable[Input]
) -> Agreement:
    """Compare the outputs after `codec` at `cut` with those of the uncoded network.

    `batches` are inputs, each `[N, *shape]`. Memory is that of one batch at a time.
    """
    ranked: Agreed | None = Agreed()
    found: Agreed | None = Agreed()
    alike: Agreed | None = Agreed()
    samples, largest, scale = 0, 0.0, 0.0
    for batch in batches:
        live = own.pack(own.head(cut.index, batch))
        exact = own.tail(cut.index, own.unpack(live))
        coded = wire.decode(wire.encode(live, codec))
        lossy = own.tail(cut.index, own.unpack(coded))
        error, magnitude = own.difference(exact, lossy)
        try:
            first, second = own.reduce(exact), own.reduce(lossy)
        except FrameFailed:  # the output is not finite, there is no result to compare
            continue
        largest, scale = max(largest, error), max(scale, magnitude)
        samples += len(first)
        ranked = _sum(ranked, first_classes(own.postprocessor.ranking, first, second))
        found = _sum(found, detections(first, second))
        alike = _sum(alike, pixels(first, second))
    return Agreement(
        cut=cut.name,
        codec=str(codec),
        samples=samples,
        top1=ranked.share if ranked and samples else None,
        detections=found.share if found and samples else None,
        pixels=alike.share if alike and samples else None,
        largest_error=largest / scale if scale else 0.0,
    )


def _sum(before: Agreed | None, more: Agreed | None) -> Agreed | None:
    """The sum; None if one of the two is not known."""
    return None if before is None or more is None else before + more
