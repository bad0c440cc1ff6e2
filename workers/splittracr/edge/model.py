"""Gets the model from the server, on an edge without PyTorch.

Files are kept in a cache by digest, and each is checked at every start. A download goes on at the
byte at which it stopped, after a broken link and after a restart.
"""

import asyncio
import contextlib
import fcntl
import logging
import random
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from splittracr.backends import exported, registry
from splittracr.backends.exported import ExportedFile, ExportedModel
from splittracr.data import home
from splittracr.edge.dial import Endpoint, explained
from splittracr.experiment.backoff import Backoff
from splittracr.experiment.contracts import MODEL_PATH, SESSION_PATH
from splittracr.experiment.errors import (
    HandshakeRefused,
    InvalidInput,
    ServerLost,
    SplittracrError,
    Untrusted,
    naming,
    reason,
)
from splittracr.experiment.spec import ExperimentSpec
from splittracr.results.files import write_atomically

log = logging.getLogger(__name__)

_BACKOFF = Backoff(first=0.2, longest=5.0)
_LOCK = ".lock"
_CHUNK = 2**18
_SILENT_SECONDS = 15
_SHOWN_SECONDS = 10.0


async def received(spec: ExperimentSpec, endpoint: Endpoint | None) -> ExperimentSpec:
    """The settings with the folder of the model, which is downloaded if this edge needs it.

    Raises ServerLost if the server is silent for `connectTimeoutSeconds`, and InvalidInput or
    HandshakeRefused if it does not hand the model over.
    """
    edge = spec.edge
    if endpoint is None or edge.model_path is not None or not registry.needs_export(edge.runtime):
        return spec
    patience = float(spec.transport.connect_timeout_seconds)
    folder = await _Download(endpoint, cache(), patience).run()
    return spec.model_copy(update={"edge": edge.model_copy(update={"model_path": str(folder)})})


def cache() -> Path:
    """The folder for models, beside downloaded weights."""
    return home.cache() / "models"


