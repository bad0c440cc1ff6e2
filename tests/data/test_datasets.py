"""Data sets on real files: what is found, what it decodes to, and the errors of bad ones."""

import importlib
import re
import sys
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder

from splittracr.data.contracts import Dataset, Sample
from splittracr.data.datasets import MapDataset, load, open_dataset, read_class_names
from splittracr.data.decoding import decode
from splittracr.data.rgb import MAX_PIXELS, UnreadablePicture
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import DatasetSource, DatasetSpec

HERE = __name__


class Squares:
    """A map-style data set as torch's: pairs of picture and label."""

    classes = ("dark", "light")

    def __init__(self, count: int = 2, kind: str = "picture") -> None:
        self.count, self.kind = count, kind

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        array = np.full((4, 6, 3), index, np.uint8)
        match self.kind:
            case "picture":
                return Image.fromarray(array).convert("L"), index
            case "array":
                return array, np.int64(index)
            case "tensor":
                return torch.from_numpy(array).permute(2, 0, 1), torch.tensor(index)
            case "alone":
                return Image.fromarray(array)
            case "boxes":
                return Image.fromarray(array), {"boxes": [[0, 0, 1, 1]]}
            case _:
                return "no picture", index


class Own:
    """A data set with all methods of the contract."""

    classes = None

    def __len__(self) -> int:
        return 1

    def name(self, index: int) -> str:
        return "mine"

    def load(self, index: int) -> Sample:
        return Sample("mine", data=torch.zeros(3))


class Given:
    """One value, by the contract's methods or, as a map-style data set, by its index."""

    classes = None

    def __init__(self, value: Any, made: Any = ...) -> None:
        self.value = value
        self.made = Sample("0", picture=value) if made is ... else made

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return self.value, 1

    def name(self, index: int) -> str:
        return "0"

    def load(self, index: int) -> Sample:
        return self.made


class Broken:
    """A class whose own code fails."""

    def __init__(self) -> None:
        raise KeyError("nothing here")


PICTURE = Image.new("RGB", (3, 2))


def labelled(label: Any, contract: bool) -> Dataset:
    """One picture with `label`, by the contract's methods or as a map-style data set."""
    return (
        Given(None, Sample("0", picture=PICTURE, label=label))
        if contract
        else MapDataset([(PICTURE, label)])
    )


def own(name: str, **args: Any) -> DatasetSpec:
    return DatasetSpec(source=DatasetSource.CLASS, class_=f"{HERE}:{name}", args=args)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, HERE, sys.modules[Squares.__module__])


def save(path: Path, colour: str = "red", **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), colour).save(path, **how)


def folder(path: str) -> DatasetSpec:
    return DatasetSpec(source=DatasetSource.FOLDER, path=path)


# ----------------------------------------------------------------------------------- shipped here


def test_samples_are_decoded_photographs(samples: Dataset) -> None:
    assert len(samples) == 5
    for index in range(len(samples)):
        sample = samples.load(index)
        assert sample.name == samples.name(index)
        assert sample.picture is not None
        assert sample.picture.mode == "RGB"
        assert max(sample.picture.size) <= 640


def test_samples_are_small_and_their_origin_is_stated(samples: Dataset) -> None:
    pictures = importlib.resources.files("splittracr.data") / "pictures"
    notice = (pictures / "NOTICE").read_text()
    names = [samples.name(i) for i in range(len(samples))]
    assert sum(len((pictures / name).read_bytes()) for name in names) < 400_000
    assert all(f"\n{name} " in notice for name in names)


# ----------------------------------------------------------------------------------------- folders


def test_folder_is_sorted_recursive_and_relative_to_base(tmp_path: Path) -> None:
    save(tmp_path / "pictures" / "b.png")
    save(tmp_path / "pictures" / "deep" / "er" / "a.JPEG", format="JPEG")
    save(tmp_path / "pictures" / "a.webp")
    save(tmp_path / "pictures" / ".hidden" / "c.png")
    (tmp_path / "pictures" / "._b.png").write_bytes(b"not a picture")
    (tmp_path / "pictures" / "notes.txt").write_text("not a picture")
    dataset = open_dataset(folder("pictures"), tmp_path)
    assert [dataset.name(i) for i in range(len(dataset))] == ["a.webp", "b.png", "deep/er/a.JPEG"]
    assert dataset.load(2).label is None
    assert dataset.classes is None
    assert len(open_dataset(folder(str(tmp_path / "pictures")), Path("/elsewhere"))) == 3


