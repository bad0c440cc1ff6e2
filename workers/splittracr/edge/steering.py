"""Live settings as they act on the frames: a change holds for the frames chosen after it."""

from collections.abc import Callable
from dataclasses import replace

from splittracr.edge.reporting import Reporter
from splittracr.experiment.spec import CutRef, ExperimentSpec
from splittracr.experiment.types import Cut
from splittracr.planning.choice import Choice, Fixed, Outcome
from splittracr.planning.schedule import Step


class Steered:
    """The manifest's fixed choices, at the cut and with the codec that the settings name last.

    `resolve` finds a cut, or raises InvalidInput or CutRefused; settings that name a bad one are
    refused before they get here.
    """

    def __init__(
        self,
        spec: ExperimentSpec,
        pictures: bool,
        reporter: Reporter,
        resolve: Callable[[CutRef], Cut],
    ) -> None:
        self._spec, self._pictures = spec, pictures
        self._reporter, self._resolve = reporter, resolve
        self._settings = reporter.settings
        self._fixed = Fixed(spec, pictures)
        self._cut: int | None = None
        self._epoch = 0
        reporter.check_with(resolve)

    def choose(self, step: Step, now: float) -> Choice:
        """The step's choice under the settings of this moment."""
        settings = self._reporter.settings
        if settings is not self._settings:
            self._settings = settings
            self._epoch += 1
            changes = {"partition": settings.partition, "transport": settings.transport}
            self._fixed = Fixed(self._spec.model_copy(update=changes), self._pictures)
            cut = settings.partition.cut
            self._cut = None if cut is None else self._resolve(cut).index
        if self._cut is not None:
            step = replace(step, trial=replace(step.trial, cut=self._cut))
        return replace(self._fixed.choose(step, now), epoch=self._epoch)

    def observe(self, outcome: Outcome, now: float) -> None:
        """Learns nothing."""
