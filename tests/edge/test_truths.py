"""Labels of samples as classes of the model, with as many keypoints as its objects have."""

from pathlib import Path

import pytest

from splittracr.data.contracts import LabelledBox, Sample
from splittracr.data.labels import Matching
from splittracr.edge import truths
from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.experiment.spec import ExperimentSpec, Mode, ModelSpec, PartitionSpec
from tests.backends.numpy_backend import Means8x8
from tests.data.test_keypoints import COCO, coco

SERVER = PartitionSpec(mode=Mode.SERVER_ONLY)


class Posed:
    """A backend of a model whose objects have 17 keypoints."""

    network = Means8x8(name="pose", classes=("person",), keypoints=17)
    outputs = None


def test_another_number_of_keypoints_than_the_models_is_refused(tmp_path: Path) -> None:
    dataset = coco(tmp_path, {"keypoints": [3, 4, 2]})
    spec = ExperimentSpec(model=ModelSpec(name="pose"), dataset=COCO, partition=SERVER)
    with pytest.raises(InvalidInput, match="1 keypoints an object', expected 17, as the objects"):
        truths.matching(Posed(), spec, dataset)  # type: ignore[arg-type]


def test_a_sample_with_another_number_of_keypoints_fails_alone() -> None:
    box = LabelledBox(0, (0, 0, 1, 1), keypoints=((0.5, 0.5, 2),))
    sample = Sample("a.jpg", boxes=(box,))
    with pytest.raises(SplittracrError, match=r"a\.jpg has an object with 1 keypoints, not 17"):
        truths.truth(Matching(), Posed.network, sample)
    unknown = truths.truth(Matching(), Means8x8(classes=("person",)), sample)
    assert unknown.boxes == [
        {"class": 0, "box": [0, 0, 1, 1], "crowd": False, "keypoints": [[0.5, 0.5, 2]]}
    ]
