"""Predictions kept while a study measures, and drawn on their pictures afterwards."""

import logging
import re
from pathlib import Path

from PIL import Image

from splittracr.data import datasets
from splittracr.data.containment import contained
from splittracr.data.contracts import Dataset, PostProcessor
from splittracr.edge.frame import Prediction
from splittracr.edge.recording import Finished
from splittracr.experiment.spec import ResultsSpec
from splittracr.experiment.types import Cut

log = logging.getLogger(__name__)


class Drawings:
    """Keeps the first prediction of each of the first samples of a data set.

    `wanted` has their number, and whether the first prediction of each cut is kept as well.
    """

    def __init__(self, dataset: Dataset, postprocessor: PostProcessor, wanted: ResultsSpec) -> None:
        self._dataset, self._postprocessor = dataset, postprocessor
        size = len(dataset)
        self._count = min(size, wanted.pictures) if isinstance(wanted.pictures, int) else size
        self._per_cut = wanted.pictures_per_cut
        self._kept: dict[tuple[str, int], Prediction] = {}  # by folder and sample

    def keep(self, finished: Finished) -> None:
        """Keep what is to be drawn of a frame."""
        first = finished.step.frame * finished.result.size
        cut = finished.result.cut
        folders = ["", _folder(cut)] if self._per_cut else [""]
        for i, prediction in finished.result.predictions.items():
            if first + i < self._count:
                for folder in folders:
                    self._kept.setdefault((folder, first + i), prediction)

    def write(self, folder: Path) -> None:
        """Write the pictures to `folder` as `0000.jpg`, numbered by sample; those of a cut to a
        folder of its own below.
        """
        folder.mkdir(exist_ok=True)
        for (cut, number), prediction in sorted(self._kept.items(), key=lambda item: item[0]):
            try:
                with contained():
                    drawn = self._drawn(number, prediction)
                if drawn is not None:
                    (folder / cut).mkdir(exist_ok=True)
                    drawn.convert("RGB").save(folder / cut / f"{number:04d}.jpg", quality=90)
            except Exception:  # a picture that cannot be drawn costs no result
                log.exception("sample %d cannot be drawn", number)

    def _drawn(self, number: int, prediction: Prediction) -> Image.Image | None:
        """The picture of a sample with its prediction; None if the sample is no picture."""
        picture = datasets.load(self._dataset, number).picture
        if picture is None:
            return None
        draws = prediction.draws or self._postprocessor
        return draws.draw(picture, prediction.reduced, prediction.geometry)


def _folder(cut: Cut) -> str:
    """`012-layer1.0.relu`, of letters that every file system takes."""
    return f"{cut.index:03d}-{re.sub('[^A-Za-z0-9._-]', '_', cut.name)}"
