"""The candidates of a study, measured or predicted, and the best one by each constraint.

A predicted figure never replaces a measured one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from splittracr.experiment.calibration import Calibration
from splittracr.experiment.types import Record
from splittracr.results.candidates import Candidate, CandidateKind, Figure, Measurements
from splittracr.results.candidates_predicted import Predictions, link_of
from splittracr.results.environment import Environment
from splittracr.results.rate import Rate
from splittracr.results.summary import Summary

SHARE = 0.99
"""Of the accuracy, if the manifest asks for none."""


@dataclass(frozen=True)
class Winner:
    """The best candidate by a constraint; None if no candidate meets it."""

    constraint: str
    candidate: Candidate | None


@dataclass(frozen=True)
class Advice:
    """All candidates, the best by constraint, and how far predictions are from measured latencies.

    `share` is the accuracy asked for, `errors` are predicted over measured latency, less one, of
    the candidates that have both. `link` says where the link of predictions is from; None without.
    """

    candidates: tuple[Candidate, ...]
    share: float
    winners: tuple[Winner, ...]
    errors: tuple[float, ...]
    link: str | None


def advise(
    environment: Environment,
    figures: Summary,
    records: Sequence[Record],
    rate: Rate | None = None,
    calibration: Calibration | None = None,
) -> Advice:
    """Compare the candidates of a study. `rate` and `calibration` are of its model."""
    measurements = Measurements(environment, figures, records, rate)
    predictions = Predictions(measurements)
    made = dict(measurements.measured())
    beliefs, link = link_of(environment, figures)
    errors = []
    for key, candidate in predictions.predicted(beliefs):
        known = made.get(key)
        if known is None:
            made[key] = candidate
        elif known.latency_ms is not None and candidate.latency_ms is not None:
            errors.append(candidate.latency_ms.value / known.latency_ms.value - 1)
    candidates = list(made.values())
    cascade = measurements.ran()
    if calibration is not None and not measurements.is_cascade:
        cascade = predictions.calibrated(calibration, made)
    if cascade is not None:
        candidates.append(cascade)
    adaptive = environment.manifest.spec.partition.adaptive
    asked = None if adaptive is None else adaptive.accuracy_percent
    share = SHARE if asked is None else asked / 100
    predicted = any(one.latency_ms and not one.latency_ms.measured for one in candidates)
    return Advice(
        tuple(candidates),
        share,
        winners(candidates, share),
        tuple(errors),
        link if predicted else None,
    )


def winners(candidates: Sequence[Candidate], share: float) -> tuple[Winner, ...]:
    """The best candidate by each constraint."""
    kept = [one for one in candidates if one.keeps(share)]
    sends = [one for one in kept if one.kind is not CandidateKind.EDGE]
    percent = f"{share * 100:g} %"
    found = [
        Winner("the lowest latency", _lowest(candidates, lambda one: one.latency_ms)),
        Winner(
            f"the lowest latency that keeps {percent} of the accuracy",
            _lowest(kept, lambda one: one.latency_ms),
        ),
        Winner(
            f"the fewest bytes that keep {percent} of it, with a server",
            _lowest(sends, lambda one: one.bytes),
        ),
    ]
    if any(one.joules for one in candidates):
        least = _lowest(kept, lambda one: one.joules)
        found.append(Winner(f"the least energy on the edge that keeps {percent} of it", least))
    return tuple(found)


def _lowest(
    candidates: Sequence[Candidate], of: Callable[[Candidate], Figure | None]
) -> Candidate | None:
    known = [
        (figure.value, i) for i, one in enumerate(candidates) if (figure := of(one)) is not None
    ]
    return candidates[min(known)[1]] if known else None
