import asyncio
import hashlib
import io
import os
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.status import LOGS, StoredArchive
from splittracr_operator import store as stores
from splittracr_operator.keys import Keys
from splittracr_operator.readers import Readers
from splittracr_operator.routes import Routes
from splittracr_operator.store import Store
from tests.control.studies import UID

KEYS = Keys(b"k" * 32)
OTHER = UID.replace("6", "7")
Ask = Callable[..., Awaitable[tuple[int, bytes]]]
STUDY = f"lab/alexnet/{UID}"


class Gate(Readers):
    """Accepts the token `reader` for the namespace lab. `test_readers` tests the real class."""

    def __init__(self) -> None:
        pass

    async def check(
        self,
        request: web.Request,
        namespace: str,
        name: str,
        right: tuple[str, str] = ("get", "results"),
    ) -> None:
        if request.headers["Authorization"] != "Bearer reader" or namespace != "lab":
            raise web.HTTPForbidden


def with_store(folder: Path, scenario: Callable[[Ask], Awaitable[None]]) -> None:
    async def run() -> None:
        app = web.Application(client_max_size=stores.MAX_BYTES)
        store = Store(folder)
        routes = Routes(store, KEYS)
        routes.add_for_edges(app)
        routes.add_for_users(app, Gate())
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/results"
        async with aiohttp.ClientSession() as client:

            async def ask(
                method: str,
                path: str,
                token: str = "",
                body: bytes | AsyncIterator[bytes] | None = None,
            ) -> tuple[int, bytes]:
                headers = {"Authorization": f"Bearer {token}"}
                data = io.BytesIO(body) if isinstance(body, bytes) else body
                request = client.request(method, f"{url}/{path}", data=data, headers=headers)
                async with request as answer:
                    return answer.status, await answer.read()

            await scenario(ask)
        await runner.cleanup()

    asyncio.run(run())


def files_of(folder: Path) -> set[str]:
    return {path.name for path in (folder / UID).iterdir()}


def test_an_edge_uploads_and_a_user_downloads(tmp_path: Path) -> None:
    async def scenario(ask: Ask) -> None:
        token = KEYS.control(UID)
        missing = f"there are no results of edge-0 of study {UID}"
        assert await ask("GET", f"{UID}/edge-0", token) == (404, missing.encode())
        body = os.urandom(3 * 2**20)
        assert (await ask("PUT", f"{UID}/edge-0", token, body))[0] == 200
        assert (await ask("PUT", f"{UID}/edge-10", token, b"second"))[0] == 200
        assert (await ask("GET", f"{STUDY}/edge-0", "reader"))[0] == 404
        Store(tmp_path).note(UID, "lab", "alexnet")
        assert await ask("GET", f"{STUDY}/edge-0", "reader") == (200, body)
        assert await ask("GET", f"{UID}/edge-0", token) == (200, body)
        listed = await ask("GET", STUDY, "reader")
        assert listed == (200, b'{"edges": ["edge-0", "edge-10"]}')
        assert (await ask("PUT", f"{UID}/edge-0", token, b"newer"))[0] == 200
        assert await ask("GET", f"{STUDY}/edge-0", "reader") == (200, b"newer")

    with_store(tmp_path, scenario)
    first, second = Store(tmp_path).archives(UID)
    assert (first.name, first.bytes, second.name, second.bytes) == ("edge-0", 5, "edge-10", 6)
    assert first.sha256 == hashlib.sha256(b"newer").hexdigest()
    assert Store(tmp_path).archives(OTHER) == ()


@pytest.mark.parametrize(
    ("method", "path", "token"),
    [
        ("PUT", f"{UID}/edge-0", ""),
        ("PUT", f"{UID}/edge-0", KEYS.control(OTHER)),
        ("PUT", f"{UID}/edge-0", KEYS.session(UID)),
        ("PUT", f"{UID}/edge-0", "reader"),
        ("GET", f"{UID}/edge-0", ""),
        ("GET", f"{UID}/edge-0", "reader"),
        ("GET", f"{UID}/edge-0?key={KEYS.control(UID)}", ""),
    ],
)
def test_others_are_refused(tmp_path: Path, method: str, path: str, token: str) -> None:
    async def scenario(ask: Ask) -> None:
        assert (await ask(method, path, token, b"x" if method == "PUT" else None))[0] == 401

    with_store(tmp_path, scenario)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["..%2f..%2fetc/edge-0", f"{UID}/..%2fx", f"{UID}/edge-0.part"])
