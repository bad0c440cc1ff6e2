"""The operator's watches, run by kopf. `python -m splittracr_operator` starts them.

Only events are handled, no changes, timers or daemons: those would put a finalizer on every study
and none could be deleted after the operator is gone.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import kopf

from splittracr.experiment.backoff import Backoff
from splittracr.experiment.crd import PLURAL
from splittracr.experiment.errors import SplittracrError
from splittracr.experiment.spec import GROUP, KIND, VERSION
from splittracr_operator.cluster import WATCHED, resource
from splittracr_operator.connection import Refused, Unavailable
from splittracr_operator.names import UID_LABEL
from splittracr_operator.service import Service
from splittracr_operator.watches import Watches

_AGAIN_SECONDS = 2.0
_BACKOFF = Backoff(first=0.5, longest=30.0)
_ATTEMPTS = 6  # of a watch, before its failure ends the operator

_running = contextlib.AsyncExitStack()
_watches = Watches()


class Endless:
    """Backoffs without end: a watch of one namespace that is refused must not end the operator."""

    def __iter__(self) -> Iterator[float]:
        return map(_BACKOFF.seconds, itertools.count())


@kopf.on.login()
async def login(**given: Any) -> kopf.AiohttpSession | None:
    """Log in as kopf does by default, with a session that counts watches."""
    info = await asyncio.to_thread(kopf.login_via_client, **given)
    return None if info is None else _watches.session(info)


@kopf.on.startup(errors=kopf.ErrorsMode.PERMANENT)
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Start the background task and the web server; `memo.settings` are the operator's own.

    Retries while the API server does not answer. Any other error ends the operator; kopf logs it.
    `memo.refused` is true if the set-up is wrong, which needs no traceback.
    """
    settings.posting.enabled = False  # events about studies are the reconcile's own
    settings.scanning.disabled = True
    settings.persistence.finalizer = f"{GROUP}/unused"
    settings.watching.server_timeout = 270
    settings.watching.client_timeout = 300
    settings.watching.connect_timeout = 10
    settings.networking.error_backoffs = (
        Endless()
        if memo.settings.watch_namespaces
        else [_BACKOFF.seconds(attempt) for attempt in range(_ATTEMPTS)]
    )
    try:
        memo.service = await _running.enter_async_context(Service.running(memo.settings, _watches))
    except Unavailable as error:
        raise kopf.TemporaryError(f"the API server: {error}", delay=_AGAIN_SECONDS) from error
    except (SplittracrError, Refused, OSError) as error:
        memo.refused = True
        raise kopf.PermanentError(str(error)) from error


@kopf.on.cleanup()
async def stop(**_: Any) -> None:
    """Stop the background task and the web server."""
    await _running.aclose()


@kopf.on.event(GROUP, VERSION, PLURAL)
async def study_seen(event: kopf.RawEvent, memo: kopf.Memo, **_: Any) -> None:
    """A study was made, changed or deleted."""
    memo.service.seen(KIND, event["type"], event["object"])


def _watch(kind: str) -> None:
    group_version, plural = resource(kind)
    group, _, version = group_version.rpartition("/")

    @kopf.on.event(
        group=group,
        version=version,
        plural=plural,
        labels={UID_LABEL: kopf.PRESENT},
        id=f"{kind.lower()}_seen",
    )
    async def child_seen(event: kopf.RawEvent, memo: kopf.Memo, **_: Any) -> None:
        memo.service.seen(kind, event["type"], event["object"])


for _kind in WATCHED:
    _watch(_kind)
