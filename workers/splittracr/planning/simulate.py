"""Policies over recorded links: frame by frame in a closed loop, on exact emulated links.

The very policies and estimators of the edge worker, and the link emulation of local runs; only
time is simulated. A frame starts when the one before has its answer. Heads and tails take what the
profiles say; the edge goes on with a hedged frame beside the encoder, and drops a computation
whose answer has come. What was handed to the link is never taken back: it keeps the frames after
it waiting.

A policy sees replies when they have arrived, never a rate.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import accumulate

import numpy as np

from splittracr.planning.adapt import HANDSHAKE_BYTES
from splittracr.planning.cost import Array, Candidates
from splittracr.planning.estimate import Answer, Tracker
from splittracr.planning.link import Conditions, EmulatedLink, Span
from splittracr.planning.policy import Decision, Policy

_NS = 1e6  # nanoseconds in a millisecond
_PROBE_REPLY = 128


@dataclass(frozen=True)
class Run:
    """What a policy did with one trace: latency of every frame in ms, and the switches."""

    latencies: Array
    switches: int


@dataclass
class _World:
    """The link, the server and what the edge has yet to hear."""

    candidates: Candidates
    spans: Sequence[Span]
    tracker: Tracker = field(default_factory=Tracker)
    up_free: float = 0.0
    server_free: float = 0.0
    numbers: int = 0
    coming: list[tuple[float, int, Answer]] = field(default_factory=list)

    def __post_init__(self) -> None:
        conditions = Conditions(tuple(self.spans))
        self.up = EmulatedLink(conditions, random.Random(0))
        self.down = EmulatedLink(conditions, random.Random(0))

    def send(
        self, at: float, nbytes: int, server_ms: float, nbytes_down: int, unless: float = math.inf
    ) -> float:
        """Hand a request to the link, unless it would begin to leave only at the time `unless`.

        Returns when its reply will have arrived, which may be never.
        """
        if max(at, self.up_free) >= unless:
            return math.inf
        delivery = self.up.send(round(at * _NS), nbytes)
        self.up_free, arrives = delivery.departs / _NS, delivery.arrives / _NS
        begins = max(arrives, self.server_free)
        self.server_free = begins + server_ms
        reply = self.down.send(round(self.server_free * _NS), nbytes_down).arrives / _NS
        answer = Answer(
            bytes_up=nbytes,
            bytes_down=nbytes_down,
            network_ms=reply - at - (self.server_free - arrives),
            server_wait_ms=begins - arrives,
            server_ms=server_ms,
            expected_server_ms=server_ms,
        )
        self.numbers += 1
        self.tracker.sent(self.numbers, at, nbytes, nbytes_down, server_ms)
        heappush(self.coming, (reply, self.numbers, answer))
        return reply

    def hear(self, now: float) -> None:
        """Tell the tracker of everything that has arrived."""
        while self.coming and self.coming[0][0] <= now:
            at, number, answer = heappop(self.coming)
            self.tracker.answered(number, at, answer)

    def shake_hands(self) -> float:
        """Open the session; returns when that is done."""
        now = 0.0
        for nbytes in HANDSHAKE_BYTES:
            now = self.send(now, nbytes, 0.0, _PROBE_REPLY)
        return now


def simulate(policy: Policy, spans: Sequence[Span]) -> Run:
    """Run `policy` from the beginning of a trace to its end."""
    world = _World(policy.candidates, spans)
    ends = sum(span.duration_ns for span in spans) / _NS
    now = world.shake_hands()
    latencies: list[float] = []
    while now < ends or not latencies:
        world.hear(now)
        beliefs = world.tracker.beliefs(now)
        decision = policy.decide(now, beliefs)
        latency = _frame(world, now, decision)
        policy.learn(decision.candidate, latency, beliefs)
        latencies.append(latency)
        now += latency
    return Run(np.array(latencies), policy.epoch)


def _frame(world: _World, now: float, decision: Decision) -> float:
    c, i = world.candidates, decision.candidate
    if decision.probe_bytes:
        world.send(now, decision.probe_bytes, 0.0, _PROBE_REPLY)
    if i == c.edge_only:
        return float(c.edge_ms[i])
    head, sent = now + float(c.edge_ms[i]), now + float(c.edge_ms[i] + c.encode_ms[i])
    alone = math.inf  # when the edge will have finished by itself
    if decision.hedge_ms is not None:
        alone = head + decision.hedge_ms + float(c.rest_ms[i])
    elif decision.deadline_ms is not None:
        alone = sent + decision.deadline_ms + float(c.rest_ms[i])
    size, server = round(float(c.bytes_up[i])), float(c.server_ms[i])
    return min(alone, world.send(sent, size, server, round(c.bytes_down), unless=alone)) - now


class _Future:
    """A direction with an empty queue and no secrets."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._times = np.array(list(accumulate((s.duration_ns for s in spans), initial=0))) / _NS
        carried = (s.duration_ns * s.bits_per_second / 8e9 for s in spans)
        self._carried = np.array(list(accumulate(carried, initial=0.0)))
        self._rates = np.array([s.bits_per_second / 8e3 for s in spans])  # bytes a ms
        self._half = np.array([s.round_trip_ns / 2 / _NS for s in spans])

    def arrivals(self, at: Array, nbytes: Array) -> Array:
        """When the last of `nbytes` arrives, by candidate, sent at the times `at`."""
        cycles, within = np.divmod(at, self._times[-1])
        i = np.minimum(self._times.searchsorted(within, "right") - 1, len(self._rates) - 1)
        carried = self._carried[i] + (within - self._times[i]) * self._rates[i] + nbytes
        more, rest = np.divmod(carried, self._carried[-1])
        j = np.clip(self._carried.searchsorted(rest, "left") - 1, 0, len(self._rates) - 1)
        departs = self._times[j] + (rest - self._carried[j]) / np.maximum(self._rates[j], 1e-12)
        arrived: Array = (cycles + more) * self._times[-1] + departs + self._half[i]
        return arrived


def oracle(candidates: Candidates, spans: Sequence[Span]) -> Run:
    """The least latency that any candidate would have had, for every frame in turn.

    Knows the whole trace. Its link is idle when a frame begins: of all candidates only the
    winner is sent.
    """
    c, future = candidates, _Future(spans)
    ends = sum(span.duration_ns for span in spans) / _NS
    before = c.edge_ms + c.encode_ms
    down = np.full(len(c), c.bytes_down)
    alone = c.edge_only
    now = _World(candidates, spans).shake_hands()  # every policy begins then
    latencies, switches, last = list[float](), 0, None
    while now < ends or not latencies:
        served = future.arrivals(now + before, c.bytes_up) + c.server_ms
        latency = future.arrivals(served, down) - now
        latency[alone] = c.edge_ms[alone]
        best = int(latency.argmin())
        switches += last not in (None, best)
        last = best
        latencies.append(float(latency[best]))
        now += latencies[-1]
    return Run(np.array(latencies), switches)
