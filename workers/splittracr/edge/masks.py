"""Compares the masks of a frame with labelled ones, once its latency has ended."""

import asyncio
from dataclasses import replace

from splittracr.data import masks
from splittracr.data.containment import contained
from splittracr.edge.frame import Prediction
from splittracr.edge.result import Result
from splittracr.experiment.errors import reason


async def judged(result: Result) -> Result:
    """The result with the pixels of its masks counted, in a thread if there are any.

    A sample whose labelled mask cannot be used fails alone.
    """
    if all(one.truth.mask is None for one in result.predictions.values()):
        return result
    return await asyncio.to_thread(_judged, result)


def _judged(result: Result) -> Result:
    predictions, failures = dict(result.predictions), dict(result.failures)
    for i, one in result.predictions.items():
        try:
            with contained():
                predictions[i] = counted(one)
        except Exception as error:  # noqa: BLE001 - the user's data set may raise anything
            failures[i] = reason(error)
            del predictions[i]
    return replace(result, predictions=predictions, failures=failures)


def counted(one: Prediction) -> Prediction:
    """The prediction with its pixels counted, if it is a mask and has a labelled one."""
    if one.truth.mask is None or not masks.is_mask(one.reduced):
        return one
    size = one.geometry.picture
    predicted = masks.resized(masks.found(one.reduced), size)
    return replace(one, pixels=masks.counted(one.truth.mask(size), predicted))
