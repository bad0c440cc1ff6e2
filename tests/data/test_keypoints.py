"""Labelled keypoints as COCO and YOLO write them."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from splittracr.data.boxes import Annotation
from splittracr.data.contracts import LabelledBox, Sample
from splittracr.data.datasets import Boxed, load, open_dataset
from splittracr.data.rgb import UnreadablePicture
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import DatasetSource, DatasetSpec
from tests.data.test_boxes import annotation, picture

COCO = DatasetSpec(source=DatasetSource.COCO, path="pictures", annotations="boxes.json")
BOX = [2, 3, 10, 5]


def coco(root: Path, *objects: dict[str, Any], names: list[str] | None = None) -> Boxed:
    """A picture of 40 x 20 with these objects, of a category with these keypoints."""
    picture(root / "pictures" / "a.png")
    category = {"id": 1, "name": "person"} | ({"keypoints": names} if names else {})
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 20}],
        "categories": [category],
        "annotations": [annotation(i, 1, 1, BOX, **one) for i, one in enumerate(objects, 1)],
    }
    (root / "boxes.json").write_text(json.dumps(content))
    dataset = open_dataset(COCO, root)
    assert isinstance(dataset, Boxed)
    return dataset


def test_coco_gives_keypoints_and_area(tmp_path: Path) -> None:
    dataset = coco(
        tmp_path,
        {"keypoints": [3, 4, 2, 39.5, 19, 1, 0, 0, 0], "area": 31.5},
        {"area": 20},
        names=["nose", "tail", "paw"],
    )
    assert dataset.keypoints == 3
    corners = (2.0, 3.0, 12.0, 8.0)
    assert dataset.load(0).boxes == (
        LabelledBox(0, corners, keypoints=((3, 4, 2), (39.5, 19, 1), (0, 0, 0)), area=31.5),
        LabelledBox(0, corners),
    )


def test_boxes_without_keypoints_have_no_number_of_them(tmp_path: Path) -> None:
    assert coco(tmp_path, {}).keypoints is None


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([3, 4], r"annotation 1 with keypoints \[3, 4\] of boxes.json', expected x, y, visibility"),
        ([3, 4, "2"], "annotation 1 with keypoints .*expected x, y, visibility of each"),
        ([], r"annotation 1 with keypoints \[\]"),
        ([3, 4, 2], "annotation 1 with 1 keypoints of boxes.json', expected 2, as its category"),
        (
            [3, 4, 2, 41, 4, 1],
            "annotation 1 with keypoint 41, 4, 1 of boxes.json', expected x, y, visibility 0, 1 or "
            "2, in the picture a.png",
        ),
        ([3, 4, 2, 3, -1, 1], "annotation 1 with keypoint 3, -1, 1"),
        ([3, 4, 2, 3, 4, 3], "annotation 1 with keypoint 3, 4, 3"),
        ([3, 4, 2, 3, 4, 0.5], "annotation 1 with keypoint 3, 4, -1"),
    ],
)
def test_keypoints_that_do_not_fit_are_refused(
    tmp_path: Path, points: list[Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=f"spec.dataset.annotations: got .{words}"):
        coco(tmp_path, {"keypoints": points}, names=["nose", "tail"])


def test_all_objects_have_one_number_of_keypoints(tmp_path: Path) -> None:
    two = {"keypoints": [3, 4, 2, 5, 6, 2]}
    with pytest.raises(InvalidInput, match=r"2 with 1 keypoints of boxes.json', expected 2"):
        coco(tmp_path, two, {"keypoints": [3, 4, 2]})


def yolo(root: Path, text: str, names: str) -> Boxed:
    picture(root / "images" / "a.png")
    (root / "labels").mkdir(exist_ok=True)
    (root / "labels" / "a.txt").write_text(text)
    (root / "data.yaml").write_text(names)
    dataset = open_dataset(DatasetSpec(source=DatasetSource.YOLO, path="."), root)
    assert isinstance(dataset, Boxed)
    return dataset


@pytest.mark.parametrize(
    ("shape", "points", "expected"),
    [
        ("[2, 3]", "0.5 0.5 2 0 0 0", ((20, 10, 2), (0, 0, 0))),
        ("[2, 2]", "0.5 0.5 -1 0.5", ((20, 10, 2), (-40, 10, 0))),
    ],
)
def test_yolo_gives_keypoints_in_pixels(
    tmp_path: Path, shape: str, points: str, expected: tuple[Any, ...]
) -> None:
    dataset = yolo(tmp_path, f"0 0.5 0.5 0.5 0.2 {points}", f"names: [cat]\nkpt_shape: {shape}")
    (one,) = dataset.load(0).boxes or ()
    assert one.box == pytest.approx((10, 8, 30, 12))
    assert (one.keypoints, one.area, dataset.keypoints) == (expected, None, 2)


@pytest.mark.parametrize(
    ("points", "shape", "words"),
    [
        ("", "[2, 3]", "class, x, y, width, height and 2 keypoints of 3 numbers"),
        ("0.5 0.5 2", "[2, 3]", "class, x, y, width, height and 2 keypoints of 3 numbers"),
        ("0.5 0.5 2 1.5 0.5 1", "[2, 3]", "in the picture: shares of its sides from 0 to 1"),
        ("0.5 0.5 2 0.5 0.5 4", "[2, 3]", "x, y, visibility 0, 1 or 2, in the picture"),
        ("0.5 0.5 2", "[2, 4]", r"kpt_shape \[2, 4\] of .*data.yaml', expected the number of keyp"),
        ("0.5 0.5 2", "3", "kpt_shape 3 of"),
        ("0.5 0.5 2", "null", "keypoints need kpt_shape in the YAML file"),
    ],
)
def test_yolo_keypoints_that_do_not_fit_are_refused(
    tmp_path: Path, points: str, shape: str, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        yolo(tmp_path, f"0 0.5 0.5 0.5 0.2 {points}", f"names: [cat]\nkpt_shape: {shape}")


def test_keypoints_as_shares_follow_the_picture() -> None:
    made = Annotation((LabelledBox(0, (0, 0, 1, 1), keypoints=((0.25, 0.5, 2),)),), None)
    (one,) = made.boxes((100, 50), "a")
    assert one == LabelledBox(0, (0, 0, 100, 50), keypoints=((25, 25, 2),))


def test_an_own_data_set_gives_three_numbers_of_each_keypoint() -> None:
    class Own:
        classes = ("cat",)

        def __len__(self) -> int:
            return 1

        def name(self, index: int) -> str:
            return str(index)

        def load(self, index: int) -> Sample:
            points: Any = ((1.0, 2.0),)
            box = LabelledBox(0, (0, 0, 1, 1), keypoints=points)
            return Sample("own", picture=Image.new("RGB", (4, 4)), boxes=(box,))

    with pytest.raises(UnreadablePicture, match=r"0: boxes: got \(1.0, 2.0\), expected keyp"):
        load(Own(), 0)
