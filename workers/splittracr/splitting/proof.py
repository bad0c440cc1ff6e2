"""The result of a proof at start-up, as data. Needs no torch."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from splittracr.experiment.errors import CutRefused, InvalidInput, similar
from splittracr.experiment.types import Cut, Operation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Proof:
    """Every cut as data, the refused ones with the reason, and the operations' times in ms.

    `uncounted` names kernels whose operations cannot be counted; the work of cuts is then a share
    of the time. `operations` are those between the cuts. `former_names` are those of cuts in the
    version before, if they have changed. `classes_cached_at` is when the classes of the cuts were
    measured, if they are from a cache.
    """

    cuts: tuple[Cut, ...]
    refused: dict[str, str]
    op_ms: tuple[float, ...]
    uncounted: tuple[str, ...] = ()
    operations: tuple[Operation, ...] = ()
    former_names: Mapping[str, int] = field(default_factory=dict)
    classes_cached_at: datetime | None = None

    @property
    def last(self) -> int:
        """The index of the cut `output`: everything on the edge."""
        return len(self.cuts) - 1

    def offered(self) -> dict[int, Cut]:
        """The proven cuts by index."""
        return {cut.index: cut for cut in self.cuts if cut.name not in self.refused}

    def cut(self, reference: int | str, field: str = "spec.partition.cut") -> Cut:
        """The cut by name or index.

        Raises InvalidInput for an unknown cut, CutRefused for a refused one.
        """
        cut = self.cuts[self._index(reference, field)]
        if cut.name in self.refused:
            raise CutRefused(f"cut {cut.name} is refused: {self.refused[cut.name]}")
        return cut

    def _index(self, reference: int | str, field: str) -> int:
        if isinstance(reference, int):
            if 0 <= reference <= self.last:
                return reference
            raise InvalidInput(field, reference, f"a cut of this model, 0 to {self.last}")
        names = [cut.name for cut in self.cuts]
        if reference in names:
            return names.index(reference)
        if reference in self.former_names:
            index = self.former_names[reference]
            log.warning(
                "%s: the cut %s is called %s now; its old name is accepted until the next version",
                field, reference, names[index],
            )  # fmt: skip
            return index
        near = ", ".join(similar(reference, names)) or "a name that `splittracr cuts` lists"
        expected = f"a cut of this model, 0 to {self.last} or {near}"
        raise InvalidInput(field, reference, expected)
