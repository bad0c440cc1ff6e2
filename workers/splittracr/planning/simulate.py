"""Simulates policies over recorded links, frame by frame in a closed loop.

Policies and estimators are those of the edge worker, the link is that of local runs. Only time is
simulated. A frame starts when the one before has its result. Heads and tails take the times of the
profiles. A hedge runs beside the encoder and stops when the reply arrives. A request on the link is
not cancelled, so later frames wait for it.

A policy learns from replies when they arrive. It never sees a rate.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import accumulate, repeat

import numpy as np
from numpy.typing import NDArray

from splittracr.planning.adapt import HANDSHAKE_BYTES
from splittracr.planning.audit import Audit
from splittracr.planning.cascade import Cascade
from splittracr.planning.cost import Array, Candidates
from splittracr.planning.decision import Decision, FirstRun
from splittracr.planning.emulated_link import Conditions, EmulatedLink, Span
from splittracr.planning.estimate import Tracker
from splittracr.planning.learner import Learner, LearntExits, SmallModel
from splittracr.planning.policy import Policy
from splittracr.planning.transfer import Transfer

_NS = 1e6  # nanoseconds in a millisecond
_PROBE_REPLY = 128


@dataclass(frozen=True)
class Run:
    """The result of one trace: the latency of every frame in ms, and the number of switches."""

    latencies: Array
    switches: int


@dataclass
class _World:
    """The link, the server, and the answers that have not arrived yet."""

    candidates: Candidates
    spans: Sequence[Span]
    tracker: Tracker = field(default_factory=Tracker)
    up_free: float = 0.0
    server_free: float = 0.0
    numbers: int = 0
    coming: list[tuple[float, int, Transfer]] = field(default_factory=list)

    def __post_init__(self) -> None:
        conditions = Conditions(tuple(self.spans))
        self.up = EmulatedLink(conditions, random.Random(0))
        self.down = EmulatedLink(conditions, random.Random(0))

    def send(
        self, at: float, nbytes: int, server_ms: float, nbytes_down: int, unless: float = math.inf
    ) -> float:
        """Hand a request to the link, unless it would begin to leave at `unless` or later.

        Returns when its reply arrives, infinity if it is not sent.
        """
        if max(at, self.up_free) >= unless:
            return math.inf
        delivery = self.up.send(round(at * _NS), nbytes)
        self.up_free, arrives = delivery.departs / _NS, delivery.arrives / _NS
        begins = max(arrives, self.server_free)
        self.server_free = begins + server_ms
        reply = self.down.send(round(self.server_free * _NS), nbytes_down).arrives / _NS
        transfer = Transfer(
            cut=None,
            bytes_up=nbytes,
            bytes_down=nbytes_down,
            link_ms=reply - at - (self.server_free - arrives),
            stages={"server_wait": begins - arrives, "tail": server_ms},
        )
        self.numbers += 1
        self.tracker.sent(self.numbers, at, nbytes, nbytes_down, server_ms)
        heappush(self.coming, (reply, self.numbers, transfer))
        return reply

    def receive(self, now: float) -> None:
        """Pass the answers that have arrived to the tracker."""
        while self.coming and self.coming[0][0] <= now:
            at, number, transfer = heappop(self.coming)
            self.tracker.answered(number, at, transfer, transfer.server_ms)

    def handshake(self) -> float:
        """Send the probes of the handshake; returns when the last answer arrives."""
        now = 0.0
        for nbytes in HANDSHAKE_BYTES:
            now = self.send(now, nbytes, 0.0, _PROBE_REPLY)
        return now


def simulate(
    policy: Policy,
    spans: Sequence[Span],
    cascade: Cascade | None = None,
    *,
    decides: bool = False,
) -> Run:
    """Run `policy` from the beginning of a trace to its end.

    With a `cascade` the small model, or the exits, go first. Which frames they answer follows from
    a fixed seed; the policy decides on the others, with the candidates `onward` of the cascade. If
    it `decides`, the policy also decides whether these go first, from their runs so far. Audits are
    not simulated: their share of disagreements is the promised one.
    """
    world = _World(policy.candidates, spans)
    ends = sum(span.duration_ns for span in spans) / _NS
    now = world.handshake()
    latencies: list[float] = []
    learner = _learner(cascade) if decides and cascade is not None else None
    runs = _runs(cascade)
    while now < ends or not latencies:
        world.receive(now)
        beliefs = world.tracker.beliefs(now)
        if learner is not None:
            beliefs = replace(beliefs, cascade=learner.believed(beliefs.edge_factor))
        decision = policy.decide(now, beliefs)
        if decision.probe_bytes:
            world.send(now, decision.probe_bytes, 0.0, _PROBE_REPLY)
        drawn = next(runs)
        first = drawn if learner is None or decision.small == "first" else None
        latency, c = 0.0, policy.candidates
        if first is not None and cascade is not None:
            latency, c = first.ms, cascade.onward(c)
        if first is None or not first.run.sure:
            candidate = c.position(decision.cut, str(decision.codec))
            rest = _frame(world, c, now + latency, decision, candidate)
            policy.learn(candidate, rest, beliefs)
            latency += rest
        latencies.append(latency)
        now += latency
        if learner is None or drawn is None:
            continue
        if first is None and not learner.is_due(decision.predicted_ms or 0.0):
            continue
        learner.ran(drawn.run)
        now += 0.0 if first is not None else drawn.alone_ms
    return Run(np.array(latencies), policy.epoch)


@dataclass(frozen=True)
class _Drawn:
    """A run of the small model or of exits.

    `ms` is the time to its answer, or that it adds to a sample that goes on. `alone_ms` is its time
    if nothing follows: of exits that are not sure with the head up to the last one.
    """

    run: FirstRun
    ms: float
    alone_ms: float


def _runs(cascade: Cascade | None) -> Iterator[_Drawn | None]:
    """Yield the run of the small model, or of the exits, on each frame; None without a cascade.

    Draws from a fixed seed which frames end early.
    """
    if cascade is None:
        yield from repeat(None)
        return
    source = random.Random(0)
    own_ms = [one.own_ms for one in cascade.exits]
    while True:
        quantile = source.random()
        sure, end = quantile < cascade.sure, cascade.end(quantile)
        alone_ms = cascade.ends[end][0]
        ms = alone_ms if sure else cascade.small_ms
        ran = FirstRun(sure, ms, tuple(own_ms[: end + 1]))
        yield _Drawn(ran, ms, alone_ms)


def _learner(cascade: Cascade) -> Learner:
    """The small model, or the exits, at the start of a study: times and promise are known."""
    audit = Audit(cascade.wrong / cascade.sure if cascade.sure else 1.0)
    if cascade.exits:
        return LearntExits(cascade.exits, audit)
    return SmallModel(cascade.small, cascade.small_ms, audit)


def _frame(world: _World, c: Candidates, now: float, decision: Decision, i: int) -> float:
    if i == c.edge_only:
        return float(c.edge_ms[i])
    head, sent = now + float(c.edge_ms[i]), now + float(c.edge_ms[i] + c.encode_ms[i])
    alone = math.inf  # when the edge finishes the frame itself
    if decision.hedge_ms is not None:
        alone = head + decision.hedge_ms + float(c.rest_ms[i])
    elif decision.deadline_ms is not None:
        alone = sent + decision.deadline_ms + float(c.rest_ms[i])
    size, server = round(float(c.bytes_up[i])), float(c.server_ms[i])
    return min(alone, world.send(sent, size, server, round(c.bytes_down), unless=alone)) - now


class _Future:
    """A direction with an empty queue, whose future rates are known."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._times = np.array(list(accumulate((s.duration_ns for s in spans), initial=0))) / _NS
        carried = (s.duration_ns * s.bits_per_second / 8e9 for s in spans)
        self._carried = np.array(list(accumulate(carried, initial=0.0)))
        self._rates = np.array([s.bits_per_second / 8e3 for s in spans])  # bytes a ms
        self._half = np.array([s.round_trip_ns / 2 / _NS for s in spans])

    def arrivals(self, at: Array, nbytes: Array) -> Array:
        """Return, by candidate, when the last of `nbytes` arrives if sent at the times `at`."""
        cycles, within = np.divmod(at, self._times[-1])
        i = np.minimum(self._times.searchsorted(within, "right") - 1, len(self._rates) - 1)
        carried = self._carried[i] + (within - self._times[i]) * self._rates[i] + nbytes
        more, rest = np.divmod(carried, self._carried[-1])
        j = np.clip(self._carried.searchsorted(rest, "left") - 1, 0, len(self._rates) - 1)
        departs = self._times[j] + (rest - self._carried[j]) / np.maximum(self._rates[j], 1e-12)
        arrived: Array = (cycles + more) * self._times[-1] + departs + self._half[i]
        return arrived


