"""The results store: archives on one volume, one an edge and one of logs, and their HTTP routes.

An edge shows the study's control token to write and to read its own. Users are checked by
`Readers`. Nothing here looks into an archive.
"""

import asyncio
import contextlib
import hashlib
import io
import logging
import os
import re
import secrets
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from aiohttp import web

from splittracr.experiment.contracts import EDGE_PATTERN, RESULTS_PATH, edge_name
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.status import LOGS, StoredArchive
from splittracr.security import bears
from splittracr_operator.keys import Keys
from splittracr_operator.readers import Readers

log = logging.getLogger(__name__)

MOST_BYTES = 4 * 2**30
MOST_LOG_BYTES = 64 * 2**20
"""Of all logs of a study, uncompressed. New logs take the place of kept ones that no longer fit."""

_CHUNK = 2**20
_UID = re.compile(r"[0-9a-f-]{36}")
_ARCHIVE = re.compile(f"{EDGE_PATTERN}|{LOGS}")
_SUFFIX, _PART = ".tar.gz", ".part"
_GONE, _STUDY = "gone", "study"
"""Files beside the archives: a marker, and the study's namespace and name."""

_STALE_SECONDS = 3600  # since the last byte of what is still half received


class Store:
    """Archives below `folder`, one folder a study.

    `handovers` counts what edges brought by outcome, `handover_bytes` what was kept of it. `bytes`
    of all archives and `free_bytes` of the volume are as of the last sweep and the last hand-over;
    None before the first sweep.
    """

    def __init__(self, folder: Path, keys: Keys) -> None:
        self._folder, self._keys = folder, keys
        self._digests: dict[Path, tuple[tuple[int, int, int], str]] = {}
        """Digests of archives, each with inode, size and time of the file that it is of."""

        self.handovers = {"ok": 0, "refused": 0, "failed": 0}
        self.handover_bytes = 0
        self.bytes: int | None = None
        self.free_bytes: int | None = None

    def check(self) -> None:
        """Raise InvalidInput if the folder is missing and cannot be made, or is not writable."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass
        except OSError as error:
            expected = f"a folder that the operator can write to ({error.strerror})"
            raise InvalidInput("the results folder", str(self._folder), expected) from error

    def archives(self, uid: str) -> tuple[StoredArchive, ...]:
        """The archives of a study. Reads those whose files are new or have changed."""
        return tuple(filter(None, map(self._described, sorted(self._paths(uid)))))

    def index(self) -> dict[str, tuple[StoredArchive, ...]]:
        """The archives by the uid of their study."""
        return {folder.name: self.archives(folder.name) for folder in self._folder.glob("*-*")}

    def logged(self, uid: str) -> set[str]:
        """Names of the logs that are kept of a study."""
        return {name for name, _ in self._logs(uid)}

    def keep_logs(self, uid: str, logs: Mapping[str, bytes]) -> None:
        """Keep logs, by name, besides those that are there."""
        kept, left = dict(logs), MOST_LOG_BYTES - sum(map(len, logs.values()))
        for name, content in self._logs(uid):
            if name not in kept and len(content) <= left:
                kept[name] = content
                left -= len(content)
        folder = self._folder / uid
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{LOGS}.{secrets.token_hex(8)}{_PART}"
        try:
            with part.open("wb") as file:
                file.write(_packed(kept))
                file.flush()
                os.fsync(file.fileno())
            part.replace(folder / f"{LOGS}{_SUFFIX}")
        finally:
            part.unlink(missing_ok=True)

    def note(self, uid: str, namespace: str, name: str) -> None:
        """Keep the name of a study whose archives are there: a path for users has to have it."""
        file = self._folder / uid / _STUDY
        if not file.exists():
            file.write_text(f"{namespace}/{name}")

    def add_edge_routes(self, app: web.Application) -> None:
        """PUT and GET of an edge's archive, for the edge itself."""
        app.router.add_get(f"{RESULTS_PATH}/{{uid}}/{{edge}}", self._get_own)
        app.router.add_put(f"{RESULTS_PATH}/{{uid}}/{{edge}}", self._put)

    def add_user_routes(self, app: web.Application, readers: Readers) -> None:
        """The list of a study's edges, and an edge's archive, for users whom `readers` admit."""
        study = f"{RESULTS_PATH}/{{namespace}}/{{name}}/{{uid}}"

        async def listed(request: web.Request) -> web.Response:
            await self._admit_user(request, readers)
            return web.json_response({"edges": self._edges(self._place(request)[0])})

        async def archive(request: web.Request) -> web.StreamResponse:
            await self._admit_user(request, readers)
            return self._archive(request)

        app.router.add_get(study, listed)
        app.router.add_get(f"{study}/{{edge}}", archive)

    def sweep(self, known: Collection[str], keep_seconds: float) -> None:
        """Remove the results of studies that are gone for long; `known` are those that are not.

        A marker in a study's folder says since when it is gone.
        """
        for folder in self._folder.glob("*"):
            if not _UID.fullmatch(folder.name):
                continue
            for part in folder.glob(f"*{_PART}"):
                with contextlib.suppress(FileNotFoundError):  # it has just been received whole
                    if time.time() - part.stat().st_mtime > _STALE_SECONDS:
                        part.unlink()
            marker = folder / _GONE
            if folder.name in known:
                marker.unlink(missing_ok=True)
            elif not marker.exists():
                marker.touch()
            elif time.time() - marker.stat().st_mtime > keep_seconds:
                log.info("results of %s are removed: its study is gone", folder.name)
                shutil.rmtree(folder)
        kept = list(self._digests.items())  # other threads add to it
        self._digests = {path: known for path, known in kept if path.exists()}
        self._measure()

    async def _get_own(self, request: web.Request) -> web.StreamResponse:
        uid, _ = self._place(request)
        self._admit_edge(request, uid)
        return self._archive(request)

    def _archive(self, request: web.Request) -> web.FileResponse:
        uid, edge = self._place(request)
        path = self._folder / uid / f"{edge}{_SUFFIX}"
        if not path.exists():
            raise web.HTTPNotFound(text=f"there are no results of {edge} of study {uid}")
        return web.FileResponse(path)

    def _edges(self, uid: str) -> list[str]:
        names = [path.name.removesuffix(_SUFFIX) for path in self._paths(uid)]
        return sorted(name for name in names if name != LOGS)

    def _paths(self, uid: str) -> list[Path]:
        found = (self._folder / uid).glob(f"*{_SUFFIX}")
        return [path for path in found if _ARCHIVE.fullmatch(path.name.removesuffix(_SUFFIX))]

    def _described(self, path: Path) -> StoredArchive | None:
        """What status says of an archive; None if it has just gone."""
        try:
            with path.open("rb") as file:
                stat = os.fstat(file.fileno())
                state = stat.st_ino, stat.st_size, stat.st_mtime_ns
                known = self._digests.get(path)
                if known is None or known[0] != state:
                    known = state, hashlib.file_digest(file, "sha256").hexdigest()
                    self._digests[path] = known
        except FileNotFoundError:
            return None
        name = path.name.removesuffix(_SUFFIX)
        return StoredArchive(name=name, bytes=stat.st_size, sha256=known[1])

    def _logs(self, uid: str) -> Iterator[tuple[str, bytes]]:
        """The logs that are kept; none where the archive cannot be read."""
        path = self._folder / uid / f"{LOGS}{_SUFFIX}"
        broken = contextlib.suppress(OSError, EOFError, tarfile.TarError, zlib.error)
        with broken, tarfile.open(path, "r:gz") as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    yield member.name, file.read()

    def _measure(self) -> None:
        """See how large all archives are, and how much room there is."""
        if not self._folder.exists():
            return
        sizes = 0
        for archive in self._folder.glob(f"*/*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # a newer one takes its place
                sizes += archive.stat().st_size
        self.bytes, self.free_bytes = sizes, shutil.disk_usage(self._folder).free

    async def _put(self, request: web.Request) -> web.Response:
        outcome = "failed"
        try:
            size = await self._keep(request)
            outcome = "ok"
        except web.HTTPException:
            outcome = "refused"
            raise
        finally:
            self.handovers[outcome] += 1
        return web.json_response({"bytes": size})

    async def _keep(self, request: web.Request) -> int:
        """Keep an edge's archive, in place of an earlier one; its size."""
        uid, edge = self._place(request)
        self._admit_edge(request, uid)
        if edge == LOGS:
            raise web.HTTPForbidden(text="only the operator writes logs")
        folder = self._folder / uid
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{edge}.{secrets.token_hex(8)}{_PART}"  # an edge may ask twice at once
        archive = folder / f"{edge}{_SUFFIX}"
        try:
            size = await _receive(request, part)
            before = archive.stat().st_size if archive.exists() else 0
            part.replace(archive)
        finally:
            part.unlink(missing_ok=True)
        log.info("results of %s, %s: %d bytes", uid, edge, size)
        self.handover_bytes += size
        if self.bytes is not None:
            self.bytes += size - before
            self.free_bytes = shutil.disk_usage(folder).free
        return size

    def _place(self, request: web.Request) -> tuple[str, str]:
        uid, edge = request.match_info["uid"], request.match_info.get("edge", edge_name(0))
        if not _UID.fullmatch(uid) or not _ARCHIVE.fullmatch(edge):
            expected = f"a study's uid and an edge such as {edge_name(0)}, or {LOGS}"
            raise web.HTTPNotFound(text=f"{uid}/{edge}: expected {expected}")
        return uid, edge

    def _admit_edge(self, request: web.Request, uid: str) -> None:
        if not bears(request.headers.get("Authorization", ""), self._keys.control(uid)):
            raise web.HTTPUnauthorized(text="the study's token is missing or wrong")

    async def _admit_user(self, request: web.Request, readers: Readers) -> None:
        """Check the user first: an answer about what is there is for those who may read it."""
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        await readers.check(request, namespace, name)
        uid, _ = self._place(request)
        file = self._folder / uid / _STUDY
        if not file.exists() or file.read_text() != f"{namespace}/{name}":
            raise web.HTTPNotFound(
                text=f"there are no results of study {namespace}/{name} with uid {uid}"
            )


def _packed(logs: Mapping[str, bytes]) -> bytes:
    """The logs as a compressed archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as archive:
        for name, content in sorted(logs.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


async def _receive(request: web.Request, path: Path) -> int:
    """Write a request's body where it survives a power cut; its size. The loop never waits."""
    size = 0
    with path.open("wb") as file:
        async for chunk in request.content.iter_chunked(_CHUNK):
            size += len(chunk)
            if size > MOST_BYTES:
                text = f"the archive has {size} bytes or more: expected at most {MOST_BYTES}"
                raise web.HTTPRequestEntityTooLarge(MOST_BYTES, size, text=text)
            await asyncio.to_thread(file.write, chunk)
        await asyncio.to_thread(file.flush)
        await asyncio.to_thread(os.fsync, file.fileno())
    return size
