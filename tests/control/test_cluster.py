import asyncio

import pytest
from aiohttp import web

from splittracr_operator.connection import (
    ClusterError,
    Forbidden,
    Refused,
    Unavailable,
    brief,
    failure,
)
from tests.control.test_selftest import at

UNTYPED = (
    "failed to create typed patch object (lab/alexnet-edge; batch/v1, Kind=Job): "
    '.spec.template.spec.volumes[name="a"].persistentVolumeClaim.claim: '
    "field not declared in schema"
)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (403, "exceeded quota: jobs", Refused),
        (422, "Job is invalid", Refused),
        (500, UNTYPED, Refused),
        (500, "etcdserver: request timed out", Unavailable),
        (429, "too many requests", Unavailable),
        (401, "Unauthorized", Unavailable),
        (403, 'jobs is forbidden: User "x" cannot list', Forbidden),
    ],
)
def test_errors_are_refusals_or_are_retried(
    status: int, message: str, kind: type[ClusterError]
) -> None:
    found = failure(status, message)
    assert type(found) is kind
    assert message in str(found)


def test_an_answer_is_no_failure() -> None:
    assert failure(201, "") is None


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            'Job.batch "a" is invalid: spec.template: Invalid value: '
            'core.PodTemplateSpec{Labels:map[string]string{"a":"}"}, Spec:core.PodSpec{}}: '
            "field is immutable",
            'Job.batch "a" is invalid: spec.template: Invalid value: '
            "core.PodTemplateSpec...: field is immutable",
        ),
        (
            'Invalid value: {"a":{"b":"say \\"}\\""}}: must be x. More words. And more',
            "Invalid value: ...: must be x.",
        ),
        ("pods are forbidden:\n  exceeded quota: q", "pods are forbidden: exceeded quota: q"),
        ("an open { brace", "an open { brace"),
        ("x" * 4000, "x" * 500 + " ..."),
    ],
)
def test_the_first_sentence_of_a_message(message: str, expected: str) -> None:
    assert brief(message) == expected
    assert str(failure(422, message)) == expected


def test_lists_are_read_in_pages() -> None:
    asked = []

    async def pods(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        at = int(request.query.get("continue", "0"))
        more = {"continue": str(at + 1)} if at < 2 else {}
        return web.json_response({"metadata": more, "items": [{"metadata": {"name": f"p{at}"}}]})

    async def scenario() -> list[str]:
        async with at(**{"api/v1/namespaces/lab/pods": pods}) as (cluster, _):
            found = await cluster.list("Pod", "lab", "splittracr.io/uid")
        assert {(body["kind"], body["apiVersion"]) for body in found} == {("Pod", "v1")}
        return [body["metadata"]["name"] for body in found]

    assert asyncio.run(scenario()) == ["p0", "p1", "p2"]
    first = {"labelSelector": "splittracr.io/uid", "limit": "500"}
    assert asked == [first, {**first, "continue": "1"}, {**first, "continue": "2"}]


def test_an_expired_list_is_read_again_without_pages() -> None:
    async def pods(request: web.Request) -> web.Response:
        if "limit" not in request.query:
            return web.json_response({"metadata": {}, "items": [{"metadata": {"name": "all"}}]})
        if "continue" in request.query:
            return web.json_response({"message": "the continue parameter is too old"}, status=410)
        items = [{"metadata": {"name": "first"}}]
        return web.json_response({"metadata": {"continue": "x"}, "items": items})

    async def scenario() -> list[str]:
        async with at(**{"api/v1/pods": pods}) as (cluster, _):
            return [body["metadata"]["name"] for body in await cluster.list("Pod", None)]

    assert asyncio.run(scenario()) == ["all"]


@pytest.mark.parametrize(
    ("written", "most", "kept"),
    [
        (b"one\ntwo\n", 100, b"one\ntwo\n"),
        (b"one\ntwo\n", 8, b"one\ntwo\n"),
        (b"one\ntwo\n", 6, b"two\n"),
        (b"x" * 200_000 + b"\nlast\n", 100_000, b"last\n"),
        (b"y" * 200_000, 70_000, b"y" * 70_000),
        (b"", 8, b""),
    ],
)
def test_the_end_of_a_log(written: bytes, most: int, kept: bytes) -> None:
    asked = []

    async def page(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        return web.Response(body=written)

    async def scenario() -> bytes:
        async with at(**{"api/v1/namespaces/lab/pods/a/log": page}) as (cluster, _):
            return await cluster.log("lab", "a", "edge", most, previous=True)

    assert asyncio.run(scenario()) == kept
    assert asked == [{"container": "edge", "previous": "true"}]


@pytest.mark.parametrize(
    ("status", "text", "kind", "message"),
    [
        (400, '{"message": "container is waiting"}', Refused, "container is waiting"),
        (404, '{"message": "pods \\"a\\" not found"}', Refused, 'pods "a" not found'),
        (500, "dial tcp: no route to host", Unavailable, "500: dial tcp: no route to host"),
        (403, '{"message": "x is forbidden: User \\"o\\" cannot"}', Forbidden, "forbidden"),
    ],
)
def test_a_log_that_cannot_be_read(
    status: int, text: str, kind: type[ClusterError], message: str
) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    async def scenario() -> None:
        async with at(**{"api/v1/namespaces/lab/pods/a/log": page}) as (cluster, _):
            with pytest.raises(kind, match=message):
                await cluster.log("lab", "a", "edge", 100)

    asyncio.run(scenario())
