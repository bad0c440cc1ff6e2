"""kopf itself, against an API server that closes its watches."""

import asyncio
from typing import Any

import kopf
from aiohttp import web

from splittracr.experiment.crd import PLURAL
from splittracr.experiment.spec import GROUP, KIND, VERSION
from splittracr_operator.watches import Watches

STUDIES = f"/apis/{GROUP}/{VERSION}/namespaces/lab/{PLURAL}"


def _group(name: str, version: str) -> dict[str, Any]:
    versions = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "preferredVersion": versions, "versions": [versions]}


def _resource(plural: str, kind: str) -> dict[str, Any]:
    return {
        "name": plural,
        "singularName": "",
        "namespaced": plural == PLURAL,
        "kind": kind,
        "verbs": ["list", "watch", "patch"],
    }


class ApiServer:
    """Serves one resource without objects, and closes the first watches at once."""

    def __init__(self, ended: int) -> None:
        self._left = ended
        self.watched = asyncio.Event()
        self.done = asyncio.Event()
        self.tokens: set[str | None] = set()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get(STUDIES, self._studies)
        app.router.add_get("/{path:.*}", self._discover)
        return app

    async def _discover(self, request: web.Request) -> web.Response:
        groups = [_group(GROUP, VERSION), _group("apiextensions.k8s.io", "v1")]
        known: dict[str, Any] = {
            "/api": {"versions": ["v1"]},
            "/api/v1": {"resources": [_resource("namespaces", "Namespace")]},
            "/apis": {"groups": groups},
            f"/apis/{GROUP}/{VERSION}": {"resources": [_resource(PLURAL, KIND)]},
            "/apis/apiextensions.k8s.io/v1": {
                "resources": [_resource("customresourcedefinitions", "CustomResourceDefinition")]
            },
        }
        return web.json_response(known[request.path])

    async def _studies(self, request: web.Request) -> web.StreamResponse:
        self.tokens.add(request.headers.get("Authorization"))
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})
        answer = web.StreamResponse()
        await answer.prepare(request)
        if self._left:
            self._left -= 1
        else:
            self.watched.set()
            await self.done.wait()
        return answer


def test_reopened_watches_are_counted() -> None:
    async def scenario() -> None:
        api, watches, stop = ApiServer(ended=3), Watches(), asyncio.Event()
        runner = web.AppRunner(api.app())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.AiohttpSession:
            return watches.session(kopf.ConnectionInfo(server=url, token="secret"))

        @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
        async def observe(**_: Any) -> None:
            pass

        settings = kopf.OperatorSettings()
        settings.scanning.disabled = True
        settings.watching.reconnect_backoff = 0.01
        work = kopf.operator(
            registry=registry,
            settings=settings,
            namespaces=["lab"],
            standalone=True,
            stop_flag=stop,
        )
        operator = asyncio.create_task(work)
        try:
            await asyncio.wait_for(api.watched.wait(), 30)
        finally:
            api.done.set()
            stop.set()
            await operator
            await runner.cleanup()
        assert watches.restarts[KIND] >= 3
        assert watches.restarts["Pod"] == 0
        assert api.tokens == {"Bearer secret"}

    asyncio.run(scenario())