class _Download:
    """Brings one model from the server at `endpoint` to a folder in `cache`.

    `patience` is how many seconds the server may be silent.
    """

    def __init__(self, endpoint: Endpoint, cache: Path, patience: float) -> None:
        url = endpoint.url.removesuffix(SESSION_PATH).rstrip("/")
        self._url = url.replace("ws", "http", 1) + MODEL_PATH
        self._endpoint, self._cache, self._patience = endpoint, cache, patience
        self._heard = time.monotonic()
        self._shown = self._heard
        self._done = ""

    async def run(self) -> Path:
        """The folder of the model, complete and checked."""
        headers = {}
        if self._endpoint.token:
            headers["Authorization"] = f"Bearer {self._endpoint.token}"
        limits = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=_SILENT_SECONDS)
        async with aiohttp.ClientSession(headers=headers, timeout=limits) as client:
            attempt, trouble = 0, ""
            while True:
                before = self._heard
                try:
                    return await self._all(client)
                except (ConnectionError, TimeoutError, aiohttp.ClientError, Untrusted) as error:
                    if isinstance(error, Untrusted) and not self._endpoint.changes:
                        raise
                    trouble = reason(error)
                attempt = 0 if self._heard > before else attempt + 1
                if time.monotonic() - self._heard > self._patience:
                    raise ServerLost(self._lost(trouble))
                await asyncio.sleep(_BACKOFF.seconds(attempt, random.random()))

    def _lost(self, trouble: str) -> str:
        where = f" ({self._done})" if self._done else ""
        return (
            f"the server at {self._endpoint.url} has not handed the model over{where}: {trouble}. "
            "What has arrived is kept, and the next start goes on from there"
        )

    async def _all(self, client: aiohttp.ClientSession) -> Path:
        async with self._asked(client, self._url) as answer:
            text = await _limited(answer)
        model = exported.parse(text, self._url)
        folder = self._cache / model.digest
        with naming(folder):
            await asyncio.to_thread(_make, folder)
        async with _alone(folder):
            for path in list(folder.iterdir()):
                await asyncio.to_thread(_clear, path)
            for name in exported.FILES:
                await self._file(client, model, folder / name)
            await asyncio.to_thread(write_atomically, folder / exported.INDEX, text)
        return folder

    async def _file(self, client: aiohttp.ClientSession, model: ExportedModel, path: Path) -> None:
        wanted = model.files[path.name]
        if path.exists():
            wrong = await asyncio.to_thread(exported.difference, path, wanted)
            if wrong is None:
                return
            log.warning("%s was changed on disk and is fetched again: %s", path, wrong)
            path.unlink()
        part, url = path.with_name(f"{path.name}.part"), f"{self._url}/{model.digest}/{path.name}"
        for kept in (part.exists(), False):  # a part may be of something else
            await self._fetch(client, url, part, wanted)
            wrong = await asyncio.to_thread(exported.difference, part, wanted)
            if wrong is None:
                part.replace(path)
                return
            part.unlink(missing_ok=True)
            if not kept:
                break
        raise SplittracrError(f"what the server at {self._url} sent is not its model: {wrong}")

    async def _fetch(
        self, client: aiohttp.ClientSession, url: str, part: Path, wanted: ExportedFile
    ) -> None:
        """Append to `part` until it has the wanted size."""
        have = part.stat().st_size if part.exists() else 0
        if have > wanted.bytes:
            have = 0
        if have == wanted.bytes and have:
            return
        free = shutil.disk_usage(part.parent).free
        if wanted.bytes - have > free:
            raise SplittracrError(
                f"{part.parent} has {free} bytes free, the model needs {wanted.bytes - have} more"
            )
        async with self._asked(client, url, {"Range": f"bytes={have}-"} if have else {}) as answer:
            if answer.status != 206:
                have = 0
            if have:
                log.info("going on with %s at byte %d of %d", part.name, have, wanted.bytes)
            with naming(part), part.open("ab" if have else "wb", buffering=0) as file:
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    have += len(chunk)
                    if have > wanted.bytes:
                        raise SplittracrError(f"{url} has more than its {wanted.bytes} bytes")
                    await asyncio.to_thread(file.write, chunk)
                    self._progress(part, have, wanted)
        if have < wanted.bytes:
            raise aiohttp.ClientPayloadError(f"{have} of {wanted.bytes} bytes arrived")

    def _progress(self, part: Path, have: int, wanted: ExportedFile) -> None:
        self._heard = time.monotonic()
        self._done = f"{have} of {wanted.bytes} bytes of {part.stem}"
        if self._heard - self._shown > _SHOWN_SECONDS:
            self._shown = self._heard
            log.info("the model from the server: %s", self._done)

    @asynccontextmanager
    async def _asked(
        self, client: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The server's answer to GET. Raises what it means if it is no file."""
        tls = self._endpoint.tls
        with explained(self._endpoint):
            async with client.get(url, headers=headers, ssl=True if tls is None else tls) as answer:
                if answer.status not in (200, 206):
                    await self._refused(answer)
                yield answer

    async def _refused(self, answer: aiohttp.ClientResponse) -> None:
        url, words = self._endpoint.url, (await _limited(answer)).decode(errors="replace")[:2000]
        match answer.status:
            case 503:
                self._heard = time.monotonic()  # it is there, and busy
                raise ConnectionRefusedError(words)
            case 401:
                raise HandshakeRefused(f"the server at {url} does not admit this edge: {words}")
            case 409:
                expected = "a model that an edge without PyTorch can run"
                raise InvalidInput("spec.edge.runtime", "OnnxRuntime", f"{expected} ({words})")
            case 404 if answer.url.path.endswith(MODEL_PATH):
                expected = "a server of this version, which hands its model over"
                raise InvalidInput("--server", url, expected)
        raise ConnectionError(f"the server answers {answer.status}: {words[:200]}")


def _make(folder: Path) -> None:
    """Make the folder of a model, unless it is there."""
    if not folder.is_dir():
        folder.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder / _LOCK)


def _clear(path: Path) -> None:
    """Remove what is at `path` unless it is a file: a folder, for example."""
    if path.is_file() or not (path.exists() or path.is_symlink()):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    log.warning("removed %s, which is not a file", path)


async def _limited(answer: aiohttp.ClientResponse) -> bytes:
    """A body in memory, not longer than a description may be."""
    body = bytearray()
    async for chunk in answer.content.iter_chunked(_CHUNK):
        body += chunk
        if len(body) > exported.MAX_INDEX:
            raise SplittracrError(f"{answer.url} has more than {exported.MAX_INDEX} bytes")
    return bytes(body)


@asynccontextmanager
async def _alone(folder: Path) -> AsyncIterator[None]:
    """Keep other edges of this machine from writing to `folder` at the same time."""
    with (folder / _LOCK).open("w") as lock:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await asyncio.sleep(0.2)
        yield
