"""Predicted time and energy of every candidate: a cut with a codec, or the edge alone.

All computation is on arrays with one entry a candidate. A decision over thousands of candidates
therefore takes well under a millisecond. Times are milliseconds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from splittracr.experiment.codec import RAW, Codec, PictureCodec
from splittracr.experiment.energy import Kind, MeasuredPower
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.profile import CodecProfile, Profile
from splittracr.experiment.spec import PowerSpec
from splittracr.planning.estimate import Beliefs

Array = NDArray[np.float64]

EDGE_ONLY = "edge only"
"""The name in place of a codec for the candidate that sends nothing."""

Z95 = 1.6448536269514722  # the normal distribution's quantile of 95 %

# Gauss-Hermite nodes and weights for a standard normal variable: exact up to polynomials of
# degree 9 (Abramowitz and Stegun, 25.4.46).
_nodes, _weights = np.polynomial.hermite_e.hermegauss(5)
NODES: Array = _nodes
WEIGHTS: Array = _weights / _weights.sum()


@dataclass(frozen=True)
class Candidates:
    """All candidates, the edge alone last. Arrays have one entry a candidate.

    `edge_ms` is the time of the head, for the edge alone that of everything. `rest_ms` is the
    edge's time for everything after the head. `server_ms` covers decoding (`decode_ms`), tail and
    reduction.
    """

    names: tuple[str, ...]
    codecs: tuple[str, ...]
    cut: NDArray[np.int64]
    bytes_up: Array
    edge_ms: Array
    encode_ms: Array
    decode_ms: Array
    server_ms: Array
    rest_ms: Array
    memory_bytes: Array
    agreement: Array  # nan if not measured
    accuracy: Array  # the share of the uncut, uncoded model's that is kept; nan if not measured
    bytes_down: float
    pictures: bool  # whether the codecs of cut 0 are picture codecs

    def __len__(self) -> int:
        return len(self.names)

    @property
    def edge_only(self) -> int:
        """The position of the candidate that sends nothing."""
        return len(self) - 1

    def title(self, i: int) -> str:
        """Name a candidate for a table or a sentence."""
        if self.codecs[i] == EDGE_ONLY:
            return EDGE_ONLY
        return f"{self.names[i]} as {self.codecs[i]}"

    def codec(self, i: int) -> Codec | PictureCodec:
        """Return the codec of a candidate; `raw` for the edge alone."""
        picture = self.pictures and bool(self.cut[i] == 0)
        return _parsed(self.codecs[i], picture)

    def position(self, cut: int, codec: str) -> int:
        """Return the position of a cut with a codec; that of the edge alone if there is none."""
        for i in np.flatnonzero(self.cut == cut):
            if self.codecs[i] == codec:
                return int(i)
        return self.edge_only

    def only(self, keep: NDArray[np.bool_]) -> "Candidates":
        """Return the candidates for which `keep` is true."""
        kept = np.flatnonzero(keep)
        columns = {
            f.name: getattr(self, f.name)[kept]
            for f in fields(self)
            if isinstance(getattr(self, f.name), np.ndarray)
        }
        names = tuple(self.names[i] for i in kept)
        codecs = tuple(self.codecs[i] for i in kept)
        return replace(self, names=names, codecs=codecs, **columns)

    def link_ms(self, beliefs: Beliefs, z: float = 0.0) -> Array:
        """Time on the link, both ways, with the wait for the backlog; 0 for the edge alone."""
        queued = np.maximum(0.0, beliefs.backlog_ms - self.before_ms(beliefs))
        up, down = beliefs.up, beliefs.down.time_ms(self.bytes_down, z)
        slope = up.ms_per_byte * float(np.exp(z * up.spread))
        total = queued + (up.fixed_ms + down) + self.bytes_up * slope
        total[self.bytes_up == 0] = 0.0
        return total

    def before_ms(self, beliefs: Beliefs | None = None) -> Array:
        """Time until a frame is handed to the link; for the edge alone the time of everything.

        Without beliefs it is the time of the profile.
        """
        return (self.edge_ms + self.encode_ms) * (beliefs.edge_factor if beliefs else 1.0)

    def after_ms(self, beliefs: Beliefs) -> Array:
        """Time of the server; 0 for the edge alone."""
        total = self.server_ms * beliefs.server_factor + beliefs.server_wait_ms
        total[self.bytes_up == 0] = 0.0
        return total

    def latency_ms(self, beliefs: Beliefs, z: float = 0.0) -> Array:
        """End-to-end latency at the normal quantile `z`: 0 is the median, 1.645 is 95 %."""
        return self.before_ms(beliefs) + self.link_ms(beliefs, z) + self.after_ms(beliefs)

    def interval_ms(self, beliefs: Beliefs) -> Array:
        """Time from frame to frame in a full pipeline.

        Head, encoder, uplink, decoder, tail and downlink each work on one frame at a time. The
        slowest of them determines the interval.
        """
        edge, server = beliefs.edge_factor, beliefs.server_factor
        down = np.where(self.bytes_up == 0, 0.0, self.bytes_down * beliefs.down.ms_per_byte)
        stages: Array = np.stack(
            [
                self.edge_ms * edge,
                self.encode_ms * edge,
                self.bytes_up * beliefs.up.ms_per_byte,
                self.decode_ms * server,
                (self.server_ms - self.decode_ms) * server,
                down,
            ]
        )
        slowest: Array = stages.max(axis=0)
        return slowest

    def expected_ms(self, beliefs: Beliefs, fallback: Callable[[Array], Array]) -> Array:
        """Mean latency over the uncertainty of the link, if the edge can finish a frame itself.

        `fallback` takes the median wait for a reply and returns when the edge finishes.
        """
        before, after = self.before_ms(beliefs), self.after_ms(beliefs)
        latest = fallback(self.link_ms(beliefs) + after)
        total = np.zeros(len(self))
        for z, weight in zip(NODES, WEIGHTS, strict=True):
            reply = before + self.link_ms(beliefs, float(z)) + after
            total += weight * np.minimum(reply, latest)
        return total


@cache
def _parsed(name: str, picture: bool) -> Codec | PictureCodec:
    """Parse a codec, once for each name, because a policy needs it for every frame."""
    if name == EDGE_ONLY:
        return RAW
    return PictureCodec.parse(name) if picture else Codec.parse(name)


@dataclass(frozen=True)
class Limits:
    """Limits of a plan. None and empty mean unlimited."""

    cuts: tuple[int, ...] = ()
    codecs: tuple[str, ...] = ()
    memory_bytes: int | None = None
    agreement: float | None = None
    accuracy: float | None = None
    deadline_ms: float | None = None


UNLIMITED = Limits()


@dataclass(frozen=True)
class Power:
    """Power of the edge in watts, and the energy of a bit that it sends or receives.

    `kind` is the origin of the watts. Energy predicted from them is always modelled.
    """

    compute: float
    transmit: float
    idle: float = 0.0
    nanojoules_per_bit: float = 0.0
    kind: Kind = Kind.MODELLED

    def millijoules(self, candidates: Candidates, beliefs: Beliefs) -> Array:
        """Return the modelled energy of a frame on the edge."""
        busy = candidates.before_ms(beliefs)
        sending = candidates.bytes_up * beliefs.up.ms_per_byte
        waiting = np.maximum(0.0, candidates.latency_ms(beliefs) - busy - sending)
        down = np.where(candidates.bytes_up == 0, 0.0, candidates.bytes_down)
        link = (candidates.bytes_up + down) * millijoules_per_byte(self.nanojoules_per_bit)
        return self.compute * busy + self.transmit * sending + self.idle * waiting + link

    def frame_joules(self, stages: Mapping[str, float], total_ms: float) -> float:
        """Modelled energy of a frame on the edge by its stages in ms, without that of its bytes.

        `stages` are those of the edge, and `link`. The edge computes in its own stages, sends
        in `link` and waits for the rest of `total_ms`.
        """
        waits = ("edge_wait", "other", "link")
        busy = sum(elapsed for stage, elapsed in stages.items() if stage not in waits)
        sending = stages.get("link", 0.0)
        waiting = max(0.0, total_ms - busy - sending)
        return (self.compute * busy + self.transmit * sending + self.idle * waiting) / 1e3


def millijoules_per_byte(nanojoules_per_bit: float) -> float:
    """The same in millijoules for a byte."""
    return nanojoules_per_bit * 8 / 1e6


def power(declared: PowerSpec | None, measured: MeasuredPower | None) -> Power | None:
    """The edge's power: as its sensors show it, else as declared; None if neither suffices.

    No sensor measures the power of sending. Unless it is declared, it counts as that of waiting.
    """
    per_bit = 0.0 if declared is None else float(declared.nanojoules_per_bit or 0)
    transmit = None if declared is None else _watts(declared.transmit_milliwatts)
    if measured is not None:
        idle = measured.idle_watts
        sending = idle if transmit is None else transmit
        return Power(measured.compute_watts, sending, idle, per_bit, measured.kind)
    if declared is None:
        return None
    compute, idle = _watts(declared.compute_milliwatts), declared.idle_milliwatts / 1e3
    if transmit is None and declared.nanojoules_per_bit is not None:
        transmit = idle
    return None if compute is None or transmit is None else Power(compute, transmit, idle, per_bit)


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1e3


@dataclass(frozen=True)
class Objective:
    """The figure to minimise: a weighted sum of latency, time from frame to frame, and energy.

    Each is divided by that of the edge alone, so weights have no unit. `z` is the normal quantile
    of the latency, 0 for the median.
    """

    latency: float = 1.0
    throughput: float = 0.0
    energy: float = 0.0
    z: float = 0.0
    power: Power | None = None

    @property
    def latency_alone(self) -> bool:
        """Whether the other two weights are 0."""
        return (self.throughput, self.energy) == (0, 0)

    def costs(self, candidates: Candidates, beliefs: Beliefs) -> Array:
        """Return the figure of every candidate. With latency alone it is the latency in ms."""
        figures = self.figures(candidates, beliefs)
        return self.weighted(figures, figures, candidates.edge_only)

    def figures(self, candidates: Candidates, beliefs: Beliefs) -> tuple[Array, ...]:
        """Return the figures that have a weight: latency, interval and energy, in this order.

        Raises InvalidInput if the energy has a weight and the power is unknown.
        """
        latency = candidates.latency_ms(beliefs, self.z)
        if self.latency_alone:
            return (latency,)
        interval = candidates.interval_ms(beliefs)
        if not self.energy:
            return latency, interval
        if self.power is None:
            raise InvalidInput("objective", "energy", "the watts of the edge as well")
        return latency, interval, self.power.millijoules(candidates, beliefs)

    def weighted(self, figures: Sequence[Array], units: Sequence[Array], unit: int) -> Array:
        """Return the weighted sum of figures, each divided by entry `unit` of its `units`.

        With latency alone it is the latency.
        """
        if self.latency_alone:
            return figures[0]
        weights = (self.latency, self.throughput, self.energy)
        total = np.zeros(len(figures[0]))
        for weight, figure, scale in zip(weights, figures, units, strict=False):
            total += weight * figure / max(scale[unit], 1e-9)
        return total


LATENCY = Objective()
"""The median latency."""


def lowest(costs: Array, latencies: Array) -> int:
    """Return the position of the lowest cost; of equal ones that of the lowest latency."""
    return int(np.where(costs == costs.min(), latencies, np.inf).argmin())


def candidates(
    edge: Profile,
    server: Profile,
    *,
    slowdown: float = 1.0,
    codecs: Sequence[str] = (),
) -> Candidates:
    """Combine every cut with every codec, the input with every picture codec, and the edge alone.

    `slowdown` multiplies the edge's times. `codecs` limits the codecs to those named. Raises
    InvalidInput if the two profiles are of different networks.
    """
    if edge.cuts != server.cuts:
        raise InvalidInput("profile", server.network, f"a profile of {edge.network}, as the edge's")
    rows = _Rows(edge, server, slowdown)
    named = [codec for codec in edge.codecs if not codecs or codec.codec in codecs]
    pictures = [codec for codec in edge.picture_codecs if not codecs or codec.codec in codecs]
    whole = pictures if edge.picture_codecs else named
    for k, name in enumerate(edge.cuts[:-1]):
        if name not in edge.refused and name not in server.refused:
            for codec in whole if k == 0 else named:
                rows.add(k, codec)
    rows.add_edge_only()
    return rows.done()


@dataclass
class _Rows:
    """Candidates under construction."""

    edge: Profile
    server: Profile
    slowdown: float
    rows: list[tuple[float, ...]] = field(default_factory=list)
    codecs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._head, self._rest = self.edge.head_ms(), self.edge.tail_ms()
        self._served = self.server.tail_ms()
        known = (*self.server.codecs, *self.server.picture_codecs)
        self._decode = {(c.codec, len(c.bytes)): c.decode_ms for c in known}

    def add(self, k: int, codec: CodecProfile) -> None:
        """Add one cut with one codec."""
        decode = self._decode.get((codec.codec, len(codec.bytes)), codec.decode_ms)[k]
        tail = self._served[k]
        self.codecs.append(codec.codec)
        self.rows.append(
            (
                k,
                codec.bytes[k],
                self._head[k] * self.slowdown,
                codec.encode_ms[k] * self.slowdown,
                decode,
                decode + tail + self.server.reduce_ms,
                (self._rest[k] + self.edge.reduce_ms) * self.slowdown,
                self.edge.memory_bytes[k],
                _known(codec.agreement),
                _known(codec.kept(k)),
            )
        )

    def add_edge_only(self) -> None:
        """Add the edge alone."""
        everything = (self._head[-1] + self.edge.reduce_ms) * self.slowdown
        memory = self.edge.memory_bytes[-1]
        self.codecs.append(EDGE_ONLY)
        self.rows.append((self.edge.last, 0, everything, 0, 0, 0, 0, memory, 1.0, 1.0))

    def done(self) -> Candidates:
        """Return the rows as columns."""
        cut, up, edge, encode, decode, server, rest, memory, agreement, accuracy = np.array(
            self.rows, float
        ).T
        return Candidates(
            names=tuple(self.edge.cuts[int(k)] for k in cut),
            codecs=tuple(self.codecs),
            cut=cut.astype(np.int64),
            bytes_up=up,
            edge_ms=edge,
            encode_ms=encode,
            decode_ms=decode,
            server_ms=server,
            rest_ms=rest,
            memory_bytes=memory,
            agreement=agreement,
            accuracy=accuracy,
            bytes_down=float(self.edge.reply_bytes),
            pictures=bool(self.edge.picture_codecs),
        )


def _known(share: float | None) -> float:
    return np.nan if share is None else share
