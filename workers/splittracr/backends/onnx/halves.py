"""Stretches of a network between two cuts, computed by ONNX Runtime."""

from collections.abc import Sequence
from typing import Any

import torch

from splittracr.backends.onnx.export import Exported
from splittracr.backends.onnx.graph import Part
from splittracr.backends.onnx.sessions import COPIES, Key, Sessions


class Halves:
    """Runs the operations between two cuts of an exported network. Any thread may call it.

    `exported` is that network. The sessions take at most `limit` bytes; with
    `warns` the first one that is dropped for others is logged.
    """

    def __init__(self, exported: Exported, limit: int = 2**30, *, warns: bool = True) -> None:
        self.exported = exported
        self._sessions = Sessions(self._part, limit, warns=warns)

    @property
    def last(self) -> int:
        """The last cut."""
        return len(self.exported.live) - 1

    @property
    def sessions(self) -> int:
        """How many sessions there are now."""
        return len(self._sessions)

    @property
    def whole(self) -> Part:
        """The uncut network."""
        return self._part((0, self.last))

    @property
    def whole_bytes(self) -> int:
        """Max memory that the session of the uncut network takes."""
        return COPIES * self.whole.nbytes

    def on_trial(self) -> "Halves":
        """The same to try every cut once, without sessions of all cuts in memory: it keeps those of
        about one head and one tail.
        """
        return Halves(self.exported, 2 * self.whole_bytes, warns=False)

    def ready(self, start: int, stop: int) -> bool:
        """Whether `run` between these cuts needs no session that has still to be made."""
        return self._is_renaming(start, stop) or self._sessions.ready((start, stop))

    def make_ready(self, start: int, stop: int) -> None:
        """Make the session that `run` between these cuts needs."""
        if not self.ready(start, stop):
            self._sessions.make_ready((start, stop))

    def session_bytes(self, keys: Sequence[Key]) -> int:
        """Max memory of the sessions that `run` needs between all these pairs of cuts."""
        return self._sessions.nbytes(key for key in keys if not self._is_renaming(*key))

    def run(self, start: int, stop: int, values: Sequence[Any]) -> list[Any]:
        """The live values at cut `stop` from those at cut `start`."""
        given = self.exported.live[start].named(values)
        wanted = self.exported.live[stop]
        if self._is_renaming(start, stop):
            return wanted.filled(given)
        arrays = {name: tensor.detach().numpy() for name, tensor in given.items()}
        made = self._sessions.run((start, stop), arrays)
        return wanted.filled({**given, **{k: torch.from_numpy(v) for k, v in made.items()}})

    def _is_renaming(self, start: int, stop: int) -> bool:
        """Whether nothing is computed between these cuts."""
        return self.exported.live[stop].tensors.keys() <= self.exported.live[start].tensors.keys()

    def _part(self, key: Key) -> Part:
        first, last = (self.exported.live[k].tensors for k in key)
        outputs = [value for name, value in last.items() if name not in first]
        return self.exported.graph.part(list(first.values()), outputs)
