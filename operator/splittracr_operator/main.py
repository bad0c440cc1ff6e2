"""The operator's watches, run by kopf. `python -m splittracr_operator` starts them.

Only events are handled, no changes, timers or daemons. Those add a finalizer to every study, and
without the operator no study could be deleted.
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

_RETRY_SECONDS = 2.0
_BACKOFF = Backoff(first=0.5, longest=30.0)
_ATTEMPTS = 6  # of a watch; then its failure ends the operator

_running = contextlib.AsyncExitStack()
_watches = Watches()


class Endless:
    """Endless backoffs: a refused watch of one namespace must not end the operator."""

    def __iter__(self) -> Iterator[float]:
        return map(_BACKOFF.seconds, itertools.count())


@kopf.on.login()
async def login(**given: Any) -> kopf.AiohttpSession | None:
    """Log in as kopf does by default, with a session that counts watches."""
    info = await asyncio.to_thread(kopf.login_via_client, **given)
    return None if info is None else _watches.session(info)


@kopf.on.startup(errors=kopf.ErrorsMode.PERMANENT)
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Start the service with the operator's own settings, `memo.settings`.

    Retries while the API server does not answer. Any other error ends the operator; kopf logs it.
    `memo.refused` is true for an error of the set-up, which is shown without a traceback.
    """
    settings.posting.enabled = False  # the reconcile posts the events about studies
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
        raise kopf.TemporaryError(f"the API server: {error}", delay=_RETRY_SECONDS) from error
    except (SplittracrError, Refused, OSError) as error:
        memo.refused = True
        raise kopf.PermanentError(str(error)) from error


@kopf.on.cleanup()
async def stop(**_: Any) -> None:
    """Stop the service."""
    await _running.aclose()


@kopf.on.event(GROUP, VERSION, PLURAL)
async def observe_study(event: kopf.RawEvent, memo: kopf.Memo, **_: Any) -> None:
    """A study was created, changed or deleted."""
    memo.service.observe(KIND, event["type"], event["object"])


def _watch(kind: str) -> None:
    group_version, plural = resource(kind)
    group, _, version = group_version.rpartition("/")

    @kopf.on.event(
        group=group,
        version=version,
        plural=plural,
        labels={UID_LABEL: kopf.PRESENT},
        id=f"observe_{kind.lower()}",
    )
    async def observe_child(event: kopf.RawEvent, memo: kopf.Memo, **_: Any) -> None:
        memo.service.observe(kind, event["type"], event["object"])


for _kind in WATCHED:
    _watch(_kind)
