"""Results of the small model of a cascade beside those of the large one: classes and agreement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from splittracr.data.agreement import Ranking, detections
from splittracr.data.contracts import Geometry, Reduced
from splittracr.experiment.contracts import DETECTED, RANKED, Statistic
from splittracr.experiment.errors import InvalidInput, nearest
from splittracr.planning.sureness import sureness

SMALL = "--small"
CLASSES = "--classes"


@dataclass(frozen=True)
class Labels:
    """The classes of a model: their names if it has any, and their number if it is known."""

    model: str
    names: tuple[str, ...] = ()
    outputs: int | None = None

    @property
    def count(self) -> int | None:
        """The number of classes."""
        return len(self.names) or self.outputs

    def index(self, key: object) -> int:
        """The class with this name or number.

        Raises InvalidInput that names --classes if there is none.
        """
        names = list(self.names)
        if isinstance(key, str) and names.count(key) == 1:
            return names.index(key)
        text = str(key)
        if text.isdecimal() and int(text) < (self.count or 0):
            return int(text)
        some = nearest(text, names) if names else "its number"
        raise InvalidInput(CLASSES, key, f"a class of {self.model}, {some}")


@dataclass(frozen=True)
class ClassMap:
    """The large model's class for each class of the small one.

    None for a class that the small model never answers with. Without `classes` the numbers of both
    models mean the same.
    """

    classes: tuple[int | None, ...] | None = None

    def of(self, index: int) -> int | None:
        """The large model's class; None if there is none."""
        if self.classes is None:
            return index
        return self.classes[index] if 0 <= index < len(self.classes) else None


def mapped(small: Labels, large: Labels, given: Mapping[Any, Any] | None) -> ClassMap:
    """The classes of the small model as those of the large one.

    Without `given` both have to be the same: the names, or the number of classes if one of the
    models has no names. `given` maps names or numbers of the small model to those of the large one,
    or to None for a class that it must not answer with. Classes that it leaves out keep their name.

    Raises InvalidInput that names --small for other classes, and --classes for a wrong mapping.
    """
    if given is None:
        difference = _difference(small, large)
        if difference is None:
            return ClassMap()
        expected = f"a model with the classes of {large.model}, or a mapping in {CLASSES}"
        raise InvalidInput(SMALL, small.model, f"{expected} ({difference})")
    if small.count is None:
        expected = f"nothing: the number of classes of {small.model} is unknown"
        raise InvalidInput(CLASSES, dict(given), expected)
    chosen = {
        small.index(key): None if value is None else large.index(value)
        for key, value in given.items()
    }
    return ClassMap(
        tuple(chosen[i] if i in chosen else _same_name(small, i, large) for i in range(small.count))
    )


def _difference(small: Labels, large: Labels) -> str | None:
    """How the classes differ; None if they do not."""
    if small.count != large.count and None not in (small.count, large.count):
        return f"it has {small.count} classes, {large.model} has {large.count}"
    if not small.names or not large.names or small.names == large.names:
        return None
    pairs = enumerate(zip(small.names, large.names, strict=True))
    i, (here, there) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    return f"its class {i} is {here!r}, that of {large.model} {there!r}"


def _same_name(small: Labels, index: int, large: Labels) -> int:
    name: object = small.names[index] if small.names else index
    if not small.names or name not in large.names:
        expected = f"a class of {large.model}, or null, for each class of {small.model}"
        raise InvalidInput(CLASSES, None, f"{expected} (there is none for {name!r})")
    return large.index(name)


@dataclass(frozen=True)
class Answer:
    """A result, its description by the model's own post-processor, and the sizes of its input."""

    reduced: Reduced
    described: Any
    geometry: Geometry


