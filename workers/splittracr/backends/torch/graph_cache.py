"""A cache of recorded graphs with a limit of memory. Callers hold a lock."""

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from splittracr.backends.protocol import Part
from splittracr.backends.torch.buffers import Buffers, Layout
from splittracr.experiment.errors import SplittracrError

log = logging.getLogger(__name__)


class Recording(Protocol):
    """A recorded function. `nbytes` is its memory in bytes, which contains `outputs`."""

    @property
    def outputs(self) -> Any: ...

    @property
    def nbytes(self) -> int: ...

    def replay(self) -> None:
        """Compute the outputs from the present contents of the inputs."""


class Key(NamedTuple):
    """The part, the cut and the layout of the values of a graph."""

    part: Part
    cut: int
    layout: Layout


@dataclass
class Graph:
    """A recording with its buffers. It is `trusted` once real values have been compared, too.

    `kept` are tensors whose addresses the recording has.
    """

    recording: Recording
    inputs: Buffers
    outputs: Buffers
    kept: list[Tensor]
    trusted: bool = False

    @property
    def nbytes(self) -> int:
        return self.recording.nbytes + self.inputs.nbytes

    def __call__(self, values: Any) -> Any:
        self.inputs.fill(values)
        self.recording.replay()
        return self.outputs.copy()


class Refused(SplittracrError):
    """A graph cannot be used. Its part is computed eagerly."""


@dataclass
class Cache:
    """The graphs, least recently used first, and the parts that have none, with the reason.

    At most `count` graphs take at most `limit` bytes.
    """

    limit: int
    count: int
    graphs: OrderedDict[Key, Graph] = field(default_factory=OrderedDict)
    refused: dict[tuple[Part, int], str] = field(default_factory=dict)
    warned: bool = False

    @property
    def nbytes(self) -> int:
        return sum(graph.nbytes for graph in self.graphs.values())

    def keep(self, key: Key, graph: Graph, *, evicts: bool) -> list[tuple[Key, Graph]]:
        """Add a graph if there is room, or if it `evicts` others. Return those that were evicted.

        Raises Refused for a graph that evicts and is larger than `limit`.
        """
        if evicts and graph.nbytes > self.limit:
            needed, limit = graph.nbytes / 2**20, self.limit / 2**20
            raise Refused(
                f"its graph takes {needed:.1f} MiB, and graphs may take {limit:.1f} "
                "(sessionMebibytes)"
            )
        room = self.nbytes + graph.nbytes <= self.limit and len(self.graphs) < self.count
        if evicts or room:
            self.graphs[key] = graph
        elif not self.warned:
            self.warned = True
            log.warning(
                "graphs of more cuts or batch sizes would take more than sessionMebibytes %d "
                "or be more than %d: these are computed eagerly",
                *(self.limit // 2**20, self.count),
            )
        dropped = []
        while self.nbytes > self.limit or len(self.graphs) > self.count:
            dropped.append(self.graphs.popitem(last=False))
        return dropped
