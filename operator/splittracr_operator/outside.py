"""Edges outside of the cluster: who has joined, and what each has reported last.

The operator cannot connect to them. What has to survive its restart is in the study's folder of the
results store: the passes that were used, and reports of edges that have ended.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.explain import parse_json
from splittracr.experiment.joining import Passes, Report
from splittracr.experiment.report import Phase
from splittracr_operator.live import Answer
from splittracr_operator.store import write_durably

FRESH_SECONDS = 10.0
"""Seconds for which a report counts as an answer; an edge sends one every 2 s."""

_PASSES, _REPORT = "joined.json", ".report.json"


@dataclass(frozen=True)
class Heard:
    """The last report of an edge; `at` is its Unix time."""

    sent: Report
    at: float

    @property
    def ended(self) -> bool:
        """Whether the edge's process has ended: there will be no other report of it."""
        return self.sent.report.phase in (Phase.FINISHED, Phase.FAILED)

    def answer(self, generation: int) -> Answer | None:
        """The edge's answer to the settings of this generation; None if there is none yet."""
        if self.sent.answered != generation or self.sent.report.phase is Phase.STARTING:
            return None
        return Answer(self.sent.outcome, self.sent.message)


class Outside:
    """The edges outside of the cluster, of all studies. `folder` is that of the results store."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        self._passes: dict[str, Passes] = {}
        self._heard: dict[str, dict[str, Heard]] = {}

    def passes(self, uid: str) -> Passes:
        """The passes that were used. Raises OSError, and InvalidInput for a damaged file."""
        if uid not in self._passes:
            file = self._folder / uid / _PASSES
            found = parse_json(Passes, file.read_bytes(), str(file)) if file.exists() else Passes()
            self._passes[uid] = found
        return self._passes[uid]

    def keep_passes(self, uid: str, passes: Passes) -> None:
        """Store the passes that were used. Raises OSError."""
        write_durably(self._folder / uid / _PASSES, passes.model_dump_json().encode())
        self._passes[uid] = passes

    def hear(self, uid: str, edge: str, sent: Report) -> None:
        """Note a report. Raises OSError if that of an edge that has ended cannot be stored."""
        heard, known = Heard(sent, self._clock()), self._of(uid)
        file = self._folder / uid / f"{edge}{_REPORT}"
        if heard.ended:
            write_durably(file, sent.model_dump_json().encode())
        elif edge in known and known[edge].ended:  # it was started again
            file.unlink(missing_ok=True)
        known[edge] = heard

    def heard(self, uid: str) -> Mapping[str, Heard]:
        """The last reports of edges that report now or have ended, by the edge's name."""
        since = self._clock() - FRESH_SECONDS
        return {e: one for e, one in self._of(uid).items() if one.ended or one.at >= since}

    def forget(self, uid: str) -> None:
        """Forget a deleted study; its folder stays for the store to remove."""
        self._passes.pop(uid, None)
        self._heard.pop(uid, None)

    def _of(self, uid: str) -> dict[str, Heard]:
        """The last reports of a study; after a start, those in its folder."""
        if uid not in self._heard:
            self._heard[uid] = {}
            for file in (self._folder / uid).glob(f"*{_REPORT}"):
                try:
                    sent = parse_json(Report, file.read_bytes(), str(file))
                except InvalidInput:  # of another version
                    continue
                self._heard[uid][file.name.removesuffix(_REPORT)] = Heard(sent, 0.0)
        return self._heard[uid]
