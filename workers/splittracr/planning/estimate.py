"""Estimates of link, server and edge from the edge's own transfers. No clock is read.

Times are milliseconds. `now` is on any scale that does not jump.
"""

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from splittracr.planning.transfer import Transfer

if TYPE_CHECKING:
    from splittracr.planning.cascade import Cascade

_MAX_SURPRISE = 8.0  # times the expected time; a longer transfer is an outage, not a rate
_MIN_MS_PER_BYTE = 8e-9  # 1 Tbit/s
_WAIT_HALF_LIFE_MS = 5_000.0  # without requests nothing shows that the server is idle again


@dataclass(frozen=True)
class LinkEstimate:
    """One direction: n bytes take `fixed_ms + n * ms_per_byte`.

    `spread` is the standard deviation of the logarithm of the time a byte takes. With 0.1 two
    transfers in three are within 10 % of the estimate, with 0 the figures are exact.
    """

    fixed_ms: float
    ms_per_byte: float
    spread: float = 0.0

    @classmethod
    def of(cls, bits_per_second: float, fixed_ms: float, spread: float = 0.0) -> "LinkEstimate":
        """Make an estimate from a rate."""
        return cls(fixed_ms, 8e3 / bits_per_second, spread)

    @property
    def bits_per_second(self) -> float:
        """The rate."""
        return 8e3 / self.ms_per_byte

    def time_ms(self, nbytes: float, z: float = 0.0) -> float:
        """Return the time for `nbytes` at the normal quantile `z`, 0 for the median."""
        return self.fixed_ms + nbytes * self.ms_per_byte * math.exp(z * self.spread)


UNKNOWN = LinkEstimate.of(10e6, fixed_ms=25, spread=1.0)
"""The estimate before the first transfer: 10 Mbit/s within a factor of 2.7."""


class LinkEstimator:
    """Least squares with exponential forgetting, of transfer times over their sizes.

    Latency and rate have a forgetting factor each (Vahidi, Stefanopoulou, Peng, "Recursive least
    squares with forgetting for online estimation of vehicle mass and road grade", 2005). Errors are
    relative, so rates average harmonically. If all transfers have the same size, the latency keeps
    its last value and changes are attributed to the rate.

    Least squares mistakes an outage for latency. The latency is therefore capped at the shortest
    recent transfer, a filter as in BBR (Cardwell et al., "BBR: congestion-based congestion
    control", 2016). The cap also keeps the rate positive.
    """

    def __init__(
        self,
        prior: LinkEstimate = UNKNOWN,
        *,
        rate_half_life_ms: float = 2_000.0,
        latency_half_life_ms: float = 60_000.0,
    ) -> None:
        self._at: float | None = None
        self._fixed, self._slope = prior.fixed_ms, prior.ms_per_byte
        self._rate_half_life, self._latency_half_life = rate_half_life_ms, latency_half_life_ms
        self._latency, self._rate = _Sums(), _Sums()
        self._quickest: deque[tuple[float, float]] = deque()  # end and time, both increasing
        self._error = prior.spread**2  # running mean square of logarithmic errors

    def observe(self, now: float, nbytes: int, elapsed_ms: float) -> None:
        """Learn from a transfer of `nbytes` that took `elapsed_ms` and ended `now`."""
        idle = 0.0 if self._at is None else max(0.0, now - self._at)
        expected = max(1e-3, self._fixed + nbytes * self._slope)
        seen = self._at is not None
        if seen:
            surprise = math.log(max(elapsed_ms, 1e-3) / expected)
            share = nbytes * self._slope / expected  # small transfers show little of the rate
            self._error += 0.3 * share * (min(abs(surprise), 3.0) ** 2 - self._error)
        self._at = now
        # For the rate a transfer counts like a half-life; slow ones show little of the latency.
        self._rate.forget(1 + idle / self._rate_half_life)
        self._latency.forget(idle / self._latency_half_life)
        bounded = min(elapsed_ms, _MAX_SURPRISE * expected) if seen else elapsed_ms
        self._rate.add(nbytes, bounded, 1 / (nbytes + self._fixed / self._slope) ** 2)
        self._latency.add(nbytes, elapsed_ms, 1 / max(elapsed_ms, 1e-3) ** 2)
        fitted = self._latency.intercept()
        limit = self._limit(now, elapsed_ms)
        self._fixed = min(max(0.0, self._fixed if fitted is None else fitted), limit)
        self._slope = max(_MIN_MS_PER_BYTE, self._rate.slope(self._fixed))

    def estimate(self, now: float) -> LinkEstimate:
        """Return the estimate. Its spread grows with the time since the last transfer."""
        idle = 0.0 if self._at is None else max(0.0, now - self._at)
        doubt = 0.1 * min(idle / self._rate_half_life, 5.0)
        return LinkEstimate(self._fixed, self._slope, math.sqrt(min(self._error + doubt, 2.0)))

    def latency_age_ms(self, now: float) -> float:
        """Return the age of the transfer that caps the latency."""
        return now - self._quickest[0][0] if self._quickest else math.inf

    def _limit(self, now: float, elapsed_ms: float) -> float:
        """Return the shortest transfer within the last half-life of the latency."""
        recent = self._quickest
        while recent and recent[-1][1] >= elapsed_ms:
            recent.pop()
        recent.append((now, elapsed_ms))
        while recent[0][0] < now - self._latency_half_life:
            recent.popleft()
        return recent[0][1]


