"""Counts the restarts of kopf's watches.

kopf reopens watches without reporting it. This session counts its requests.
"""

from types import SimpleNamespace

import aiohttp
import kopf
from yarl import URL

from splittracr.experiment.crd import PLURAL
from splittracr.experiment.spec import KIND
from splittracr_operator.cluster import WATCHED, resource

_KINDS = {PLURAL: KIND} | {resource(kind)[1]: kind for kind in WATCHED}


class Watches:
    """Counts the watches that are reopened. `restarts` is by the kind of object."""

    def __init__(self) -> None:
        self.restarts = dict.fromkeys(_KINDS.values(), 0)
        self._known: set[str] = set()  # paths of watches that were open before

    def session(self, info: kopf.ConnectionInfo) -> kopf.AiohttpSession:
        """Return the session that kopf would create from `info`, with a hook that counts watches.

        kopf closes it.
        """
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._answered)
        return kopf.AiohttpSession(
            server=info.server,
            priority=info.priority,
            default_namespace=info.default_namespace,
            expiration=info.expiration,
            aiohttp_session=aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
                headers=info.as_http_headers(),
                proxy=info.proxy_url,
                trust_env=info.trust_env,
                trace_configs=[trace],
            ),
        )

    async def _answered(
        self,
        _: aiohttp.ClientSession,
        __: SimpleNamespace,
        end: aiohttp.TraceRequestEndParams,
    ) -> None:
        if end.response.status == 200:
            self.opened(end.url)

    def opened(self, url: URL) -> None:
        """Count an answered request for `url` if it is a watch that was open before."""
        kind = _KINDS.get(url.name)
        if kind is None or url.query.get("watch") != "true":
            return
        self.restarts[kind] += url.path in self._known
        self._known.add(url.path)
