"""HTTPS server of the results store, with a certificate that the operator creates and renews.

The certificate authority is derived from the operator's key, so that both are the same after a
restart. Clients may authenticate with a certificate of the API server's authority for users.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from aiohttp import web

from splittracr.security import Pair, server_pair, store_context
from splittracr_operator.cluster import Cluster
from splittracr_operator.connection import ClusterError
from splittracr_operator.settings import Settings

log = logging.getLogger(__name__)

CLIENT_AUTHORITY = "kube-system", "extension-apiserver-authentication", "client-ca-file"
"""Namespace, name and key of the ConfigMap with the API server's authority for users."""

HOST: str | None = None
"""Address to listen on; None means all addresses of both IP families."""

_VALID_DAYS = 90
_RENEW = timedelta(days=_VALID_DAYS / 3)
_CHECK_SECONDS = 60.0


class ResultsServer:
    """Serves an application over TLS. Created by `open`."""

    def __init__(
        self, settings: Settings, cluster: Cluster, authority: Pair, runner: web.AppRunner
    ) -> None:
        self._settings, self._cluster = settings, cluster
        self._authority, self._runner = authority, runner
        self._site: web.TCPSite | None = None
        self._clients: str | None = None
        self._served: str | None = None
        self._renewal = datetime.min.replace(tzinfo=UTC)
        self._error: str | None = None
        """The last error of reading the users' authority, logged once."""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, settings: Settings, cluster: Cluster, authority: Pair, app: web.Application
    ) -> AsyncIterator["ResultsServer"]:
        """Serve the application and renew the certificate in a background task.

        Raises OSError if the port cannot be bound.
        """
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        server = cls(settings, cluster, authority, runner)
        renewals: asyncio.Task[None] | None = None
        try:
            await server.renew(datetime.now(UTC))
            renewals = asyncio.create_task(server._renew_periodically())
            yield server
        finally:
            if renewals is not None:
                renewals.cancel()
                await asyncio.wait([renewals])
            await runner.cleanup()

    async def renew(self, now: datetime) -> None:
        """Serve a new certificate if the current one is old or the users' authority changed.

        Open connections stay open. Raises OSError if the port cannot be bound.
        """
        await self._read_authority()
        if self._site is not None and self._clients == self._served and now < self._renewal:
            return
        pair = server_pair(self._authority, self._settings.store_hosts, now, _VALID_DAYS)
        try:
            tls = store_context(pair, self._clients)
        except ssl.SSLError as error:
            log.warning("the API server's authority for users cannot be used: %s", error)
            tls = store_context(pair, None)
        if self._site is not None:
            await self._site.stop()
            self._site = None
        site = web.TCPSite(self._runner, HOST, self._settings.results_port, ssl_context=tls)
        await site.start()
        self._site, self._served, self._renewal = site, self._clients, now + _RENEW

    async def _renew_periodically(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            try:
                await self.renew(datetime.now(UTC))
            except OSError as error:
                log.warning("the certificate of the results store cannot be renewed: %s", error)

    async def _read_authority(self) -> None:
        """Read the API server's authority for users; keep the last one if that fails."""
        if not self._settings.client_certificates:
            return
        namespace, name, key = CLIENT_AUTHORITY
        failure = None
        try:
            body = await self._cluster.get("ConfigMap", namespace, name)
            self._clients = (body.get("data") or {}).get(key)
        except ClusterError as error:
            failure = str(error)
            if failure != self._error:
                log.warning("users' client certificates cannot be checked: %s", error)
        self._error = failure