class _Sums:
    """Weighted sums of sizes n and times t, with forgetting."""

    def __init__(self) -> None:
        self._w = self._n = self._nn = self._t = self._nt = 0.0

    def forget(self, half_lives: float) -> None:
        factor = 0.5 ** min(half_lives, 60.0)
        self._w, self._n, self._nn = self._w * factor, self._n * factor, self._nn * factor
        self._t, self._nt = self._t * factor, self._nt * factor

    def add(self, n: float, t: float, weight: float) -> None:
        self._w, self._n, self._nn = (
            self._w + weight,
            self._n + weight * n,
            self._nn + weight * n * n,
        )
        self._t, self._nt = self._t + weight * t, self._nt + weight * n * t

    def intercept(self) -> float | None:
        """Return the intercept of the fitted line; None if sizes hardly differ."""
        spread = self._w * self._nn - self._n**2
        if spread <= 1e-3 * self._w * self._nn:
            return None
        return (self._nn * self._t - self._n * self._nt) / spread

    def slope(self, intercept: float) -> float:
        """Return the slope of the best line with this `intercept`."""
        return (self._nt - intercept * self._n) / self._nn


class Smoothed:
    """An exponentially forgetting mean; the first value counts in full."""

    def __init__(self, value: float, gain: float = 0.3) -> None:
        self.value = value
        self._gain, self._next = gain, 1.0

    def observe(self, value: float) -> None:
        """Learn one value."""
        self.value += self._next * (value - self.value)
        self._next = self._gain


@dataclass(frozen=True)
class Beliefs:
    """The estimates that a decision is based on, at the time of the decision.

    `edge_factor` and `server_factor` are measured times over the profile's. `backlog_ms` is the
    time that the uplink is still busy with earlier requests. `cascade` has the figures of the
    small model, or of the exits, as learnt so far; None without, or if audits refute the promise.
    """

    up: LinkEstimate
    down: LinkEstimate
    server_wait_ms: float = 0.0
    edge_factor: float = 1.0
    server_factor: float = 1.0
    backlog_ms: float = 0.0
    connected: bool = True
    idle_ms: float = 0.0  # since a transfer was last handed over or answered
    latency_age_ms: float = 0.0  # since the transfer that caps the latency
    cascade: "Cascade | None" = None

    @classmethod
    def of_link(
        cls, up_bits: float, round_trip_ms: float, down_bits: float | None = None
    ) -> "Beliefs":
        """Make the beliefs of a known link and an idle server."""
        half = round_trip_ms / 2
        return cls(LinkEstimate.of(up_bits, half), LinkEstimate.of(down_bits or up_bits, half))

    def with_uplink(self, bits_per_second: float) -> "Beliefs":
        """Return the same with another rate of the uplink."""
        return replace(self, up=LinkEstimate.of(bits_per_second, self.up.fixed_ms))


@dataclass(frozen=True)
class _Pending:
    """A request without its answer, which is due `answer_ms` after its last byte has left."""

    at: float
    nbytes: int
    answer_ms: float


