"""Transforms, and samples that are mappings, as users of torch write them."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from splittracr.data.datasets import MapDataset, load, open_dataset
from splittracr.data.keys import Keys
from splittracr.data.rgb import UnreadablePicture
from splittracr.data.transform import code
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import DatasetSource, DatasetSpec
from splittracr.splitting.sources import files, modules_behind

HERE = __name__
PICTURE = Image.new("RGB", (4, 6), (255, 0, 51))


class Scaled:
    """A transform with arguments."""

    def __init__(self, factor: float = 1.0) -> None:
        if factor < 0:
            raise ArithmeticError("negative")
        self.factor = factor

    def __call__(self, picture: Image.Image) -> Tensor:
        values = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return values.float() / 255 * self.factor


def halved(picture: Image.Image, times: int = 1) -> Image.Image:
    return picture.resize((picture.width // 2**times, picture.height // 2**times))


double = Scaled(2)
number = 7


class Pairs:
    """A data set of one labelled picture."""

    classes = ("red",)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return PICTURE, index


def opened(name: str, **args: Any) -> Any:
    spec = DatasetSpec(
        source=DatasetSource.CLASS,
        class_=f"{HERE}:Pairs",
        transform=f"{HERE}:{name}",
        transform_args=args,
    )
    return open_dataset(spec, Path())


def test_a_function_a_class_and_an_object_transform() -> None:
    sample = load(opened("halved"), 0)
    assert sample.picture is not None
    assert (sample.picture.size, sample.label) == ((2, 3), 0)
    assert load(opened("halved", times=2), 0).picture.size == (1, 1)  # type: ignore[union-attr]
    for made, red in ((opened("Scaled", factor=0.5), 0.5), (opened("double"), 2.0)):
        value = load(made, 0).data
        assert value is not None
        assert (value.dtype, list(value.shape)) == (torch.float32, [3, 6, 4])
        assert value.amax((1, 2)).tolist() == pytest.approx([red, 0, red / 5])
        assert (len(made), made.name(0), made.classes) == (1, "0", ("red",))


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        (
            "gone",
            {},
            "spec.dataset.transform: got 'tests.data.test_transform:gone', expected a name",
        ),
        ("number", {}, "expected something that can be called with a picture, not int"),
        ("Scaled", {"x": 1}, "spec.dataset.transformArgs: got {'x': 1}, expected arguments that"),
        ("Scaled", {"factor": -1}, "expected a class that can be made (ArithmeticError: negative)"),
    ],
)
def test_a_transform_that_is_none_is_named(name: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        opened(name, **args)
    assert message in str(error.value)


def test_files_of_a_transform_are_the_users_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of an object of a library's class, which a module of the user's makes."""
    text = "from torchvision.transforms import Compose\nchain = Compose([])\n"
    (tmp_path / "own_chain.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    spec = DatasetSpec(transform="own_chain:chain")
    made = open_dataset(spec, Path())
    assert list(files(modules_behind(*code(made)))) == ["own_chain.py"]
    del sys.modules["own_chain"]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"image": PICTURE, "label": 2}, "the input is 'image', the label is 'label'."),
        ({"id": 9, "pixel_values": torch.ones(2), "y": 2}, "is 'pixel_values', the label is 'y'."),
        ({"video": torch.ones(2)}, "the input is 'video', there is no label."),
    ],
)
def test_usual_keys_of_a_mapping_are_found_and_told(item: dict[str, Any], said: str) -> None:
    dataset = MapDataset([item])
    sample = load(dataset, 0)
    assert sample.label == (2 if "there is no" not in said else None)
    assert (sample.picture is None) == ("image" not in item)
    assert dataset.left_out is not None
    assert dataset.left_out.endswith(said)


def test_keys_of_the_manifest_come_first() -> None:
    item = {"image": PICTURE, "thermal": torch.zeros(2), "label": 1, "kind": 3}
    dataset = MapDataset([item], Keys("thermal", "kind"))
    sample = load(dataset, 0)
    assert (sample.data is not None, sample.label) == (True, 3)
    assert dataset.left_out is None


@pytest.mark.parametrize(
    ("item", "keys", "message"),
    [
        ({"a": 1}, Keys(), "0: got a mapping with the keys 'a', expected the input under one of"),
        ({}, Keys(), "0: got a mapping with no keys, expected the input"),
        ({"a": 1}, Keys("b"), "the keys 'a', expected 'b', which spec.dataset.inputKey names"),
        ({"x": 1}, Keys(label="y"), "expected 'y', which spec.dataset.labelKey names"),
    ],
)
def test_a_mapping_without_its_input_is_named(item: Any, keys: Keys, message: str) -> None:
    with pytest.raises(UnreadablePicture) as error:
        load(MapDataset([item], keys), 0)
    assert message in str(error.value)
