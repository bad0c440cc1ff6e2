"""What is known of the samples of a study, as classes of the model: labels, boxes and masks."""

from functools import partial

import numpy as np

from splittracr.backends.protocol import Backend
from splittracr.data import boxes, masks
from splittracr.data.contracts import IGNORED, Dataset, Mask, Sample
from splittracr.data.datasets import Masked
from splittracr.data.labels import Matching, match
from splittracr.edge.frame import Truth
from splittracr.experiment.errors import SplittracrError
from splittracr.experiment.spec import DatasetSource, ExperimentSpec

_BOXES = (DatasetSource.COCO, DatasetSource.YOLO)


def matching(backend: Backend, spec: ExperimentSpec, dataset: Dataset) -> Matching:
    """The class of the model for each label. Raises InvalidInput if they do not go together."""
    source = spec.dataset.source
    if source is DatasetSource.MASKS:
        return Matching(None, "Labels: the values of the masks are classes of the model.")
    return match(
        dataset.classes,
        backend.network.classes,
        backend.outputs,
        folders=source is DatasetSource.LABELLED_FOLDER,
        field=boxes.FIELD if source in _BOXES else None,
        ordered=source is not DatasetSource.COCO,
    )


def check_masks(backend: Backend, dataset: Dataset, count: int) -> None:
    """Raise InvalidInput if one of the first `count` masks of a folder of them cannot be used."""
    inner = getattr(dataset, "inner", dataset)  # without a transform
    if isinstance(inner, Masked):
        inner.check(count, len(backend.network.classes) or None)


def truth(matching: Matching, known: int, sample: Sample) -> Truth:
    """Label, boxes and mask with classes of the model, which has `known` class names.

    Raises SplittracrError if there is no such class; for a mask when it is read.
    """

    def of_model(label: int) -> int:
        count = len(matching.classes or ()) or known or label + 1
        if not 0 <= label < count:
            raise SplittracrError(f"{sample.name} has label {label}, not 0 to {count - 1}")
        return label if matching.classes is None else matching.classes[label]

    labelled = None
    if sample.boxes is not None:
        labelled = [
            {
                "class": of_model(one.label),
                "box": [round(n, 3) for n in one.box],
                "crowd": one.crowd,
            }
            for one in sample.boxes
        ]
    return Truth(
        None if sample.label is None else of_model(sample.label),
        labelled,
        None if sample.mask is None else partial(_mask, matching, known, sample),
    )


def _mask(matching: Matching, known: int, sample: Sample, size: tuple[int, int]) -> Mask:
    """The labelled mask of a picture of this height and width, with classes of the model."""
    assert sample.mask is not None
    mask = masks.checked(sample.mask(), sample.name, size)
    counts = mask != IGNORED
    low, high = (int(end) for end in (mask[counts].min(initial=0), mask[counts].max(initial=0)))
    count = len(matching.classes or ()) or known or high + 1
    if low < 0 or high >= count:
        got = low if low < 0 else high
        expected = f"0 to {count - 1}, or {IGNORED} for pixels that do not count"
        raise SplittracrError(f"{sample.name}: mask: got class {got}, expected {expected}")
    if matching.classes is None:
        return mask
    made = np.full(mask.shape, IGNORED)
    made[counts] = np.array(matching.classes)[mask[counts]]
    return made
