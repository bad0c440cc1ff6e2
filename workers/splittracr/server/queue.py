"""Requests that wait for the compute thread: one queue an edge, in turn.

Pure: no clock, no lock, no I/O. Threads that share it hold a lock around it.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Generic, TypeVar

Edge = TypeVar("Edge", bound=Hashable)
Item = TypeVar("Item")


class FairQueue(Generic[Edge, Item]):
    """First come, first served within an edge; edges take turns, however long their queues are."""

    def __init__(self) -> None:
        self._lines: OrderedDict[Edge, deque[Item]] = OrderedDict()  # the next edge comes first

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def add(self, edge: Edge, item: Item) -> None:
        """Add `item` at the end of the edge's queue."""
        self._lines.setdefault(edge, deque()).append(item)

    def drop(self, edge: Edge) -> list[Item]:
        """Remove and return all items of an edge."""
        return list(self._lines.pop(edge, ()))

    def remove(self, edge: Edge, where: Callable[[Item], bool]) -> list[Item]:
        """Remove and return the items of an edge that match."""
        line = self._lines.get(edge, deque())
        taken = [item for item in line if where(item)]
        self._keep(edge, deque(item for item in line if not where(item)))
        return taken

    def take(
        self,
        max_items: int,
        together: Callable[[Item, Item], bool],
        share: Callable[[Sequence[Item]], int] = len,
    ) -> list[Item]:
        """The next item, and up to `max_items` in all that may be computed together with it.

        The others come in the order of their turns. An item never overtakes another one of its
        edge. `share` returns how many of these to take, at least one. Empty if nothing waits.
        """
        if not self._lines:
            return []
        found = self._found(max_items, together)
        taken = found[: share([item for _, item in found])]
        self._lines.move_to_end(taken[0][0])
        for edge, _ in taken:
            self._lines[edge].popleft()
        for empty in [edge for edge, line in self._lines.items() if not line]:
            del self._lines[empty]
        return [item for _, item in taken]

    def _found(
        self, max_items: int, together: Callable[[Item, Item], bool]
    ) -> list[tuple[Edge, Item]]:
        edge, line = next(iter(self._lines.items()))
        first = line[0]
        found, heads = [(edge, first)], Counter([edge])
        for other in self._turns(edge, max_items - 1):
            if len(found) == max_items:
                break
            line, head = self._lines[other], heads[other]
            if head < len(line) and together(first, line[head]):
                found.append((other, line[head]))
                heads[other] += 1
        return found

    def _turns(self, last: Edge, rounds: int) -> Iterator[Edge]:
        """The edges in turn, `last` at the end, repeated so that one edge could fill the batch."""
        order = [edge for edge in self._lines if edge != last] + [last]
        for _ in range(rounds):
            yield from order

    def _keep(self, edge: Edge, line: deque[Item]) -> None:
        if line:
            self._lines[edge] = line
        else:
            self._lines.pop(edge, None)
