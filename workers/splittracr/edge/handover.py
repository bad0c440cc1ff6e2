"""Sends an edge's results to the operator's store, and fetches those of an earlier pod.

Each edge has one archive (tar, gzip). An edge that replaces a removed pod, for example after a
suspension, starts from it; its records are not made again.
"""

import asyncio
import contextlib
import io
import logging
import shutil
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import aiohttp

from splittracr.edge.reporting import Reporter, Surroundings
from splittracr.experiment.backoff import Backoff
from splittracr.experiment.errors import SplittracrError, reason
from splittracr.experiment.spec import ResultsSpec
from splittracr.experiment.types import Record
from splittracr.results import journal
from splittracr.results.archive import pack, unpack

log = logging.getLogger(__name__)

_BACKOFF = Backoff(first=0.5, longest=30.0)
_SILENT_SECONDS = 60
_PATIENCE_SECONDS, _WHEN_STOPPED_SECONDS = 3600.0, 15.0
_FETCH_SECONDS = 600.0

T = TypeVar("T")
Address = Callable[[], str]
Trust = Callable[[], ssl.SSLContext | bool]
"""TLS for the store, as aiohttp takes it."""


def _usual() -> bool:
    return True


async def earlier(out: Path, surroundings: Surroundings, uid: str) -> list[Record]:
    """The records that this edge made before: in this pod, or in an earlier one."""
    if not surroundings.resume:
        return []
    if not (out / journal.FILE).exists() and surroundings.store is not None:
        await fetch(out, surroundings.store_url, surroundings.control, tls=surroundings.store_tls)
    if not (out / journal.FILE).exists():
        return []
    records = journal.read(out / journal.FILE)
    mine = [r for r in records if (r.uid, r.edge) == (uid, surroundings.edge)]
    log.info("%d samples were recorded before", len(mine))
    return mine


async def hand_over(
    out: Path, results: ResultsSpec, reporter: Reporter, stop: asyncio.Event
) -> None:
    """Send the records to the results store, if there is one. Raises SplittracrError.

    Once the results store has them, the folder is removed: its volume may outlive the pod. It stays
    if the process has to stop, since the next process may start where no store can be reached.
    """
    surroundings = reporter.surroundings
    if not (out / journal.FILE).exists():
        return
    if surroundings.store is None:
        if results.claim is not None:
            reporter.kept("claim")
        return
    # A process that has to stop is killed soon.
    seconds = _WHEN_STOPPED_SECONDS if stop.is_set() else _PATIENCE_SECONDS
    url, tls = surroundings.store_url, surroundings.store_tls
    await bring(out, url, surroundings.control, seconds, tls)
    reporter.kept("store")
    if not stop.is_set():
        await asyncio.to_thread(_remove, out)


def _remove(out: Path) -> None:
    """Remove a results folder, and the study's folder if no other edge is in it."""
    try:
        (out / journal.FILE).unlink()  # first: without it, the next process asks the store
        shutil.rmtree(out)
        with contextlib.suppress(OSError):
            out.parent.rmdir()
    except OSError as error:
        log.warning("the records in %s stay, besides those in the store: %s", out, reason(error))


async def bring(
    folder: Path, url: Address, token: str | None, seconds: float, tls: Trust = _usual
) -> None:
    """Put the archive of `folder` to `url()`, again and again until `seconds` have passed.

    Each attempt reads the address and `tls` again: an upgrade of the operator may change them. A
    store that refuses it (4xx) is not asked again. Raises SplittracrError if the store does not
    have it in the end.
    """
    archive = await asyncio.to_thread(pack, folder)

    async def put(client: aiohttp.ClientSession) -> int:
        async with client.put(url(), data=io.BytesIO(archive), ssl=tls()) as answer:
            _not_in_trouble(answer)
            return answer.status

    status = await _patiently(put, token, seconds)
    if status >= 300:
        raise SplittracrError(f"the results store refuses the results: it answers {status}")


async def fetch(
    folder: Path,
    url: Address,
    token: str | None,
    seconds: float = _FETCH_SECONDS,
    tls: Trust = _usual,
) -> bool:
    """Unpack the store's archive of this edge into `folder`; return whether there was one.

    Retries until `seconds` have passed, and then raises SplittracrError: to start without an answer
    could measure samples twice.
    """

    async def get(client: aiohttp.ClientSession) -> tuple[int, bytes]:
        async with client.get(url(), ssl=tls()) as answer:
            _not_in_trouble(answer)
            return answer.status, await answer.read()

    status, archive = await _patiently(get, token, seconds)
    if status == 404:
        return False
    if status != 200:
        raise SplittracrError(f"the results store gives no earlier results: it answers {status}")
    await asyncio.to_thread(unpack, archive, folder)
    return True


async def _patiently(
    ask: Callable[[aiohttp.ClientSession], Awaitable[T]], token: str | None, seconds: float
) -> T:
    """The answer of the store. Retries with a growing pause while it cannot be reached or fails."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # Nothing bounds a whole transfer but `seconds`: archives may be large and links slow.
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=_SILENT_SECONDS, sock_read=_SILENT_SECONDS
    )
    attempt, trouble = 0, "no answer"
    try:
        async with (
            asyncio.timeout(seconds),
            aiohttp.ClientSession(headers=headers, timeout=timeout) as client,
        ):
            while True:
                try:
                    return await ask(client)
                except (aiohttp.ClientError, OSError) as error:  # a timeout is an OSError
                    trouble = reason(error)
                    log.info("the results store does not answer: %s", trouble)
                await asyncio.sleep(_BACKOFF.seconds(attempt))
                attempt += 1
    except TimeoutError as error:
        raise SplittracrError(
            f"the results store did not answer within {seconds:g} s ({trouble})"
        ) from error


def _not_in_trouble(answer: aiohttp.ClientResponse) -> None:
    if answer.status >= 500:
        answer.raise_for_status()
