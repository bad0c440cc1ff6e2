"""Sends the reports of an edge outside of a cluster to the operator, and takes its settings.

The operator cannot connect to such an edge, which may be behind NAT. The answer to each report has
the live settings of the study. The next report has the edge's answer to them.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import aiohttp

from splittracr.edge.live_settings import NeedsRestart
from splittracr.edge.reporting import Reporter
from splittracr.experiment.errors import CutRefused, InvalidInput, SplittracrError, reason
from splittracr.experiment.explain import parse_json
from splittracr.experiment.joining import Instructions, Report
from splittracr.experiment.settings import LiveSettings, Outcome

log = logging.getLogger(__name__)

_EVERY_SECONDS = 2.0
_SECONDS = 10.0
_LAST_SECONDS, _LAST_WHEN_STOPPED_SECONDS = 60.0, 5.0


class Ended(SplittracrError):
    """The study has ended in the cluster, or was deleted."""


@contextlib.asynccontextmanager
async def sending(
    reporter: Reporter, uid: str, stop: asyncio.Event, seconds: float = _EVERY_SECONDS
) -> AsyncIterator["Sender | None"]:
    """Send reports in the background; None for an edge that the operator asks itself.

    Sets `stop` if the study has ended in the cluster.
    """
    if reporter.surroundings.reports is None:
        yield None
        return
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    headers = {"Authorization": f"Bearer {reporter.surroundings.control}"}
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        sender = Sender(reporter, uid, session)
        sender.periodic = asyncio.create_task(_send_periodically(sender, stop, seconds))
        try:
            yield sender
        finally:
            await sender.stop()


class Sender:
    """Sends the reports of one edge. `ended` is set once the study has ended in the cluster.

    Raises OSError if the address or the authority of the operator cannot be read.
    """

    def __init__(self, reporter: Reporter, uid: str, session: aiohttp.ClientSession) -> None:
        around = reporter.surroundings
        assert around.reports is not None
        self._reporter, self._session = reporter, session
        self._url = f"{around.reports.read_text().strip()}/{uid}/{around.edge}"
        # One context for all reports, so that they share a connection.
        self._tls = around.store_tls()
        self._answer: tuple[int, Outcome, str] | None = None
        self.ended: Ended | None = None
        self.periodic: asyncio.Task[None] | None = None
        """Sends reports until `stop`."""

    async def send(self, *, fresh: bool = False) -> None:
        """Send one report and take the settings of the answer.

        Raises Ended, SplittracrError for another refusal, and OSError or aiohttp.ClientError
        without an answer.
        """
        sent = Report(report=self._reporter.report(fresh=fresh))
        if self._answer is not None:
            generation, outcome, message = self._answer
            changes = {"answered": generation, "outcome": outcome, "message": message[:1000]}
            sent = sent.model_copy(update=changes)
        text = sent.model_dump_json(by_alias=True)
        async with self._session.put(self._url, data=text, ssl=self._tls) as answer:
            text = await answer.text(errors="replace")
        match answer.status:
            case 200:
                self._take(parse_json(Instructions, text.encode(), "the answer").settings)
            case 410:
                self.ended = Ended(text)
                raise self.ended
            case status:
                raise SplittracrError(f"the operator refuses the report ({status}): {text[:500]}")

    async def stop(self) -> None:
        """Send no more reports in the background."""
        if self.periodic is not None:
            self.periodic.cancel()
            await asyncio.wait([self.periodic])

    async def send_last(self, *, stopped: bool) -> None:
        """Send the report at the end; retry if there is no answer. Raises SplittracrError.

        A process that was stopped has little time, since it is killed soon.
        """
        await self.stop()  # an older report must not arrive after the last one
        seconds, trouble = _LAST_WHEN_STOPPED_SECONDS if stopped else _LAST_SECONDS, None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await self.send(fresh=True)
                    except Ended:
                        return None  # which the operator knows by other reports
                    except (OSError, aiohttp.ClientError, SplittracrError) as error:
                        trouble = reason(error)
                    await asyncio.sleep(1)
        raise SplittracrError(f"the operator does not have the last report: {trouble}")

    def _take(self, settings: LiveSettings) -> None:
        if settings.generation <= self._reporter.settings.current.generation:
            return
        outcome, message = Outcome.ACCEPTED, ""
        try:
            self._reporter.settings.take(settings)
        except NeedsRestart as error:
            outcome, message = Outcome.DEFERRED, str(error)
        except (InvalidInput, CutRefused) as error:
            outcome, message = Outcome.REFUSED, str(error)
        self._answer = settings.generation, outcome, message


async def _send_periodically(sender: Sender, stop: asyncio.Event, seconds: float) -> None:
    trouble = ""
    while True:
        try:
            await sender.send()
            trouble = ""
        except Ended:
            stop.set()
            return
        except (OSError, aiohttp.ClientError, SplittracrError) as error:
            if str(error) != trouble:
                log.warning("the operator does not have the report: %s", reason(error))
            trouble = str(error)
        await asyncio.sleep(seconds)
