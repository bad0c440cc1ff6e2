"""What is believed of a link and a server, learnt from one's own transfers. No clock is read.

Times are milliseconds, `now` a time on any scale that does not jump.
"""

import math
from collections import deque
from dataclasses import dataclass, replace

_MOST_SURPRISE = 8.0  # times the expected time: what is beyond is an outage, not a rate
_LEAST_MS_PER_BYTE = 8e-9  # 1 Tbit/s: below it nothing is learnt
_WAIT_HALF_LIFE_MS = 5_000.0  # while nothing is computed there, nothing shows that it is idle again


@dataclass(frozen=True)
class LinkEstimate:
    """One direction: n bytes take `fixed_ms + n * ms_per_byte`.

    `spread` is the standard deviation of the logarithm of the time a byte takes: 0.1 means that
    two transfers in three are within 10 % of the estimate, 0 that the figures are exact.
    """

    fixed_ms: float
    ms_per_byte: float
    spread: float = 0.0

    @classmethod
    def of(cls, bits_per_second: float, fixed_ms: float, spread: float = 0.0) -> "LinkEstimate":
        """An estimate from a rate."""
        return cls(fixed_ms, 8e3 / bits_per_second, spread)

    @property
    def bits_per_second(self) -> float:
        """The rate."""
        return 8e3 / self.ms_per_byte

    def time_ms(self, nbytes: float, z: float = 0.0) -> float:
        """Time for `nbytes`; not exceeded with the probability that the normal quantile z means."""
        return self.fixed_ms + nbytes * self.ms_per_byte * math.exp(z * self.spread)


UNKNOWN = LinkEstimate.of(10e6, fixed_ms=25, spread=1.0)
"""Before anything was sent: 10 Mbit/s within a factor of 2.7, the middle of what is common."""


