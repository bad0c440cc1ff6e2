"""Capturers without CUDA: they compute again where a graph would replay kernels."""

import threading
from collections.abc import Callable
from typing import Any

import torch

from splittracr.backends.torch.buffers import Buffers, copied
from splittracr.backends.torch.graphs import Function

ROOM = 2**30


class Rerun:
    """A recording that runs its function again, on what its inputs hold, into the same outputs."""

    def __init__(self, function: Function, inputs: list[Any]) -> None:
        self._function, self._inputs = function, inputs
        self._outputs = Buffers(function(copied(inputs)))
        self.replays = 0

    @property
    def outputs(self) -> Any:
        return self._outputs.values

    @property
    def nbytes(self) -> int:
        return self._outputs.nbytes

    def replay(self) -> None:
        self.replays += 1
        self._outputs.fill(self._function(copied(self._inputs)))


class OnProcessor:
    """Records on the processor. `before` is called before each recording."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self._before = before
        self.made: list[Rerun] = []
        self.waits = 0

    def record(self, function: Function, inputs: list[Any]) -> Rerun:
        self._before()
        self.made.append(self.recorded(function, inputs))
        return self.made[-1]

    def recorded(self, function: Function, inputs: list[Any]) -> Rerun:
        return Rerun(function, inputs)

    def wait(self) -> None:
        self.waits += 1

    @property
    def replays(self) -> int:
        return sum(one.replays for one in self.made)


class OneBitOff(OnProcessor):
    """Its graphs compute another last bit in one element, from replay number `since` on."""

    def __init__(self, since: int = 1) -> None:
        super().__init__()
        self._since = since

    def recorded(self, function: Function, inputs: list[Any]) -> Rerun:
        return _OneBit(function, inputs, self._since)


class _OneBit(Rerun):
    def __init__(self, function: Function, inputs: list[Any], since: int) -> None:
        super().__init__(function, inputs)
        self._since = since

    def replay(self) -> None:
        super().replay()
        if self.replays >= self._since:
            first = self.outputs[0] if isinstance(self.outputs, list) else self.outputs
            first.flatten().view(torch.uint8)[0] ^= 1


def recorded() -> None:
    """Wait until no graph is being recorded."""
    for thread in threading.enumerate():
        if thread.name == "record":
            thread.join()
