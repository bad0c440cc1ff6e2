"""How much a lossy codec changes the results: the same samples with and without it.

It runs on the edge alone after the last sample, so that it adds to no latency.
"""

from collections.abc import Iterable

from splittracr.backends import measuring
from splittracr.backends.protocol import Backend, Input
from splittracr.data.contracts import Dataset, Reduced
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
    ranked, same, samples = 0, 0, 0
    largest, scale = 0.0, 0.0
    for batch in batches:
        live = own.pack(own.head(cut.index, batch))
        exact = own.tail(cut.index, own.unpack(live))
        coded = wire.decode(wire.encode(live, codec))
        lossy = own.tail(cut.index, own.unpack(coded))
        error, magnitude = own.difference(exact, lossy)
        try:
            pairs = list(zip(own.reduce(exact), own.reduce(lossy), strict=True))
        except FrameFailed:  # the output is not finite, there is no result to compare
            continue
        largest, scale = max(largest, error), max(scale, magnitude)
        for a, b in pairs:
            samples += 1
            first, second = _first(own, a), _first(own, b)
            ranked += first is not None
            same += first is not None and first == second
    return Agreement(
        cut=cut.name,
        codec=str(codec),
        samples=samples,
        top1=same / ranked if ranked else None,
        largest_error=largest / scale if scale else 0.0,
    )


def _first(own: Backend, reduced: Reduced) -> int | None:
    ranking = own.postprocessor.ranking(reduced)
    return ranking[0] if ranking else None
