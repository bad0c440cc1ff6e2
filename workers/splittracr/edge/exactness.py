"""The class of each cut of a study: the worse of what its two ends have proven."""

from collections.abc import Callable, Mapping, Sequence

from splittracr.experiment.types import Cut, Exactness
from splittracr.wire.messages import CutClass


def joint(cuts: Sequence[Cut], server: Mapping[str, CutClass]) -> tuple[Cut, ...]:
    """The edge's cuts with the classes of the server. The edge alone computes the last cut."""
    return (*(_joint(cut, server.get(cut.name)) for cut in cuts[:-1]), *cuts[-1:])


def _joint(cut: Cut, other: CutClass | None) -> Cut:
    if other is None:
        return cut
    there = Exactness(other.exactness)
    return cut.model_copy(
        update={
            "exactness": cut.exactness if there.meets(cut.exactness) else there,
            "largest_error": _worse(cut.largest_error, other.largest_error, max),
            "top1_agreement": _worse(cut.top1_agreement, other.top1_agreement, min),
        }
    )


def _worse(
    one: float | None, other: float | None, choose: Callable[[float, float], float]
) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return choose(one, other)
