"""The live settings of an edge: those in use, and the check of new ones."""

import logging
from collections.abc import Callable

from splittracr.experiment.errors import CutRefused, InvalidInput
from splittracr.experiment.settings import LiveSettings
from splittracr.experiment.spec import ExperimentSpec, Mode, StaticCut, TransportSpec
from splittracr.experiment.types import Cut

log = logging.getLogger(__name__)

_NOT_LIVE = "no change of partition or transport: an adaptive edge takes them when it starts again"


class NeedsRestart(InvalidInput):
    """Settings that an edge can use, but only after its next start."""


class SettingsInUse:
    """Holds the settings in use, at first those of the manifest."""

    def __init__(self, spec: ExperimentSpec) -> None:
        self._adaptive = spec.partition.mode is Mode.ADAPTIVE
        self._manifest = LiveSettings.of(spec)
        self.current = self._manifest
        self._resolve: Callable[[StaticCut], Cut] | None = None
        self._usable: Callable[[TransportSpec], None] = lambda _: None

    def check_with(
        self,
        resolve: Callable[[StaticCut], Cut],
        usable: Callable[[TransportSpec], None] = lambda _: None,
    ) -> None:
        """Refuse settings whose cut `resolve` refuses, or whose codecs `usable` does.

        `resolve` raises InvalidInput or CutRefused, `usable` InvalidInput. Settings in use that are
        refused are dropped for those of the manifest.
        """
        self._resolve, self._usable = resolve, usable
        try:
            self._check(self.current)
        except (InvalidInput, CutRefused) as error:
            log.warning("settings of generation %d: %s", self.current.generation, error)
            self.current = self._manifest

    def take(self, wanted: LiveSettings) -> None:
        """Use these settings from now on, unless newer ones are in use.

        Raises InvalidInput or CutRefused if they cannot be used, and NeedsRestart if they can be
        used only after the next start.
        """
        self._check(wanted)
        if self._adaptive and not self._same(wanted):
            raise NeedsRestart("spec.partition.mode", "Adaptive", _NOT_LIVE)
        if wanted.generation >= self.current.generation:
            log.info("settings of generation %d", wanted.generation)
            self.current = wanted

    def _check(self, settings: LiveSettings) -> None:
        cut = settings.partition.static_cut
        if cut is not None and self._resolve is not None:
            self._resolve(cut)
        self._usable(settings.transport)

    def _same(self, wanted: LiveSettings) -> bool:
        """Whether settings differ from those in use by their generation only."""
        now = self.current
        return (wanted.partition, wanted.transport) == (now.partition, now.transport)
