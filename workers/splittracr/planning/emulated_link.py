"""One direction of an emulated link: when bytes handed over now will leave and arrive.

The model has no clock. The pacer (`transport/pacer.py`) delays real messages until the times
computed here; the simulator only adds them up. Times are integer nanoseconds since the link was set
up, rates are integer bits per second. Their products, nanobits, are exact integers. Only the times
returned are rounded, up to the next nanosecond, so errors do not accumulate.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random

from splittracr.experiment.errors import InvalidInput

PACKET_BYTES = 1448
"""Payload of a TCP segment over Ethernet: 1,500 bytes less 52 of headers and time stamps."""

_SECOND = 10**9  # nanoseconds
_BYTE = 8 * 10**9  # nanobits


@dataclass(frozen=True)
class Span:
    """A period with one rate of the direction and one round-trip time of the link.

    Raises InvalidInput for a duration below one nanosecond and for negative values.
    """

    duration_ns: int
    bits_per_second: int
    round_trip_ns: int

    def __post_init__(self) -> None:
        if self.duration_ns < 1 or self.bits_per_second < 0 or self.round_trip_ns < 0:
            raise InvalidInput("link", self, "a duration above zero, no rate or delay below zero")


def constant(bits_per_second: int, round_trip_ns: int) -> tuple[Span, ...]:
    """Return the spans of a direction that never changes."""
    return (Span(_SECOND, bits_per_second, round_trip_ns),)


def scaled(spans: Sequence[Span], percent: int) -> tuple[Span, ...]:
    """Return the spans at this share of their rate."""
    return tuple(replace(s, bits_per_second=s.bits_per_second * percent // 100) for s in spans)


def with_round_trip(spans: Sequence[Span], round_trip_ns: int) -> tuple[Span, ...]:
    """Return the spans with another round-trip time."""
    return tuple(replace(span, round_trip_ns=round_trip_ns) for span in spans)


@dataclass(frozen=True)
class Conditions:
    """The conditions of one direction. Raises InvalidInput if all rates are 0.

    `spans` repeat for ever, starting at `offset_ns`. The latency of a packet is half the round-trip
    time of the span in which it begins to leave. It is increased by up to `jitter_ns`, uniformly
    distributed. `loss_per_million` of the packets are lost.
    """

    spans: tuple[Span, ...]
    offset_ns: int = 0
    jitter_ns: int = 0
    loss_per_million: int = 0

    def __post_init__(self) -> None:
        if not any(span.bits_per_second for span in self.spans):
            raise InvalidInput("link", "0 bit/s throughout", "a rate above zero at some time")

    @property
    def in_flight_bytes(self) -> int:
        """The maximum of bytes that have left and not arrived."""
        round_trip = max(span.round_trip_ns for span in self.spans)
        stall = 2 * round_trip if self.loss_per_million else 0
        latency = round_trip // 2 + self.jitter_ns + stall
        return max(span.bits_per_second for span in self.spans) * latency // _BYTE + 1


class Capacity:
    """Converts between times and the amount that a direction can have carried by then.

    The function is piecewise linear and exact, by bisection over prefix sums. A span of rate zero
    is a plateau.
    """

    def __init__(self, spans: Sequence[Span], offset_ns: int = 0) -> None:
        self._spans = spans
        self._offset = offset_ns
        self._times = list(accumulate((s.duration_ns for s in spans), initial=0))
        carried = (s.duration_ns * s.bits_per_second for s in spans)
        self._carried = list(accumulate(carried, initial=0))

    def nanobits(self, at: int) -> int:
        """Return the amount carried by the time `at`; only differences have a meaning."""
        cycles, within = divmod(at + self._offset, self._times[-1])
        i = bisect_right(self._times, within) - 1
        part = (within - self._times[i]) * self._spans[i].bits_per_second
        return cycles * self._carried[-1] + self._carried[i] + part

    def time(self, nanobits: int) -> int:
        """Return the first nanosecond by which `nanobits` can have been carried."""
        # `nanobits - 1`: the end of a cycle belongs to that cycle, before a plateau at its end.
        cycles, within = divmod(nanobits - 1, self._carried[-1])
        i = bisect_left(self._carried, within + 1) - 1
        part = -((self._carried[i] - within - 1) // self._spans[i].bits_per_second)
        return cycles * self._times[-1] + self._times[i] + part - self._offset

    def round_trip(self, at: int) -> int:
        """Return the round-trip time of the span at the time `at`."""
        within = (at + self._offset) % self._times[-1]
        return self._spans[bisect_right(self._times, within) - 1].round_trip_ns


@dataclass(frozen=True)
class Delivery:
    """When the last of some bytes has left the sender, and when it has reached the receiver."""

    departs: int
    arrives: int


class EmulatedLink:
    """A direction with its queue: bytes leave in order and arrive in order.

    As in TCP, bytes that find the queue empty begin a packet; others fill up the last one. A
    reliable transport shows a lost packet as a stall: it arrives one to two round-trip times late,
    and later packets wait for it. Fast retransmit takes one (RFC 5681, section 3.2), a tail loss
    probe two (RFC 8985, section 7.2). Jitter delays the later packets in the same way.
    """

    def __init__(self, conditions: Conditions, draw: Random) -> None:
        self.conditions = conditions
        self._draw = draw
        self._capacity = Capacity(conditions.spans, conditions.offset_ns)
        round_trips = {span.round_trip_ns for span in conditions.spans}
        self._round_trip = round_trips.pop() if len(round_trips) == 1 else None  # None: varies
        self._random = bool(conditions.jitter_ns or conditions.loss_per_million)
        self._latency = 0  # of the current packet
        self._room = 0  # free bytes in the current packet
        self._end = 0  # nanobits by which the queue is empty
        self._arrives = 0

    def send(self, now: int, nbytes: int) -> Delivery:
        """Queue `nbytes` (at least 1) at `now`; returns when the last byte leaves and arrives.

        The result depends on earlier calls, the arguments and the random numbers alone. Sending in
        chunks gives the last byte the same times, unless the queue becomes empty in between.
        """
        if nbytes < 1:
            raise ValueError(f"cannot send {nbytes} bytes")
        elapsed = self._capacity.nanobits(now)
        if elapsed >= self._end:
            self._end, self._room = elapsed, 0
        begin, self._end = self._end, self._end + nbytes * _BYTE
        departs = self._capacity.time(self._end)
        if self._round_trip is not None and not self._random:
            self._arrives = departs + self._round_trip // 2
        else:
            self._arrives = max(self._arrives, self._last_arrival(begin))
        return Delivery(departs, self._arrives)

    def _last_arrival(self, begin: int) -> int:
        """Return when all packets from `begin` to the end of the queue have arrived."""
        last, longest = 0, -1
        for end, latency in reversed(list(self._packets(begin))):
            if latency > longest:  # otherwise a later packet arrives later, too
                last = max(last, self._capacity.time(end) + latency)
                longest = latency
        return last

    def _packets(self, begin: int) -> Iterator[tuple[int, int]]:
        """Yield the end of each packet from `begin` on, as far as it is filled, and its latency."""
        while begin < self._end:
            if self._room == 0:
                self._latency, self._room = self._draw_latency(begin), PACKET_BYTES
            step = min(self._room, (self._end - begin) // _BYTE)
            begin, self._room = begin + step * _BYTE, self._room - step
            yield begin, self._latency

    def _draw_latency(self, begin: int) -> int:
        round_trip = self._round_trip
        if round_trip is None:
            begins = self._capacity.time(begin + 1)  # not during an outage before it
            round_trip = self._capacity.round_trip(begins)
        latency = round_trip // 2
        if self._random:
            latency += int(self._draw.random() * self.conditions.jitter_ns)
            if self._draw.random() * 1e6 < self.conditions.loss_per_million:
                latency += int((1 + self._draw.random()) * round_trip)
        return latency
