"""Any other output: shapes and first values."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from splittracr.data.contracts import Geometry
from splittracr.data.postprocess import create
from splittracr.data.postprocess.raw import Layout, Raw, layout_of
from splittracr.experiment.errors import FrameFailed, InvalidInput
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


def numbered(batch: int, *shape: int) -> torch.Tensor:
    """A tensor `[batch, *shape]` whose entries are 100 times the picture's number and more."""
    count = torch.arange(batch).reshape(-1, *(1,) * len(shape)) * 100.0
    return count + torch.arange(torch.Size(shape).numel()).reshape(shape)


def rows(batch: int, counts: list[int]) -> list[torch.Tensor]:
    """One tensor a picture, with a number of rows of its own."""
    return [numbered(batch, counts[i % len(counts)], 2)[i] for i in range(batch)]


OUTPUTS: list[tuple[Callable[[int], Any], list[tuple[str, list[int]]]]] = [
    (lambda n: numbered(n, 3), [("output", [3])]),
    (lambda n: [numbered(n, 3), numbered(n, 2)], [("0", [3]), ("1", [2])]),
    (lambda n: [numbered(n, 3), numbered(n, 2), numbered(n, 5)], [("0", [3]), ("2", [5])]),
    (lambda n: (numbered(n, 3), [numbered(n, 2), numbered(n, 4)]), [("0", [3]), ("1.1", [4])]),
    (lambda n: rows(n, [4, 6]), [("output", [4, 2])]),
    (lambda n: rows(n, [n]), [("output", [-1, 2])]),
    (lambda n: tuple(rows(n, [4])), [("output", [4, 2])]),
    (lambda n: [{"x": one} for one in rows(n, [4, 6])], [("x", [4, 2])]),
    (lambda n: {"b": rows(n, [4]), "s": numbered(n)}, [("b", [4, 2]), ("s", [])]),
    (lambda n: [{"x": numbered(n, 3)}, {"x": numbered(n, 2)}], [("0.x", [3]), ("1.x", [2])]),
    (lambda n: [numbered(n, 3)], [("0", [3])]),
]


@pytest.mark.parametrize(("make", "expected"), OUTPUTS)
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_every_picture_gets_its_own_parts(
    make: Callable[[int], Any], expected: list[tuple[str, list[int]]], batch: int
) -> None:
    layout = layout_of(make(batch), batch, make(batch + 1))
    processor = Raw(PostprocessSpec(), (), layout)
    for pictures in (batch, 2 * batch):  # the server computes requests together
        reduced = processor.reduce(make(pictures))
        assert len(reduced) == pictures
        for i, one in enumerate(reduced):
            found = {d["name"]: d for d in processor.describe(travelled(one), GEOMETRY)}
            for name, shape in expected:
                assert len(found[name]["shape"]) == len(shape)
                assert found[name]["first"][0] == 100 * i
    first = {d["name"]: d["shape"] for d in processor.describe(reduced[0], GEOMETRY)}
    assert all(-1 in shape or first[name] == shape for name, shape in expected)


def test_what_does_not_grow_with_the_batch_belongs_to_every_picture() -> None:
    def output(batch: int) -> Any:
        return [numbered(batch, 3), torch.arange(2.0), torch.tensor(7.0)]

    processor = Raw(PostprocessSpec(), (), layout_of(output(2), 2, output(3)))
    described = [processor.describe(one, GEOMETRY) for one in processor.reduce(output(2))]
    assert [d["first"] for d in described[0]] == [[0.0, 1.0, 2.0], [0.0, 1.0], [7.0]]
    assert [d["first"] for d in described[1]] == [[100.0, 101.0, 102.0], [0.0, 1.0], [7.0]]


@pytest.mark.parametrize(
    ("output", "lists", "common"),
    [
        ([torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 5)], [], []),
        ([torch.zeros(5, 3), torch.zeros(7, 3)], [""], []),
        ({"a": torch.zeros(2, 3), "b": [torch.zeros(4), torch.zeros(1)]}, ["b"], []),
        ((torch.zeros(2, 3), torch.zeros(7), torch.tensor(1.0)), [], ["1", "2"]),
    ],
)
def test_a_network_of_one_batch_size_is_read_by_its_sizes(
    output: Any, lists: list[str], common: list[str]
) -> None:
    assert layout_of(output, 2) == Layout(frozenset(lists), frozenset(common))


@pytest.mark.parametrize(
    ("output", "larger", "expected"),
    [
        ([torch.zeros(2, 3), torch.zeros(2, 4)], None, "unambiguous output: it has 2"),
        ({"a": (torch.zeros(2), torch.zeros(2))}, None, "a has 2 entries with 2 rows each"),
        (torch.zeros(5), torch.zeros(5), "one part for each picture"),
        (torch.zeros(2), torch.zeros(2), "one part for each picture"),
        ((torch.tensor(1.0), [torch.zeros(4)], torch.zeros(7)), None, "one part for each picture"),
    ],
)
def test_an_output_that_cannot_be_told_apart_is_refused(
    output: Any, larger: Any, expected: str
) -> None:
    with pytest.raises(InvalidInput, match=expected):
        layout_of(output, 2, larger)


def test_one_picture_may_be_mixed_with_itself() -> None:
    assert layout_of(torch.zeros(1, 4), 1, torch.zeros(1, 4)) == Layout()


def test_parts_of_different_numbers_of_pictures_fail() -> None:
    processor = create("raw", PostprocessSpec(), ())
    with pytest.raises(FrameFailed, match=r"differ in their number of pictures: {'0': 2, '1': 3}"):
        processor.reduce((torch.zeros(2, 1), torch.zeros(3, 1)))
