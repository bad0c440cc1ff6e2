"""One thread, and the pictures that the package ships."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from splittracr.data.contracts import Dataset
from splittracr.data.datasets import open_dataset
from splittracr.data.importing import import_ultralytics
from splittracr.experiment.spec import DatasetSpec

# Tests import ultralytics by themselves: its patch of Pillow is undone before they do.
import_ultralytics("ultralytics.utils.patches")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def samples() -> Dataset:
    """The data set of a manifest that names none."""
    return open_dataset(DatasetSpec(), Path())


@pytest.fixture
def cat(samples: Dataset) -> Image.Image:
    """A real photograph, 451 x 300 pixels."""
    picture = samples.load(0).picture
    assert picture is not None
    return picture
