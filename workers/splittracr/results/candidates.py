"""The candidates that a study has measured, by cut and codec, for its report."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from splittracr.experiment.codec import PICTURE_PATTERN, Codec, PictureCodec
from splittracr.experiment.contracts import Role
from splittracr.experiment.energy import Kind
from splittracr.experiment.spec import Mode
from splittracr.experiment.types import Exactness, Record
from splittracr.planning.cost import EDGE_ONLY
from splittracr.results.energy import of_machine
from splittracr.results.environment import Environment
from splittracr.results.rate import Rate, RatePoint
from splittracr.results.summary import CutFigures, Summary

_AROUND = ("load", "prepare", "edge_wait", "finish")  # stages that every candidate has


class CandidateKind(StrEnum):
    """The kinds of candidates."""

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
class Candidate:
    """A candidate with its figures, which are None if they are not known.

    `latency_ms` is a mean. `bytes` go to the server. `kept` is the share of the uncut,
    uncoded model's accuracy, or the agreement with it. `joules` are those of a sample on the edge.
    """

    kind: CandidateKind
    family: str
    title: str
    latency_ms: Figure | None
    bytes: Figure | None
    kept: Figure | None
    joules: Figure | None

    def keeps(self, share: float) -> bool:
        """Whether it is known to keep this share of the accuracy."""
        return self.kept is not None and self.kept.value >= share


Key = tuple[int, str]
"""Index of the cut and name of the codec; that of the edge alone is empty."""


class Measurements:
    """The candidates that a study measured, and the figures that predictions of others start from.

    `large` are the cuts of the large model, `last` is the index of the cut `output`. `points` are
    those of `splittracr rate`.
    """

    def __init__(
        self,
        environment: Environment,
        figures: Summary,
        records: Sequence[Record],
        rate: Rate | None,
    ) -> None:
        self.environment, self._cuts, self._records = environment, figures.cuts, records
        self.spec = environment.manifest.spec
        self.by_index = {cut.index: cut for cut in environment.cuts}
        self.last = max(self.by_index)
        # The cut `output` of a cascade has the answers of the small model, others those of exits.
        self._first = {one.cut_index for one in records if one.network in ("small", "exit")}
        self.large = [one for one in figures.cuts if one.index not in self._first]
        self.points: dict[Key, RatePoint] = {}
        self.kept: dict[Key, float] = {}
        if rate is not None:
            self.points = {(one.cut_index, one.codec): one for one in rate.points}
            self.kept = {key: rate.kept(one) for key, one in self.points.items()}
        self.named = {cut.name: cut.index for cut in environment.cuts}
        for one in environment.agreement:
            if one.share is not None and one.cut in self.named:
                self.kept.setdefault((self.named[one.cut], one.codec), one.share)

    @property
    def is_cascade(self) -> bool:
        """Whether the study ran in mode Cascade."""
        return self.spec.partition.mode is Mode.CASCADE

    def measured(self) -> Iterator[tuple[Key, Candidate]]:
        """The cuts that were measured with one codec. A cascade's cuts are no candidates."""
        cascades = self.spec.partition.cascade is not None
        for cut in self._cuts:
            alone = cut.index == self.last
            if cut.total_ms is None or cascades or not (alone or len(cut.codecs) == 1):
                continue
            key = (cut.index, "" if alone else next(iter(cut.codecs)))
            sent = 0.0 if alone else cut.bytes_up
            yield (
                key,
                replace(
                    self.candidate(key),
                    latency_ms=Figure(cut.total_ms.mean, measured=True),
                    bytes=None if sent is None else Figure(sent, measured=True),
                    joules=_joules(cut),
                ),
            )

    def candidate(self, key: Key) -> Candidate:
        """A candidate without latency, bytes and energy."""
        index, codec = key
        kept = self.share(key)
        figure = None if kept is None else Figure(kept, measured=True)
        if index == self.last:
            return Candidate(CandidateKind.EDGE, "", EDGE_ONLY, None, None, figure, None)
        if index > 0:
            title = f"cut at {self.by_index[index].name} as {codec}"
            return Candidate(CandidateKind.CUT, "", title, None, None, figure, None)
        family = _family(self._codec(key))
        return Candidate(
            CandidateKind.WHOLE, family, f"whole input as {codec}", None, None, figure, None
        )

    @property
    def pictures(self) -> bool:
        """Whether the model takes pictures, so that cut `input` has picture codecs."""
        live = self.by_index[0].live if 0 in self.by_index else ()
        return len(live) == 1 and live[0].dtype == "uint8"

    def _codec(self, key: Key) -> Codec | PictureCodec:
        index, name = key
        picture = index == 0 and self.pictures and re.fullmatch(PICTURE_PATTERN, name)
        return PictureCodec.parse(name) if picture else Codec.parse(name)

    def share(self, key: Key) -> float | None:
        """The share of the accuracy that is kept: as measured, or 1 with a lossless codec."""
        if key in self.kept:
            return self.kept[key]
        if key[0] == self.last:
            return 1.0
        exact = self.by_index[key[0]].exactness is not Exactness.BOUNDED
        return 1.0 if exact and not self._codec(key).lossy else None

    def around_ms(self) -> float:
        """Mean time in ms of the stages that every candidate has; 0 if none was measured."""
        found = [
            sum(cut.stages_ms.get(stage, 0.0) for stage in _AROUND)
            for cut in self.large
            if cut.stages_ms
        ]
        return sum(found) / len(found) if found else 0.0

    def ran(self) -> Candidate | None:
        """The cascade of this study: its cuts together, weighted by their samples.

        None if the study ran in another mode.
        """
        cuts = [cut for cut in self._cuts if cut.total_ms is not None and cut.n]
        cascade, total = self.spec.partition.cascade, sum(cut.n for cut in cuts)
        if not total or cascade is None or not self.is_cascade:
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
        return Candidate(
            CandidateKind.CASCADE,
            "",
            cascade_title("" if cascade.model is None else cascade.model.name, small),
            Figure(latency, measured=True),
            Figure(sent, measured=True),
            kept,
            energy,
        )

    def _rest_kept(self, cuts: Sequence[CutFigures]) -> float | None:
        """The mean share that samples of the large model keep; None if it is not known of all."""
        shares = [
            (n, self.share((cut.index, codec)))
            for cut in cuts
            if cut.index not in self._first
            for codec, n in cut.codecs.items()
        ]
        known = [(n, share) for n, share in shares if share is not None]
        if len(known) < len(shares):
            return None
        total = sum(n for n, _ in known)
        return sum(n * share for n, share in known) / total if total else 1.0


def cascade_title(small: str, share: float) -> str:
    """The title with the name of the small model; empty with exits."""
    return f"cascade, {f'{small} answers' if small else 'exits answer'} {share * 100:.0f} %"


def _joules(cut: CutFigures) -> Figure | None:
    """The energy of a frame on the edge's machine; modelled figures count as predicted."""
    found = of_machine(cut.energy, Role.EDGE)
    if found is None or found.joules_per_frame is None:
        return None
    return Figure(found.joules_per_frame / (cut.n / cut.frames), found.kind is not Kind.MODELLED)


def _family(codec: Codec | PictureCodec) -> str:
    """The family of a codec of the whole input. Its members differ in quality only."""
    if isinstance(codec, Codec):
        return "tensor"
    kind = "lossless" if codec.quality is None else codec.format.value
    return kind if codec.scale == 100 else f"{kind}@{codec.scale}"
