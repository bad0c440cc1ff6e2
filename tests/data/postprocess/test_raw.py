"""Any other output: shapes and first values."""

import json

import torch
from PIL import Image

from splittracr.data.contracts import Geometry
from splittracr.data.postprocess import create
from splittracr.experiment.spec import PostprocessSpec
from tests.data.helpers import travelled

GEOMETRY = Geometry((300, 451), (64, 64))


def test_nested_output_is_named_by_its_path(cat: Image.Image) -> None:
    processor = create("raw", PostprocessSpec(), ())
    output = {"a": torch.arange(24.0).reshape(2, 3, 4), "b": (torch.tensor([7, 9]), None)}
    reduced = [travelled(one) for one in processor.reduce(output)]
    assert len(reduced) == 2
    described = processor.describe(reduced[1], GEOMETRY)
    assert described == [
        {"name": "a", "shape": [3, 4], "first": [12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0, 19.0]},
        {"name": "b.0", "shape": [], "first": [9.0]},
    ]
    json.dumps(described, allow_nan=False)
    assert processor.ranking(reduced[0]) is None
    assert processor.draw(cat, reduced[0], GEOMETRY).height > cat.height


def test_single_tensor_list_and_numbers_that_json_lacks() -> None:
    processor = create("raw", PostprocessSpec(), ())
    value = torch.tensor([[1.0, float("inf"), float("nan")]], dtype=torch.float64)
    reduced = travelled(processor.reduce(value)[0])
    assert processor.describe(reduced, GEOMETRY) == [
        {"name": "output", "shape": [3], "first": [1.0, None, None]}
    ]
    listed = processor.reduce([{"x": torch.zeros(5)}, {"x": torch.zeros(2)}])
    assert [processor.describe(one, GEOMETRY)[0]["shape"] for one in listed] == [[5], [2]]
