"""A cache of recorded graphs: heads and tails that are replayed instead of computed.

A graph belongs to a part, a cut and one layout of the values there. It is recorded in a thread of
its own, compared bit for bit with the eager result, and used from then on. A part without a graph
is computed eagerly and never waits for one. Nothing here needs CUDA: a `Capturer` records.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from splittracr.backends.protocol import Part
from splittracr.backends.torch.buffers import Buffers, Layout, copied, layout
from splittracr.backends.torch.graph_cache import Cache, Graph, Key, Recording, Refused
from splittracr.backends.torch.screening import screened
from splittracr.experiment.errors import reason
from splittracr.splitting.compare import same

log = logging.getLogger(__name__)

MAX_GRAPHS = 256
"""Max graphs at once: enough for all cuts of a ResNet50. Each takes memory of the driver that no
counter shows.
"""

_MAX_ASKED = 4096
"""Max layouts for which a request by a frame is remembered."""

Function = Callable[[list[Any]], Any]
"""Computes a head or a tail from its values, which it may write into."""


class Capturer(Protocol):
    """Records functions."""

    def record(self, function: Function, inputs: list[Any]) -> Recording:
        """Record `function` on `inputs`, whose memory the recording reads from then on."""

    def wait(self) -> None:
        """Wait until no replay is under way that this thread or another one has begun."""


class Source(Protocol):
    """The network whose parts are recorded."""

    def function(self, part: Part, cut: int) -> Function:
        """The function that computes a part."""

    def examples(self, part: Part, cut: int, like: Layout | None) -> Sequence[list[Any]]:
        """Two or more different values for a part: of one request, or of as many as have the layout
        `like`. Empty if no number of requests has it. Raises SplittracrError if there are none.
        """


class Graphs:
    """Graphs of the parts of one network, for any thread.

    At most `count` graphs take at most `limit` bytes. A graph that a frame lacks is recorded if
    there is room. One that `make_ready` asks for evicts the least recently used ones.
    """

    def __init__(
        self, source: Source, capturer: Capturer, limit: int, count: int = MAX_GRAPHS
    ) -> None:
        self._source, self._capturer = source, capturer
        self._cache = Cache(limit, count)
        self._usual: dict[tuple[Part, int], Layout] = {}  # of one request
        self._asked: OrderedDict[Key, None] = OrderedDict()  # by frames
        self._lock = threading.Lock()  # of the cache and the graphs' buffers: held for a replay
        self._recording = threading.Lock()  # held for a recording, by any thread

    def __len__(self) -> int:
        return len(self._cache.graphs)

    @property
    def nbytes(self) -> int:
        """The bytes that the graphs take now."""
        with self._lock:
            return self._cache.nbytes

    @property
    def limit(self) -> int:
        """The max bytes of the graphs. It shrinks when the device runs out of memory."""
        return self._cache.limit

    def refused(self, part: Part, cut: int) -> str | None:
        """Why a part has no graph; None if it has one or may get one."""
        return self._cache.refused.get((part, cut))

    def on_trial(self) -> "Graphs":
        """An empty cache for the same network, with room for one head and one tail.

        A profile measures every cut once with it.
        """
        return Graphs(self._source, self._capturer, self.limit, 2)

    @torch.inference_mode()
    def run(self, part: Part, cut: int, values: list[Any], eager: Function) -> Any:
        """The outputs of a part: replayed, or from `eager`."""
        found = layout(values)
        if found is None:
            return eager(values)
        key = Key(part, cut, found)
        with self._lock:
            graph = self._cache.graphs.get(key)
            if graph is not None:
                self._cache.graphs.move_to_end(key)
                if graph.trusted:
                    return graph(values)
        if graph is None:
            self._ask(key)
            return eager(values)
        return self._first(key, graph, values, eager)

    def ready(self, part: Part, cut: int) -> bool:
        """Whether `make_ready` has nothing to do: one request has a graph, or never will."""
        usual = self._usual.get((part, cut))
        with self._lock:
            known = usual is not None and Key(part, cut, usual) in self._cache.graphs
            return known or (part, cut) in self._cache.refused

    def make_ready(self, part: Part, cut: int) -> None:
        """Record the graph for one request, or find out why there is none."""
        with self._recording:
            if not self.ready(part, cut):
                self._make(part, cut, None)

    def drop_all(self) -> None:
        """Free the memory of all graphs, and use at most half of it from now on.

        For a device that has run out of memory.
        """
        with self._lock:
            dropped, total = list(self._cache.graphs.values()), self._cache.nbytes
            self._cache.graphs.clear()
            self._asked.clear()
            if dropped:
                self._cache.limit = total // 2
        if dropped:
            log.warning(
                "the device is out of memory: %d graphs of %d MiB are dropped, and new ones take "
                "at most %d MiB",
                *(len(dropped), total // 2**20, self.limit // 2**20),
            )
            self._capturer.wait()

    # ------------------------------------------------------------------------------- recording

    def _ask(self, key: Key) -> None:
        """Have a graph recorded in another thread, unless one is being recorded.

        Frames ask for the same one once.
        """
        with self._lock:
            known = key in self._asked or (key.part, key.cut) in self._cache.refused
            if known or not self._recording.acquire(blocking=False):
                return
            self._asked[key] = None
            if len(self._asked) > _MAX_ASKED:
                self._asked.popitem(last=False)

        def make() -> None:
            try:
                self._make(*key)
            finally:
                self._recording.release()

        try:
            threading.Thread(target=make, name="record").start()
        except RuntimeError:  # no more threads, or the interpreter ends
            with self._lock:
                self._asked.pop(key, None)
            self._recording.release()

    @torch.inference_mode()
    def _make(self, part: Part, cut: int, like: Layout | None) -> None:
        """Record a graph, and keep it if it computes the same bits as the eager function."""
        try:
            values = self._source.examples(part, cut, like)
            if not values:
                return
            usual = layout(values[0])
            if usual is None:
                raise Refused("its values are not all dense tensors and plain values")
            if like is None:
                self._usual[part, cut] = usual
            elif like != usual:
                return  # another edge sends them in another way
            function = self._source.function(part, cut)
            graph = _recorded(self._capturer, self._lock, function, values)
            self._keep(Key(part, cut, usual), graph, evicts=like is None)
        except torch.OutOfMemoryError as error:
            self.drop_all()
            self._refuse(part, cut, reason(error))
        except Exception as error:  # noqa: BLE001 - a library's own; eager is used
            self._refuse(part, cut, reason(error))

    def _keep(self, key: Key, graph: Graph, *, evicts: bool) -> None:
        with self._lock:
            dropped = self._cache.keep(key, graph, evicts=evicts)
            for old, _ in dropped:
                self._asked.pop(old, None)  # its frames may ask again
        if dropped:
            self._capturer.wait()  # for the last replay of one of them

    def _first(self, key: Key, graph: Graph, values: list[Any], eager: Function) -> Any:
        """The outputs of the first real values, computed and compared with those of the graph."""
        own = copied(values)
        right = eager(values)
        with self._lock:
            found = graph(own)
        if layout(found) == layout(right) and same(found, right):
            graph.trusted = True
        else:
            with self._lock:
                self._cache.graphs.pop(key, None)
            self._refuse(key.part, key.cut, "its graph computed other bits of real values")
        return right

    def _refuse(self, part: Part, cut: int, why: str) -> None:
        with self._lock:
            new = (part, cut) not in self._cache.refused
            self._cache.refused[part, cut] = why[:500]
        if new:
            log.warning("the %s at cut %d has no graph and is computed eagerly: %s", part, cut, why)


def _recorded(
    capturer: Capturer, replaying: threading.Lock, function: Function, values: Sequence[list[Any]]
) -> Graph:
    """Record a function. Raises Refused if the graph does not compute its bits on all `values`."""
    expected = [function(copied(one)) for one in values]  # also warms up
    kept = screened(function, copied(values[0]))
    inputs = Buffers(copied(values[0]))
    recording = capturer.record(function, inputs.values)
    graph = Graph(recording, inputs, Buffers(recording.outputs), kept)
    for one, right in zip(values, expected, strict=True):
        with replaying:  # replays take turns: libraries share workspaces between graphs
            found = graph(one)
        if layout(found) != layout(right) or not same(found, right):
            raise Refused("its graph computes other bits")
    return graph
