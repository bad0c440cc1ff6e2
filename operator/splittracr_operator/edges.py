"""How the operator speaks with running edges: it reads their reports and brings them settings."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from pydantic import ValidationError

from splittracr.experiment.report import REPORT_PATH, SETTINGS_PATH, WorkerReport
from splittracr.experiment.settings import LiveSettings
from splittracr_operator.children import METRICS_PORT

log = logging.getLogger(__name__)

_SECONDS = 2.0
_MOST_BYTES = 2**18  # a sweep of a network with a thousand cuts takes half of it


@dataclass(frozen=True)
class Objection:
    """What an edge says against settings."""

    words: str
    final: bool
    """Whether it cannot use them at all; others may act at its next start."""


class Edges:
    """Asks edges by their pods' addresses. An edge that does not answer is no error."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def reports(self, addresses: Mapping[str, str]) -> dict[str, WorkerReport]:
        """What each edge (name to address) says; those that do not answer are left out."""
        answers = await asyncio.gather(*(self._report(ip) for ip in addresses.values()))
        return {
            edge: report
            for edge, report in zip(addresses, answers, strict=True)
            if report is not None
        }

    async def _report(self, ip: str) -> WorkerReport | None:
        try:
            timeout = aiohttp.ClientTimeout(total=_SECONDS)
            async with self._session.get(
                _url(ip, REPORT_PATH), timeout=timeout, allow_redirects=False
            ) as answer:
                return WorkerReport.model_validate_json(await _body(answer))
        except (aiohttp.ClientError, TimeoutError, ValidationError) as error:
            log.debug("no report from %s: %r", ip, error)
            return None

    async def steer(self, ip: str, settings: LiveSettings, token: str) -> Objection | None:
        """Bring settings to an edge; what it says against them, None where it took them.

        Raises aiohttp's errors and TimeoutError where it does not answer.
        """
        async with self._session.put(
            _url(ip, SETTINGS_PATH),
            data=settings.model_dump_json(by_alias=True),
            headers={"Authorization": f"Bearer {token}"},
            timeout=aiohttp.ClientTimeout(total=_SECONDS),
            allow_redirects=False,
        ) as answer:
            if answer.status < 300:
                return None
            words = (await _body(answer)).decode(errors="replace")[:1000]
            return Objection(words, final=answer.status == 400)


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    """All of an answer, which a pod that is no worker of ours may have made endless."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise aiohttp.ClientPayloadError(f"more than {_MOST_BYTES} bytes")
    return bytes(body)


def _url(ip: str, path: str) -> str:
    return f"http://{f'[{ip}]' if ':' in ip else ip}:{METRICS_PORT}{path}"
