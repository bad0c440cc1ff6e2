"""Bring an edge's results to the operator's store, and fetch what an earlier pod brought there.

One archive (tar, gzip) an edge. Whoever replaces a pod that had to go, after a suspension say,
starts from it; records that it holds are not made again.
"""

import asyncio
import io
import logging
from pathlib import Path

import aiohttp

from splittracr.edge.reporting import Reporter, Surroundings
from splittracr.experiment.spec import ResultsSpec
from splittracr.experiment.types import Record
from splittracr.results import journal
from splittracr.results.archive import pack, unpack

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_REQUEST_SECONDS = 60
_PATIENCE_SECONDS, _WHEN_STOPPED_SECONDS = 3600.0, 15.0


async def earlier(out: Path, surroundings: Surroundings, uid: str) -> list[Record]:
    """What this edge has recorded in an earlier life: in this pod, or in one before it."""
    if not surroundings.resume:
        return []
    if not (out / journal.FILE).exists() and surroundings.store is not None:
        await fetch(out, surroundings.store, surroundings.control)
    if not (out / journal.FILE).exists():
        return []
    records = journal.read(out / journal.FILE)
    mine = [r for r in records if (r.uid, r.edge) == (uid, surroundings.edge)]
    log.info("%d samples were recorded before", len(mine))
    return mine


async def hand_over(
    out: Path, results: ResultsSpec, reporter: Reporter, stop: asyncio.Event
) -> None:
    """Bring the records to where they stay, if there is such a place."""
    store = reporter.surroundings.store
    if not (out / journal.FILE).exists():
        return
    if store is None:
        if results.claim is not None:
            reporter.kept("claim")
        return
    # Told to stop, this process is killed soon.
    seconds = _WHEN_STOPPED_SECONDS if stop.is_set() else _PATIENCE_SECONDS
    if await bring(out, store, reporter.surroundings.control, seconds):
        reporter.kept("store")


async def bring(folder: Path, url: str, token: str | None, seconds: float) -> bool:
    """Put the archive of `folder` to `url`, again and again until `seconds` have passed.

    Says whether the store has it. A store that refuses it (4xx) is not asked again.
    """
    archive = await asyncio.to_thread(pack, folder)
    end = asyncio.get_running_loop().time() + seconds
    pause = _FIRST_PAUSE
    async with _client(token) as client:
        while True:
            status = await _put(client, url, archive)
            if status is not None and status < 500:
                break
            if asyncio.get_running_loop().time() + pause > end:
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
    if status is None or status >= 300:
        log.warning("the results were not stored: %s", "no answer" if status is None else status)
        return False
    return True


async def fetch(folder: Path, url: str, token: str | None) -> bool:
    """Unpack what the store holds for this edge into `folder`; says whether it held anything.

    A store that does not answer counts as one that holds nothing: the study then starts anew.
    """
    try:
        async with _client(token) as client, client.get(url) as answer:
            if answer.status != 200:
                return False
            archive = await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        log.warning("the results store does not answer (%s): starting anew", error)
        return False
    await asyncio.to_thread(unpack, archive, folder)
    return True


def _client(token: str | None) -> aiohttp.ClientSession:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
    return aiohttp.ClientSession(headers=headers, timeout=timeout)


async def _put(client: aiohttp.ClientSession, url: str, archive: bytes) -> int | None:
    """The answer's status; None where there was no answer."""
    try:
        async with client.put(url, data=io.BytesIO(archive)) as answer:
            return answer.status
    except (aiohttp.ClientError, TimeoutError) as error:
        log.info("the results store does not answer: %s", error)
        return None
