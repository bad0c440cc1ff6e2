"""One frame on its way through the edge, and the records that it becomes."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from splittracr.data.contracts import Geometry, Reduced, Sample
from splittracr.edge.link import Answer
from splittracr.experiment.types import Cut, Place, Record
from splittracr.measure.stopwatch import Stopwatch
from splittracr.planning.choice import Choice, Fallback, Outcome
from splittracr.planning.schedule import Step
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.payload import Payload


@dataclass
class Frame:
    """Its samples, its stages so far, and how it ended."""

    step: Step
    cut: Cut
    choice: Choice
    due: float  # on time.perf_counter's scale
    due_unix: float
    watch: Stopwatch
    samples: list[Sample | None] = field(default_factory=list)  # None: could not be read
    errors: dict[int, str] = field(default_factory=dict)  # by position in the batch
    geometry: list[Geometry] = field(default_factory=list)
    batch: Any = None  # the network's input
    live: Payload | None = None  # the live tensors as they are, kept for the edge's own tail
    encoded: EncodedPayload | None = None
    reduced: list[Reduced] = field(default_factory=list)
    predictions: dict[int, dict[str, Any]] = field(default_factory=dict)  # fields of records
    digest: str | None = None
    answer: Answer | None = None  # the server's, where that came first
    fallback: Fallback | None = None
    late: Fallback | None = None  # why the edge began the tail beside the server, if it did
    finished_on: Place = Place.SERVER
    handed_over: bool = False
    total_ms: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether no sample is left to work on."""
        return len(self.errors) == len(self.samples) > 0

    def fail(self, error: Exception) -> None:
        """Every sample failed, for this reason where none was known."""
        reason = str(error) or type(error).__name__
        self.errors = dict.fromkeys(range(len(self.samples)), reason) | self.errors

    def close(self) -> None:
        """Stop the clock: what is left of the total is the network's, where one was used."""
        self.total_ms = (time.perf_counter() - self.due) * 1e3
        left = max(0.0, self.total_ms - sum(self.watch.stages.values()))
        self.watch.add("network" if self.handed_over else "other", left)
        self.batch = self.live = self.encoded = None

    def fork(self, watch: Stopwatch) -> "Frame":
        """The same frame at this point, for an attempt at the rest of it."""
        watch.stages |= self.watch.stages
        return replace(
            self, watch=watch, errors=dict(self.errors), predictions=dict(self.predictions)
        )

    @property
    def bytes_up(self) -> int:
        """Bytes to the server of a request that was answered."""
        return self.answer.sent if self.answer else 0

    @property
    def bytes_down(self) -> int:
        """Bytes of the answer."""
        return self.answer.size if self.answer else 0

    @property
    def source(self) -> str:
        """Where the result came from, as metrics call it."""
        if self.fallback is not None:
            return self.fallback
        return "edge" if self.answer is None else "server"

    def own_stages(self) -> Mapping[str, float]:
        """The stages that the edge measured, without the server's part in them."""
        if self.answer is None:
            return self.watch.stages
        theirs = self.answer.reply.stages
        own = {s: elapsed - theirs.get(s, 0.0) for s, elapsed in self.watch.stages.items()}
        return {s: elapsed for s, elapsed in own.items() if s not in theirs or elapsed > 0}

    def outcome(self) -> Outcome:
        """The frame as a policy sees it."""
        return Outcome(
            choice=self.choice,
            ok=not self.errors,
            total_ms=self.total_ms,
            stages=self.watch.stages,
            receiving_up_ms=self.answer.reply.receiving_ms if self.answer else 0.0,
        )

    def records(
        self, uid: str, edge: str, names: Sequence[str], first: int, slowed: bool
    ) -> list[Record]:
        """One record a sample; the first one has the number `first` in the workload."""
        return [
            self._record(i, {"uid": uid, "edge": edge, "name": name, "sample": first + i}, slowed)
            for i, name in enumerate(names)
        ]

    def _record(self, i: int, identity: Mapping[str, Any], slowed: bool) -> Record:
        error = self.errors.get(i)
        return Record(
            **identity,
            trial=self.step.trial.number,
            repeat=self.step.trial.repeat,
            cut=self.cut.name,
            cut_index=self.cut.index,
            outcome="failed" if error else "ok",
            error=error,
            finished_on=self.finished_on,
            fallback=self.fallback,
            codec=str(self.choice.codec),
            epoch=self.choice.epoch,
            batch=self.answer.reply.batch if self.answer else 1,
            predicted_ms=self.choice.predicted_ms,
            reason=self.choice.reason,
            emulated=slowed,
            started_at=self.due_unix,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            total_ms=self.total_ms,
            stages=self.watch.stages,
            output_digest=self.digest,
            **self.predictions.get(i, {}),
        )
