"""Operations that a graph cannot replay are found before it is recorded."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from splittracr.backends.torch.screening import NotRecordable, screened

x = torch.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda v: v[0][v[0] > 1], "aten.index"),
        (lambda v: v[0].nonzero(), "aten.nonzero"),
        (lambda v: v[0].unique(), "unique"),
        (lambda v: v[0] * v[0].sum().item(), "aten.item"),
        (lambda v: v[0] if v[0].sum() > 0 else -v[0], "aten.item"),
        (lambda v: v[0].index_put_((v[0] > 1,), v[0][0, :1]), "aten.index_put_"),
        (lambda v: torch.repeat_interleave(v[0], v[0][:, 1].long(), 0), "aten.repeat_interleave"),
        (lambda v: torch.nn.functional.one_hot(v[0].long()), "aten"),
        (lambda v: v[0].to("meta"), "copies between devices"),
        (lambda v: torch.masked_select(v[0], v[0] > 1), "aten.masked_select"),
    ],
)
@torch.inference_mode()
def test_what_depends_on_values_or_waits_is_named(
    function: Callable[[Any], Any], named: str
) -> None:
    with pytest.raises(NotRecordable, match=named):
        screened(function, [x.clone()])


@torch.inference_mode()
def test_an_operation_of_another_library_is_refused() -> None:
    import torchvision

    boxes, scores = torch.rand(3, 4), torch.rand(3)
    with pytest.raises(NotRecordable, match=r"torchvision\.nms.* of another library"):
        screened(lambda v: torchvision.ops.nms(v[0], v[1], 0.5), [boxes, scores])


@pytest.mark.parametrize(
    "function",
    [
        lambda v: torch.relu_(v[0]).flatten()[1:] + 1,
        lambda v: torch.nn.functional.dropout(v[0], 0.5, training=False),
        lambda v: torch.nn.functional.scaled_dot_product_attention(v[0], v[0], v[0]),
        lambda v: v[0] * torch.tensor(2.0),
        lambda v: torch.nn.functional.linear(v[0][:, torch.tensor([2, 0])], torch.ones(4, 2)),
        lambda v: v[0].reshape(v[0].shape[::-1]).softmax(1).topk(2),
    ],
)
@torch.inference_mode()
def test_the_usual_operations_pass(function: Callable[[Any], Any]) -> None:
    screened(function, [x.clone()])


@torch.inference_mode()
def test_tensors_of_the_network_are_kept_and_no_others() -> None:
    weight, anchors = torch.ones(3), torch.zeros(2, 1)

    def function(values: list[Any]) -> Any:
        made = values[0] * weight
        return made + anchors[:1]

    kept = screened(function, [x.clone()])
    assert {one.data_ptr() for one in kept} == {weight.data_ptr(), anchors.data_ptr()}