def test_labelled_folder_agrees_with_torchvision(tmp_path: Path) -> None:
    for name in ("zebra/1.png", "zebra/2.png", "apple/9.png", "apple/sub/1.png", "Mango/1.png"):
        save(tmp_path / name)
    dataset = open_dataset(
        DatasetSpec(source=DatasetSource.LABELLED_FOLDER, path=str(tmp_path)), tmp_path
    )
    theirs = ImageFolder(tmp_path)
    assert list(dataset.classes or ()) == theirs.classes
    ours = {dataset.name(i): dataset.load(i).label for i in range(len(dataset))}
    assert ours == {Path(p).relative_to(tmp_path).as_posix(): c for p, c in theirs.samples}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("missing", "a folder (there is no "),
        ("file.png", "is a file)"),
        ("empty", "pictures in "),
        ("texts", "pictures in "),
    ],
)
def test_bad_folder_is_told(tmp_path: Path, path: str, expected: str) -> None:
    save(tmp_path / "file.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    with pytest.raises(InvalidInput) as caught:
        open_dataset(folder(path), tmp_path)
    assert (caught.value.field, caught.value.value) == ("spec.dataset.path", path)
    assert expected in caught.value.expected


def test_labelled_folder_without_classes_is_told(tmp_path: Path) -> None:
    save(tmp_path / "a.png")  # a picture beside the class folders is in no class
    with pytest.raises(InvalidInput, match="one folder a class"):
        open_dataset(DatasetSpec(source=DatasetSource.LABELLED_FOLDER, path="."), tmp_path)


# ---------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), "blue")
    upright.paste("red", (0, 0, 16, 16))
    upright.paste("white", (0, 0, 8, 8))
    flips = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],  # the inverse of what the viewer has to do
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for flip in flips.get(orientation, []):
        stored = stored.transpose(flip)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = BytesIO()
    stored.save(file, "PNG", exif=exif)
    file.seek(0)
    decoded = decode(file, "x")
    assert (decoded.size, decoded.tobytes()) == (upright.size, upright.tobytes())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    Image.new("RGB", (5, 4), "white").convert(mode).save(path)
    picture = decode(path, "a")
    assert (picture.mode, picture.size) == ("RGB", (5, 4))
    assert picture.getpixel((0, 0)) == (255, 255, 255)


def test_broken_pictures_fail_by_name(tmp_path: Path, cat: Image.Image) -> None:
    whole = BytesIO()
    cat.save(whole, "JPEG")
    (tmp_path / "half.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (tmp_path / "text.jpg").write_text("this is no picture")
    (tmp_path / "void.png").write_bytes(b"")
    png = BytesIO()
    cat.save(png, "PNG")
    damaged = bytearray(png.getvalue())
    damaged[20_000:20_100] = bytes(100)
    (tmp_path / "damaged.png").write_bytes(damaged)
    save(tmp_path / "sound.png")
    dataset = open_dataset(folder("."), tmp_path)
    for index in range(len(dataset)):
        name = dataset.name(index)
        if name == "sound.png":
            assert dataset.load(index).picture is not None
        else:
            with pytest.raises(UnreadablePicture, match=f"^{name}: "):
                dataset.load(index)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2000), st.binary(min_size=1, max_size=60))
def test_damage_never_raises_anything_else(at: int, junk: bytes) -> None:
    file = BytesIO()
    Image.linear_gradient("L").convert("RGB").save(file, "JPEG", quality=30)
    data = bytearray(file.getvalue())
    data[at : at + len(junk)] = junk
    with suppress(UnreadablePicture):
        assert decode(BytesIO(bytes(data)), "x").mode == "RGB"


