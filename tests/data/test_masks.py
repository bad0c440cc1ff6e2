"""Labelled masks as PASCAL VOC keeps them, and the pixels that are counted."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from splittracr.data import masks
from splittracr.data.contents import contents
from splittracr.data.contracts import Sample
from splittracr.data.datasets import Masked, load, open_dataset
from splittracr.data.rgb import UnreadablePicture
from splittracr.data.transform import Transform, Transformed
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import DatasetSource, DatasetSpec

FOLDERS = DatasetSpec(source=DatasetSource.MASKS, path="pictures", annotations="masks")
VOC = DatasetSpec(source=DatasetSource.MASKS, path="voc", annotations="val.txt")
SHAPE = (4, 6)
VALUES = np.array([[0, 1, 2, 255, 0, 0]] * 4, np.uint8)


def picture(path: Path, size: tuple[int, int] = (6, 4), orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(path, exif=exif)


def mask(path: Path, values: NDArray[np.uint8] = VALUES, mode: str = "P") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(bytes(range(255, -1, -1)) * 3)  # which has no say
    elif mode != "L":
        image = image.convert(mode)
    image.save(path)


def folders(root: Path) -> Masked:
    """Two pictures, one in a folder, with a mask each."""
    for name in ("a.jpg", "below/b.jpg"):
        picture(root / "pictures" / name)
        mask((root / "masks" / name).with_suffix(".png"))
    return opened(root)


def opened(root: Path, spec: DatasetSpec = FOLDERS) -> Masked:
    dataset = open_dataset(spec, root)
    assert isinstance(dataset, Masked)
    return dataset


def voc(root: Path, names: str) -> Masked:
    for name in ("2007_1", "2007_2", "2007_3"):
        picture(root / "voc" / "JPEGImages" / f"{name}.jpg")
    for name in ("2007_1", "2007_2"):
        mask(root / "voc" / "SegmentationClass" / f"{name}.png")
    (root / "val.txt").write_text(names)
    return opened(root, VOC)


@pytest.mark.parametrize("mode", ["P", "L"])
def test_values_of_pixels_are_classes_with_and_without_a_palette(tmp_path: Path, mode: str) -> None:
    dataset = folders(tmp_path)
    mask(tmp_path / "masks" / "a.png", mode=mode)
    assert dataset.files == ("a.jpg", "below/b.jpg")
    assert dataset.classes is None
    sample = load(dataset, 0)
    assert sample.picture is not None
    assert sample.mask is not None
    assert np.array_equal(sample.mask(), VALUES)
    dataset.check(2, 3)


def test_a_mask_of_one_bit_has_two_classes(tmp_path: Path) -> None:
    dataset = folders(tmp_path)
    Image.fromarray(VALUES == 1).save(tmp_path / "masks" / "a.png")
    assert np.array_equal(dataset.mask(0), VALUES == 1)


def test_a_list_of_voc_names_the_pictures_in_use(tmp_path: Path) -> None:
    dataset = voc(tmp_path, "2007_2\n\n2007_1\n")
    assert dataset.files == ("2007_1.jpg", "2007_2.jpg")
    assert np.array_equal(dataset.mask(1), VALUES)
    assert dataset.left_out == "Left out: 1 picture not in val.txt."


def test_a_changed_mask_changes_the_digest_of_its_picture_only(tmp_path: Path) -> None:
    dataset = folders(tmp_path)
    before = contents(dataset, 2, lambda _: ())[1]
    mask(tmp_path / "masks" / "a.png", np.zeros(SHAPE, np.uint8))
    after = contents(dataset, 2, lambda _: ())[1]
    assert before[0] != after[0]
    assert before[1] == after[1]


def without_mask(root: Path) -> None:
    (root / "masks" / "a.png").unlink()


def without_picture(root: Path) -> None:
    (root / "pictures" / "a.jpg").unlink()


def two_pictures(root: Path) -> None:
    picture(root / "pictures" / "a.png")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_mask, "annotations: got 'no mask of a.jpg', expected a PNG file of the same name"),
        (without_picture, "path: got 'no picture a', expected a picture in .* for each mask"),
        (two_pictures, "annotations: got 'several pictures a', expected one picture for each"),
    ],
)
def test_pictures_and_masks_belong_together(
    tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    folders(tmp_path)
    change(tmp_path)
    with pytest.raises(InvalidInput, match=f"spec.dataset.{words}"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("2007_1\n2007_9\n", "path: got 'no picture 2007_9'"),
        ("2007_3\n", "annotations: got 'no mask of 2007_3.jpg'"),
        ("2007_1\n2007_1\n", "annotations: got '2007_1 of val.txt', expected names, each of them"),
        ("\n", "annotations: got 'val.txt', expected names"),
    ],
)
def test_names_of_a_list_need_picture_and_mask(tmp_path: Path, names: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=f"spec.dataset.{words}"):
        voc(tmp_path, names)


def test_a_list_needs_the_folders_of_voc(tmp_path: Path) -> None:
    folders(tmp_path)
    (tmp_path / "val.txt").write_text("a\n")
    spec = FOLDERS.model_copy(update={"annotations": "val.txt"})
    with pytest.raises(InvalidInput, match="VOC's folder with JPEGImages and SegmentationClass"):
        opened(tmp_path, spec)
    gone = FOLDERS.model_copy(update={"annotations": "gone"})
    with pytest.raises(InvalidInput, match="got 'gone', expected a folder of masks, or a text"):
        opened(tmp_path, gone)


def colours(root: Path) -> None:
    mask(root / "masks" / "below" / "b.png", mode="RGB")


def deep(root: Path) -> None:
    Image.fromarray(VALUES.astype(np.uint16)).save(root / "masks" / "below" / "b.png")


def broken(root: Path) -> None:
    (root / "masks" / "below" / "b.png").write_bytes(b"\x89PNG")


def turned(root: Path) -> None:
    mask(root / "masks" / "below" / "b.png", np.ascontiguousarray(VALUES.T))


def other_class(root: Path) -> None:
    mask(root / "masks" / "below" / "b.png", VALUES + np.uint8(1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (colours, r"b\.png', expected a mask \(b\.png: Pillow's mode is RGB, expected one chann"),
        (deep, r"b\.png', expected a mask \(b\.png: Pillow's mode is I;16, expected one channel"),
        (broken, r"b\.png', expected a mask \(b\.png: "),
        (turned, r"b\.png of 4 x 6', expected the size of its picture below/b\.jpg, 6 x 4"),
        (other_class, r"class 3 in .*b\.png', expected 0 to 2, or 255 for pixels that do not"),
    ],
)
def test_masks_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    dataset = folders(tmp_path)
    change(tmp_path)
    with pytest.raises(InvalidInput, match=f"spec.dataset.annotations: got '.*{words}"):
        dataset.check(2, 3)
    dataset.check(1, 3)  # those in use


def test_a_mask_fits_its_picture_as_it_is_decoded(tmp_path: Path) -> None:
    folders(tmp_path)
    picture(tmp_path / "pictures" / "a.jpg", (4, 6), orientation=6)
    dataset = opened(tmp_path)
    dataset.check(2, None)
    sample = dataset.load(0)
    assert sample.picture is not None
    assert sample.picture.size == (6, 4)


def test_masks_of_0_and_255_only_are_no_classes(tmp_path: Path) -> None:
    dataset = folders(tmp_path)
    for index in range(2):
        mask(dataset.mask_files[index], np.where(VALUES == 1, np.uint8(255), np.uint8(0)))
    with pytest.raises(InvalidInput, match="masks of 0 and 255 only', expected classes, from 0 on"):
        dataset.check(2, None)


def test_a_mask_of_an_own_data_set_is_a_function() -> None:
    class Own:
        classes = None

        def __len__(self) -> int:
            return 1

        def name(self, index: int) -> str:
            return str(index)

        def load(self, index: int) -> Sample:
            return Sample(str(index), picture=Image.new("RGB", (6, 4)), mask=VALUES)  # type: ignore[arg-type]

    with pytest.raises(UnreadablePicture, match="0: mask: got ndarray, expected a function"):
        load(Own(), 0)


def test_a_transform_keeps_the_mask_of_a_picture_of_the_same_size(tmp_path: Path) -> None:
    dataset = folders(tmp_path)
    same = Transformed(dataset, Transform(lambda picture: picture, "own"))
    made = same.load(0)
    assert made.mask is not None
    assert np.array_equal(made.mask(), VALUES)
    smaller = Transformed(dataset, Transform(lambda picture: picture.resize((3, 2)), "own"))
    with pytest.raises(UnreadablePicture, match=r"a\.jpg: expected a picture of the same size"):
        smaller.load(0)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (VALUES.astype(float), r"float64 \[4, 6\], expected integers \[4, 6\]"),
        (VALUES.T, r"uint8 \[6, 4\], expected integers \[4, 6\], the size of its picture"),
        (VALUES[None], r"uint8 \[1, 4, 6\]"),
        (None, r"object \[\]"),
    ],
)
def test_what_is_no_mask_is_named(made: object, words: str) -> None:
    with pytest.raises(UnreadablePicture, match=f"own: mask: got {words}"):
        masks.checked(made, "own", SHAPE)


def test_a_mask_may_be_a_tensor() -> None:
    assert np.array_equal(masks.checked(torch.from_numpy(VALUES), "own", SHAPE), VALUES)


def test_pixels_are_counted_by_class() -> None:
    predicted = np.array([[0, 2, 2, 1, 0, 7]] * 4)
    assert masks.counted(VALUES, predicted) == [
        {"class": 0, "labelled": 12, "predicted": 8, "both": 8},
        {"class": 1, "labelled": 4, "predicted": 0, "both": 0},  # the 1 is where none counts
        {"class": 2, "labelled": 4, "predicted": 8, "both": 4},
        {"class": 7, "labelled": 0, "predicted": 4, "both": 0},
    ]
    assert masks.missed(masks.counted(VALUES, predicted)) == [
        {"class": 0, "labelled": 12, "predicted": 0, "both": 0},
        {"class": 1, "labelled": 4, "predicted": 0, "both": 0},
        {"class": 2, "labelled": 4, "predicted": 0, "both": 0},
    ]
    assert masks.counted(np.full(SHAPE, 255), predicted) == []


LABELS = arrays.arrays(np.uint8, (3, 5), elements=st.sampled_from([0, 1, 2, 5, 255]))
GUESSES = arrays.arrays(np.int32, (3, 5), elements=st.integers(0, 6))


@given(LABELS, GUESSES)
def test_counts_are_margins_and_diagonal_of_the_confusion_matrix(
    labelled: NDArray[np.uint8], predicted: NDArray[np.int32]
) -> None:
    matrix = np.zeros((7, 7), int)
    for truth, guess in zip(labelled.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if truth != 255:
            matrix[truth, guess] += 1
    expected = [
        {"class": i, "labelled": sum(matrix[i]), "predicted": sum(matrix[:, i])}
        | {"both": matrix[i, i]}
        for i in range(7)
        if matrix[i].any() or matrix[:, i].any()
    ]
    assert masks.counted(labelled, predicted) == expected


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(1, 5))
def test_a_pixel_takes_the_one_that_its_centre_lies_in(
    height: int, width: int, down: int, right: int
) -> None:
    mask = np.arange(height * width).reshape(height, width)
    larger = masks.resized(mask, (height * down, width * right))
    assert np.array_equal(larger, mask.repeat(down, 0).repeat(right, 1))
    assert np.array_equal(masks.resized(larger, (height, width)), mask)
    other = masks.resized(mask, (7, 4))
    by_torch = torch.nn.functional.interpolate(
        torch.from_numpy(mask)[None, None].double(), (7, 4), mode="nearest-exact"
    )
    assert np.array_equal(other, by_torch[0, 0].numpy())