def test_paths_outside_of_the_folder_are_refused(tmp_path: Path, path: str) -> None:
    async def scenario(ask: Ask) -> None:
        assert (await ask("PUT", path, KEYS.control(UID), b"x"))[0] == 404

    with_store(tmp_path, scenario)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{STUDY}/edge-0", 200),
        (f"{STUDY}/edge-1", 404),
        (f"other/alexnet/{UID}/edge-0", 403),
        (f"lab/mine/{UID}/edge-0", 404),  # a study that the user may read, with the uid of another
        (f"lab/mine/{UID}", 404),
        (f"lab/alexnet/{OTHER}/edge-0", 404),
        (f"lab/alexnet/{OTHER}", 404),
        ("lab/alexnet/..%2f..%2fetc/edge-0", 404),
        (f"{STUDY}/edge-0.part", 404),
    ],
)
def test_a_user_reads_only_results_of_the_study(tmp_path: Path, path: str, status: int) -> None:
    async def scenario(ask: Ask) -> None:
        assert (await ask("PUT", f"{UID}/edge-0", KEYS.control(UID), b"x"))[0] == 200
        Store(tmp_path).note(UID, "lab", "alexnet")
        assert (await ask("GET", path, "reader"))[0] == status
        assert (await ask("GET", path, "other"))[0] == 403

    with_store(tmp_path, scenario)


def test_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MAX_BYTES", 10)

    async def scenario(ask: Ask) -> None:
        status, _ = await ask("PUT", f"{UID}/edge-0", KEYS.control(UID), b"x" * 11)
        assert status == 413

    with_store(tmp_path, scenario)
    assert Store(tmp_path).archives(UID) == ()
    assert not list((tmp_path / UID).iterdir())


def test_concurrent_uploads_do_not_mix(tmp_path: Path) -> None:
    bodies = [bytes([i]) * 3 * 2**20 for i in range(4)]

    async def scenario(ask: Ask) -> None:
        token = KEYS.control(UID)
        asked = [ask("PUT", f"{UID}/edge-0", token, body) for body in bodies]
        assert [status for status, _ in await asyncio.gather(*asked)] == [200] * 4
        assert (await ask("GET", f"{UID}/edge-0", token))[1] in bodies

    with_store(tmp_path, scenario)
    assert files_of(tmp_path) == {"edge-0.sha256", "edge-0.tar.gz"}


