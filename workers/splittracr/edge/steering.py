"""Live settings and the frames: a change holds for the frames that start after it."""

from collections.abc import Callable
from dataclasses import replace

from splittracr.edge.live_settings import SettingsInUse
from splittracr.experiment.settings import LiveSettings
from splittracr.experiment.spec import ExperimentSpec, StaticCut, TransportSpec
from splittracr.experiment.types import Cut
from splittracr.planning.decision import Decision, Outcome, Scheduled
from splittracr.planning.schedule import Step


class Steered:
    """The manifest's fixed choices, with the cut and the codecs of the current settings.

    `resolve` finds a cut, or raises InvalidInput or CutRefused; `usable` raises InvalidInput for
    codecs that one of the ends lacks. Settings with a bad one are refused before. The epoch counts
    the changes of cut or codec.
    """

    def __init__(
        self,
        spec: ExperimentSpec,
        pictures: bool,
        settings: SettingsInUse,
        resolve: Callable[[StaticCut], Cut],
        usable: Callable[[TransportSpec], None] = lambda _: None,
    ) -> None:
        self._spec, self._pictures = spec, pictures
        self._in_use, self._resolve = settings, resolve
        self._epoch = 0
        settings.check_with(resolve, usable)
        self._take(settings.current)

    def choose(self, step: Step, now: float) -> Decision:
        """The step's decision under the current settings."""
        if self._in_use.current is not self._settings:
            before = self._choice()
            self._take(self._in_use.current)
            self._epoch += self._choice() != before
        if self._cut is not None:
            step = replace(step, trial=replace(step.trial, cut=self._cut))
        return replace(self._fixed.choose(step, now), epoch=self._epoch)

    def _take(self, settings: LiveSettings) -> None:
        self._settings = settings
        self._fixed = Scheduled(settings.within(self._spec), self._pictures)
        cut = settings.partition.static_cut
        self._cut = None if cut is None else self._resolve(cut).index

    def _choice(self) -> tuple[int | None, str, str]:
        """The cut and the codecs in use."""
        transport = self._settings.transport
        return self._cut, transport.codec, transport.picture_codec

    def observe(self, outcome: Outcome, now: float) -> None:
        """Ignore the outcome."""
