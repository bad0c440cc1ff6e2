"""Makes the records of samples from the result of a frame."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from splittracr.edge.result import Result
from splittracr.experiment.types import Record
from splittracr.planning.decision import FirstRun, Outcome
from splittracr.planning.schedule import Step

Audited = Literal["agrees", "disagrees", "failed"]
"""The outcome of an audit."""


@dataclass(frozen=True, slots=True)
class Cascaded:
    """The answer of a cascade to a frame.

    `network` answered. `sureness` (millionths) is that of the small model or the exits, None if
    they did not run. `audit` is the outcome of an audit, None without one. Mode Adaptive learns
    from `run`. `threshold` and `judged` are those of `planning.recalibration.Seen`.
    """

    network: Literal["small", "exit", "large"]
    sureness: int | None = None
    audit: Audited | None = None
    run: FirstRun | None = None
    threshold: int | None = None
    judged: tuple[tuple[int, bool], ...] | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """A step of the study and the result of its frame."""

    step: Step
    result: Result
    cascaded: Cascaded | None = None

    def outcome(self) -> Outcome:
        """The outcome that a policy learns from."""
        made = self.result.outcome()
        return made if self.cascaded is None else replace(made, first=self.cascaded.run)


def records(
    finished: Finished, uid: str, edge: str, names: Sequence[str], *, emulated: bool
) -> list[Record]:
    """One record a sample; `names` are those of the samples, by position in the batch."""
    step, result, cascaded = finished.step, finished.result, finished.cascaded
    first = step.frame * result.size
    made = []
    for i, name in enumerate(names):
        error, prediction = result.failures.get(i), result.predictions.get(i)
        made.append(
            Record(
                uid=uid,
                edge=edge,
                trial=step.trial.number,
                repeat=step.trial.repeat,
                sample=first + i,
                name=name,
                cut=result.cut.name,
                cut_index=result.cut.index,
                outcome="failed" if error else "ok",
                error=error,
                finished_on=result.finished_on,
                fallback=result.fallback,
                codec=str(result.decision.codec),
                epoch=result.decision.epoch,
                batch=result.server_batch,
                resent=result.resent,
                predicted_ms=result.decision.predicted_ms,
                reason=result.decision.reason,
                network=cascaded.network if cascaded else None,
                sureness=cascaded.sureness if cascaded else None,
                threshold=cascaded.threshold if cascaded else None,
                audit=cascaded.audit if cascaded else None,
                judged=cascaded.judged if cascaded else None,
                emulated=emulated,
                started_at=result.started_at,
                bytes_up=result.bytes_up,
                bytes_down=result.bytes_down,
                total_ms=result.total_ms,
                stages=dict(result.stages),
                prediction=prediction.described if prediction else None,
                label=prediction.truth.label if prediction else None,
                boxes=prediction.truth.boxes if prediction else None,
                pixels=prediction.pixels if prediction else None,
                top1=prediction.top1 if prediction else None,
                top5=prediction.top5 if prediction else None,
                output_digest=result.digest,
            )
        )
    return made
