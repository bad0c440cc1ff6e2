"""Exits of the large model, which answer what they are sure of before its cut."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from splittracr.backends import registry
from splittracr.backends.protocol import Backend, Exits
from splittracr.data.cascade import Answer, ClassMap, Judge
from splittracr.edge import stages
from splittracr.edge.cascade import PLACE, Tried
from splittracr.edge.frame import Failed, LoadSample
from splittracr.edge.infer import Inferencer
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import CascadeSpec, ExperimentSpec
from splittracr.experiment.types import Cut
from splittracr.planning.decision import Decision
from splittracr.planning.recalibration import Calibrated, calibrated

_NEVER = 1_000_001
"""A threshold that no sureness reaches."""


@dataclass(frozen=True)
class AtExits:
    """The exits, how their answers compare with those of the large model, and their threshold."""

    exits: Exits
    judge: Judge
    spec: CascadeSpec
    calibrated: Calibrated

    kind: ClassVar[Literal["exit"]] = "exit"
    identity: ClassVar[None] = None

    @property
    def backend(self) -> Backend:
        """The large model, with the post-processor of exits."""
        return self.exits.backend

    @property
    def digest(self) -> str:
        """That of the exits."""
        return self.exits.digest

    @property
    def last_exit(self) -> Cut:
        """The cut of the last exit."""
        return self.exits.cuts[-1]

    def check_cut(self, cut: Cut) -> None:
        """Raise InvalidInput for a cut that is neither `input` nor after all exits."""
        check_cut(cut, self.last_exit)

    async def answer(
        self, runs: Inferencer, load: LoadSample, decision: Decision, due: float | None
    ) -> Tried:
        """Run a sample up to the first exit that is sure enough, else to the last one.

        If it is judged, all exits run.
        """
        threshold = self.calibrated.threshold
        enough = _NEVER if decision.small == "judge" else threshold
        stage = partial(stages.at_exit, self.exits, self.judge.sureness, enough)
        result, end = await runs.up_to_exit(load, decision, due, stage)
        if isinstance(end, Failed):
            return Tried(result, None, 0, None, {}, threshold)
        spent = {stage: ms for stage, ms in result.stages.items() if stage != "other"}
        mine = result.predictions.get(0)
        if mine is None:
            seen = end.batch.usable[0].geometry
            every = tuple(
                (sure, None if one is None else Answer(one, None, seen)) for sure, one in end.tried
            )
            return Tried(
                result, None, end.sureness, end.begun, spent, threshold, every, end.exit_ms
            )
        cut = self.backend.proof.cuts[end.begun.cut]
        shown = {0: replace(mine, draws=self.backend.postprocessor)}
        at_cut = decision.answered_at(cut.index)
        answered = replace(result, cut=cut, decision=at_cut, predictions=shown)
        return Tried(answered, mine, end.sureness, end.begun, spent, threshold, exit_ms=end.exit_ms)


def built(spec: ExperimentSpec, large: Backend, base: Path) -> AtExits:
    """The exits of a study. Raises InvalidInput if they do not go with the model or its cut."""
    wanted = spec.partition.cascade
    if wanted is None or wanted.exits is None:
        raise InvalidInput(f"{PLACE}.exits", None, "a file of exits")
    exits = registry.exit_maker().opened(large, spec, wanted.exits, base)
    rankings = exits.backend.postprocessor.ranking, large.postprocessor.ranking
    judge = Judge(wanted.statistic, *rankings, ClassMap(), least_match=1.0)
    made = AtExits(exits, judge, wanted, calibrated(wanted))
    reference = spec.partition.static_cut
    if reference is not None:
        made.check_cut(large.cut(reference))
    return made


def check_cut(cut: Cut, last: Cut) -> None:
    """Raise InvalidInput for a cut that is neither `input` nor after all exits.

    `last` is the cut of the last exit. Figures of a cut would otherwise mix samples that end there
    with samples that go on.
    """
    if 0 < cut.index <= last.index:
        expected = f"input, or a cut after the last exit, {last.name} ({last.index})"
        raise InvalidInput("spec.partition.cut", cut.name, expected)
