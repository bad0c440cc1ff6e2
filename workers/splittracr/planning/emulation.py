"""Convert the manifest's emulated link to the conditions of each direction."""

from collections.abc import Sequence
from enum import StrEnum

from splittracr.experiment.spec import LinkSpec, PhaseSpec
from splittracr.planning.emulated_link import Conditions, Span, constant, scaled, with_round_trip

AS_IT_IS = "as it is"
"""The text for a link that is not emulated."""

_EMULATED = "emulated: "

_KILOBIT = 1000
_MILLISECOND = 10**6  # nanoseconds
_SECOND = 10**9
_PHASES_SHOWN = 4


class Direction(StrEnum):
    """A direction of the link. The sender of each direction emulates it."""

    UP = "up"
    DOWN = "down"


def conditions(link: LinkSpec, direction: Direction, trace: Sequence[Span] = ()) -> Conditions:
    """Return the conditions of `direction`. The caller has read `trace`, if the link names one."""
    spans = _spans(link, direction, trace)
    up = direction is Direction.UP
    spans = scaled(spans, link.uplink_percent if up else link.downlink_percent)
    if link.round_trip_milliseconds is not None:
        spans = with_round_trip(spans, link.round_trip_milliseconds * _MILLISECOND)
    return Conditions(
        spans=tuple(spans),
        offset_ns=link.offset_seconds * _SECOND,
        jitter_ns=link.jitter_milliseconds * _MILLISECOND,
        loss_per_million=link.loss_per_million,
    )


def seed(link: LinkSpec, direction: Direction, edge: str) -> str:
    """Return the seed of the link's random numbers, different for each direction and edge."""
    return f"{link.seed} {direction} {edge}"


def _spans(link: LinkSpec, direction: Direction, trace: Sequence[Span]) -> Sequence[Span]:
    if link.trace is not None:
        return trace
    if link.phases:
        return [_span(phase, direction) for phase in link.phases]
    up = direction is Direction.UP
    rate = link.uplink_kilobits_per_second if up else link.downlink_kilobits_per_second
    assert rate is not None, "the manifest has either both rates, or a trace, or phases"
    return constant(rate * _KILOBIT, 0)


def _span(phase: PhaseSpec, direction: Direction) -> Span:
    up, down = phase.uplink_kilobits_per_second, phase.downlink_kilobits_per_second
    return Span(
        duration_ns=phase.duration_seconds * _SECOND,
        bits_per_second=(up if direction is Direction.UP else down) * _KILOBIT,
        round_trip_ns=phase.round_trip_milliseconds * _MILLISECOND,
    )


def in_words(link: LinkSpec | None) -> str:
    """Describe the link for reports: `emulated: 5 Mbit/s up, 20 Mbit/s down, 40 ms round trip`."""
    if link is None:
        return AS_IT_IS
    words = [_rates(link)]
    for share, direction in ((link.uplink_percent, "up"), (link.downlink_percent, "down")):
        if share != 100:
            words.append(f"{share} % of that rate {direction}")
    if link.round_trip_milliseconds is not None:
        words.append(f"{link.round_trip_milliseconds} ms round trip")
    if link.jitter_milliseconds:
        words.append(f"up to {link.jitter_milliseconds} ms jitter")
    if link.loss_per_million:
        words.append(f"{link.loss_per_million / 10_000:g} % of packets lost")
    return _EMULATED + ", ".join(words)


def emulated(slowdown_percent: int, link: str) -> str | None:
    """Describe what is emulated, None for nothing; `link` is in the words of `in_words`."""
    words = []
    if slowdown_percent > 100:
        words.append(f"edge slowed to {slowdown_percent} % of its own time")
    if link != AS_IT_IS:
        words.append(f"link of {link.replace(_EMULATED, '')}")
    return "; ".join(words) or None


def _rates(link: LinkSpec) -> str:
    if link.trace is not None:
        return f"trace {link.trace.rpartition('/')[2]}"
    if link.phases:
        shown = ", then ".join(_phase(phase) for phase in link.phases[:_PHASES_SHOWN])
        left = len(link.phases) - _PHASES_SHOWN
        return shown + (f", then {left} more" if left > 0 else "")
    return _both(link.uplink_kilobits_per_second or 0, link.downlink_kilobits_per_second or 0)


def _phase(phase: PhaseSpec) -> str:
    both = _both(phase.uplink_kilobits_per_second, phase.downlink_kilobits_per_second)
    delay = phase.round_trip_milliseconds
    return f"{both}{f' with {delay} ms round trip' if delay else ''} for {phase.duration_seconds} s"


def _both(up: int, down: int) -> str:
    return f"{_rate(up)} up, {_rate(down)} down"


def _rate(kilobits: int) -> str:
    return f"{kilobits} kbit/s" if kilobits < 1000 else f"{kilobits / 1000:g} Mbit/s"
