"""A plan: the best candidate, the reason, and the bandwidths at which others are best."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from splittracr.experiment.errors import InvalidInput
from splittracr.planning.cascade import Cascade
from splittracr.planning.cost import (
    EDGE_ONLY,
    LATENCY,
    UNLIMITED,
    Z95,
    Array,
    Candidates,
    Limits,
    Objective,
    lowest,
)
from splittracr.planning.estimate import Beliefs

_UNKNOWN = "accuracy was not measured"
_TOO_LARGE = "more memory than the edge has"
_LITTLE = "keeps too little accuracy"
_NOT_AFTER = "no allowed cut is input or after the last exit"
_CLOSEST = 3  # candidates that an error names


@dataclass(frozen=True)
class Row:
    """One candidate. `excluded` is the reason why it may not win; `millijoules` are modelled.

    `tail_ms` is the latency at the plan's percentile.
    """

    title: str
    cut: int
    name: str
    codec: str
    bytes_up: int
    edge_ms: float
    link_ms: float
    server_ms: float
    latency_ms: float
    tail_ms: float
    frames_per_second: float
    memory_bytes: int | None
    agreement: float | None
    accuracy: float | None
    millijoules: float | None
    cost: float
    excluded: str | None


@dataclass(frozen=True)
class Stretch:
    """Uplink rates, in bits per second, over which one candidate has the lowest median latency."""

    begins: float
    ends: float
    title: str


@dataclass(frozen=True)
class Plan:
    """The result: all candidates, the position of the best one, and the reason in words.

    If the limits leave the cascade alone, the position is that of the best candidate without them.
    There are then no stretches, unless candidates only miss the deadline. `percentile` is that of
    the rows' `tail_ms`. `cascade` is the calibrated cascade with the best candidate for its rest;
    its times and bytes are means.
    """

    rows: tuple[Row, ...]
    winner: int
    reason: str
    break_even: tuple[Stretch, ...]
    percentile: int
    cascade: Row | None = None

    @property
    def best(self) -> Row:
        """The best candidate, or the cascade if that is better."""
        won, cascade = self.rows[self.winner], self.cascade
        if cascade is None or cascade.excluded is not None:
            return won
        return won if won.excluded is None and won.cost <= cascade.cost else cascade


def plan(
    candidates: Candidates,
    beliefs: Beliefs,
    objective: Objective = LATENCY,
    limits: Limits = UNLIMITED,
    cascade: Cascade | None = None,
) -> Plan:
    """Find the best candidate within `limits` by enumeration, and the best rest of a `cascade`.

    Raises InvalidInput if the limits exclude all candidates and the cascade.
    """
    excluded = exclusions(candidates, beliefs, limits, objective.z)
    allowed = np.array([reason is None for reason in excluded])
    row = None
    if cascade is not None:
        row = _cascade_row(cascade, candidates, beliefs, objective, limits)
    if not allowed.any() and (row is None or row.excluded is not None):
        reasons = sorted({reason for reason in excluded if reason})
        found = "; ".join(reasons)
        in_time = [reason is None for reason in static_exclusions(candidates, limits)]
        if any(in_time):
            fastest = candidates.latency_ms(beliefs, objective.z)[in_time].min()
            found += f": the fastest takes {fastest:,.1f} ms"
        inaccurate = np.array([reason in (_LITTLE, _UNKNOWN) for reason in excluded])
        if limits.accuracy is not None and inaccurate.any():
            found += f": {closest(candidates.only(inaccurate), limits.accuracy)}"
        raise InvalidInput("limits", found, "limits that leave a candidate")
    costs = objective.costs(candidates, beliefs)
    winner = int(np.where(allowed | ~allowed.any(), costs, np.inf).argmin())
    z = objective.z or Z95
    rows = _rows(candidates, beliefs, objective, z, costs, excluded)
    # The deadline excludes no candidate here: on another link it may be met.
    usable = [reason is None for reason in static_exclusions(candidates, limits)]
    stretches = break_even(candidates.only(np.array(usable)), beliefs) if any(usable) else ()
    reason = _reason(rows, winner, objective, stretches)
    made = Plan(rows, winner, reason, stretches, round(100 * NormalDist().cdf(z)))
    if cascade is None or row is None:
        return made
    made = replace(made, cascade=row)
    return replace(made, reason=_cascaded(cascade, row, rows[winner])) if made.best is row else made


def _cascade_row(
    cascade: Cascade,
    candidates: Candidates,
    beliefs: Beliefs,
    objective: Objective,
    limits: Limits,
) -> Row:
    """The cascade with the best candidate for its rest."""
    z = objective.z or Z95
    costs = cascade.costs(objective, candidates, beliefs)
    kept = cascade.kept(candidates.accuracy)
    late = cascade.latency_ms(candidates, beliefs, objective.z)
    usable, excluded = _rests(cascade, candidates, kept, late, limits)
    # Up to the share of sure samples a percentile is the same for all candidates.
    mean = cascade.latency_ms(candidates, beliefs)
    i = lowest(np.where(usable, costs, np.inf), mean)
    energy = cascade.millijoules(candidates, beliefs, objective)
    own_ms, onward = cascade.own_ms * beliefs.edge_factor, cascade.onward(candidates)
    edge, link, server = (
        float(cascade.mean(figure, own)[i])
        for figure, own in (
            (onward.before_ms(beliefs), own_ms),
            (onward.link_ms(beliefs), 0.0),
            (onward.after_ms(beliefs), 0.0),
        )
    )
    first = cascade.small if cascade.exits else f"cascade of {cascade.small}"
    return Row(
        title=f"{first}, then {candidates.title(i)}",
        cut=int(candidates.cut[i]),
        name=f"{cascade.small}, then {candidates.names[i]}",
        codec=candidates.codecs[i],
        bytes_up=round(float(cascade.mean(candidates.bytes_up)[i])),
        edge_ms=edge,
        link_ms=link,
        server_ms=server,
        latency_ms=edge + link + server,
        tail_ms=float(cascade.latency_ms(candidates, beliefs, z)[i]),
        frames_per_second=1e3 / max(float(cascade.interval_ms(candidates, beliefs)[i]), 1e-9),
        memory_bytes=_whole(cascade.memory_bytes(candidates)[i]),
        agreement=None,
        accuracy=_known(kept[i]),
        millijoules=None if energy is None else float(energy[i]),
        cost=float(costs[i]),
        excluded=excluded[i],
    )


def _rests(
    cascade: Cascade, candidates: Candidates, kept: Array, late: Array, limits: Limits
) -> tuple[NDArray[np.bool_], Sequence[str | None]]:
    """The candidates for the samples that go on, and why the cascade may not be used with each.

    `kept` and `late` are accuracy and latency of the cascade. If no candidate may be used, they are
    those that meet the most limits.
    """
    without = static_exclusions(candidates, replace(limits, accuracy=None))
    memory = cascade.memory_bytes(candidates)
    excluded = [
        reason or _memory_excluded(cascade, nbytes, limits) or _cascade_excluded(share, ms, limits)
        for reason, nbytes, share, ms in zip(without, memory, kept, late, strict=True)
    ]
    follows = cascade.follows(candidates)
    within = np.array([reason is None for reason in without])
    allowed = follows & np.array([reason is None for reason in excluded])
    preferred = next((each for each in (allowed, within & follows) if each.any()), follows)
    before = within.any() and not (within & follows).any()
    return preferred, [_NOT_AFTER] * len(candidates) if before else excluded


def _memory_excluded(cascade: Cascade, memory_bytes: float, limits: Limits) -> str | None:
    if limits.memory_bytes is None:
        return None
    if np.isnan(memory_bytes):
        return f"memory of the {'exits' if cascade.exits else 'small model'} is not known"
    return _TOO_LARGE if memory_bytes > limits.memory_bytes else None


def _cascade_excluded(kept: float, latency_ms: float, limits: Limits) -> str | None:
    if limits.accuracy is not None and np.isnan(kept):
        return _UNKNOWN
    if limits.accuracy is not None and kept < limits.accuracy:
        return _LITTLE
    late = limits.deadline_ms is not None and latency_ms > limits.deadline_ms
    return "later than the deadline" if late else None


def _cascaded(cascade: Cascade, row: Row, without: Row) -> str:
    """The reason for a cascade."""
    rest = f"go on as {row.title.partition(', then ')[2]}"
    if row.codec == EDGE_ONLY:
        rest = "stay on the edge"
    kind, shares = "Cascade", ""
    if cascade.exits:
        each = (f"{one.name} {100 * one.share * cascade.sure:.0f} %" for one in cascade.exits)
        kind, shares = "Exit early", f" ({', '.join(each)})"
    return (
        f"{kind}: {cascade.answers} of the samples on the edge{shares}, the others {rest}. "
        f"A frame takes {row.latency_ms:,.1f} ms on average, "
        f"against {without.latency_ms:,.1f} ms without it ({without.title})."
    )


def exclusions(
    candidates: Candidates, beliefs: Beliefs, limits: Limits, z: float = 0.0
) -> tuple[str | None, ...]:
    """Return why each candidate may not be used; None if it may.

    The deadline applies to the latency at the normal quantile `z`.
    """
    latency, late = candidates.latency_ms(beliefs, z), limits.deadline_ms
    return tuple(
        reason or ("later than the deadline" if late is not None and ms > late else None)
        for reason, ms in zip(static_exclusions(candidates, limits), latency, strict=True)
    )


def static_exclusions(candidates: Candidates, limits: Limits) -> tuple[str | None, ...]:
    """Return the exclusions that do not depend on the link."""
    return tuple(_excluded(candidates, i, limits) for i in range(len(candidates)))


def _excluded(c: Candidates, i: int, limits: Limits) -> str | None:
    if limits.cuts and int(c.cut[i]) not in limits.cuts:
        return "not an allowed cut"
    if limits.codecs and c.codecs[i] not in (*limits.codecs, EDGE_ONLY):
        return "not an allowed codec"
    if limits.memory_bytes is not None and c.memory_bytes[i] > limits.memory_bytes:
        return _TOO_LARGE
    if limits.agreement is not None and np.isnan(c.agreement[i]):
        return "agreement was not measured"
    if limits.agreement is not None and c.agreement[i] < limits.agreement:
        return "agreement below the budget"
    if limits.accuracy is not None and np.isnan(c.accuracy[i]):
        return _UNKNOWN
    if limits.accuracy is not None and c.accuracy[i] < limits.accuracy:
        return _LITTLE
    return None


def closest(candidates: Candidates, accuracy: float) -> str:
    """The candidates that keep too little accuracy, those that keep the most first."""
    short = [i for i, kept in enumerate(candidates.accuracy) if kept < accuracy]
    best = sorted(short, key=lambda i: -float(candidates.accuracy[i]))[:_CLOSEST]
    said = [f"{candidates.title(i)} keeps {100 * candidates.accuracy[i]:.4g} %" for i in best]
    if len(short) > len(best):
        said.append(f"{len(short) - len(best)} more keep less")
    unknown = int(np.isnan(candidates.accuracy).sum())
    if unknown:
        said.append(f"of {unknown} nothing is known")
    return ", ".join(said)


def check_accuracy(candidates: Candidates, limits: Limits, field: str) -> None:
    """Raise InvalidInput, with the name `field`, if nothing is sent because of the accuracy.

    Without that limit a candidate that sends something would be left.
    """
    if limits.accuracy is None:
        return
    others = static_exclusions(candidates, replace(limits, accuracy=None))
    sends = np.array([reason is None for reason in others]) & (candidates.bytes_up > 0)
    if not sends.any():
        return
    sending = candidates.only(sends)
    if all(static_exclusions(sending, limits)):
        percent = f"{100 * limits.accuracy:g}"
        expected = "a share that a candidate with a server keeps: "
        raise InvalidInput(field, percent, expected + closest(sending, limits.accuracy))


def break_even(
    candidates: Candidates,
    beliefs: Beliefs,
    lowest: float = 1e3,
    highest: float = 1e11,
) -> tuple[Stretch, ...]:
    """Return the candidate with the lowest median latency for every uplink rate, in stretches.

    Latency is linear in the time a byte takes, so the result is the lower envelope of lines. It is
    walked from the fast end and exact; no rates are tried.
    """
    flat = candidates.latency_ms(replace(beliefs, up=replace(beliefs.up, ms_per_byte=0.0)))
    sizes = candidates.bytes_up
    slope, end = 8e3 / highest, 8e3 / lowest  # ms a byte
    current = int((flat + slope * sizes).argmin())
    found: list[Stretch] = []
    while True:
        crossing, successor = _next_crossing(flat, sizes, current, slope)
        title = candidates.title(current)
        if successor is None or crossing >= end:
            found.append(Stretch(lowest, 8e3 / slope, title))
            return tuple(reversed(found))
        found.append(Stretch(8e3 / crossing, 8e3 / slope, title))
        current, slope = successor, crossing


def _next_crossing(
    flat: Array, sizes: Array, current: int, slope: float
) -> tuple[float, int | None]:
    """Return the first slope from `slope` on at which a line falls below the current one.

    Also returns that line, None if there is none.
    """
    smaller = np.flatnonzero(sizes < sizes[current])
    if not len(smaller):
        return np.inf, None
    at = (flat[smaller] - flat[current]) / (sizes[current] - sizes[smaller])
    at = np.maximum(at, slope)
    first = at.min()
    # Of several lines that cross there, the one with the smallest size stays below.
    tied = smaller[at <= first * (1 + 1e-12)]
    return float(first), int(tied[sizes[tied].argmin()])


def _rows(
    c: Candidates,
    beliefs: Beliefs,
    objective: Objective,
    z: float,
    costs: Array,
    excluded: Sequence[str | None],
) -> tuple[Row, ...]:
    power = objective.power
    joules = None if power is None else power.millijoules(c, beliefs)
    before, link, after = c.before_ms(beliefs), c.link_ms(beliefs), c.after_ms(beliefs)
    tail, interval = c.latency_ms(beliefs, z), c.interval_ms(beliefs)
    return tuple(
        Row(
            title=c.title(i),
            cut=int(c.cut[i]),
            name=c.names[i],
            codec=c.codecs[i],
            bytes_up=round(float(c.bytes_up[i])),
            edge_ms=float(before[i]),
            link_ms=float(link[i]),
            server_ms=float(after[i]),
            latency_ms=float(before[i] + link[i] + after[i]),
            tail_ms=float(tail[i]),
            frames_per_second=1e3 / max(float(interval[i]), 1e-9),
            memory_bytes=_whole(c.memory_bytes[i]),
            agreement=_known(c.agreement[i]),
            accuracy=_known(c.accuracy[i]),
            millijoules=None if joules is None else float(joules[i]),
            cost=float(costs[i]),
            excluded=excluded[i],
        )
        for i in range(len(c))
    )


def _known(share: float) -> float | None:
    return None if np.isnan(share) else float(share)


def _whole(figure: float) -> int | None:
    return None if np.isnan(figure) else round(float(figure))


def _reason(
    rows: Sequence[Row], winner: int, objective: Objective, stretches: Sequence[Stretch]
) -> str:
    """Describe the result in a few sentences."""
    won = rows[winner]
    unknown = (
        ""
        if won.accuracy is not None
        else (f" What {won.codec} does to the accuracy was not measured.")
    )
    rivals = _rivals(rows, winner)
    against = " and ".join(f"{row.latency_ms:,.1f} ms {what}" for what, row in rivals.items())
    compared = f", against {against}" if against else ""
    if not objective.latency_alone:
        compared += "; the objective weighs other figures, too"
    elif objective.z:
        compared += ", all in the median; the objective is a higher percentile"
    if winner == len(rows) - 1:
        pays = _pays_from(stretches) if objective.latency_alone and not objective.z else ""
        return f"Do not split: the edge alone takes {won.latency_ms:,.1f} ms{compared}.{pays}"
    parts = (
        f"{won.edge_ms:,.1f} ms on the edge, {won.link_ms:,.1f} on the link and "
        f"{won.server_ms:,.1f} on the server"
    )
    if won.cut == 0:
        start = f"Do not split: send the whole input as {won.codec}"
    else:
        start = f"Cut at {won.name} and send {won.codec}"
    return f"{start}. A frame takes {won.latency_ms:,.1f} ms ({parts}){compared}.{unknown}"


def _rivals(rows: Sequence[Row], winner: int) -> dict[str, Row]:
    """Return the best allowed candidate of each other kind."""
    kinds = {
        "for the best split": [r for r in rows[:-1] if r.cut > 0],
        "for full offload": [r for r in rows[:-1] if r.cut == 0],
        "on the edge alone": [rows[-1]],
    }
    found = {}
    for what, kind in kinds.items():
        usable = [row for row in kind if row.excluded is None]
        if usable and rows[winner] not in kind:
            found[what] = min(usable, key=lambda row: row.latency_ms)
    return found


def _pays_from(stretches: Sequence[Stretch]) -> str:
    """Return the rate above which sending is faster; empty if there is none."""
    later = stretches[1:] if len(stretches) > 1 else ()
    if not later:
        return ""
    return f" Sending pays above {later[0].begins / 1e6:,.3g} Mbit/s ({later[0].title})."
