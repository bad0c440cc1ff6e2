"""The candidates that the planner predicts for a study, for its report.

It predicts from the times of operations that the study has measured, from its link, and from the
files of `splittracr rate` and `splittracr calibrate` in its folder.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from splittracr.experiment.calibration import Calibration
from splittracr.experiment.contracts import Role
from splittracr.experiment.spec import LinkSpec
from splittracr.experiment.types import Tier
from splittracr.planning.cascade import Cascade, ordered_exits
from splittracr.planning.cost import EDGE_ONLY, Candidates, Power, power
from splittracr.planning.estimate import Beliefs, LinkEstimate
from splittracr.results.candidates import (
    Candidate,
    CandidateKind,
    Figure,
    Key,
    Measurements,
    cascade_title,
)
from splittracr.results.environment import Environment
from splittracr.results.rate import RatePoint
from splittracr.results.summary import CutFigures, Summary

_MIN_RANGE = 2.0  # largest over smallest message from which a rate of the link can be fitted


class Predictions:
    """The candidates of a study that the planner predicts, from `measured` ones."""

    def __init__(self, measured: Measurements) -> None:
        self._measured, self._large, self._last = measured, measured.large, measured.last
        self._slowdown = measured.spec.edge.slowdown_percent / 100
        self._power: Power | None = power(measured.spec.declared_power, None)

    def predicted(self, beliefs: Beliefs | None) -> Iterator[tuple[Key, Candidate]]:
        """The points of `rate` and the edge alone, by the planner."""
        heads, tails = self._times(Role.EDGE), self._times(Role.SERVER)
        if heads is None or self._measured.spec.workload.batch_size > 1:
            return
        points = []
        if tails is not None and beliefs is not None:
            points = [one for one in self._measured.points.items() if one[1].encode_ms is not None]
        link = beliefs or Beliefs.of_link(1.0, 0.0)  # the edge alone does not use it
        found = self._candidates([point for _, point in points], heads, tails or heads)
        link = self._with_factors(link, heads, tails or heads)
        around = self._measured.around_ms()
        latency = found.latency_ms(link) + around
        energy = None if self._power is None else self._power.millijoules(found, link)
        for i, key in enumerate([*(key for key, _ in points), (self._last, "")]):
            joules = None
            if energy is not None and self._power is not None:
                joules = Figure((energy[i] + self._power.compute * around) / 1e3, measured=False)
            yield (
                key,
                replace(
                    self._measured.candidate(key),
                    latency_ms=Figure(float(latency[i]), measured=False),
                    bytes=Figure(float(found.bytes_up[i]), measured=True),
                    joules=joules,
                ),
            )

    def _with_factors(
        self, link: Beliefs, heads: Sequence[float], served: Sequence[float]
    ) -> Beliefs:
        """Add the factors by which the machines were slower in the study than their operations.

        They may have had other work. As the planner's estimates, the factors hold for all
        candidates.
        """
        server = [
            (cut.stages_ms["tail"], served[-1] - served[cut.index])
            for cut in self._large
            if "tail" in cut.stages_ms and cut.bytes_up
        ]
        waits = [cut.stages_ms.get("server_wait", 0.0) for cut in self._large if cut.bytes_up]
        return replace(
            link,
            edge_factor=_edge_factor(self._large, heads, self._slowdown),
            server_factor=_ratio(server),
            server_wait_ms=sum(waits) / len(waits) if waits else 0.0,
        )

    def _times(self, role: Role) -> list[float] | None:
        """The time of all operations before each cut at one end; None if it was not measured."""
        ends = [one for one in self._measured.environment.operation_times if one.role == role]
        if not ends or len(ends[0].operations) != self._last:
            return None
        return list(accumulate((one.mean_ms for one in ends[0].operations), initial=0.0))

    def _candidates(
        self, points: Sequence[RatePoint], heads: Sequence[float], served: Sequence[float]
    ) -> Candidates:
        """The points and the edge alone as candidates of the planner."""
        cut = np.array([*(one.cut_index for one in points), self._last])
        reduce_ms = max((one.stages_ms.get("reduce", 0.0) for one in self._large), default=0.0)
        head = np.array(heads)[cut] * self._slowdown
        head[-1] += reduce_ms
        decode = np.array([*(one.decode_ms or 0.0 for one in points), 0.0])
        tail = served[-1] - np.array(served)[cut] + decode + reduce_ms
        tail[-1] = 0.0
        encode = np.array([*(one.encode_ms or 0.0 for one in points), 0.0]) * self._slowdown
        kept = np.array([*(self._measured.kept[one.cut_index, one.codec] for one in points), 1.0])
        down = [one.bytes_down for one in self._large if one.bytes_down]
        return Candidates(
            names=tuple(self._measured.by_index[int(k)].name for k in cut),
            codecs=(*(one.codec for one in points), EDGE_ONLY),
            cut=cut.astype(np.int64),
            bytes_up=np.array([*(one.bytes for one in points), 0.0]),
            edge_ms=head,
            encode_ms=encode,
            decode_ms=decode,
            server_ms=tail,
            rest_ms=np.array(heads)[-1] * self._slowdown - head,
            memory_bytes=np.zeros(len(cut)),
            agreement=kept,
            accuracy=kept,
            bytes_down=sum(down) / len(down) if down else 0.0,
            pictures=self._measured.pictures,
        )

    def calibrated(self, made: Calibration, others: Mapping[Key, Candidate]) -> Candidate | None:
        """The small model or the exits first, then the calibrated cut for the samples that go on.

        None if a time that it needs is not known.
        """
        index = self._measured.named.get(made.cut)
        rest = None if index is None else others.get((index, made.codec))
        heads = self._times(Role.EDGE)
        first_ms = made.small_ms if made.exits is None else self._exits_ms(made, heads, index)
        if rest is None or rest.latency_ms is None or first_ms is None:
            return None
        factor = 1.0 if heads is None else _edge_factor(self._large, heads, self._slowdown)
        first_ms *= self._slowdown * factor
        unsure, around = 1 - made.sure / made.pictures, self._measured.around_ms()
        latency = around + first_ms + unsure * (rest.latency_ms.value - around)
        joules = None
        if rest.joules is not None and self._power is not None:
            # As the latency: every sample is read and prepared.
            before = self._power.compute * around / 1e3
            value = before + self._power.compute * first_ms / 1e3
            value += unsure * (rest.joules.value - before)
            joules = Figure(value, measured=False)
        kept = None
        if rest.kept is not None:
            same = (made.sure - made.disagreeing) / made.pictures
            kept = Figure(same + unsure * rest.kept.value, measured=True)
        return Candidate(
            CandidateKind.CASCADE,
            "",
            cascade_title("" if made.exits else made.small, 1 - unsure),
            Figure(latency, measured=False),
            Figure(made.kilobytes * 1000, measured=True),
            kept,
            joules,
        )

    def _exits_ms(
        self, made: Calibration, heads: Sequence[float] | None, index: int | None
    ) -> float | None:
        """Mean time of the exits, with the head of samples that end there, in milliseconds.

        Before the whole input is sent, the head runs up to the last exit. None if a time is not
        known.
        """
        named, counts, own = self._measured.named, made.exits or {}, made.exit_ms
        if own is None or heads is None or index is None or not counts.keys() <= named.keys():
            return None
        exits = ordered_exits(counts, own, named, heads)
        cascade = Cascade.of_exits(
            exits, made.sure / made.pictures, made.disagreeing / made.pictures
        )
        return cascade.own_ms + (cascade.rest * exits[-1].head_ms if index == 0 else 0.0)


def link_of(environment: Environment, figures: Summary) -> tuple[Beliefs | None, str | None]:
    """Return the link of predictions and its origin in words.

    It is that of the manifest, or else a line through the times on the link over the bytes of the
    cuts.
    """
    declared = _declared(environment.manifest.spec.transport.link)
    if declared is not None:
        return declared, "the link of the manifest"
    seen = [
        (cut.bytes_up, cut.tiers_ms[Tier.LINK])
        for cut in figures.cuts
        # Audits of a cascade have bytes, but their time is no part of the latency.
        if cut.bytes_up and cut.tiers_ms.get(Tier.LINK)
    ]
    sizes = [size for size, _ in seen]
    if not sizes or max(sizes) < _MIN_RANGE * min(sizes):
        return None, None
    slope, fixed = np.polyfit(sizes, [elapsed for _, elapsed in seen], 1)
    if slope <= 0:
        return None, None
    free = LinkEstimate(0.0, 0.0)
    up = LinkEstimate(max(0.0, float(fixed)), float(slope))
    rate = f"{up.bits_per_second / 1e6:.3g} Mbit/s and {up.fixed_ms:.3g} ms"
    return Beliefs(up, free), f"{rate}, fitted to the times of {len(seen)} cuts on the link"


def _declared(link: LinkSpec | None) -> Beliefs | None:
    """The emulated link if its rates are constant."""
    if link is None or not link.uplink_kilobits_per_second:
        return None
    up = link.uplink_kilobits_per_second * link.uplink_percent * 10
    down = (link.downlink_kilobits_per_second or 0) * link.downlink_percent * 10
    return Beliefs.of_link(up, link.round_trip_milliseconds or 0, down or None)


def _edge_factor(cuts: Sequence[CutFigures], heads: Sequence[float], slowdown: float) -> float:
    """The time of heads in the study over the time of their operations."""
    return _ratio(
        [
            (cut.stages_ms["head"], heads[cut.index] * slowdown)
            for cut in cuts
            if "head" in cut.stages_ms
        ]
    )


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """The sum of measured times over the sum of expected ones; 1 without any."""
    known = [(a, b) for a, b in pairs if b > 0]
    measured, expected = sum(a for a, _ in known), sum(b for _, b in known)
    return measured / expected if measured > 0 and expected > 0 else 1.0
