"""Halves in ONNX Runtime compute what the uncut model computes, for any live tensors at the cut."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splittracr.backends.onnx import sessions
from splittracr.backends.onnx.classes import error
from splittracr.backends.onnx.export import Exported, export
from splittracr.backends.onnx.halves import Halves
from splittracr.experiment.errors import FrameFailed, SplittracrError
from splittracr.splitting.capture import capture
from splittracr.splitting.tape import Tape
from splittracr.wire.identity import TOLERANCE
from tests.splitting.networks import (
    Branching,
    Chunks,
    Ordered,
    Residual,
    Scalars,
    Shapes,
    Sizes,
    Sparse,
    WritesThroughView,
)

CLOSE = 1e-5
NETWORKS = [Residual, Shapes, Sparse, Chunks, Ordered, Scalars, Sizes, Branching]
"""The last one is captured by torch.export."""


@pytest.fixture(autouse=True)
def one_pool() -> None:
    sessions.use_threads(1)


def exported(network: type[nn.Module]) -> tuple[Tape, Tensor, Exported]:
    torch.manual_seed(0)
    batch = torch.rand(1, 3, 8, 8)
    tape = capture(network().eval(), batch)
    return tape, batch, export(tape, batch)


@torch.inference_mode()
def uncut(tape: Tape, batch: Tensor) -> list[Any]:
    return tape.head(len(tape), batch.clone())


@pytest.mark.parametrize("network", NETWORKS)
def test_every_cut_gives_the_output_of_the_network(network: type[nn.Module]) -> None:
    tape, batch, graph = exported(network)
    halves, expected = Halves(graph), uncut(tape, batch)
    with torch.inference_mode():
        for cut in range(len(tape) + 1):
            live = halves.run(0, cut, [batch.clone()])
            assert error(expected, halves.run(cut, halves.last, live)) < CLOSE, cut


@pytest.mark.parametrize("network", NETWORKS)
def test_live_values_are_those_of_the_tape(network: type[nn.Module]) -> None:
    tape, batch, graph = exported(network)
    halves = Halves(graph)
    with torch.inference_mode():
        for cut in range(len(tape) + 1):
            ours, theirs = halves.run(0, cut, [batch]), tape.head(cut, batch.clone())
            assert kinds(ours) == kinds(theirs), cut
            assert error(theirs, ours) < CLOSE, cut


def test_a_write_through_a_view_shows_as_an_error_of_the_uncut_network() -> None:
    tape, batch, graph = exported(WritesThroughView)
    with torch.inference_mode():
        made = Halves(graph).run(0, len(tape), [batch])
    assert error(uncut(tape, batch), made) > TOLERANCE


def test_weights_that_no_graph_holds_are_refused_with_their_size() -> None:
    batch = torch.rand(1, 1024)
    tape = capture(nn.Sequential(nn.Linear(1024, 1024, bias=False)).eval(), batch)
    with pytest.raises(SplittracrError) as failed:
        export(tape, batch, max_bytes=2**20)
    assert str(failed.value) == "its weights have 4 MiB, a graph of ONNX holds at most 1 MiB"


def kinds(values: Sequence[Any]) -> list[object]:
    return [(v.dtype, v.shape) if isinstance(v, Tensor) else type(v) for v in values]


def test_a_bound_of_memory_keeps_the_session_in_use_only() -> None:
    _, batch, graph = exported(Residual)
    halves = Halves(graph, limit=1)
    with torch.inference_mode():
        once = halves.run(0, 3, [batch])
        halves.run(3, halves.last, once)
        assert halves.sessions == 1
        again = halves.run(0, 3, [batch])
        assert halves.sessions == 1
    assert all(map(torch.equal, once, again))


def test_a_session_that_is_dropped_in_a_study_is_worth_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, batch, graph = exported(Residual)
    trial, halves = Halves(graph, limit=1, warns=False), Halves(graph, limit=1)
    with torch.inference_mode():
        for cut in (1, 2):
            trial.run(0, cut, [batch])
        assert not caplog.records
        for cut in (1, 2, 3):
            halves.run(0, cut, [batch])
    (one,) = caplog.records
    assert "sessions of ONNX Runtime need more than sessionMebibytes 0" in one.getMessage()


@pytest.mark.parametrize(
    ("shape", "found"), [((1, 3, 8, 9), "[1, 3, 8, 9]"), ((2, 3, 8, 8), "[2, 3, 8, 8]")]
)
def test_another_size_is_refused_with_the_expected_one(shape: tuple[int, ...], found: str) -> None:
    _, _, graph = exported(Residual)
    with pytest.raises(FrameFailed) as failed:
        Halves(graph).run(0, 3, [torch.rand(shape)])
    assert str(failed.value) == (
        f"a tensor float32 {found}, expected float32 [1, 3, 8, 8]: runtime OnnxRuntime takes one "
        "size of input and batch; Torch takes several"
    )


def test_sessions_stay_within_the_bound() -> None:
    _, batch, graph = exported(Residual)
    halves = Halves(graph)
    with torch.inference_mode():
        halves.run(halves.last - 2, halves.last, halves.run(0, halves.last - 2, [batch]))
        assert halves.sessions == 2
        halves.run(0, halves.last - 2, [batch])
        assert halves.sessions == 2


def test_another_number_of_threads_needs_another_process() -> None:
    with pytest.raises(SplittracrError, match="uses 1 threads in this process already"):
        sessions.use_threads(2)


def test_outputs_of_another_structure_are_an_error() -> None:
    with pytest.raises(SplittracrError, match="another structure"):
        error([torch.ones(2)], [torch.ones(2), torch.ones(2)])
    with pytest.raises(SplittracrError, match="more than rounding"):
        error([torch.tensor([1])], [torch.tensor([2])])


def test_an_error_is_relative_to_the_largest_size_of_its_tensor() -> None:
    expected = [torch.tensor([1.0, -100.0]), torch.tensor([0.5])]
    assert error(expected, [torch.tensor([2.0, -100.0]), torch.tensor([0.5])]) == 0.01
    assert error(expected, [torch.tensor([1.0, -100.0]), torch.tensor([0.25])]) == 0.5
    assert error(expected, [torch.tensor([float("nan"), -100.0]), torch.tensor([0.5])]) > 1e9
    assert error([torch.zeros(1)], [torch.ones(1)]) == float("inf")
