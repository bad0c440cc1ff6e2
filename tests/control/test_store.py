import asyncio
import io
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from splittracr_operator import store as stores
from splittracr_operator.keys import Keys
from splittracr_operator.store import Store
from tests.control.studies import UID

KEYS = Keys(b"k" * 32)
OTHER = UID.replace("6", "7")
Ask = Callable[..., Awaitable[tuple[int, bytes]]]


def with_store(folder: Path, scenario: Callable[[Ask], Awaitable[None]]) -> None:
    async def run() -> None:
        app = web.Application(client_max_size=stores.MOST_BYTES)
        Store(folder, KEYS).add_routes(app)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/results"
        async with aiohttp.ClientSession() as client:

            async def ask(
                method: str, path: str, token: str = "", body: bytes | None = None
            ) -> tuple[int, bytes]:
                headers = {"Authorization": f"Bearer {token}"}
                data = None if body is None else io.BytesIO(body)
                request = client.request(method, f"{url}/{path}", data=data, headers=headers)
                async with request as answer:
                    return answer.status, await answer.read()

            await scenario(ask)
        await runner.cleanup()

    asyncio.run(run())


def test_an_edge_brings_and_a_person_fetches(tmp_path: Path) -> None:
    async def scenario(ask: Ask) -> None:
        token, key = KEYS.control(UID), KEYS.reader(UID)
        assert await ask("GET", f"{UID}/edge-0", token) == (
            404,
            b"there are no results of this edge",
        )
        body = os.urandom(3 * 2**20)
        assert (await ask("PUT", f"{UID}/edge-0", token, body))[0] == 200
        assert (await ask("PUT", f"{UID}/edge-10", token, b"second"))[0] == 200
        assert await ask("GET", f"{UID}/edge-0?key={key}") == (200, body)
        assert await ask("GET", f"{UID}/edge-0", token) == (200, body)
        listed = await ask("GET", f"{UID}?key={key}")
        assert listed == (200, b'{"edges": ["edge-0", "edge-10"]}')
        assert (await ask("PUT", f"{UID}/edge-0", token, b"newer"))[0] == 200
        assert await ask("GET", f"{UID}/edge-0?key={key}") == (200, b"newer")

    with_store(tmp_path, scenario)
    assert Store(tmp_path, KEYS).edges(UID) == ["edge-0", "edge-10"]
    assert Store(tmp_path, KEYS).edges(OTHER) == []


@pytest.mark.parametrize(
    ("method", "path", "token"),
    [
        ("PUT", f"{UID}/edge-0", ""),
        ("PUT", f"{UID}/edge-0", KEYS.control(OTHER)),
        ("PUT", f"{UID}/edge-0", KEYS.session(UID)),
        ("PUT", f"{UID}/edge-0?key={KEYS.reader(UID)}", ""),
        ("GET", f"{UID}/edge-0", ""),
        ("GET", f"{UID}/edge-0?key={KEYS.reader(OTHER)}", ""),
        ("GET", f"{UID}?key=%ff", ""),
    ],
)
def test_nobody_else(tmp_path: Path, method: str, path: str, token: str) -> None:
    async def scenario(ask: Ask) -> None:
        assert (await ask(method, path, token, b"x" if method == "PUT" else None))[0] == 401

    with_store(tmp_path, scenario)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["..%2f..%2fetc/edge-0", f"{UID}/..%2fx", f"{UID}/edge-0.part"])
def test_no_way_out_of_the_folder(tmp_path: Path, path: str) -> None:
    async def scenario(ask: Ask) -> None:
        assert (await ask("PUT", path, KEYS.control(UID), b"x"))[0] == 404

    with_store(tmp_path, scenario)
    assert not list(tmp_path.iterdir())


def test_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MOST_BYTES", 10)

    async def scenario(ask: Ask) -> None:
        status, _ = await ask("PUT", f"{UID}/edge-0", KEYS.control(UID), b"x" * 11)
        assert status == 413

    with_store(tmp_path, scenario)
    assert Store(tmp_path, KEYS).edges(UID) == []


def test_only_what_is_long_gone_is_swept(tmp_path: Path) -> None:
    for name in (UID, OTHER, "lost+found"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - 100, time.time() - 100))
    store = Store(tmp_path, KEYS)
    store.sweep([UID], keep_seconds=1000)
    assert len(list(tmp_path.iterdir())) == 3
    store.sweep([UID], keep_seconds=10)
    assert {path.name for path in tmp_path.iterdir()} == {UID, "lost+found"}
