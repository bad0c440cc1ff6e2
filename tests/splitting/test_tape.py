"""Every cut of a captured network computes what the network computes, bit for bit."""

import copy
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from splittracr.experiment.errors import CaptureError, InvalidInput
from splittracr.splitting.capture import capture
from splittracr.splitting.prove import same, through_wire
from splittracr.splitting.tape import Tape
from tests.splitting import networks
from tests.splitting.networks import (
    EXACT,
    AsksForTensor,
    AsksForTracer,
    Branching,
    Noisy,
    Ordered,
    Random,
    Residual,
    Undecidable,
)


def example(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def captured(network: type[nn.Module]) -> tuple[nn.Module, Tape]:
    module = network().eval()
    return module, capture(module, example())


@pytest.mark.parametrize("network", EXACT)
def test_every_cut_is_bit_exact_through_the_wire(network: type[nn.Module]) -> None:
    module, tape = captured(network)
    x = example()
    with torch.inference_mode():
        expected = module(x.clone())
        for cut in range(len(tape) + 1):
            live = through_wire(tape.head(cut, x.clone()))
            assert same(tape.tail(cut, live), expected), tape.cut_names[cut]
        assert not same(module(example(1)), expected), "a constant output proves nothing"


def test_head_and_tail_run_disjoint_operations() -> None:
    _, tape = captured(Residual)
    ran: list[str] = []
    counted = tuple(
        type(op)(op.name, op.target, op.source, _counting(op.name, op.run, ran)) for op in tape.ops
    )
    tape.ops = counted
    live = tape.head(3, example())
    head, ran[:] = list(ran), []
    tape.tail(3, live)
    assert head == [op.name for op in counted[:3]]
    assert ran == [op.name for op in counted[3:]]


def _counting(
    name: str, run: Callable[[list[object]], None], ran: list[str]
) -> Callable[[list[object]], None]:
    def wrapped(registers: list[object]) -> None:
        ran.append(name)
        run(registers)

    return wrapped


def test_cut_names_are_unique_stable_and_found_again() -> None:
    _, tape = captured(Residual)
    assert tape.cut_names == captured(Residual)[1].cut_names
    assert len(set(tape.cut_names)) == len(tape) + 1
    assert tape.cut_names[:4] == ("input", "first", "relu", "second")
    assert "relu_1" in tape.cut_names


def test_registers_are_cleared_after_their_last_use() -> None:
    _, tape = captured(Residual)
    registers = tape.begin(example())
    tape.run(registers, 0, len(tape))
    assert sum(isinstance(value, Tensor) for value in registers) == 1


def test_export_takes_over_and_checks_the_shape_itself() -> None:
    module, tape = captured(Branching)
    x = example()
    assert tape.fixed_shape == (2, 3, 8, 8)
    assert same(tape(x), module(x))
    with pytest.raises(InvalidInput, match=r"\(1, 3, 8, 8\), expected the shape \(2, 3, 8, 8\)"):
        tape(x[:1])


def test_control_flow_on_values_is_named_with_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CaptureError) as raised:
        captured(Undecidable)
    assert capfd.readouterr() == ("", ""), "no graph before the error"
    line = "return x * 2 if x.sum() > 0 else x - 1"
    number = Path(networks.__file__).read_text("utf-8").splitlines().index(f"        {line}") + 1
    text = str(raised.value)
    assert text.startswith(
        "Undecidable cannot be split: its control flow depends on the values of a tensor in "
        f"{networks.__file__}, line {number}: `{line}`. Modules with control flow that depends on "
        "data can be named as leaves, so that each is one operation. torch.fx says TraceError: "
    )
    assert "; torch.export says GuardOnDataDependentSymNode: " in text
    assert text.endswith("(Size-like symbols: none)"), "whole, and not the hints for its developers"


def test_code_that_torch_cannot_follow_is_named_with_its_line() -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if type(x) is Tensor:
                return x * 2.0
            raise ValueError("no " + "such " * 200)

    number = inspect.getsourcelines(Breaks)[1] + 4
    with pytest.raises(CaptureError) as raised:
        captured(Breaks)
    text = str(raised.value)
    place = f'{__file__}, line {number}: `raise ValueError("no " + "such " * 200)`'
    assert text.startswith(f"Breaks cannot be split: torch cannot follow {place}. ")
    assert text.count("such …") == 2, "shortened at a word"


def test_a_graph_of_another_branch_is_not_taken() -> None:
    module, tape = captured(AsksForTensor)
    assert tape.fixed_shape is not None, "torch.export takes over"
    assert same(tape(example()), module(example()))


def test_no_right_graph_is_an_error() -> None:
    with pytest.raises(CaptureError, match="does not compute what the module computes") as raised:
        captured(AsksForTracer)
    assert str(raised.value).count("does not compute") == 2


def test_collections_that_a_graph_makes_plain_are_no_difference() -> None:
    _, tape = captured(Ordered)
    assert tape.fixed_shape is None


@pytest.mark.parametrize(
    ("network", "operation"), [(Random, "dropout draws"), (Noisy, "_noise gave two outputs")]
)
def test_a_module_that_is_not_the_same_twice_is_refused(
    network: type[nn.Module], operation: str
) -> None:
    expected = f"^{network.__name__} is not the same twice: the operation {operation}"
    with pytest.raises(CaptureError, match=expected):
        captured(network)


def test_the_check_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with pytest.raises(CaptureError):
        captured(Random)
    assert same(torch.rand(3), expected)


NAMES = st.sampled_from(["input", "output", "relu", "relu_1", "relu_1_1", "add", "x", "net"])


@given(st.lists(NAMES, min_size=1, max_size=8))
def test_cut_names_are_unique_whatever_attributes_are_called(calls: list[str]) -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in calls:
                setattr(self, name, nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            for name in calls:
                x = torch.relu(getattr(self, name)(x))
            return x

    tape = capture(Chain().eval(), example())
    assert len(set(tape.cut_names)) == len(tape.cut_names) == len(tape) + 1
    assert {"input", "output"}.isdisjoint(tape.cut_names[1:-1])


def test_a_leaf_stays_one_operation() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Undecidable()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(torch.relu(x)) + 1  # type: ignore[no-any-return]

    module = Wrapper().eval()
    tape = capture(module, example(), leaves=[Undecidable])
    assert [op.name for op in tape.ops] == ["relu", "inner", "add"]
    assert same(tape(example()), module(example()))


def test_capture_leaves_the_module_as_it_was() -> None:
    module = Residual().eval()
    before = copy.deepcopy(module.state_dict())
    capture(module, example())
    assert not module.training
    assert same(dict(module.state_dict()), dict(before))
