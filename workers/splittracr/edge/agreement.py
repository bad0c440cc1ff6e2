"""How much a lossy codec changes the results: the same samples with and without it.

It runs on the edge alone and after the last sample, so that it adds to no latency.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from splittracr import replica
from splittracr.data.contracts import Dataset, Reduced
from splittracr.experiment.codec import Codec, PictureCodec
from splittracr.experiment.errors import FrameFailed
from splittracr.experiment.types import Cut
from splittracr.replica import Replica
from splittracr.results.summary import Agreement
from splittracr.splitting.live import pack, unpack
from splittracr.wire import codec as wire

SAMPLES = 16
"""Frames at each cut."""

LossyCodec = tuple[int, Codec | PictureCodec]
"""The index of a cut, and a lossy codec that was used there."""


def of_codecs(own: Replica, dataset: Dataset, used: Iterable[LossyCodec]) -> tuple[Agreement, ...]:
    """The agreement of each codec that was `used`, by cut and codec."""
    indices = range(min(len(dataset), SAMPLES))
    made = []
    for cut, codec in sorted(used, key=lambda one: (one[0], str(one[1]))):
        samples = replica.inputs(own.network, dataset, indices)
        batches = (torch.stack([sample] * own.identity.batch) for sample in samples)
        made.append(measure(own, own.proof.cuts[cut], codec, batches))
    return tuple(made)


def measure(
    own: Replica, cut: Cut, codec: Codec | PictureCodec, batches: Iterable[Tensor]
) -> Agreement:
    """Compare the outputs behind `codec` at `cut` with those of the uncoded network.

    `batches` are inputs, each `[N, *shape]`. Memory is that of one batch at a time.
    """
    ranked, same, samples = 0, 0, 0
    largest, scale = 0.0, 0.0
    for batch in batches:
        live = pack(own.head(cut.index, batch))
        exact = own.tail(cut.index, unpack(live, own.device))
        coded = wire.decode(wire.encode(live, codec))
        lossy = own.tail(cut.index, unpack(coded, own.device))
        error, magnitude = _difference(exact, lossy)
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


def _first(own: Replica, reduced: Reduced) -> int | None:
    ranking = own.postprocessor.ranking(reduced)
    return ranking[0] if ranking else None


def _difference(exact: object, lossy: object) -> tuple[float, float]:
    """Largest absolute difference of two raw outputs, and the largest value of the first."""
    error, magnitude = 0.0, 0.0
    for a, b in zip(_floats(exact), _floats(lossy), strict=True):
        if a.shape == b.shape and a.numel():  # detections may be more or fewer
            error = max(error, float((a.double() - b.double()).abs().max()))
            magnitude = max(magnitude, float(a.double().abs().max()))
    return error, magnitude


def _floats(output: object) -> Sequence[Tensor]:
    leaves = tree_flatten(output)[0]
    return [x for x in leaves if isinstance(x, Tensor) and torch.is_floating_point(x)]
