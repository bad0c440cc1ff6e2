"""HTTP client for running edges: reads their reports and sends them settings."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import aiohttp

from splittracr.experiment.contracts import METRICS_PORT, REPORT_PATH, SETTINGS_PATH
from splittracr.experiment.errors import InvalidInput, reason
from splittracr.experiment.explain import parse_json
from splittracr.experiment.report import WorkerReport
from splittracr.experiment.settings import LiveSettings, Outcome
from splittracr_operator.live import Answer

log = logging.getLogger(__name__)

_SECONDS = 2.0
_MAX_BYTES = 2**18  # a sweep of a network with a thousand cuts takes half of it

_OUTCOMES = {200: Outcome.ACCEPTED, 400: Outcome.REFUSED, 409: Outcome.DEFERRED}
"""Outcome of settings by HTTP status. Other statuses count as no answer."""

T = TypeVar("T")


class Edges:
    """Sends requests to edges by the addresses of their pods. A missing answer is no error."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def reports(self, addresses: Mapping[str, str]) -> dict[str, WorkerReport]:
        """The report of each edge (name to address) that answers."""
        return await _each(addresses, self._report)

    async def steer(
        self, addresses: Mapping[str, str], settings: LiveSettings, token: str
    ) -> dict[str, Answer]:
        """The answer to settings of each edge (name to address) that answers."""
        return await _each(addresses, lambda ip: self._steer(ip, settings, token))

    async def _report(self, ip: str) -> WorkerReport | None:
        try:
            timeout = aiohttp.ClientTimeout(total=_SECONDS)
            async with self._session.get(
                _url(ip, REPORT_PATH), timeout=timeout, allow_redirects=False
            ) as answer:
                return parse_json(WorkerReport, await _body(answer), "report")
        except (aiohttp.ClientError, TimeoutError, InvalidInput) as error:
            log.debug("no report from %s: %s", ip, reason(error))
            return None

    async def _steer(self, ip: str, settings: LiveSettings, token: str) -> Answer | None:
        try:
            async with self._session.put(
                _url(ip, SETTINGS_PATH),
                data=settings.model_dump_json(by_alias=True),
                headers={"Authorization": f"Bearer {token}"},
                timeout=aiohttp.ClientTimeout(total=_SECONDS),
                allow_redirects=False,
            ) as answer:
                message = (await _body(answer)).decode(errors="replace")[:1000]
        except (aiohttp.ClientError, TimeoutError) as error:
            log.debug("no answer to settings from %s: %s", ip, reason(error))
            return None
        outcome = _OUTCOMES.get(answer.status)
        if outcome is None:
            log.debug("%s answers settings with %d: %s", ip, answer.status, message)
            return None
        return Answer(outcome, "" if outcome is Outcome.ACCEPTED else message)


async def _each(
    addresses: Mapping[str, str], send: Callable[[str], Awaitable[T | None]]
) -> dict[str, T]:
    """Send requests to all edges at once; returns the answers that are not None."""
    answers = await asyncio.gather(*map(send, addresses.values()))
    found = zip(addresses, answers, strict=True)
    return {edge: answer for edge, answer in found if answer is not None}


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    """The body of an answer. Its size is limited, since the pod may run anything."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _MAX_BYTES:
            raise aiohttp.ClientPayloadError(f"more than {_MAX_BYTES} bytes")
    return bytes(body)


def _url(ip: str, path: str) -> str:
    return f"http://{f'[{ip}]' if ':' in ip else ip}:{METRICS_PORT}{path}"
