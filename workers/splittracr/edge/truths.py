"""Labels, boxes and masks of the samples of a study, as classes of the model."""

from functools import partial
from typing import Any

import numpy as np

from splittracr.backends.protocol import Backend, Description
from splittracr.data import boxes, masks
from splittracr.data.contracts import IGNORED, Dataset, LabelledBox, Mask, Sample
from splittracr.data.datasets import Boxed, Masked
from splittracr.data.labels import Matching, match
from splittracr.edge.frame import Truth
from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.experiment.spec import DatasetSource, ExperimentSpec

_BOXES = (DatasetSource.COCO, DatasetSource.YOLO)


def matching(backend: Backend, spec: ExperimentSpec, dataset: Dataset) -> Matching:
    """The class of the model for each label. Raises InvalidInput if they do not go together."""
    source = spec.dataset.source
    if source is DatasetSource.MASKS:
        return Matching(None, "Labels: the values of the masks are classes of the model.")
    inner, wanted = getattr(dataset, "inner", dataset), backend.network.keypoints
    found = inner.keypoints if isinstance(inner, Boxed) else None
    if found is not None and found != (wanted or found):
        expected = f"{wanted}, as the objects of {backend.network.name} have"
        raise InvalidInput(boxes.FIELD, f"{found} keypoints an object", expected)
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


def truth(matching: Matching, network: Description, sample: Sample) -> Truth:
    """Label, boxes and mask with classes of the model.

    Raises SplittracrError if there is no such class, or for another number of keypoints than its
    objects have; for a mask when it is read.
    """
    known = len(network.classes)

    def of_model(label: int) -> int:
        count = len(matching.classes or ()) or known or label + 1
        if not 0 <= label < count:
            raise SplittracrError(f"{sample.name} has label {label}, not 0 to {count - 1}")
        return label if matching.classes is None else matching.classes[label]

    return Truth(
        None if sample.label is None else of_model(sample.label),
        None
        if sample.boxes is None
        else [
            _box(one, of_model(one.label), network.keypoints, sample.name) for one in sample.boxes
        ],
        None if sample.mask is None else partial(_mask, matching, known, sample),
    )


def _box(one: LabelledBox, label: int, wanted: int | None, name: str) -> dict[str, Any]:
    """A labelled box as JSON. Raises SplittracrError for another number of keypoints."""
    box = [round(n, 3) for n in one.box]
    made: dict[str, Any] = {"class": label, "box": box, "crowd": one.crowd}
    if one.keypoints is None:
        return made
    if len(one.keypoints) != (wanted or len(one.keypoints)):
        raise SplittracrError(
            f"{name} has an object with {len(one.keypoints)} keypoints, not {wanted}"
        )
    made["keypoints"] = [[round(x, 3), round(y, 3), visible] for x, y, visible in one.keypoints]
    return made if one.area is None else {**made, "area": one.area}


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
