"""Answers of a small model, or of exits, for the cascades that `splittracr rate` measures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from splittracr.data import cascade
from splittracr.data.cascade import Answer, ClassMap, Judge
from splittracr.data.contracts import Reduced, Sample
from splittracr.edge.calibrating import Both, OfExits, statistic

STEPS = 10
"""Each lower threshold answers about this part (a tenth) of all samples more."""


@dataclass(frozen=True)
class FirstAnswer:
    """A result on the host. Boxes are in pixels of the picture.

    `described` is the description of boxes by the model's own post-processor; None for results of
    another kind.
    """

    result: Reduced
    described: list[dict[str, Any]] | None = None


class FirstAnswers:
    """Answers of the small model, or of the exits, of `both`, in classes of the large model.

    Sureness follows from the default statistic of the results.
    """

    def __init__(self, both: Both, classes: ClassMap, least_match: float = 0.5) -> None:
        self._both, self._classes, self._least_match = both, classes, least_match
        self._judge: Judge | None = None

    @property
    def family(self) -> str:
        """The name of the curve."""
        first = self._both.first
        return "exits" if isinstance(first, OfExits) else f"cascade of {first.backend.network.name}"

    def goes_on(self, cut: int) -> bool:
        """Whether a sample can go on at this cut: at `input`, or after the last exit."""
        first = self._both.first
        last = first.exits.cuts[-1].index if isinstance(first, OfExits) else 0
        return cut == 0 or cut > last

    def of(self, sample: Sample) -> Sequence[Answer]:
        """The answers for a sample on the host, in the order in which they are tried.

        Raises NotIndependent for a sample that exits have learnt from.
        """
        return [one.answer for one in self._both.first.of(sample)]

    def judged(self, answers: Sequence[Answer], exact: Answer) -> list[tuple[int, FirstAnswer]]:
        """The sureness (millionths) of each answer, and the answer in classes of the large model.

        Raises InvalidInput if they cannot be compared with `exact`, the large model's answer.
        """
        if self._judge is None:
            chosen = statistic(self._both, answers[0].reduced, exact.reduced, None)
            post, other = self._both.first.backend.postprocessor, self._both.large.postprocessor
            rankings = post.ranking, other.ranking
            self._judge = Judge(chosen, *rankings, self._classes, self._least_match)
        for one in answers:
            self._both.check(self._judge, one, exact)
        return [
            (self._judge.sureness(one.reduced), self._translated(_first(one))) for one in answers
        ]

    def _translated(self, answer: FirstAnswer) -> FirstAnswer:
        """An answer in classes of the large model; -1 are those that it does not have."""
        if self._classes.classes is None:
            return answer
        found = (self._classes.of(int(index)) for index in answer.result["classes"].tolist())
        numbers = [-1 if index is None else index for index in found]
        result: Any = {**answer.result, "classes": np.array(numbers, dtype=np.int64)}
        if answer.described is None:
            return FirstAnswer(result)
        pairs = zip(answer.described, numbers, strict=True)
        return FirstAnswer(result, [{**one, "class": index} for one, index in pairs if index >= 0])


def _first(one: Answer) -> FirstAnswer:
    if not cascade.are_boxes(one.reduced, one.described):
        return FirstAnswer(one.reduced)
    return FirstAnswer(cascade.in_picture(one.reduced, one.described), one.described)


def thresholds(surest: Sequence[int]) -> list[int]:
    """Thresholds at which about a tenth, two tenths and so on of the samples are answered.

    `surest` has the largest sureness for each sample. Neither none nor all of them are answered.
    """
    ordered = sorted(surest, reverse=True)
    places = {len(ordered) * step // STEPS - 1 for step in range(1, STEPS)}
    found = {ordered[place] for place in places if place >= 0}
    return sorted(one for one in found if one > ordered[-1])
