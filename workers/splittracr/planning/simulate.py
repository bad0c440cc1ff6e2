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
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import accumulate, repeat

import numpy as np

from splittracr.planning.adapt import HANDSHAKE_BYTES
from splittracr.planning.cascade import Cascade
from splittracr.planning.cost import Array, Candidates
from splittracr.planning.decision import Decision
from splittracr.planning.emulated_link import Conditions, EmulatedLink, Span
from splittracr.planning.estimate import Tracker
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


def simulate(policy: Policy, spans: Sequence[Span], cascade: Cascade | None = None) -> Run:
    """Run `policy` from the beginning of a trace to its end.

    With a `cascade` the small model, or the exits, come first. Which frames they answer follows
    from a fixed seed; the policy decides on the others. Its candidates are those `onward` of the
    cascade.
    """
    world = _World(policy.candidates, spans)
    ends = sum(span.duration_ns for span in spans) / _NS
    now = world.handshake()
    latencies: list[float] = []
    first = _first(cascade)
    while now < ends or not latencies:
        own_ms, ended = next(first)
        now += own_ms
        if ended:
            latencies.append(own_ms)
            continue
        world.receive(now)
        beliefs = world.tracker.beliefs(now)
        decision = policy.decide(now, beliefs)
        candidate = policy.candidates.position(decision.cut, str(decision.codec))
        latency = _frame(world, now, decision, candidate)
        policy.learn(candidate, latency, beliefs)
        latencies.append(own_ms + latency)
        now += latency
    return Run(np.array(latencies), policy.epoch)


def _first(cascade: Cascade | None) -> Iterator[tuple[float, bool]]:
    """Yield the cascade's time for each frame, and whether the frame ends with it.

    Draws from a fixed seed. Without a cascade no frame ends.
    """
    if cascade is None:
        yield from repeat((0.0, False))
        return
    drawn = random.Random(0)
    while True:
        quantile = drawn.random()
        ended = quantile < cascade.sure
        yield (cascade.end_ms(quantile) if ended else cascade.small_ms), ended


def _frame(world: _World, now: float, decision: Decision, i: int) -> float:
    c = world.candidates
    if decision.probe_bytes:
        world.send(now, decision.probe_bytes, 0.0, _PROBE_REPLY)
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


def oracle(candidates: Candidates, spans: Sequence[Span], cascade: Cascade | None = None) -> Run:
    """Run every frame with the candidate that has the lowest latency, knowing the whole trace.

    A `cascade` answers the same frames as for the policies. The link is idle when a frame
    begins, because only the best candidate is sent.
    """
    c, future = candidates, _Future(spans)
    ends = sum(span.duration_ns for span in spans) / _NS
    before = c.edge_ms + c.encode_ms
    down = np.full(len(c), c.bytes_down)
    alone = c.edge_only
    now = _World(candidates, spans).handshake()  # as all policies
    latencies, switches, last = list[float](), 0, None
    first = _first(cascade)
    while now < ends or not latencies:
        own_ms, ended = next(first)
        now += own_ms
        if ended:
            latencies.append(own_ms)
            continue
        served = future.arrivals(now + before, c.bytes_up) + c.server_ms
        latency = future.arrivals(served, down) - now
        latency[alone] = c.edge_ms[alone]
        best = int(latency.argmin())
        switches += last not in (None, best)
        last = best
        latencies.append(own_ms + float(latency[best]))
        now += float(latency[best])
    return Run(np.array(latencies), switches)
