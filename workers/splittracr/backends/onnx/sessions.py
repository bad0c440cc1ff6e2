"""Sessions of ONNX Runtime for the parts of one graph, within a bound of memory."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from splittracr.backends.onnx.graph import Part
from splittracr.experiment.errors import SplittracrError

COPIES = 2
"""Copies of its weights that a session may make: merged with others, and packed for the processor.
"""

log = logging.getLogger(__name__)

Key = tuple[int, int]

_threads: int | None = None
"""Size of the process's thread pool, once it is set."""


def use_threads(count: int) -> None:
    """Set the threads of all sessions of this process, which share one pool.

    ONNX Runtime makes the pool once. Raises SplittracrError for another number than before.
    """
    global _threads
    if _threads is None:
        ort.set_global_thread_pool_sizes(count, 1)
        _threads = count
    if count != _threads:
        raise SplittracrError(
            f"ONNX Runtime uses {_threads} threads in this process already and cannot change to "
            f"{count}: start another process"
        )


@dataclass(frozen=True)
class _Made:
    session: Any
    nbytes: int
    inputs: frozenset[str]
    outputs: tuple[str, ...]
    weights: tuple[Any, ...]  # a session refers to them


class Sessions:
    """Sessions by key, made when they are needed and kept until others need the memory.

    Together they take at most `limit` bytes, if one alone does not take more. With `warns` the
    first one that is dropped is worth a warning.
    """

    def __init__(self, make: Callable[[Key], Part], limit: int, *, warns: bool) -> None:
        self._make, self._limit, self._warns = make, limit, warns
        self._made: OrderedDict[Key, _Made] = OrderedDict()
        self._makers: dict[Key, threading.Lock] = {}
        self._shared: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._made)

    def ready(self, key: Key) -> bool:
        """Whether the session of a part is there, so that `run` makes none."""
        return key in self._made

    def make_ready(self, key: Key) -> None:
        """Make the session of a part. Others run meanwhile."""
        self._get(key)

    def nbytes(self, keys: Iterable[Key]) -> int:
        """Max memory that the sessions of these parts take together."""
        return sum(COPIES * self._make(key).nbytes for key in keys)

    def run(self, key: Key, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs of a part by name. `inputs` may hold more than it needs."""
        made = self._get(key)
        # Not ascontiguousarray, which makes a vector of a scalar.
        feed = {name: np.asarray(inputs[name], order="C") for name in made.inputs}
        return dict(zip(made.outputs, made.session.run(made.outputs, feed), strict=True))

    def _get(self, key: Key) -> _Made:
        made = self._known(key)
        if made is not None:
            return made
        with self._lock:
            making = self._makers.setdefault(key, threading.Lock())
        with making:  # one thread makes it, and sessions of other parts run meanwhile
            made = self._known(key)
            if made is None:
                made = self._open(self._make(key))
                with self._lock:
                    self._made[key] = made
                    self._evict()
            return made

    def _known(self, key: Key) -> _Made | None:
        with self._lock:
            made = self._made.get(key)
            if made is not None:
                self._made.move_to_end(key)
            return made

    def _evict(self) -> None:
        """Drop sessions, the longest unused first. A thread that runs one keeps it until then."""
        total = sum(made.nbytes for made in self._made.values())
        while total > self._limit and len(self._made) > 1:
            _, dropped = self._made.popitem(last=False)
            total -= dropped.nbytes
            if self._warns:
                self._warns = False
                log.warning(
                    "sessions of ONNX Runtime need more than sessionMebibytes %d: some are made "
                    "again for a frame, and its time contains that",
                    self._limit // 2**20,
                )

    def _open(self, part: Part) -> _Made:
        options = ort.SessionOptions()
        options.use_per_session_threads = False
        # On shared cores a thread that waits for work must not keep one busy.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3  # errors; warnings are about weights that it could fold
        values = [self._value(name, array) for name, array in part.weights.items()]
        options.add_external_initializers(list(part.weights), values)
        session = ort.InferenceSession(part.model, options, providers=["CPUExecutionProvider"])
        return _Made(
            session=session,
            nbytes=COPIES * part.nbytes,
            inputs=frozenset(one.name for one in session.get_inputs()),
            outputs=tuple(one.name for one in session.get_outputs()),
            weights=tuple(values),
        )

    def _value(self, name: str, array: NDArray[Any]) -> Any:
        """A weight for all sessions that use it, in the memory of `array`."""
        with self._lock:
            if name not in self._shared:
                self._shared[name] = ort.OrtValue.ortvalue_from_numpy(array)
            return self._shared[name]
