"""The edge's exchange with the operator: its report, live settings, termination message.

`GET /v1/report` is open like the metrics. `PUT /v1/settings` needs the control token; a change
holds for the frames that start after it. Status 400 means that settings cannot be used, 409 that
they wait for the next start.
"""

import logging
import os
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from aiohttp import web

from splittracr.edge.live_settings import NeedsRestart, SettingsInUse
from splittracr.edge.tally import Tally
from splittracr.experiment import contracts
from splittracr.experiment.contracts import ExitCode, Role
from splittracr.experiment.errors import (
    AllFailed,
    CutRefused,
    InvalidInput,
    SplittracrError,
    reason,
)
from splittracr.experiment.explain import parse_json
from splittracr.experiment.report import (
    REPORT_PATH,
    SETTINGS_PATH,
    CascadeReport,
    Phase,
    WorkerReport,
    termination_message,
)
from splittracr.experiment.settings import LiveSettings
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Record
from splittracr.planning.decision import Decision
from splittracr.planning.recalibration import Calibrated
from splittracr.security import bears, trusting

log = logging.getLogger(__name__)

_FRESH_SECONDS = 0.5


@dataclass(frozen=True)
class Surroundings:
    """The edge's inputs besides the manifest.

    `control` is the token for live settings. `store` is a file with the URL of the study's place in
    the operator's results store, which may change meanwhile. `termination` is the file for the
    termination message. `reports` is a file with the URL to which an edge outside of the cluster
    sends its reports.
    """

    edge: str = contracts.edge_name(0)
    resume: bool = False
    control: str | None = None
    store: Path | None = None
    termination: Path | None = None
    reports: Path | None = None

    @classmethod
    def read(cls, edge: str, environment: Mapping[str, str], *, resume: bool) -> Self:
        """Read the environment variables that the operator sets."""
        file, store = environment.get(contracts.TERMINATION_FILE), environment.get(contracts.STORE)
        reports = environment.get(contracts.REPORTS)
        return cls(
            edge=edge,
            resume=resume,
            control=environment.get(contracts.CONTROL_TOKEN),
            store=Path(store) if store else None,
            termination=Path(file) if file else None,
            reports=Path(reports) if reports else None,
        )

    def store_url(self) -> str:
        """URL of this edge in the results store, as the file has it now.

        Raises ValueError without a `store`, and OSError if its file cannot be read.
        """
        if self.store is None:
            raise ValueError("there is no results store")
        return f"{self.store.read_text().strip()}/{self.edge}"

    def store_tls(self) -> ssl.SSLContext | bool:
        """TLS for the operator: trust in the authority beside `store` or `reports`, as it is now.

        True, the default trust, if there is none. Raises OSError if it cannot be used.
        """
        file = self.store or self.reports
        authority = None if file is None else file.with_name(contracts.STORE_AUTHORITY)
        if authority is None or not authority.exists():
            return True
        return trusting(authority.read_text())


class Reporter:
    """Serves the report of one edge and takes its settings."""

    def __init__(self, surroundings: Surroundings, spec: ExperimentSpec) -> None:
        self.surroundings = surroundings
        self._batch = spec.workload.batch_size
        self.settings = SettingsInUse(spec)
        self._tally: Tally | None = None
        self._end: dict[str, object] = {}
        self._results: str | None = None
        self._spent: Callable[[], float | None] = lambda: None
        self._cascade: Calibrated | None = None
        self._made = (-1.0, WorkerReport(role=Role.EDGE, edge=surroundings.edge))

    def add_routes(self, app: web.Application) -> None:
        """Add the routes of the report and the settings."""
        app.router.add_get(REPORT_PATH, self._get)
        app.router.add_put(SETTINGS_PATH, self._put)

    def running(self, total: int, earlier: Sequence[Record]) -> None:
        """Begin to count. `total` samples are expected; some were recorded `earlier`."""
        self._tally = Tally(self.surroundings.edge, self._batch, total)
        self._tally.resume(earlier)

    def use_energy(self, spent: Callable[[], float | None]) -> None:
        """Report the joules that `spent` returns, None for unknown."""
        self._spent = spent

    def use_cascade(self, calibrated: Calibrated) -> None:
        """Report the threshold of a cascade and its audits."""
        self._cascade = calibrated

    def add(self, record: Record) -> None:
        """Count a record."""
        if self._tally is not None:
            self._tally.add(record)

    def raise_if_all_failed(self) -> None:
        """Raise AllFailed if no recorded sample succeeded. For the end of the study."""
        failure = self._tally.failure if self._tally is not None else None
        if failure is not None:
            raise AllFailed(failure)

    def decided(self, decision: Decision, total_ms: float) -> None:
        """Count the decision for a finished frame."""
        if self._tally is not None:
            self._tally.decided(decision, total_ms, time.time())

    def kept(self, where: str) -> None:
        """Note where the records are: in the store or on the claim."""
        self._results = where

    def ended(self, error: Exception | None) -> None:
        """Write the termination message: how the study ended, and its figures."""
        code = error.exit_code if isinstance(error, SplittracrError) else ExitCode.FAILED
        if error is None:
            self._end = {"phase": Phase.FINISHED, "exit_code": ExitCode.OK}
        else:
            self._end = {"phase": Phase.FAILED, "error": reason(error), "exit_code": code}
        path = self.surroundings.termination
        if path is not None:
            path.write_bytes(termination_message(self.report(fresh=True)))

    def report(self, *, fresh: bool = False) -> WorkerReport:
        """The current report; computed at most twice a second, since quantiles cost time."""
        now = time.monotonic()
        if fresh or now - self._made[0] > _FRESH_SECONDS:
            self._made = (now, self._report())
        return self._made[1]

    def _report(self) -> WorkerReport:
        if self._tally is None:
            base = WorkerReport(role=Role.EDGE, edge=self.surroundings.edge)
        else:
            base = self._tally.report(Phase.RUNNING, time.time())
        mine: dict[str, object] = {"energy_joules": self._spent()}
        mine |= {"generation": self.settings.current.generation, "results": self._results}
        mine["cascade"] = None if self._cascade is None else _reported(self._cascade)
        return base.model_copy(update={**mine, **self._end})

    async def _get(self, _: web.Request) -> web.Response:
        body = self.report().model_dump_json()
        return web.Response(text=body, content_type="application/json")

    async def _put(self, request: web.Request) -> web.Response:
        if not authorised(request, self.surroundings.control):
            raise web.HTTPUnauthorized(text="the control token is missing or wrong")
        try:
            self.settings.take(parse_json(LiveSettings, await request.read(), "settings"))
        except NeedsRestart as error:
            raise web.HTTPConflict(text=str(error)) from error
        except (InvalidInput, CutRefused) as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        return web.json_response({"generation": self.settings.current.generation})


def _reported(calibrated: Calibrated) -> CascadeReport:
    audit = calibrated.audit
    return CascadeReport(
        audited=audit.audited,
        disagreeing=audit.disagreeing,
        promised=audit.promised,
        drifted=audit.drifted,
        threshold_per_million=calibrated.threshold,
        recalibrations=calibrated.proven,
        judged=calibrated.judged,
        pictures=calibrated.pictures,
    )


def authorised(request: web.Request, token: str | None) -> bool:
    """Whether the request carries the token; False without a token."""
    return token is not None and bears(request.headers.get("Authorization", ""), token)


def surroundings(edge: str, resume: bool) -> Surroundings:
    """The surroundings of this process."""
    return Surroundings.read(edge, os.environ, resume=resume)
