"""Running figures of a study, from its records, for the report of the edge.

They are the figures of the results (`results/tables.py`) without a table: a latency counts once a
frame, and only if the server answered or nothing was asked of it.
"""

import random
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from splittracr.experiment.contracts import EXIT, Role, answered
from splittracr.experiment.report import CutReport, Decisions, Phase, WorkerReport
from splittracr.experiment.types import Record
from splittracr.planning.decision import Decision

_KEPT = 2_048
"""Latencies kept a cut. Up to so many frames quantiles are exact; memory is bounded beyond."""


_SHARE = 0.2
"""Of the newest frame in the measured latency of the decision in use."""

_REASONS = 10


@dataclass
class Latencies:
    """Latencies of one cut: all of them, then a uniform sample (Vitter's algorithm R)."""

    index: int
    values: "array[float]" = field(default_factory=lambda: array("d"))
    seen: int = 0
    draw: random.Random = field(default_factory=lambda: random.Random(0))
    reported: CutReport | None = None  # the last report, until there is a new value

    def add(self, value: float) -> None:
        """Add the latency of one frame in milliseconds."""
        self.seen += 1
        self.reported = None
        if len(self.values) < _KEPT:
            self.values.append(value)
        elif (place := self.draw.randrange(self.seen)) < _KEPT:
            self.values[place] = value

    def report(self, cut: str) -> CutReport:
        """Return the number of frames and their quantiles."""
        if self.reported is None:
            ordered = sorted(self.values)
            self.reported = CutReport(
                cut=cut,
                index=self.index,
                frames=self.seen,
                p50_ms=round(quantile(ordered, 0.50), 4),
                p95_ms=round(quantile(ordered, 0.95), 4),
            )
        return self.reported


@dataclass
class _Decided:
    """The last decision, whose epoch counts the switches, and how often each reason was given."""

    epoch: int = 0
    since: float | None = None
    by_reason: Counter[str] = field(default_factory=Counter)
    reason: str | None = None
    predicted: float | None = None
    best: float | None = None  # predicted latency of the best candidate
    measured: float | None = None

    def changed(self, decision: Decision, now: float) -> "_Decided":
        return _Decided(decision.epoch, now, self.by_reason)

    def learn(self, decision: Decision, total_ms: float) -> None:
        """The measured latency is a moving average, since the last change.

        A frame that was decided before that, and finished after it, adds its reason alone.
        """
        if decision.reason is not None:
            self.by_reason[decision.reason] += 1
        if decision.epoch < self.epoch:
            return
        self.reason, self.predicted = decision.reason, decision.predicted_ms
        predicted = decision.predicted_ms
        self.best = None if predicted is None else predicted - (decision.predicted_regret_ms or 0.0)
        old = self.measured
        self.measured = total_ms if old is None else old + _SHARE * (total_ms - old)

    def report(self) -> Decisions | None:
        """The report of decisions; None without any."""
        if self.predicted is None and not self.epoch:
            return None
        regret = None
        if self.measured is not None and self.best is not None:
            regret = max(0.0, self.measured - self.best)
        return Decisions(
            since=self.since,
            reason=self.reason,
            predicted_ms=self.predicted,
            measured_ms=self.measured,
            regret_ms=regret,
            switches=self.epoch,
            by_reason=dict(self.by_reason.most_common(_REASONS)),
        )


class Tally:
    """Counts records as they are made. `batch` is the number of samples in a frame."""

    def __init__(self, edge: str, batch: int, total: int) -> None:
        self._edge, self._batch, self._total = edge, batch, total
        self._cuts: dict[str, Latencies] = {}
        self._done = self._failed = self._unanswered = self._resumed = 0
        self._up = self._down = 0
        self._first: float | None = None
        self._cut: str | None = None
        self._first_error: str | None = None
        self._decisions = _Decided()

    def resume(self, records: Sequence[Record]) -> None:
        """Count what this edge recorded before it was started again."""
        for record in records:
            self.add(record)
        self._resumed = len(records)
        self._first = None  # the pace is that of this start

    def add(self, record: Record) -> None:
        """Count one record; times and bytes count once a frame, with its first sample."""
        if self._first is None:
            self._first = record.started_at + record.total_ms / 1e3
        self._done += 1
        self._cut, at_exit = record.cut, record.network == EXIT
        if record.outcome == "failed":
            self._failed += 1
            self._first_error = self._first_error or record.error
        elif not answered(record.finished_on, record.cut, at_exit):
            self._unanswered += 1
        if record.sample % self._batch:
            return
        self._up += record.bytes_up
        self._down += record.bytes_down
        if record.outcome == "ok" and answered(record.finished_on, record.cut, at_exit):
            self._cuts.setdefault(record.cut, Latencies(record.cut_index)).add(record.total_ms)

    @property
    def failure(self) -> str | None:
        """Why the study failed, if all samples recorded so far did; None otherwise."""
        if not self._failed or self._failed < self._done:
            return None
        what = "the only sample" if self._failed == 1 else f"all {self._failed} samples"
        also = "" if self._failed == 1 else "; the first"
        return f"{what} failed{also}: {self._first_error}"

    def decided(self, decision: Decision, total_ms: float, now: float) -> None:
        """Count the decision for a finished frame, and its latency."""
        if decision.epoch > self._decisions.epoch:
            self._decisions = self._decisions.changed(decision, now)
        self._decisions.learn(decision, total_ms)

    def report(self, phase: Phase, now: float) -> WorkerReport:
        """The figures so far; `now` is the Unix time in seconds."""
        cuts = sorted((c.report(name) for name, c in self._cuts.items()), key=lambda c: c.index)
        return WorkerReport(
            role=Role.EDGE,
            edge=self._edge,
            phase=phase,
            done=self._done,
            failed=self._failed,
            unanswered=self._unanswered,
            resumed=self._resumed,
            total=self._total,
            first_record_at=self._first,
            completion_at=self._completion(now),
            bytes_up=self._up,
            bytes_down=self._down,
            cut=self._cut,
            best=min(cuts, key=lambda c: c.p50_ms, default=None),
            latency=next((c for c in cuts if c.cut == self._cut), None),
            cuts=tuple(cuts),
            decisions=self._decisions.report(),
        )

    def _completion(self, now: float) -> float | None:
        fresh = self._done - self._resumed - 1  # the first one only starts the clock
        if self._first is None or fresh < 1:
            return None
        return now + (self._total - self._done) * max(0.0, now - self._first) / fresh


def quantile(ordered: Sequence[float], share: float) -> float:
    """Interpolated linearly between the two nearest of `ordered`, which is not empty."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
