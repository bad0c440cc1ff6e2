"""The exact best partition of a network's graph, as a minimum cut.

Hu, Bao, Wang, Liu, "Dynamic adaptive DNN surgery for inference acceleration on the edge" (DADS,
INFOCOM 2019), with infinite edges back, without which data may hop to the edge again for nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx

INPUT = -1
_EDGE, _SERVER = "edge", "server"


@dataclass(frozen=True)
class Graph:
    """Operations in order. `uses[i]` are the operations whose values operation i takes, INPUT among
    them; `sizes` are the bytes of each value, that of the input first.
    """

    uses: Sequence[Sequence[int]]
    sizes: Sequence[int]

    def live_bytes(self) -> list[int]:
        """Bytes alive at every cut but the last: made before it and used after it."""
        count = len(self.uses)
        last = {value: i for i in range(count) for value in self.uses[i]}
        return [
            sum(self.sizes[v + 1] for v in range(INPUT, k) if last.get(v, -1) >= k)
            for k in range(count)
        ]


def min_latency(
    graph: Graph, edge_ms: Sequence[float], server_ms: Sequence[float], ms_per_byte: float
) -> float:
    """The lowest latency of any split of the operations in two sets, none feeding back."""
    flow: nx.DiGraph[Any] = nx.DiGraph()
    flow.add_nodes_from((_EDGE, _SERVER))
    for i in range(len(graph.uses)):
        flow.add_edge(_EDGE, i, capacity=server_ms[i])  # is cut where i runs on the server
        flow.add_edge(i, _SERVER, capacity=edge_ms[i])
        for value in graph.uses[i]:
            sent = ("value", value)
            maker = _EDGE if value == INPUT else value
            flow.add_edge(maker, sent, capacity=graph.sizes[value + 1] * ms_per_byte)
            flow.add_edge(sent, i)  # no capacity: infinite
            if value != INPUT:
                flow.add_edge(i, value)
    return float(nx.minimum_cut_value(flow, _EDGE, _SERVER))
