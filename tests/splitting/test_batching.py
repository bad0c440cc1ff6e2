"""Where tails may be computed together, and where that would mix or lose something."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from splittracr.splitting.batching import TOLERANCE, batchable, joined
from splittracr.splitting.capture import capture
from splittracr.splitting.tape import Tape


class Net(nn.Module):
    """A convolution, whatever `middle` does, and a classifier."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 64, 5)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.middle(self.conv(x)).flatten(1))  # type: ignore[no-any-return]


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


def test_a_size_that_is_part_of_the_graph_is_never_batched() -> None:
    assert batchable(tape_of(lambda x: x.reshape(1, 256).sin()), examples()) == frozenset()


def test_where_dimension_0_is_not_the_batch_is_left_out() -> None:
    tape = tape_of(lambda x: x.permute(1, 0, 2, 3).relu().permute(1, 0, 2, 3))
    cuts = batchable(tape, examples())
    names = {name for k, name in enumerate(tape.cut_names) if k not in cuts}
    assert names == {"middle.permute", "middle.relu"} or names == {"permute", "relu"}


def test_tensors_that_share_memory_are_left_out() -> None:
    def shared(x: Tensor) -> Tensor:
        view = x.view(-1, 4, 64)
        return view.reshape_as(x) + x

    tape = tape_of(shared)
    cuts = batchable(tape, examples())
    assert 0 in cuts
    assert len(tape) in cuts
    assert len(cuts) < len(tape) + 1


@pytest.mark.parametrize("odd", [[torch.ones(1, 3)], [3], [torch.ones(())]])
def test_what_does_not_fit_is_not_joined(odd: list[object]) -> None:
    assert joined([[torch.ones(1, 2)], odd]) is None
