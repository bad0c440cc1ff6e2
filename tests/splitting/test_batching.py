"""Where tails may be computed together, and where that would mix or lose something."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splittracr.splitting.batching import TOLERANCE, agree, batchable, joined
from splittracr.splitting.capture import capture
from splittracr.splitting.tape import Tape


class Net(nn.Module):
    """A convolution, `middle`, and a classifier."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 64, 5)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.middle(self.conv(x * 1.0)).flatten(1))  # type: ignore[no-any-return]


def examples(count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(1, 3, 8, 8, generator=generator) for _ in range(count)]


def tape_of(middle: Callable[[Tensor], Tensor]) -> Tape:
    with torch.inference_mode():
        return capture(Net(middle).eval(), examples()[0], ())


def test_a_plain_network_is_batched_at_every_cut_with_the_same_results() -> None:
    tape = tape_of(torch.relu)
    cuts = batchable(tape, examples())
    assert cuts == frozenset(range(len(tape) + 1))
    inputs = examples(3)
    with torch.inference_mode():
        for cut in cuts:
            live = joined([tape.head(cut, x) for x in inputs])
            assert live is not None
            together = tape.tail(cut, live)
            alone = torch.cat([tape(x) for x in inputs])
            assert (together - alone).abs().max() <= TOLERANCE * alone.abs().max()
            assert alone.std(0).max() > 0, "different inputs, different outputs"


def test_samples_that_influence_each_other_are_never_batched() -> None:
    assert batchable(tape_of(lambda x: x - x.mean(0)), examples()) == frozenset()


STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "largest": lambda x: x / (x.max() + 1e-3),
    "smallest": lambda x: x - x.min(),
    "norm": lambda x: x / (x.norm() + 1e-3),
    "median": lambda x: x - x.median(),
    "spread": lambda x: x / (x.std() + 1e-3),
    "largest of a channel": lambda x: x / (x.amax((0, 2, 3), keepdim=True).abs() + 1e-3),
    "first of the batch": lambda x: x / (x[:1].abs().max() + 1e-3),
    "last of the batch": lambda x: x - x[-1:],
    "share above nothing": lambda x: x + (x > 0).float().mean(),
    "batch norm": lambda x: nn.functional.batch_norm(x, None, None, training=True),
    "previous of the batch": lambda x: x + x.cumsum(0),
}


class AtInput(Net):
    """The statistic is one of the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(x * 1.0)
        return self.fc(self.conv(x).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("kind", [Net, AtInput])
@pytest.mark.parametrize("pixels", [False, True])
def test_statistics_over_the_batch_are_found_whatever_they_are(
    name: str, kind: type[Net], pixels: bool
) -> None:
    inputs = [torch.cat([one.flatten()[1:], torch.ones(1)]).view_as(one) for one in examples()]
    if pixels:
        inputs = [(one * 255).to(torch.uint8) for one in inputs]
    with torch.inference_mode():
        tape = capture(kind(STATISTICS[name]).eval(), inputs[0] * 1.0, ())
    assert batchable(tape, inputs) == frozenset()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_statistics_over_a_picture_do_not_hinder(dtype: torch.dtype) -> None:
    def normalised(x: Tensor) -> Tensor:
        x = nn.functional.layer_norm(x, x.shape[1:])
        return x / (x.amax((1, 2, 3), keepdim=True) + 1.0)

    with torch.inference_mode():
        module = Net(normalised).eval().to(dtype)
        inputs = [one.to(dtype) for one in examples()]
        tape = capture(module, inputs[0], ())
        cuts = batchable(tape, inputs)
    assert {0, len(tape)} <= cuts


def test_a_dark_picture_is_not_judged_by_a_bright_one() -> None:
    alone = [torch.ones(1, 4), torch.full((1, 4), 1e-3)]
    assert agree(torch.cat(alone), alone)
    assert not agree(torch.cat([alone[0], alone[1] * 1.1]), alone)
    assert agree(torch.cat([alone[0], alone[1] * 1.0005]), alone)


@pytest.mark.parametrize(
    ("together", "expected"),
    [
        ([{"n": torch.tensor([1.0])}, {"n": torch.tensor([2.0, 3.0])}], True),
        ([{"n": torch.tensor([1.0])}, {"n": torch.tensor([2.0, 4.0])}], False),
        ([{"n": torch.tensor([1.0])}, {"n": torch.tensor([2.0])}], False),
        ([{"n": torch.tensor([1.0])}], False),
    ],
)
def test_lists_with_an_entry_a_picture_are_compared_by_entry(together: Any, expected: bool) -> None:
    alone = [[{"n": torch.tensor([1.0])}], [{"n": torch.tensor([2.0, 3.0])}]]
    assert agree(together, alone) is expected


def test_what_is_not_finite_has_to_be_so_alone() -> None:
    nan, inf = float("nan"), float("inf")
    alone = [torch.tensor([[nan, 1.0]]), torch.tensor([[inf, 2.0]])]
    assert agree(torch.cat(alone), alone)
    assert not agree(torch.tensor([[nan, 1.0], [-inf, 2.0]]), alone)
    assert not agree(torch.tensor([[nan, nan], [inf, 2.0]]), alone)
    assert not agree(torch.tensor([[0.0, 1.0], [inf, 2.0]]), alone)


def test_a_size_that_is_part_of_the_graph_is_never_batched() -> None:
    assert batchable(tape_of(lambda x: x.reshape(1, 256).sin()), examples()) == frozenset()


def test_where_dimension_0_is_not_the_batch_is_left_out() -> None:
    tape = tape_of(lambda x: x.permute(1, 0, 2, 3).relu().permute(1, 0, 2, 3))
    cuts = batchable(tape, examples())
    names = {name for k, name in enumerate(tape.cut_names) if k not in cuts}
    assert names == {"after_conv.permute", "relu"}


def test_tensors_that_share_memory_are_left_out() -> None:
    def shared(x: Tensor) -> Tensor:
        view = x.view(-1, 4, 64)
        return view.reshape_as(x) + x

    tape = tape_of(shared)
    cuts = batchable(tape, examples())
    assert 0 in cuts
    assert len(tape) in cuts
    assert len(cuts) < len(tape) + 1


def test_a_tuple_of_tensors_is_left_out() -> None:
    def pair(x: Tensor) -> Tensor:
        first, second = (x * 2.0).chunk(2, 1)
        return torch.cat((second, first), 1)

    tape = tape_of(pair)
    cuts = batchable(tape, examples())
    assert {tape.cut_names[k] for k in range(len(tape) + 1) if k not in cuts} >= {"chunk"}
    assert {0, len(tape)} <= cuts


@pytest.mark.parametrize("odd", [[torch.ones(1, 3)], [3], [torch.ones(())]])
def test_what_does_not_fit_is_not_joined(odd: list[object]) -> None:
    assert joined([[torch.ones(1, 2)], odd]) is None
