"""Times of operations: which readings count, and what comes of them."""

import torch
from torch import nn

from splittracr.backends.torch.device import TorchDevice
from splittracr.backends.torch.timing import OperationTimes
from splittracr.splitting.capture import capture


def made(count: int = 2) -> OperationTimes:
    return OperationTimes(count, TorchDevice(torch.device("cpu")))


def test_mean_and_percentile_are_those_of_the_readings() -> None:
    times = made(1)
    for elapsed in range(1, 21):
        times.add(0, float(elapsed))
    (one,) = times.table()
    assert (one.mean_ms, one.readings) == (10.5, 20)
    assert one.p95_ms == 19.05  # a twentieth of the way from the 19th to the 20th


def test_the_proof_counts_only_where_there_are_few_other_readings() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    tape = capture(module, torch.rand(1, 4))
    times = made()
    registers = tape.begin(torch.rand(1, 4))
    for k in range(2):
        assert times.proof(tape, registers, k) >= 0
    assert [one.readings for one in times.table()] == [1, 1]
    for elapsed in (1.0, 2.0):
        times.add(1, elapsed)
    assert [one.readings for one in times.table()] == [1, 3]
    times.add(1, 3.0)
    assert [one.readings for one in times.table()] == [1, 3]
    assert times.table()[1].mean_ms == 2.0


def test_a_timed_pass_runs_the_operations_and_notes_each() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    x = torch.rand(1, 4)
    with torch.inference_mode():
        tape, times = capture(module, x), made()
        live = tape.head(1, x, times.run)
        assert torch.equal(tape.tail(1, live, run=times.run), module(x))
    assert [one.readings for one in times.table()] == [1, 1]
