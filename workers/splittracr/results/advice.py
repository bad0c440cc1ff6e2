"""The candidates of a study, measured or predicted, and the best one by each constraint.

A predicted figure never replaces a measured one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from splittracr.experiment.calibration import Calibration
from splittracr.experiment.types import Record
from splittracr.results.environment import Environment
from splittracr.results.rate import Rate
from splittracr.results.summary import Summary
from splittracr.results.ways import Figure, Option, Way, Ways
from splittracr.results.ways_predicted import Predictions, link_of

SHARE = 0.99
"""Of the accuracy, if the manifest asks for none."""


@dataclass(frozen=True)
class Winner:
    """The best option by a constraint; None if no option meets it."""

    constraint: str
    option: Option | None


@dataclass(frozen=True)
class Advice:
    """All options, the best by constraint, and how far predictions are from measured latencies.

    `share` is the accuracy asked for, `errors` are predicted over measured latency, less one, of
    the options that have both. `link` says where the link of predictions is from; None without.
    """

    options: tuple[Option, ...]
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
    ways = Ways(environment, figures, records, rate)
    predictions = Predictions(ways)
    made = dict(ways.measured())
    beliefs, link = link_of(environment, figures)
    errors = []
    for key, option in predictions.predicted(beliefs):
        known = made.get(key)
        if known is None:
            made[key] = option
        elif known.latency_ms is not None and option.latency_ms is not None:
            errors.append(option.latency_ms.value / known.latency_ms.value - 1)
    options = list(made.values())
    cascade = ways.ran()
    if calibration is not None and not ways.is_cascade:
        cascade = predictions.calibrated(calibration, made)
    if cascade is not None:
        options.append(cascade)
    adaptive = environment.manifest.spec.partition.adaptive
    asked = None if adaptive is None else adaptive.accuracy_percent
    share = SHARE if asked is None else asked / 100
    predicted = any(o.latency_ms and not o.latency_ms.measured for o in options)
    return Advice(
        tuple(options), share, winners(options, share), tuple(errors), link if predicted else None
    )


def winners(options: Sequence[Option], share: float) -> tuple[Winner, ...]:
    """The best option by each constraint."""
    kept = [one for one in options if one.keeps(share)]
    sends = [one for one in kept if one.way is not Way.EDGE]
    percent = f"{share * 100:g} %"
    found = [
        Winner("the lowest latency", _lowest(options, lambda one: one.latency_ms)),
        Winner(
            f"the lowest latency that keeps {percent} of the accuracy",
            _lowest(kept, lambda one: one.latency_ms),
        ),
        Winner(
            f"the fewest bytes that keep {percent} of it, with a server",
            _lowest(sends, lambda one: one.bytes),
        ),
    ]
    if any(one.joules for one in options):
        least = _lowest(kept, lambda one: one.joules)
        found.append(Winner(f"the least energy on the edge that keeps {percent} of it", least))
    return tuple(found)


def _lowest(options: Sequence[Option], of: Callable[[Option], Figure | None]) -> Option | None:
    known = [(figure.value, i) for i, one in enumerate(options) if (figure := of(one)) is not None]
    return options[min(known)[1]] if known else None