class LinkEstimator:
    """Exponentially forgetting least squares of transfer times over their sizes.

    Latency and rate forget at their own pace, as a road's length and its traffic would (two
    forgetting factors: Vahidi, Stefanopoulou, Peng, "Recursive least squares with forgetting for
    online estimation of vehicle mass and road grade", 2005). Errors are taken as relative, so that
    the time a byte takes is what is averaged, and rates average harmonically. Where all transfers
    have one size the latency keeps its last value and what changes is put down to the rate.

    An outage looks like latency to least squares. No transfer can be quicker than the latency, so
    it is never believed to exceed the quickest one of late, a filter as in BBR (Cardwell et al.,
    "BBR: congestion-based congestion control", 2016); the rate then comes out positive, too.
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
        self._quickest: deque[tuple[float, float]] = deque()  # when, how long; ever longer
        self._error = prior.spread**2  # running mean square of logarithmic errors

    def observe(self, now: float, nbytes: int, elapsed_ms: float) -> None:
        """Learn that a transfer of `nbytes` that ended `now` took `elapsed_ms`."""
        idle = 0.0 if self._at is None else max(0.0, now - self._at)
        expected = max(1e-3, self._fixed + nbytes * self._slope)
        seen = self._at is not None
        if seen:
            surprise = math.log(max(elapsed_ms, 1e-3) / expected)
            share = nbytes * self._slope / expected  # small ones say little about the rate
            self._error += 0.3 * share * (min(abs(surprise), 3.0) ** 2 - self._error)
        self._at = now
        # A transfer counts for the rate as much as a half-life; slow ones say little about latency.
        self._rate.forget(1 + idle / self._rate_half_life)
        self._latency.forget(idle / self._latency_half_life)
        bounded = min(elapsed_ms, _MOST_SURPRISE * expected) if seen else elapsed_ms
        self._rate.add(nbytes, bounded, 1 / (nbytes + self._fixed / self._slope) ** 2)
        self._latency.add(nbytes, elapsed_ms, 1 / max(elapsed_ms, 1e-3) ** 2)
        fitted = self._latency.intercept()
        limit = self._limit(now, elapsed_ms)
        self._fixed = min(max(0.0, self._fixed if fitted is None else fitted), limit)
        self._slope = max(_LEAST_MS_PER_BYTE, self._rate.slope(self._fixed))

    def estimate(self, now: float) -> LinkEstimate:
        """What is believed; the longer ago the last transfer, the less sure."""
        idle = 0.0 if self._at is None else max(0.0, now - self._at)
        doubt = 0.1 * min(idle / self._rate_half_life, 5.0)
        return LinkEstimate(self._fixed, self._slope, math.sqrt(min(self._error + doubt, 2.0)))

    def latency_age_ms(self, now: float) -> float:
        """How long ago the transfer was that bounds the latency."""
        return now - self._quickest[0][0] if self._quickest else math.inf

    def _limit(self, now: float, elapsed_ms: float) -> float:
        """The quickest transfer within the last half-life of the latency."""
        recent = self._quickest
        while recent and recent[-1][1] >= elapsed_ms:
            recent.pop()
        recent.append((now, elapsed_ms))
        while recent[0][0] < now - self._latency_half_life:
            recent.popleft()
        return recent[0][1]


class _Sums:
    """Weighted sums of sizes n and times t, which fade."""

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
        """Where the fitted line begins; None where sizes hardly differ."""
        spread = self._w * self._nn - self._n**2
        if spread <= 1e-3 * self._w * self._nn:
            return None
        return (self._nn * self._t - self._n * self._nt) / spread

    def slope(self, intercept: float) -> float:
        """Of the best line that begins at `intercept`."""
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
    """All that a decision needs to know about the world, at the time it is taken.

    `edge_factor` and `server_factor` are measured times over the profile's. `backlog_ms` is how
    long the uplink is still busy with what was sent before.
    """

    up: LinkEstimate
    down: LinkEstimate
    server_wait_ms: float = 0.0
    edge_factor: float = 1.0
    server_factor: float = 1.0
    backlog_ms: float = 0.0
    connected: bool = True
    idle_ms: float = 0.0  # since a transfer was last handed over or answered
    latency_age_ms: float = 0.0  # since the transfer that bounds the latency

    @classmethod
    def of_link(
        cls, up_bits: float, round_trip_ms: float, down_bits: float | None = None
    ) -> "Beliefs":
        """A known link and an idle server."""
        half = round_trip_ms / 2
        return cls(LinkEstimate.of(up_bits, half), LinkEstimate.of(down_bits or up_bits, half))

    def with_uplink(self, bits_per_second: float) -> "Beliefs":
        """The same with another rate upwards."""
        return replace(self, up=LinkEstimate.of(bits_per_second, self.up.fixed_ms))


@dataclass(frozen=True)
class Answer:
    """A reply as the edge saw it, clock-free: every time is a difference on one machine's clock.

    `network_ms` is what is left of the time between hand-over and reply after the server's own
    stages; `server_ms` is what the server computed, for which its profile says
    `expected_server_ms`.
    """

    bytes_up: int
    bytes_down: int
    network_ms: float
    server_wait_ms: float
    server_ms: float
    expected_server_ms: float


@dataclass(frozen=True)
class _UnderWay:
    """A transfer without its answer, which is expected `answer_ms` after its last byte has left."""

    at: float
    nbytes: int
    answer_ms: float


class Tracker:
    """From what is sent and answered to `Beliefs`. Requests go by number.

    `edge_ms` and `server_ms` are what either end takes for the whole network by its profile.
    """

    def __init__(
        self, prior: LinkEstimate = UNKNOWN, edge_ms: float = 0.0, server_ms: float = 0.0
    ) -> None:
        self._whole, self._tail = edge_ms, server_ms
        self._up, self._down = LinkEstimator(prior), LinkEstimator(prior)
        self._wait, self._edge, self._server = Smoothed(0.0), Smoothed(1.0), Smoothed(1.0)
        self._under_way: dict[int, _UnderWay] = {}
        self._last: float | None = None  # when something was handed over or answered
        self._served = 0.0  # when the server last told of its work
        # Of what was sent last of all that is answered: when that was, and when it had left.
        self._sent, self._left = -math.inf, -math.inf
        self.connected = True

    def sent(
        self, number: int, now: float, nbytes: int, nbytes_down: float = 0, server_ms: float = 0.0
    ) -> None:
        """A request, or a probe, was handed to the link. The answer is expected to have
        `nbytes_down`, and the server, by its profile, to compute `server_ms` for it.
        """
        answer_ms = self._up.estimate(now).fixed_ms + self._down.estimate(now).time_ms(nbytes_down)
        if server_ms > 0:
            answer_ms += server_ms * self._server.value + self._wait_ms(now)
        self._under_way[number] = _UnderWay(now, nbytes, answer_ms)
        self._last = now

    def answered(self, number: int, now: float, answer: Answer) -> None:
        """Its reply has arrived, however late."""
        sent = self._under_way.pop(number, None)
        self._last = now
        if sent is not None:
            self._transfer(now, sent.at, answer)
        if answer.server_ms > 0:
            self._wait.observe(answer.server_wait_ms)
            self._served = now
        if answer.expected_server_ms > 0:
            self._server.observe(_ratio(answer.server_ms, answer.expected_server_ms, self._tail))

    def forget(self) -> None:
        """Nothing that is under way will be answered: the connection broke."""
        self._under_way.clear()

    def computed(self, measured_ms: float, expected_ms: float) -> None:
        """The edge needed `measured_ms` for what its profile says takes `expected_ms`."""
        if expected_ms > 0:
            self._edge.observe(_ratio(measured_ms, expected_ms, self._whole))

    def beliefs(self, now: float) -> Beliefs:
        """What is believed `now`."""
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
        """The server's wait as it was seen, the less the longer ago."""
        return float(self._wait.value * 0.5 ** ((now - self._served) / _WAIT_HALF_LIFE_MS))

    def _transfer(self, now: float, at: float, answer: Answer) -> None:
        """Each direction is charged with its latency, and with its expected share of the rest; not
        with the time, from `at` on, that the transfer waited for the one before it to leave.
        """
        up, down = self._up.estimate(now), self._down.estimate(now)
        least = up.fixed_ms + down.time_ms(answer.bytes_down)
        network = answer.network_ms
        if at >= self._sent:
            queued = max(0.0, min(self._left - at, network - least))
            self._sent, self._left = at, max(self._left, at + network - least)
            network -= queued
        rest = network - up.fixed_ms - down.fixed_ms
        if rest < 0:  # quicker than ever: nothing says which way was
            up_ms = network / 2
        else:
            sizes = answer.bytes_up * up.ms_per_byte, answer.bytes_down * down.ms_per_byte
            up_ms = up.fixed_ms + rest * sizes[0] / max(sum(sizes), 1e-9)
        self._up.observe(now, answer.bytes_up, up_ms)
        self._down.observe(now, answer.bytes_down, network - up_ms)

    def _backlog(self, now: float, up: LinkEstimate) -> float:
        """How long until what is under way has left.

        What has not been answered in time has perhaps not left either. It is expected to take as
        long again as it is overdue, as befits a link that hangs for times of no typical length.
        """
        free = -math.inf
        for one in self._under_way.values():
            if one.at >= self._sent:
                free = max(free, self._left)
            left = max(free, one.at) + one.nbytes * up.ms_per_byte
            overdue = now - (left + one.answer_ms)
            free = now + overdue if overdue > 0 else left
        return max(0.0, free - now)


def _ratio(measured_ms: float, expected_ms: float, whole_ms: float) -> float:
    """Measured over expected, drawn towards 1 where only a small part of the whole was measured:
    what an overhead does to a short head says nothing of a long one.
    """
    rest = 1 + 0.1 * whole_ms
    return (measured_ms + rest) / (expected_ms + rest)
