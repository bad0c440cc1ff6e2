"""What is known of the samples of a study: labels and labelled boxes, as classes of the model."""

from splittracr.backends.protocol import Backend
from splittracr.data import boxes
from splittracr.data.contracts import Dataset, Sample
from splittracr.data.labels import Matching, match
from splittracr.edge.frame import Truth
from splittracr.experiment.errors import SplittracrError
from splittracr.experiment.spec import DatasetSource, ExperimentSpec

_BOXES = (DatasetSource.COCO, DatasetSource.YOLO)


def matching(backend: Backend, spec: ExperimentSpec, dataset: Dataset) -> Matching:
    """The class of the model for each label. Raises InvalidInput if they do not go together."""
    source = spec.dataset.source
    return match(
        dataset.classes,
        backend.network.classes,
        backend.outputs,
        folders=source is DatasetSource.LABELLED_FOLDER,
        field=boxes.FIELD if source in _BOXES else None,
        ordered=source is not DatasetSource.COCO,
    )


def truth(matching: Matching, known: int, sample: Sample) -> Truth:
    """Label and boxes with classes of the model, which has `known` class names.

    Raises SplittracrError if there is no such class.
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
    return Truth(None if sample.label is None else of_model(sample.label), labelled)
