"""The candidates of a study, measured or predicted, and the best one by each constraint.

The planner predicts from the times of operations that the study has measured, from its link, and
from the files of `splittracr rate` and `splittracr calibrate` in its folder. A predicted figure
never replaces a measured one.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import accumulate

import numpy as np

from splittracr.experiment.calibration import Calibration
from splittracr.experiment.codec import PICTURE_PATTERN, Codec, PictureCodec
from splittracr.experiment.contracts import Role
from splittracr.experiment.energy import Kind
from splittracr.experiment.spec import LinkSpec, Mode
from splittracr.experiment.types import Exactness, Record, Tier
from splittracr.planning.cost import EDGE_ONLY, Candidates, Power, power
from splittracr.planning.estimate import Beliefs, LinkEstimate
from splittracr.results.energy import of_machine
from splittracr.results.environment import Environment
from splittracr.results.rate import Rate, RatePoint
from splittracr.results.summary import CutFigures, Summary

SHARE = 0.99
"""Of the accuracy, if the manifest asks for none."""

_AROUND = ("load", "prepare", "edge_wait", "finish")  # stages that every way has
_MIN_RANGE = 2.0  # largest over smallest message from which a rate of the link can be fitted


class Way(StrEnum):
    """The kinds of options: how a sample is answered."""

    EDGE = "edge only"
    CUT = "cut"
    WHOLE = "whole input"
    CASCADE = "cascade"


@dataclass(frozen=True)
class Figure:
    """A value and whether it was measured; if not, it was predicted."""

    value: float
    measured: bool


@dataclass(frozen=True)
class Option:
    """One way to answer a sample. Figures are None if nothing is known.

    `latency_ms` is a mean, `bytes` what the edge sends, `kept` the share of the uncut, uncoded
    model's accuracy (or the agreement with it), `joules` the energy of a sample on the edge.
    """

    way: Way
    family: str
    title: str
    latency_ms: Figure | None
    bytes: Figure | None
    kept: Figure | None
    joules: Figure | None

    def keeps(self, share: float) -> bool:
        """Whether it is known to keep this share of the accuracy."""
        return self.kept is not None and self.kept.value >= share


@dataclass(frozen=True)
class Winner:
    """The best option by a constraint; None if no option meets it."""

    constraint: str
    option: Option | None


@dataclass(frozen=True)
class Advice:
    """All options, the best by constraint, and how far predictions are from measured latencies.

    `share` is the accuracy asked for, `errors` are predicted over measured latency, less one, of
    the options that have both. `link` says where the link of predictions is from; None without.
    """

    options: tuple[Option, ...]
    share: float
    winners: tuple[Winner, ...]
    errors: tuple[float, ...]
    link: str | None


def advise(
    environment: Environment,
    figures: Summary,
    records: Sequence[Record],
    rate: Rate | None = None,
    calibration: Calibration | None = None,
) -> Advice:
    """Compare the ways of a study. `rate` and `calibration` are of its model."""
    study = _Study(environment, figures, records, rate)
    made = dict(study.measured())
    beliefs, link = _link(environment, figures)
    errors = []
    for key, option in study.predicted(beliefs):
        known = made.get(key)
        if known is None:
            made[key] = option
        elif known.latency_ms is not None and option.latency_ms is not None:
            errors.append(option.latency_ms.value / known.latency_ms.value - 1)
    options = list(made.values())
    options += study.cascades(calibration, made)
    adaptive = environment.manifest.spec.partition.adaptive
    asked = None if adaptive is None else adaptive.accuracy_percent
    share = SHARE if asked is None else asked / 100
    predicted = any(o.latency_ms and not o.latency_ms.measured for o in options)
    return Advice(
        tuple(options), share, winners(options, share), tuple(errors), link if predicted else None
    )


def winners(options: Sequence[Option], share: float) -> tuple[Winner, ...]:
    """The best option by each constraint."""
    kept = [one for one in options if one.keeps(share)]
    sends = [one for one in kept if one.way is not Way.EDGE]
    percent = f"{share * 100:g} %"
    found = [
        Winner("the lowest latency", _least(options, lambda one: one.latency_ms)),
        Winner(
            f"the lowest latency that keeps {percent} of the accuracy",
            _least(kept, lambda one: one.latency_ms),
        ),
        Winner(
            f"the fewest bytes that keep {percent} of it, with a server",
            _least(sends, lambda one: one.bytes),
        ),
    ]
    if any(one.joules for one in options):
        least = _least(kept, lambda one: one.joules)
        found.append(Winner(f"the least energy on the edge that keeps {percent} of it", least))
    return tuple(found)


def _least(options: Sequence[Option], of: Callable[[Option], Figure | None]) -> Option | None:
    known = [(figure.value, i) for i, one in enumerate(options) if (figure := of(one)) is not None]
    return options[min(known)[1]] if known else None


Key = tuple[int, str]
"""Index of the cut and name of the codec; that of the edge alone is empty."""


class _Study:
    """The options of a study: those that it measured, and those that the planner predicts."""

    def __init__(
        self,
        environment: Environment,
        figures: Summary,
        records: Sequence[Record],
        rate: Rate | None,
    ) -> None:
        self._environment, self._cuts, self._records = environment, figures.cuts, records
        self._spec = environment.manifest.spec
        self._by_index = {cut.index: cut for cut in environment.cuts}
        self._last = max(self._by_index)
        # The cut `output` of a cascade has the answers of the small model, others those of exits.
        self._first = {one.cut_index for one in records if one.network in ("small", "exit")}
        self._large = [one for one in figures.cuts if one.index not in self._first]
        self._slowdown = self._spec.edge.slowdown_percent / 100
        self._points: dict[Key, RatePoint] = {}
        self._kept: dict[Key, float] = {}
        if rate is not None:
            self._points = {(one.cut_index, one.codec): one for one in rate.points}
            self._kept = {key: rate.kept(one) for key, one in self._points.items()}
        self._named = {cut.name: cut.index for cut in environment.cuts}
        for one in environment.agreement:
            if one.share is not None and one.cut in self._named:
                self._kept.setdefault((self._named[one.cut], one.codec), one.share)
        self._power: Power | None = power(self._spec.declared_power, None)

    @property
    def _is_cascade(self) -> bool:
        """Whether the study ran in mode Cascade."""
        return self._spec.partition.mode is Mode.CASCADE

    # ------------------------------------------------------------------------------- measured

    def measured(self) -> Iterator[tuple[Key, Option]]:
        """The cuts that were measured with one codec. A cascade's cuts are no ways of their own."""
        for cut in self._cuts:
            alone = cut.index == self._last
            if cut.total_ms is None or self._is_cascade or not (alone or len(cut.codecs) == 1):
                continue
            key = (cut.index, "" if alone else next(iter(cut.codecs)))
            sent = 0.0 if alone else cut.bytes_up
            yield (
                key,
                replace(
                    self._option(key),
                    latency_ms=Figure(cut.total_ms.mean, measured=True),
                    bytes=None if sent is None else Figure(sent, measured=True),
                    joules=_joules(cut),
                ),
            )

    def _option(self, key: Key) -> Option:
        """An option without latency, bytes and energy."""
        index, codec = key
        kept = self._share(key)
        figure = None if kept is None else Figure(kept, measured=True)
        if index == self._last:
            return Option(Way.EDGE, "", EDGE_ONLY, None, None, figure, None)
        if index > 0:
            title = f"cut at {self._by_index[index].name} as {codec}"
            return Option(Way.CUT, "", title, None, None, figure, None)
        family = _family(self._codec(key))
        return Option(Way.WHOLE, family, f"whole input as {codec}", None, None, figure, None)

    @property
    def _pictures(self) -> bool:
        """Whether the model takes pictures, so that cut `input` has picture codecs."""
        live = self._by_index[0].live if 0 in self._by_index else ()
        return len(live) == 1 and live[0].dtype == "uint8"

    def _codec(self, key: Key) -> Codec | PictureCodec:
        index, name = key
        picture = index == 0 and self._pictures and re.fullmatch(PICTURE_PATTERN, name)
        return PictureCodec.parse(name) if picture else Codec.parse(name)

    def _share(self, key: Key) -> float | None:
        """The share of the accuracy that is kept: as measured, or 1 with a lossless codec."""
        if key in self._kept:
            return self._kept[key]
        if key[0] == self._last:
            return 1.0
        exact = self._by_index[key[0]].exactness is not Exactness.BOUNDED
        return 1.0 if exact and not self._codec(key).lossy else None

    def _around_ms(self) -> float:
        """Mean time of the stages that every way has; 0 if none was measured."""
        found = [
            sum(cut.stages_ms.get(stage, 0.0) for stage in _AROUND)
            for cut in self._large
            if cut.stages_ms
        ]
        return sum(found) / len(found) if found else 0.0

    # ------------------------------------------------------------------------------ predicted

    def predicted(self, beliefs: Beliefs | None) -> Iterator[tuple[Key, Option]]:
        """The points of `rate` and the edge alone, by the planner."""
        heads, tails = self._times(Role.EDGE), self._times(Role.SERVER)
        if heads is None or self._spec.workload.batch_size > 1:
            return
        points = []
        if tails is not None and beliefs is not None:
            points = [one for one in self._points.items() if one[1].encode_ms is not None]
        link = beliefs or Beliefs.of_link(1.0, 0.0)  # of no consequence for the edge alone
        found = self._candidates([point for _, point in points], heads, tails or heads)
        link = self._with_factors(link, heads, tails or heads)
        around = self._around_ms()
        latency = found.latency_ms(link) + around
        energy = None if self._power is None else self._power.millijoules(found, link)
        for i, key in enumerate([*(key for key, _ in points), (self._last, "")]):
            joules = None
            if energy is not None and self._power is not None:
                joules = Figure((energy[i] + self._power.compute * around) / 1e3, measured=False)
            yield (
                key,
                replace(
                    self._option(key),
                    latency_ms=Figure(float(latency[i]), measured=False),
                    bytes=Figure(float(found.bytes_up[i]), measured=True),
                    joules=joules,
                ),
            )

    def _with_factors(
        self, link: Beliefs, heads: Sequence[float], served: Sequence[float]
    ) -> Beliefs:
        """The link with what the machines took in the study over the times of their operations:
        they may have had other work. As the planner's estimates, they hold for all candidates.
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
        ends = [one for one in self._environment.operation_times if one.role == role]
        if not ends or len(ends[0].operations) != self._last:
            return None
        return list(accumulate((one.mean_ms for one in ends[0].operations), initial=0.0))

    def _candidates(
        self, points: Sequence[RatePoint], heads: Sequence[float], served: Sequence[float]
    ) -> Candidates:
        """The points and the edge alone, as the planner has them."""
        cut = np.array([*(one.cut_index for one in points), self._last])
        reduce_ms = max((one.stages_ms.get("reduce", 0.0) for one in self._large), default=0.0)
        head = np.array(heads)[cut] * self._slowdown
        head[-1] += reduce_ms
        decode = np.array([*(one.decode_ms or 0.0 for one in points), 0.0])
        tail = served[-1] - np.array(served)[cut] + decode + reduce_ms
        tail[-1] = 0.0
        encode = np.array([*(one.encode_ms or 0.0 for one in points), 0.0]) * self._slowdown
        kept = np.array([*(self._kept[one.cut_index, one.codec] for one in points), 1.0])
        down = [one.bytes_down for one in self._large if one.bytes_down]
        return Candidates(
            names=tuple(self._by_index[int(k)].name for k in cut),
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
            pictures=self._pictures,
        )

    # ------------------------------------------------------------------------------- cascades

    def cascades(
        self,
        calibration: Calibration | None,
        others: dict[Key, Option],
    ) -> Iterator[Option]:
        """The cascade that the study ran, or else the one that was calibrated."""
        if self._is_cascade:
            found = self._ran()
        else:
            found = None if calibration is None else self._calibrated(calibration, others)
        if found is not None:
            yield found

    def _ran(self) -> Option | None:
        """The cascade of this study: its cuts together, weighted by their samples."""
        cuts = [cut for cut in self._cuts if cut.total_ms is not None and cut.n]
        cascade, total = self._spec.partition.cascade, sum(cut.n for cut in cuts)
        if not total or cascade is None:
            return None
        latency = sum(cut.n * cut.total_ms.mean for cut in cuts if cut.total_ms) / total
        sent = sum(cut.n * (cut.bytes_up or 0.0) for cut in cuts) / total
        small = sum(cut.n for cut in cuts if cut.index in self._first) / total
        audits = [one.audit for one in self._records if one.audit in ("agrees", "disagrees")]
        kept, rest = None, self._rest_kept(cuts)
        if audits and rest is not None:
            agrees = 1 - audits.count("disagrees") / len(audits)
            kept = Figure(small * agrees + (1 - small) * rest, measured=True)
        joules = [(cut.n, _joules(cut)) for cut in cuts]
        known = [(n, one) for n, one in joules if one is not None]
        energy = None
        if len(known) == len(joules):
            value = sum(n * one.value for n, one in known) / total
            energy = Figure(value, measured=all(one.measured for _, one in known))
        return Option(
            Way.CASCADE,
            "",
            _cascade_title("" if cascade.model is None else cascade.model.name, small),
            Figure(latency, measured=True),
            Figure(sent, measured=True),
            kept,
            energy,
        )

    def _rest_kept(self, cuts: Sequence[CutFigures]) -> float | None:
        """The mean share that samples of the large model keep; None if it is not known of all."""
        shares = [
            (n, self._share((cut.index, codec)))
            for cut in cuts
            if cut.index not in self._first
            for codec, n in cut.codecs.items()
        ]
        known = [(n, share) for n, share in shares if share is not None]
        if len(known) < len(shares):
            return None
        total = sum(n for n, _ in known)
        return sum(n * share for n, share in known) / total if total else 1.0

    def _calibrated(self, made: Calibration, others: dict[Key, Option]) -> Option | None:
        """The small model first, then, for the share that it is not sure of, the calibrated cut."""
        index = self._named.get(made.cut)
        rest = None if index is None else others.get((index, made.codec))
        if rest is None or rest.latency_ms is None or made.small_ms is None:
            return None
        heads = self._times(Role.EDGE)
        factor = 1.0 if heads is None else _edge_factor(self._large, heads, self._slowdown)
        small_ms = made.small_ms * self._slowdown * factor
        unsure, around = 1 - made.sure / made.pictures, self._around_ms()
        latency = around + small_ms + unsure * (rest.latency_ms.value - around)
        joules = None
        if rest.joules is not None and self._power is not None:
            value = self._power.compute * small_ms / 1e3 + unsure * rest.joules.value
            joules = Figure(value, measured=False)
        kept = None
        if rest.kept is not None:
            same = (made.sure - made.disagreeing) / made.pictures
            kept = Figure(same + unsure * rest.kept.value, measured=True)
        return Option(
            Way.CASCADE,
            "",
            _cascade_title(made.small, 1 - unsure),
            Figure(latency, measured=False),
            Figure(made.kilobytes * 1000, measured=True),
            kept,
            joules,
        )


def _edge_factor(cuts: Sequence[CutFigures], heads: Sequence[float], slowdown: float) -> float:
    """What heads took in the study over the times of their operations."""
    return _ratio(
        [
            (cut.stages_ms["head"], heads[cut.index] * slowdown)
            for cut in cuts
            if "head" in cut.stages_ms
        ]
    )


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """The sum of measured times over that of the expected ones; 1 without any."""
    known = [(a, b) for a, b in pairs if b > 0]
    measured, expected = sum(a for a, _ in known), sum(b for _, b in known)
    return measured / expected if measured > 0 and expected > 0 else 1.0


def _family(codec: Codec | PictureCodec) -> str:
    """Ways to send the whole input that differ in quality only."""
    if isinstance(codec, Codec):
        return "tensor"
    kind = "lossless" if codec.quality is None else codec.format.value
    return kind if codec.scale == 100 else f"{kind}@{codec.scale}"


def _cascade_title(small: str, share: float) -> str:
    """The title with the name of the small model; empty with exits."""
    return f"cascade, {f'{small} answers' if small else 'exits answer'} {share * 100:.0f} %"


def _joules(cut: CutFigures) -> Figure | None:
    """The energy of a frame on the edge's machine; modelled figures count as predicted."""
    found = of_machine(cut.energy, Role.EDGE)
    if found is None or found.joules_per_frame is None:
        return None
    return Figure(found.joules_per_frame / (cut.n / cut.frames), found.kind is not Kind.MODELLED)


def _link(environment: Environment, figures: Summary) -> tuple[Beliefs | None, str | None]:
    """The link of predictions and where it is from: the manifest, or else a line through the times
    on the link over the bytes of the cuts.
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