@pytest.mark.parametrize("side", [9_500, 14_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb_is_refused(tmp_path: Path, side: int) -> None:
    assert side**2 > MAX_PIXELS
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    with pytest.raises(UnreadablePicture, match=r"^bomb.png: .*(limit|bomb)"):
        decode(tmp_path / "bomb.png", "bomb.png")


def test_sixteen_bits_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(tmp_path / "depth.png")
    with pytest.raises(UnreadablePicture, match="more than 8 bits a channel"):
        decode(tmp_path / "depth.png", "depth.png")


def test_postscript_never_reaches_ghostscript(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    with pytest.raises(UnreadablePicture, match="not a picture"):
        decode(tmp_path / "a.jpg", "a.jpg")


def test_broken_picture_installs_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ultralytics replaces Image.open by one that runs pip on a file that is no picture."""
    pytest.importorskip("ultralytics")
    import ultralytics.utils.checks
    import ultralytics.utils.patches

    def install(*packages: str) -> None:
        raise AssertionError(f"would install {packages}")

    monkeypatch.setattr(ultralytics.utils.checks, "check_requirements", install)
    # As it is after a user's own data set has imported ultralytics.
    monkeypatch.setattr(Image, "open", ultralytics.utils.patches.image_open)
    (tmp_path / "text.jpg").write_text("this is no picture")
    with pytest.raises(UnreadablePicture, match="not a picture"):
        decode(tmp_path / "text.jpg", "text.jpg")


# ------------------------------------------------------------------------------------- own classes


def test_own_class_is_used_as_it_is() -> None:
    dataset = open_dataset(own("Own"), Path())
    assert isinstance(dataset, Own)


@pytest.mark.parametrize("kind", ["picture", "array", "alone", "boxes"])
def test_map_dataset_of_pictures(kind: str) -> None:
    dataset = open_dataset(own("Squares", count=11, kind=kind), Path())
    sample = dataset.load(7)
    assert (len(dataset), sample.name, dataset.name(10)) == (11, "07", "10")
    assert sample.picture is not None
    assert (sample.picture.mode, sample.picture.size) == ("RGB", (6, 4))
    assert sample.picture.getpixel((0, 0)) == (7, 7, 7)
    assert sample.label == (7 if kind in ("picture", "array") else None)
    assert list(dataset.classes or ()) == ["dark", "light"]


@pytest.mark.parametrize(
    "label",
    [285, np.int64(285), np.uint16(285), np.array(285), torch.tensor(285), torch.tensor(285).int()],
)
@pytest.mark.parametrize("contract", [True, False])
def test_integers_of_any_kind_are_labels(label: Any, contract: bool) -> None:
    found = load(labelled(label, contract), 0).label
    assert (found, type(found)) == (285, int)


@pytest.mark.parametrize(
    ("label", "got"),
    [
        ([0, 1, 0], "[0, 1, 0]"),
        ("285", "'285'"),
        ("Egyptian cat", "'Egyptian cat'"),
        (285.0, "285.0"),
        (np.float32(2), "np.float32(2.0)"),
        (np.array([3]), "array([3])"),
        (np.array([[0, 1], [1, 0]]), "array([[0, 1], [1, 0]])"),
        (torch.tensor([3]), "tensor([3])"),
        (torch.tensor(2.0), "tensor(2.)"),
        (True, "True"),
        (np.bool_(False), "np.False_"),
        (torch.tensor(True), "tensor(True)"),
        ("x" * 100, "'" + "x" * 79 + "…"),
    ],
)
@pytest.mark.parametrize("contract", [True, False])
def test_another_label_fails_by_sample(label: Any, got: str, contract: bool) -> None:
    words = f"0: label: got {got}, expected a class index or None"
    with pytest.raises(UnreadablePicture, match=f"^{re.escape(words)}$"):
        load(labelled(label, contract), 0)


@pytest.mark.parametrize("target", [{"boxes": []}, [{"bbox": [0, 0, 1, 1]}], [], PICTURE, None])
def test_targets_of_detectors_and_segmenters_are_no_labels(target: Any) -> None:
    assert load(labelled(target, contract=False), 0).label is None


@pytest.mark.parametrize(
    ("item", "got"),
    [
        ((PICTURE, 1, "a.jpg"), "3 items"),
        ([PICTURE], "1 item"),
        ((), "0 items"),
    ],
)
def test_an_item_that_is_no_pair_says_what_it_is(item: Any, got: str) -> None:
    words = re.escape(f"0: expected (picture, label), got {got}")
    with pytest.raises(UnreadablePicture, match=f"^{words}$"):
        load(MapDataset([item]), 0)


def test_map_dataset_of_tensors() -> None:
    sample = open_dataset(own("Squares", kind="tensor"), Path()).load(1)
    assert sample.picture is None
    assert sample.data is not None
    assert (sample.data.shape, sample.label) == ((3, 4, 6), 1)


def test_map_dataset_of_something_else_fails_by_sample() -> None:
    dataset = open_dataset(own("Squares", kind="path"), Path())
    with pytest.raises(UnreadablePicture, match="expected a picture or a tensor, got str"):
        dataset.load(0)


@pytest.mark.parametrize("value", [np.full((4, 4), 3000, np.uint16), np.zeros((4, 4), np.int64)])
@pytest.mark.parametrize("contract", [True, False])
def test_values_that_no_byte_holds_fail_by_sample(value: Any, contract: bool) -> None:
    dataset: Any = Given(value) if contract else MapDataset(Given(value))
    with pytest.raises(UnreadablePicture, match=r"0: values of type u?int\d+, .*convert them"):
        load(dataset, 0)


def test_what_a_class_of_ones_own_loads_becomes_rgb() -> None:
    sample = load(Given(Image.new("CMYK", (3, 2))), 0)
    assert sample.picture is not None
    assert (sample.picture.mode, sample.picture.getpixel((0, 0))) == ("RGB", (255, 255, 255))


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (None, "expected load() to return a Sample, got NoneType"),
        (Sample("0", picture=cast(Any, "a.jpg")), "expected a picture, got str"),
        (Sample("0", data=cast(Any, np.zeros(3))), "expected a tensor as data, got ndarray"),
    ],
)
def test_what_is_no_sample_fails_by_name(made: Any, expected: str) -> None:
    with pytest.raises(UnreadablePicture, match=re.escape(expected)):
        load(Given(None, made), 0)


@pytest.mark.parametrize(
    ("spec", "field", "expected"),
    [
        (own("Missing"), "spec.dataset.class", "a name that"),
        (own("HERE"), "spec.dataset.args", "takes ("),
        (own("Squares", colour="red"), "spec.dataset.args", "takes ("),
        (own("Broken"), "spec.dataset.class", "KeyError: 'nothing here'"),
        (own("Path"), "spec.dataset.class", "it has no __len__, load, classes"),
        (own("Squares", count=0), "spec.dataset.class", "at least one sample"),
        (
            DatasetSpec(source=DatasetSource.CLASS, class_="no_such_module:Class"),
            "spec.dataset.class",
            "a module that can be imported (ModuleNotFoundError",
        ),
    ],
)
def test_bad_class_is_told(spec: DatasetSpec, field: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        open_dataset(spec, Path())
    assert caught.value.field == field
    assert caught.value.value == (spec.args if field.endswith("args") else spec.class_)
    assert expected in caught.value.expected


# ------------------------------------------------------------------------------------- class names


def test_class_names_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufeffcat\r\n dog \nжук\n\n", encoding="utf-8")
    assert read_class_names("names.txt", tmp_path, outputs=3) == ("cat", "dog", "жук")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "a text file in UTF-8"),
        (b"\xff\xfe\x00", "a text file in UTF-8"),
        (b"cat\n\ndog\n", "line 2 is empty"),
        (b"cat\ndog\n", "3 class names, one for each output of the model, not 2"),
        (b"", "3 class names, one for each output of the model, not 0"),
    ],
)
def test_bad_class_names_are_told(tmp_path: Path, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        read_class_names("names.txt", tmp_path, outputs=3)
    assert (caught.value.field, caught.value.value) == ("spec.dataset.classNames", "names.txt")
    assert expected in caught.value.expected
