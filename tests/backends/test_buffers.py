"""Values keep their layout when they are copied: strides, offsets and shared memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splittracr.backends.torch.buffers import Buffers, copied, layout
from splittracr.experiment.errors import SplittracrError
from splittracr.splitting.compare import same


def view_and_base() -> list[Any]:
    base = torch.arange(24.0).reshape(4, 6)
    return [base, base[1:, 2:4].t()]


VALUES: list[Callable[[], Any]] = [
    view_and_base,
    lambda: [torch.arange(6).expand(4, 6), 3, "a", None, torch.float16],
    lambda: {"a": (torch.rand(2, 3), [torch.empty(0), torch.empty(0)]), "b": 0.5},
    lambda: torch.rand(1, 3, 4, 4).to(memory_format=torch.channels_last),
    lambda: [torch.tensor(True), torch.rand(3, dtype=torch.bfloat16)],
]


@pytest.mark.parametrize("make", VALUES)
def test_a_copy_has_the_same_layout_and_the_same_bits(make: Callable[[], Any]) -> None:
    values = make()
    made = Buffers(values).copy()
    assert same(made, values)
    assert layout(made) == layout(values)
    before = {one.data_ptr() for one in tensors(values) if one.numel()}
    assert before.isdisjoint(one.data_ptr() for one in tensors(made))


def test_a_write_through_a_view_of_a_copy_shows_in_its_base_only() -> None:
    values = view_and_base()
    base, view = copied(values)
    view[0, 0] = -1
    assert base[1, 2] == -1
    assert values[0][1, 2] == 8


def test_buffers_take_other_values_of_their_layout() -> None:
    held = Buffers(view_and_base())
    other = view_and_base()
    other[0].mul_(-2)
    held.fill(other)
    assert same(held.values, other)
    held.fill(view_and_base())
    assert same(held.values, view_and_base())
    assert same(other[0], -2 * torch.arange(24.0).reshape(4, 6))


def test_the_layout_tells_apart_what_kernels_depend_on() -> None:
    x = torch.rand(2, 3, 4, 4)
    made = [
        [x],
        [x.half()],
        [x.to(memory_format=torch.channels_last)],
        [x[:1]],
        [x, x],
        [x, x.clone()],
        [x, 1],
        [x, 2],
        [x, True],
        (x,),
        [x, 0.1],
        [x, 0.2],
    ]
    assert len({layout(one) for one in made}) == len(made)
    assert layout([x]) == layout([torch.rand(2, 3, 4, 4)])


@pytest.mark.parametrize(
    "value",
    [
        torch.eye(3).to_sparse(),
        nn.Parameter(torch.ones(1)),
        object(),
        torch.ones(2).to(torch.complex64).conj(),
    ],
)
def test_other_values_have_no_layout(value: object) -> None:
    assert layout([value]) is None
    with pytest.raises(SplittracrError, match="more than dense tensors and plain values"):
        Buffers([value])


def tensors(values: Any) -> list[Tensor]:
    return [one for one in torch.utils._pytree.tree_leaves(values) if isinstance(one, Tensor)]
