"""Predictions kept while a study measures, and drawn on their pictures afterwards."""

import logging
from pathlib import Path

from PIL import Image

from splittracr.data import datasets
from splittracr.data.containment import contained
from splittracr.data.contracts import Dataset, PostProcessor
from splittracr.edge.frame import Prediction
from splittracr.edge.recording import Finished

log = logging.getLogger(__name__)


class Drawings:
    """Keeps the first prediction of each of the first `count` samples of a data set."""

    def __init__(self, dataset: Dataset, postprocessor: PostProcessor, count: int) -> None:
        self._dataset, self._postprocessor = dataset, postprocessor
        self._count = min(len(dataset), count)
        self._kept: dict[int, Prediction] = {}

    def keep(self, finished: Finished) -> None:
        """Keep what is to be drawn of a frame."""
        first = finished.step.frame * finished.result.size
        for i, prediction in finished.result.predictions.items():
            if first + i < self._count:
                self._kept.setdefault(first + i, prediction)

    def write(self, folder: Path) -> None:
        """Write the pictures to `folder` as `0000.jpg`, numbered by sample."""
        folder.mkdir(exist_ok=True)
        for number, prediction in sorted(self._kept.items()):
            try:
                with contained():
                    drawn = self._drawn(number, prediction)
                if drawn is not None:
                    drawn.convert("RGB").save(folder / f"{number:04d}.jpg", quality=90)
            except Exception:  # a picture that cannot be drawn costs no result
                log.exception("sample %d cannot be drawn", number)

    def _drawn(self, number: int, prediction: Prediction) -> Image.Image | None:
        """The picture of a sample with its prediction; None if the sample is no picture."""
        picture = datasets.load(self._dataset, number).picture
        if picture is None:
            return None
        return self._postprocessor.draw(picture, prediction.reduced, prediction.geometry)