def ages(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_results_stay_for_some_time_after_the_study_is_deleted(tmp_path: Path) -> None:
    for name in (UID, OTHER, "lost+found"):
        (tmp_path / name).mkdir()
        ages(tmp_path / name, 10_000)  # however old they are
    store, marker = Store(tmp_path), tmp_path / OTHER / "gone"
    store.sweep([UID], keep_seconds=1000)
    ages(marker, 900)
    store.sweep([UID], keep_seconds=1000)
    assert len(list(tmp_path.iterdir())) == 3
    ages(marker, 1100)
    store.sweep([UID], keep_seconds=1000)
    assert {path.name for path in tmp_path.iterdir()} == {UID, "lost+found"}


def test_a_study_that_exists_again_keeps_its_results(tmp_path: Path) -> None:
    (tmp_path / UID).mkdir()
    store, marker = Store(tmp_path), tmp_path / UID / "gone"
    store.sweep([], keep_seconds=1000)
    ages(marker, 1100)
    store.sweep([UID], keep_seconds=1000)
    store.sweep([], keep_seconds=1000)
    assert marker.exists()


def test_incomplete_uploads_of_a_killed_operator_are_removed(tmp_path: Path) -> None:
    (tmp_path / UID).mkdir()
    for name in ("edge-0.1.part", "edge-0.2.part", "edge-0.tar.gz"):
        (tmp_path / UID / name).touch()
        ages(tmp_path / UID / name, 10 if "2" in name else 7200)
    Store(tmp_path).sweep([UID], keep_seconds=1000)
    assert files_of(tmp_path) == {"edge-0.2.part", "edge-0.tar.gz"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    Store(tmp_path / "new" / "results").check()
    assert list((tmp_path / "new" / "results").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match=r"the results folder: got .*/file', expected a folder"):
        Store(tmp_path / "file").check()


def archive(folder: Path, name: str, content: bytes) -> Path:
    path = folder / UID / f"{name}.tar.gz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_digest_of_an_archive_follows_its_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = archive(tmp_path, "edge-0", b"old")
    (found,) = store.archives(UID)
    assert found.sha256 == hashlib.sha256(b"old").hexdigest()
    newer = path.with_suffix(".new")  # of the same size, renamed into place
    newer.write_bytes(b"new")
    newer.replace(path)
    (found,) = store.archives(UID)
    assert (found.bytes, found.sha256) == (3, hashlib.sha256(b"new").hexdigest())
    path.unlink()
    assert store.archives(UID) == ()
    assert store.index() == {UID: ()}


def sent(folder: Path, content: bytes) -> None:
    """Store an archive as edge-0 does."""

    async def scenario(ask: Ask) -> None:
        assert (await ask("PUT", f"{UID}/edge-0", KEYS.control(UID), content))[0] == 200

    with_store(folder, scenario)


@pytest.mark.parametrize("damaged", [b"", b"sent?", b"sent and more", b"SENT"])
def test_an_archive_that_was_damaged_is_described_as_it_was_sent(
    tmp_path: Path, damaged: bytes
) -> None:
    """Also by an operator that starts later. So `splittracr results` refuses it."""
    sent(tmp_path, b"sent")
    Store(tmp_path).path(UID, "edge-0").write_bytes(damaged)
    before = StoredArchive(name="edge-0", bytes=4, sha256=hashlib.sha256(b"sent").hexdigest())
    assert Store(tmp_path).archives(UID) == (before,)
    sent(tmp_path, b"sent again")
    (found,) = Store(tmp_path).archives(UID)
    assert (found.bytes, found.sha256) == (10, hashlib.sha256(b"sent again").hexdigest())


def test_logs_that_were_damaged_are_described_as_they_were_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_logs(UID, {"server.log": b"started"})
    before = store.archives(UID)
    store.path(UID, LOGS).write_bytes(b"x")
    assert Store(tmp_path).archives(UID) == before


@pytest.mark.parametrize("note", ["", "x", "1 2", "1 2 3 4"])
def test_a_damaged_description_is_made_anew(tmp_path: Path, note: str) -> None:
    path = archive(tmp_path, "edge-0", b"old")
    path.with_name("edge-0.sha256").write_text(note)
    (found,) = Store(tmp_path).archives(UID)
    assert (found.bytes, found.sha256) == (3, hashlib.sha256(b"old").hexdigest())


def test_other_files_are_no_archives(tmp_path: Path) -> None:
    for name in ("edge-0.1", "notes", "edge-x"):
        archive(tmp_path, name, b"x")
    assert Store(tmp_path).archives(UID) == ()


def logs_in(folder: Path) -> dict[str, bytes]:
    with tarfile.open(folder / UID / "logs.tar.gz") as opened:
        return {
            member.name: (opened.extractfile(member) or io.BytesIO()).read() for member in opened
        }


def test_logs_are_added_to_stored_ones(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.logged(UID) == set()
    store.keep_logs(UID, {"edge.log": b"before", "server.log": b"old"})
    store.keep_logs(UID, {"server.log": b"new", "other.log": b""})
    assert logs_in(tmp_path) == {"edge.log": b"before", "server.log": b"new", "other.log": b""}
    assert Store(tmp_path).logged(UID) == {"edge.log", "server.log", "other.log"}
    assert files_of(tmp_path) == {"logs.sha256", "logs.tar.gz"}


def test_old_logs_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MAX_LOG_BYTES", 10)
    store = Store(tmp_path)
    store.keep_logs(UID, {"a.log": b"x" * 7, "b.log": b"y" * 3})
    store.keep_logs(UID, {"c.log": b"z" * 6})
    assert logs_in(tmp_path) == {"b.log": b"y" * 3, "c.log": b"z" * 6}


def test_a_damaged_archive_of_logs_is_replaced(tmp_path: Path) -> None:
    archive(tmp_path, "logs", b"no archive")
    store = Store(tmp_path)
    assert store.logged(UID) == set()
    store.keep_logs(UID, {"a.log": b"x"})
    assert logs_in(tmp_path) == {"a.log": b"x"}


def test_users_download_logs_and_edges_cannot_upload_them(tmp_path: Path) -> None:
    async def scenario(ask: Ask) -> None:
        token = KEYS.control(UID)
        assert await ask("GET", f"{STUDY}/logs", "reader") == (200, b"packed")
        assert (await ask("GET", f"{STUDY}/logs", "other"))[0] == 403
        assert (await ask("PUT", f"{UID}/logs", token, b"x"))[0] == 403
        assert await ask("GET", STUDY, "reader") == (200, b'{"edges": []}')

    archive(tmp_path, "logs", b"packed")
    Store(tmp_path).note(UID, "lab", "alexnet")
    with_store(tmp_path, scenario)
    assert (tmp_path / UID / "logs.tar.gz").read_bytes() == b"packed"


@pytest.mark.parametrize("length", [0, 5, 2**20])
def test_an_incomplete_upload_is_removed(tmp_path: Path, length: int) -> None:
    """The edge is killed during the upload."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * length
        raise ConnectionResetError

    async def scenario(ask: Ask) -> None:
        token = KEYS.control(UID)
        assert (await ask("PUT", f"{UID}/edge-0", token, b"whole"))[0] == 200
        with pytest.raises(aiohttp.ClientError):
            await ask("PUT", f"{UID}/edge-0", token, broken())
        assert await ask("GET", f"{UID}/edge-0", token) == (200, b"whole")

    with_store(tmp_path, scenario)
    assert files_of(tmp_path) == {"edge-0.sha256", "edge-0.tar.gz"}