@dataclass(frozen=True)
class Judge:
    """Compares the results of both models for one picture.

    Rankings agree if the first class is the same, detections if at least the share `least_match`
    of them have a partner.
    """

    statistic: Statistic
    small: Ranking
    large: Ranking
    classes: ClassMap
    least_match: float

    def sureness(self, result: Reduced) -> int:
        """How sure the small model is; 0 if it must not answer with this class."""
        if any(self.classes.of(index) is None for index in self._found(result)):
            return 0
        return sureness(self.statistic, _scores(result))

    def compared(self, small: Answer, large: Answer) -> bool | None:
        """Whether the small model's answer agrees with the large one's.

        None if their boxes have coordinates of two kinds; see `together`.
        """
        if self.large(large.reduced) is not None:
            return self.agrees(small.reduced, large.reduced)
        both = together(small, large)
        return None if both is None else self.agrees(*both)

    def agrees(self, small: Reduced, large: Reduced) -> bool:
        """Whether the small model's result agrees with the large one's, whose boxes are of one
        kind.
        """
        theirs = self.large(large)
        if theirs is not None:
            return [self.classes.of(i) for i in self._found(small)] == list(theirs[:1])
        indices = [self.classes.of(index) for index in self._found(small)]
        numbers = np.array([-1 if index is None else index for index in indices], dtype=np.int64)
        translated: Any = {**small, "classes": numbers}
        agreed = detections([large], [translated])
        return agreed is not None and agreed.share >= self.least_match

    def _found(self, result: Reduced) -> Sequence[int]:
        """The first class of a ranking, or the classes of all detections."""
        ranking = self.small(result)
        return ranking[:1] if ranking is not None else [int(i) for i in result["classes"].tolist()]


def are_boxes(reduced: Reduced, described: Any) -> bool:
    """Whether a result is upright boxes, and its description has a `box` for each of them."""
    if detections([reduced], [reduced]) is None or not isinstance(described, list):
        return False
    found = [one.get("box") if isinstance(one, dict) else None for one in described]
    whole = all(isinstance(box, list | tuple) and len(box) == 4 for box in found)
    return whole and len(found) == len(reduced["boxes"])


def together(one: Answer, other: Answer) -> tuple[Reduced, Reduced] | None:
    """Both results with boxes in coordinates of one kind.

    That is pixels of the picture if both are described by boxes, or pixels of the input if neither
    is and their inputs have one size. None if there is no such kind. Without a box in one of
    them any kind is right.
    """
    boxed = [are_boxes(each.reduced, each.described) for each in (one, other)]
    if all(boxed):
        return in_picture(one.reduced, one.described), in_picture(other.reduced, other.described)
    empty = any(len(each.reduced["boxes"]) == 0 for each in (one, other))
    alike = not any(boxed) and one.geometry == other.geometry
    return (one.reduced, other.reduced) if empty or alike else None


def in_picture(reduced: Reduced, described: Any) -> Reduced:
    """The result with the boxes of its description, which are in pixels of the picture.

    Results that are not described by boxes stay as they are.
    """
    if not are_boxes(reduced, described):
        return reduced
    boxes: Any = np.array([one["box"] for one in described], dtype=np.float64).reshape(-1, 4)
    return {**reduced, "boxes": boxes}


def describing(large: str) -> str:
    """The small models whose boxes compare with those of the model `large`, for errors."""
    return (
        f"a model whose boxes compare with those of {large}: the post-processors of both describe "
        "each detection with its `box` in pixels of the picture, or neither does and both inputs "
        "have one size"
    )


def comparable(large: str) -> str:
    """The small models whose results compare with those of the model `large`, for errors."""
    return (
        f"a model whose results, as those of {large}, are classes or upright boxes, with scores "
        "from 0 to 1"
    )


def statistics(ranking: Ranking, result: Reduced) -> tuple[Statistic, ...]:
    """The statistics that suit a result, the default first; empty if no statistic does."""
    if "scores" not in result or "classes" not in result:
        return ()
    scores = _scores(result)
    if not all(0 <= score <= 1 for score in scores):
        return ()
    if ranking(result) is not None:
        return RANKED
    return DETECTED if detections([result], [result]) is not None else ()


def _scores(result: Reduced) -> list[float]:
    return [float(score) for score in result["scores"].tolist()]
