"""Labelled boxes as COCO and YOLO write them."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from splittracr.data.boxes import Annotation
from splittracr.data.contents import contents
from splittracr.data.contracts import LabelledBox, Sample
from splittracr.data.datasets import Boxed, load, open_dataset
from splittracr.data.rgb import UnreadablePicture
from splittracr.data.transform import Transform, Transformed
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import DatasetSource, DatasetSpec

COCO = DatasetSpec(source=DatasetSource.COCO, path="pictures", annotations="boxes.json")


def picture(path: Path, size: tuple[int, int] = (40, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def annotation(key: int, image: int, category: int, box: Any, **more: Any) -> dict[str, Any]:
    return {"id": key, "image_id": image, "category_id": category, "bbox": box} | more


def content() -> dict[str, list[Any]]:
    size = {"width": 40, "height": 20}
    return {
        "images": [
            {"id": 7, "file_name": "b.png", **size},
            {"id": 3, "file_name": "a.png", **size},
        ],
        "categories": [
            {"id": 1, "name": "cat"},
            {"id": 5, "name": "unused"},
            {"id": 9, "name": "dog"},
        ],
        "annotations": [
            annotation(1, 7, 9, [2, 3, 10, 5]),
            annotation(2, 7, 1, [0, 0, 40, 20], iscrowd=1),
        ],
    }


def coco(root: Path, made: object) -> Boxed:
    for name in ("a.png", "b.png", "c.png"):
        picture(root / "pictures" / name)
    (root / "boxes.json").write_text(made if isinstance(made, str) else json.dumps(made))
    dataset = open_dataset(COCO, root)
    assert isinstance(dataset, Boxed)
    return dataset


def test_coco_gives_corners_in_pixels_and_the_classes_that_have_boxes(tmp_path: Path) -> None:
    dataset = coco(tmp_path, content())
    assert dataset.files == ("a.png", "b.png")
    assert dataset.classes == ("cat", "dog")
    assert dataset.load(0).boxes == ()
    assert dataset.load(1).boxes == (
        LabelledBox(1, (2, 3, 12, 8)),
        LabelledBox(0, (0, 0, 40, 20), crowd=True),
    )
    said = "Left out: 1 picture without labels and 1 class without boxes (unused)."
    assert dataset.left_out == said


def test_a_changed_box_changes_the_digest_of_its_picture_only(tmp_path: Path) -> None:
    before = contents(coco(tmp_path, content()), 2, lambda _: ())[1]
    made = content()
    made["annotations"][0]["bbox"][0] = 3
    after = contents(coco(tmp_path, made), 2, lambda _: ())[1]
    assert before[0] == after[0]
    assert before[1] != after[1]


def broken(part: str, place: int, **changes: Any) -> dict[str, Any]:
    made = content()
    made[part][place] |= changes
    return made


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("{", "a file with COCO's JSON"),
        ([], "COCO's JSON with the lists images, annotations, categories"),
        (broken("images", 0, file_name="x.png"), "image x.png of boxes.json.*a picture below"),
        (broken("images", 0, file_name="a.png"), "image a.png of boxes.json.*one entry a picture"),
        (broken("images", 0, id=3), "image with id 3 of boxes.json.*ids that differ"),
        (broken("images", 0, width=0), "image b.png of boxes.json.*a width and a height"),
        (
            broken("annotations", 0, image_id=8),
            "annotation 1 with image_id 8.*an id of its image list",
        ),
        (broken("annotations", 0, category_id=2), "category_id 2.*an id of its category list"),
        (broken("annotations", 0, bbox=[1, 2, 3]), r"bbox \[1, 2, 3\].*x, y, width, height"),
        (
            broken("annotations", 0, bbox=[35, 3, 10, 5]),
            r"annotation 1 with bbox \[35, 3, 10, 5\].*a box within the picture b.png, 40 x 20",
        ),
        (broken("annotations", 0, bbox=[1, 1, 0, 5]), "a width and a height above 0"),
        (broken("categories", 0, name=" "), "class 0 of boxes.json.*a class name"),
        (broken("categories", 0, name="dog"), "class dog of boxes.json.*that differ"),
        (content() | {"annotations": []}, "at least one labelled box"),
    ],
)
def test_labels_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, made: object, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        coco(tmp_path, made)


def test_a_picture_of_another_size_fails_alone(tmp_path: Path) -> None:
    dataset = coco(tmp_path, content())
    picture(tmp_path / "pictures" / "b.png", (20, 40))
    assert dataset.load(0).boxes == ()
    with pytest.raises(UnreadablePicture, match=r"b\.png: labels are for 40 x 20, .* is 20 x 40"):
        dataset.load(1)


def yolo(root: Path, labels: dict[str, str], names: str | None = None, path: str = ".") -> Boxed:
    for name in ("val/a.png", "val/b.png"):
        picture(root / "images" / name)
    for name, text in labels.items():
        (root / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "labels" / name).write_text(text)
    if names is not None:
        (root / "data.yaml").write_text(names)
    dataset = open_dataset(DatasetSpec(source=DatasetSource.YOLO, path=path), root)
    assert isinstance(dataset, Boxed)
    return dataset


@pytest.mark.parametrize("path", [".", "images", "images/val"])
def test_yolo_gives_corners_in_pixels(tmp_path: Path, path: str) -> None:
    labels = {"val/b.txt": "1 0.5 0.5 0.5 0.2\n\n0 0 0 0.5 0.25 0.25 0.5\n"}
    dataset = yolo(tmp_path, labels, "names: {0: cat, 1: dog}", path)
    assert dataset.classes == ("cat", "dog")
    assert dataset.load(0).boxes == ()  # a picture without a file has no objects
    first, second = dataset.load(1).boxes or ()
    assert (first.label, second.label) == (1, 0)
    assert first.box == pytest.approx((10, 8, 30, 12))
    assert second.box == (0, 0, 20, 10)


def test_yolo_without_names_counts_the_models_classes(tmp_path: Path) -> None:
    dataset = yolo(tmp_path, {"val/a.txt": "2 0.5 0.5 0.5 0.2\n"})
    assert dataset.classes == ("0", "1", "2")
    assert dataset.left_out is None


@pytest.mark.parametrize(
    ("file", "text", "names", "words"),
    [
        ("val/c.txt", "", None, "got 'val/c.txt', expected a picture in"),
        ("val/a.txt", "0 x", None, r"0 x \(.*a.txt, line 1\)', expected numbers: class, x, y"),
        ("val/a.txt", "0 0.5 0.5", None, "class, x, y, width, height, or class and the points"),
        ("val/a.txt", "2 0.5 0.5 0.1 0.1", "names: [a, b]", "a class from 0 to 1"),
        ("val/a.txt", "0.5 0.5 0.5 0.1 0.1", None, "a class from 0"),
        ("val/a.txt", "0 0.9 0.5 0.4 0.1", None, "a box within the picture: shares of its sides"),
        ("val/a.txt", "0 0.5 0.5 0 0.1", None, "a width and a height above 0"),
        ("val/a.txt", "0 0.5 0.5 0.1 0.1", "names: [a, '']", "class 1 of .*a class name"),
        ("val/a.txt", "0 0.5 0.5 0.1 0.1", "names: {1: a}", "the key names: a list"),
        ("val/a.txt", "0 0.5 0.5 0.1 0.1", "names: [", "a YAML file with the class names"),
        ("val/a.txt", "", None, "at least one labelled box"),
    ],
)
def test_yolo_files_that_do_not_fit_are_refused_by_line(
    tmp_path: Path, file: str, text: str, names: str | None, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        yolo(tmp_path, {"val/a.txt": "0 0.5 0.5 0.5 0.2", file: text}, names)


def test_a_folder_without_images_and_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a folder with images and labels"):
        open_dataset(DatasetSpec(source=DatasetSource.YOLO, path="."), tmp_path)


class Own:
    classes = ("cat",)

    def __init__(self, box: tuple[float, float, float, float]) -> None:
        self.boxes = (LabelledBox(0, box),)

    def __len__(self) -> int:
        return 1

    def name(self, index: int) -> str:
        return str(index)

    def load(self, index: int) -> Sample:
        return Sample("own", picture=Image.new("RGB", (40, 20)), boxes=self.boxes)


def same_size(picture: Image.Image) -> Image.Image:
    return picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def half(picture: Image.Image) -> Image.Image:
    return picture.reduce(2)


def test_boxes_of_an_own_class_are_checked_and_stay_with_the_picture() -> None:
    good = Own((1, 2, 3, 4))
    assert load(good, 0).boxes == good.boxes
    with pytest.raises(UnreadablePicture, match=r"0: boxes: got LabelledBox.*expected a Labelled"):
        load(Own((3, 2, 1, 4)), 0)
    kept = Transformed(good, Transform(same_size, __name__))
    assert load(kept, 0).boxes == good.boxes
    with pytest.raises(UnreadablePicture, match="own: expected a picture of the same size"):
        load(Transformed(good, Transform(half, __name__)), 0)


def test_boxes_as_shares_follow_the_picture() -> None:
    made = Annotation((LabelledBox(0, (0.25, 0.5, 0.5, 1.0)),), None)
    assert made.boxes((100, 50), "a") == (LabelledBox(0, (25, 25, 50, 50)),)