def oracle(
    candidates: Candidates,
    spans: Sequence[Span],
    cascade: Cascade | None = None,
    *,
    decides: bool = False,
    accuracy: float | None = None,
) -> Run:
    """Run every frame by the choice with the lowest latency, knowing the whole trace.

    A `cascade` answers the same frames as for the policies. If the oracle `decides`, a frame may
    also go past the small model or the exits. Choices that keep less than `accuracy` are left out,
    as by the policies. The link is idle when a frame begins, since only the best candidate is sent.
    """
    c, future = candidates, _Future(spans)
    ends = sum(span.duration_ns for span in spans) / _NS
    alone, behind = _choices(c, cascade, accuracy, decides=decides)
    onward = c if cascade is None else cascade.onward(c)
    now = _World(candidates, spans).handshake()  # as all policies
    latencies, switches, last = list[float](), 0, None
    runs = _runs(cascade)
    while now < ends or not latencies:
        drawn = next(runs)
        found: list[tuple[float, int | None]] = []
        if alone.any():
            found.append(_soonest(c, future, now, alone))
        if drawn is not None and drawn.run.sure and behind.any():
            found.append((drawn.ms, None))
        elif drawn is not None and behind.any():
            rest, best = _soonest(onward, future, now + drawn.ms, behind)
            found.append((drawn.ms + rest, best))
        latency, sent = min(found, key=lambda one: one[0])
        if sent is not None:
            switches += last not in (None, sent)
            last = sent
        latencies.append(latency)
        now += latency
    return Run(np.array(latencies), switches)


def _choices(
    c: Candidates, cascade: Cascade | None, accuracy: float | None, *, decides: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The candidates that may be used alone, and those that may be used behind a cascade."""
    alone = np.full(len(c), cascade is None or decides)
    behind = np.full(len(c), False) if cascade is None else cascade.follows(c)
    if accuracy is not None:
        alone &= c.accuracy >= accuracy
    if accuracy is not None and cascade is not None:
        behind &= cascade.kept(c.accuracy) >= accuracy
    return alone, behind


def _soonest(
    c: Candidates, future: _Future, begins: float, usable: NDArray[np.bool_]
) -> tuple[float, int]:
    """The lowest latency of a frame that begins then, and the candidate that has it."""
    served = future.arrivals(begins + c.before_ms(), c.bytes_up) + c.server_ms
    latency = future.arrivals(served, np.full(len(c), c.bytes_down)) - begins
    latency[c.edge_only] = c.edge_ms[c.edge_only]
    best = int(np.where(usable, latency, np.inf).argmin())
    return float(latency[best]), best
