"""Classification: one class for each picture."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from splittracr.data.contracts import Geometry, Reduced
from splittracr.data.drawing import Bar, with_bars
from splittracr.data.postprocess.common import first_tensor, label_of, number
from splittracr.experiment.spec import PostprocessSpec

RANKED = 5
"""The minimum of classes kept, for top-5 accuracy, even if fewer are reported."""


@dataclass(frozen=True)
class Classification:
    """Raw output: logits `[N, classes]`; of a tuple the first entry.

    Reduced: `scores` `[k]` float32 and `classes` `[k]` int32, best first. Of equal scores the
    lower class comes first.
    """

    spec: PostprocessSpec
    classes: tuple[str, ...]

    def reduce(self, output: Any) -> list[Reduced]:
        """Return the best classes of each picture, at least five."""
        kept = max(self.spec.top_k, RANKED)
        found = first_tensor(output)
        if isinstance(found, np.ndarray):
            return self._of_array(found.reshape(len(found), -1).astype(np.float32), kept)
        probabilities = self._probabilities(found.flatten(1).float())
        scores, order = probabilities.sort(dim=1, descending=True, stable=True)
        return [
            {"scores": s[:kept].clone(), "classes": c[:kept].int()}
            for s, c in zip(scores, order, strict=True)
        ]

    def _of_array(self, output: Any, kept: int) -> list[Reduced]:
        probabilities = self._probabilities(output)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :kept]
        scores = np.take_along_axis(probabilities, order, axis=1)
        found: list[Any] = [
            {"scores": s, "classes": c} for s, c in zip(scores, order.astype(np.int32), strict=True)
        ]
        return found

    def _probabilities(self, output: Any) -> Any:
        if not isinstance(output, np.ndarray):
            return output.softmax(1)
        powers = np.exp(output - output.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def describe(self, reduced: Reduced, geometry: Geometry) -> list[dict[str, Any]]:
        """Return the best `topK` classes: label, class, score (a probability)."""
        found = zip(reduced["classes"].tolist(), reduced["scores"].tolist(), strict=True)
        return [
            {"label": label_of(self.classes, index), "class": index, "score": number(score)}
            for index, score in list(found)[: self.spec.top_k]
        ]

    def draw(self, picture: Image.Image, reduced: Reduced, geometry: Geometry) -> Image.Image:
        """Return the picture with the best five classes as bars below."""
        rows = [
            Bar(one["label"], one["score"]) for one in self.describe(reduced, geometry)[:RANKED]
        ]
        return with_bars(picture, rows)

    def ranking(self, reduced: Reduced) -> list[int] | None:
        """Return the classes kept, best first."""
        return [int(index) for index in reduced["classes"].tolist()]


class UltralyticsClassification(Classification):
    """Raw output: probabilities `[N, classes]`; of a tuple the first entry."""

    def _probabilities(self, output: Any) -> Any:
        return output
