"""The checks of `helm test`, against a web server as cluster."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio import client

from splittracr.experiment import crd
from splittracr.experiment.spec_rules import CUT_NEEDS_STATIC
from splittracr_operator.cluster import Cluster
from splittracr_operator.connection import Permission
from splittracr_operator.selftest import REVIEWS, check_api, check_permissions, permissions
from tests.experiment.apiserver import Refused, admit

SCHEMA = crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
METRICS = 'splittracr_operator_build_info{version="1"} 1.0\n'

STORE = "the results store answers over TLS, and only to users"

Handler = Callable[[web.Request], Any]


async def admission(request: web.Request) -> web.Response:
    """The answer of an API server to a dry run of a study."""
    assert request.query == {"dryRun": "All", "fieldValidation": "Strict"}
    try:
        admit(await request.json(), SCHEMA)
    except Refused as refused:
        return web.json_response({"message": str(refused)}, status=422)
    return web.json_response({}, status=201)


async def everything(_: web.Request) -> web.Response:
    return web.json_response({}, status=201)


def page(text: str, status: int = 200) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text, status=status)

    return answer


@asynccontextmanager
async def at(**handlers: Handler) -> AsyncIterator[tuple[Cluster, str]]:
    """A cluster and its URL; paths without a handler answer with 404."""
    paths = {
        "studies": "/apis/splittracr.io/v1alpha1/namespaces/system/splitexperiments",
        "store": "/v1/results/x/x/x",
        "reviews": "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    }
    app = web.Application()
    for name, handler in handlers.items():
        app.router.add_route("*", paths.get(name, f"/{name}"), handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    settings = client.Configuration(host=url)
    try:
        async with Cluster(client.ApiClient(settings), lambda _: None, None) as cluster:
            yield cluster, url
    finally:
        await runner.cleanup()


async def api_faults(**handlers: Handler) -> dict[str, str]:
    """The failed checks and their faults."""
    good = {
        "studies": admission,
        "healthz": page("{}"),
        "metrics": page(METRICS),
        "store": page("no credentials", 401),
    }
    async with at(**{**good, **handlers}) as (cluster, url):
        outcomes = await check_api(cluster, "system", url, url, tries=1)
    assert len(outcomes) == 5
    return {name: fault for name, fault in outcomes if fault is not None}


def test_a_healthy_operator_passes() -> None:
    assert asyncio.run(api_faults()) == {}


@pytest.mark.parametrize(
    ("handlers", "check", "fault"),
    [
        ({"studies": everything}, "an invalid study is refused", "accepts it"),
        ({"healthz": page("", 503)}, "the operator is healthy", "status 503"),
        ({"store": page("all of it")}, STORE, "status 200"),
        ({"metrics": page("up 1")}, "metrics are served", "splittracr_operator_build_info"),
    ],
)
def test_a_fault_is_named(handlers: dict[str, Handler], check: str, fault: str) -> None:
    faults = asyncio.run(api_faults(**handlers))
    assert list(faults) == [check]
    assert fault in faults[check]


def test_a_refusal_for_another_reason_is_no_pass() -> None:
    async def forbidden(_: web.Request) -> web.Response:
        return web.json_response({"message": "not allowed"}, status=403)

    faults = asyncio.run(api_faults(studies=forbidden))
    assert faults == {
        "a valid study is accepted": "not allowed",
        "an invalid study is refused": "not allowed",
    }
    assert CUT_NEEDS_STATIC.text not in faults["an invalid study is refused"]


async def reviewed(
    allowed: Callable[[dict[str, str]], bool], watched: list[str], *, reviews: bool = False
) -> tuple[list[dict[str, str]], list[str]]:
    """The attributes of the reviews, and the failed checks."""
    asked = []

    async def review(request: web.Request) -> web.Response:
        attributes = (await request.json())["spec"]["resourceAttributes"]
        asked.append(attributes)
        return web.json_response({"status": {"allowed": allowed(attributes)}}, status=201)

    async with at(reviews=review) as (cluster, _):
        outcomes = await check_permissions(cluster, "system", "the-key", watched, reviews=reviews)
    return asked, [name for name, fault in outcomes if fault is not None]


def test_every_permission_is_checked_in_every_namespace() -> None:
    for watched, spaces in (([], {""}), (["a", "b"], {"a", "b"})):
        asked, faults = asyncio.run(reviewed(lambda _: True, watched))
        assert faults == []
        own, *others = asked
        assert (own["namespace"], own["name"], own["verb"]) == ("system", "the-key", "get")
        assert {(attributes["namespace"], _permission(attributes)) for attributes in others} == {
            (space, needed) for space in spaces for needed in permissions()
        }


def _permission(attributes: dict[str, str]) -> Permission:
    resource = "/".join(filter(None, (attributes["resource"], attributes["subresource"])))
    return Permission(attributes["group"], resource, attributes["verb"])


def test_a_missing_permission_is_named() -> None:
    _, faults = asyncio.run(
        reviewed(lambda a: (a["resource"], a["verb"]) != ("jobs", "patch"), ["lab"])
    )
    assert faults == ["may patch jobs.batch in namespace lab"]


def test_permissions_for_users_are_checked_in_the_whole_cluster() -> None:
    asked, faults = asyncio.run(
        reviewed(lambda a: a["resource"] != "tokenreviews", ["lab"], reviews=True)
    )
    assert [(a["namespace"], _permission(a)) for a in asked[1:3]] == [("", r) for r in REVIEWS]
    assert faults == ["may create tokenreviews.authentication.k8s.io in all namespaces"]
