"""Which addresses a worker can be reached at."""

import asyncio
import errno
import socket
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from splittracr.measure import health
from splittracr.measure.listening import bind, joined
from splittracr.server import listener


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


V4 = "127.0.0.1"
LOCAL = [V4, *(["::1"] if has_ipv6() else [])]


def reached(listening: socket.socket, host: str) -> bool:
    """Whether a connection to the host arrives at the socket."""
    listening.listen()
    try:
        with socket.create_connection((host, listening.getsockname()[1]), 5):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("host", LOCAL)
def test_any_address_is_of_both_families(host: str) -> None:
    with bind("::", 0) as both:
        assert reached(both, host)


@pytest.mark.parametrize("fault", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_any_address_without_ipv6(monkeypatch: pytest.MonkeyPatch, fault: int) -> None:
    class Old(socket.socket):
        """A socket of a machine without IPv6."""

        def __init__(self, family: int = -1, *more: Any, **others: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(fault, "no IPv6")
            super().__init__(family, *more, **others)

    monkeypatch.setattr(socket, "socket", Old)
    with bind("::", 0) as made:
        assert made.family == socket.AF_INET
        assert reached(made, V4)


def test_a_port_in_use_is_an_error_and_no_other_family() -> None:
    with bind("::", 0) as first:
        first.listen()
        with pytest.raises(OSError, match="in use"):
            bind("::", first.getsockname()[1])


@pytest.mark.parametrize("host", LOCAL)
def test_one_address_is_of_its_own_family(host: str) -> None:
    with bind(host, 0) as one:
        assert [reached(one, other) for other in LOCAL] == [other == host for other in LOCAL]


@pytest.mark.parametrize("host", ["::", "localhost", *LOCAL])
def test_urls_can_be_used(host: str) -> None:
    async def scenario() -> None:
        app = web.Application()
        health.add_health(app)
        runner, url = await health.serve(app, host, 0, "spec.edge.metricsPort")
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{url}/healthz") as answer:
                assert answer.status == 200
        finally:
            await runner.cleanup()

    asyncio.run(scenario())


def test_ipv6_addresses_have_brackets() -> None:
    assert joined("::", 9090) == "[::]:9090"
    assert joined("127.0.0.1", 9090) == "127.0.0.1:9090"
    with bind("::", 0) as both:
        port = both.getsockname()[1]
        if both.family == socket.AF_INET6:
            assert listener.url(both, tls=True) == f"wss://[::]:{port}/v1/session"
            assert not listener.is_loopback(both)