class Tracker:
    """Maintains `Beliefs` from requests and their answers, which are matched by number.

    `edge_ms` and `server_ms` are the times of the whole network by the profile of each end.
    """

    def __init__(
        self, prior: LinkEstimate = UNKNOWN, edge_ms: float = 0.0, server_ms: float = 0.0
    ) -> None:
        self._whole, self._tail = edge_ms, server_ms
        self._up, self._down = LinkEstimator(prior), LinkEstimator(prior)
        self._wait, self._edge, self._server = Smoothed(0.0), Smoothed(1.0), Smoothed(1.0)
        self._pending: dict[int, _Pending] = {}
        self._last: float | None = None  # when a request was last handed over or answered
        self._served = 0.0  # when a reply last showed the server's wait
        # The answered request that was sent last: its hand-over, and when its last byte had left.
        self._sent, self._left = -math.inf, -math.inf
        self.connected = True

    def sent(
        self, number: int, now: float, nbytes: int, nbytes_down: float = 0, server_ms: float = 0.0
    ) -> None:
        """A request or a probe was handed to the link.

        The answer is expected to have `nbytes_down`. By its profile the server computes for
        `server_ms`.
        """
        answer_ms = self._up.estimate(now).fixed_ms + self._down.estimate(now).time_ms(nbytes_down)
        if server_ms > 0:
            answer_ms += server_ms * self._server.value + self._wait_ms(now)
        self._pending[number] = _Pending(now, nbytes, answer_ms)
        self._last = now

    def answered(
        self, number: int, now: float, transfer: Transfer, expected_server_ms: float = 0.0
    ) -> None:
        """An answer has arrived. By its profile the server computes for `expected_server_ms`."""
        sent = self._pending.pop(number, None)
        self._last = now
        if sent is not None:
            self._learn_link(now, sent.at, transfer)
        if transfer.server_ms > 0:
            self._wait.observe(transfer.server_wait_ms)
            self._served = now
            if expected_server_ms > 0:
                ratio = _ratio(transfer.server_ms, expected_server_ms, self._tail)
                self._server.observe(ratio)

    def forget(self) -> None:
        """Drop all pending requests, because the connection broke."""
        self._pending.clear()

    def computed(self, measured_ms: float, expected_ms: float) -> None:
        """The edge computed for `measured_ms`. By its profile that takes `expected_ms`."""
        if expected_ms > 0:
            self._edge.observe(_ratio(measured_ms, expected_ms, self._whole))

    def beliefs(self, now: float) -> Beliefs:
        """Return the estimates at `now`."""
        up = self._up.estimate(now)
        return Beliefs(
            up=up,
            down=self._down.estimate(now),
            server_wait_ms=self._wait_ms(now),
            edge_factor=self._edge.value,
            server_factor=self._server.value,
            backlog_ms=self._backlog(now, up),
            connected=self.connected,
            idle_ms=math.inf if self._last is None else now - self._last,
            latency_age_ms=self._up.latency_age_ms(now),
        )

    def _wait_ms(self, now: float) -> float:
        """Return the last wait on the server, which decays with its age."""
        return float(self._wait.value * 0.5 ** ((now - self._served) / _WAIT_HALF_LIFE_MS))

    def _learn_link(self, now: float, at: float, transfer: Transfer) -> None:
        """Divide the time of a transfer handed over `at` between the two directions.

        Each direction gets its latency and its expected share of the rest. The time that the
        request waited for the one before it to leave counts for neither.
        """
        up, down = self._up.estimate(now), self._down.estimate(now)
        shortest = up.fixed_ms + down.time_ms(transfer.bytes_down)
        link_ms = transfer.link_ms
        if at >= self._sent:
            queued = max(0.0, min(self._left - at, link_ms - shortest))
            self._sent, self._left = at, max(self._left, at + link_ms - shortest)
            link_ms -= queued
        rest = link_ms - up.fixed_ms - down.fixed_ms
        if rest < 0:  # shorter than the latency of both, so divide it evenly
            up_ms = link_ms / 2
        else:
            sizes = transfer.bytes_up * up.ms_per_byte, transfer.bytes_down * down.ms_per_byte
            up_ms = up.fixed_ms + rest * sizes[0] / max(sum(sizes), 1e-9)
        self._up.observe(now, transfer.bytes_up, up_ms)
        self._down.observe(now, transfer.bytes_down, link_ms - up_ms)

    def _backlog(self, now: float, up: LinkEstimate) -> float:
        """Return the time until all pending requests have left.

        An overdue request may not have left. It is expected to take as long again as it is overdue,
        because outages have no typical length.
        """
        free = -math.inf
        for pending in self._pending.values():
            if pending.at >= self._sent:
                free = max(free, self._left)
            left = max(free, pending.at) + pending.nbytes * up.ms_per_byte
            overdue = now - (left + pending.answer_ms)
            free = now + overdue if overdue > 0 else left
        return max(0.0, free - now)


def _ratio(measured_ms: float, expected_ms: float, whole_ms: float) -> float:
    """Return measured over expected, drawn towards 1 if only a small part was measured.

    A constant overhead makes a short head look slow; it does not apply to a long one.
    """
    rest = 1 + 0.1 * whole_ms
    return (measured_ms + rest) / (expected_ms + rest)
