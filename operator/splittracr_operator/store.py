"""The results store: archives on one volume, one of each edge and one of the workers' logs.

`routes` serves the archives over HTTP. Archives of edges are never opened.
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
from typing import BinaryIO

from aiohttp import StreamReader

from splittracr.experiment.contracts import EDGE_PATTERN
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.status import LOGS, StoredArchive

log = logging.getLogger(__name__)

MAX_BYTES = 4 * 2**30
MAX_LOG_BYTES = 64 * 2**20
"""Max bytes of all logs of a study, uncompressed. New logs replace stored ones that do not fit."""

_CHUNK = 2**20
_UID = re.compile(r"[0-9a-f-]{36}")
_ARCHIVE = re.compile(f"{EDGE_PATTERN}|{LOGS}")
_SUFFIX, _PART, _DIGEST = ".tar.gz", ".part", ".sha256"
_NOTE = re.compile(r"(?P<inode>\d+) (?P<size>\d+) (?P<digest>[0-9a-f]{64})")
_DELETED, _STUDY = "gone", "study"
"""Files beside the archives: a marker, and the study's namespace and name."""

_STALE_SECONDS = 3600  # since the last byte of an incomplete upload


class TooLarge(Exception):
    """An archive is larger than MAX_BYTES; `size` bytes of it were received."""

    def __init__(self, size: int) -> None:
        super().__init__(f"more than {MAX_BYTES} bytes")
        self.size = size


def is_uid(text: str) -> bool:
    """Whether a text may be the uid of a study, and so the name of its folder."""
    return _UID.fullmatch(text) is not None


def is_archive(text: str) -> bool:
    """Whether a text may be the name of an archive: an edge's, or that of the logs."""
    return _ARCHIVE.fullmatch(text) is not None


class Store:
    """Archives below `folder`, one folder a study.

    `handovers` counts the uploads of edges by outcome, `handover_bytes` their stored bytes. `bytes`
    of all archives and `free_bytes` of the volume are updated by each sweep and upload. They are
    None before the first sweep.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.handovers = {"ok": 0, "refused": 0, "failed": 0}
        self.handover_bytes = 0
        self.bytes: int | None = None
        self.free_bytes: int | None = None

    def check(self) -> None:
        """Raise InvalidInput if the folder cannot be created or written to."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass
        except OSError as error:
            expected = f"a folder that the operator can write to ({error.strerror})"
            raise InvalidInput("the results folder", str(self._folder), expected) from error

    def archives(self, uid: str) -> tuple[StoredArchive, ...]:
        """The archives of a study, as they were when they were stored.

        An archive that was changed in its place since is described as before, so that a download
        is refused. One that another volume's copy replaced is read and described again.
        """
        return tuple(filter(None, map(_described, sorted(self._paths(uid)))))

    def index(self) -> dict[str, tuple[StoredArchive, ...]]:
        """The archives by the uid of their study."""
        return {folder.name: self.archives(folder.name) for folder in self._folder.glob("*-*")}

    def logged(self, uid: str) -> set[str]:
        """Names of the stored logs of a study."""
        return {name for name, _ in _logs_in(self.path(uid, LOGS))}

    def keep_logs(self, uid: str, logs: Mapping[str, bytes]) -> None:
        """Add logs, by name, to the stored ones."""
        kept, left = dict(logs), MAX_LOG_BYTES - sum(map(len, logs.values()))
        for name, content in _logs_in(self.path(uid, LOGS)):
            if name not in kept and len(content) <= left:
                kept[name] = content
                left -= len(content)
        path, content = self.path(uid, LOGS), _packed(kept)
        write_durably(path, content)
        _describe(path, path.stat().st_ino, len(content), hashlib.sha256(content).hexdigest())

    def note(self, uid: str, namespace: str, name: str) -> None:
        """Store the name of a study that has archives: paths for users contain it."""
        file = self._folder / uid / _STUDY
        if not file.exists():
            file.write_text(f"{namespace}/{name}")

    def noted(self, uid: str) -> str | None:
        """Namespace and name of a study, as in `lab/alexnet`; None if it has no archives."""
        file = self._folder / uid / _STUDY
        return file.read_text() if file.exists() else None

    def sweep(self, known: Collection[str], keep_seconds: float) -> None:
        """Remove the results of studies deleted `keep_seconds` ago; `known` are the other uids.

        The age of a marker in a study's folder is the time since its deletion.
        """
        for folder in self._folder.glob("*"):
            if not is_uid(folder.name):
                continue
            for part in folder.glob(f"*{_PART}"):
                with contextlib.suppress(FileNotFoundError):  # the upload has just been completed
                    if time.time() - part.stat().st_mtime > _STALE_SECONDS:
                        part.unlink()
            marker = folder / _DELETED
            if folder.name in known:
                marker.unlink(missing_ok=True)
            elif not marker.exists():
                marker.touch()
            elif time.time() - marker.stat().st_mtime > keep_seconds:
                log.info("results of %s are removed: the study was deleted", folder.name)
                shutil.rmtree(folder)
        self._measure()

    def path(self, uid: str, archive: str) -> Path:
        """Path of an archive, which need not exist."""
        return self._folder / uid / f"{archive}{_SUFFIX}"

    def edges(self, uid: str) -> list[str]:
        """The edges of a study that have an archive."""
        names = [path.name.removesuffix(_SUFFIX) for path in self._paths(uid)]
        return sorted(name for name in names if name != LOGS)

    async def receive(self, uid: str, edge: str, content: StreamReader) -> int:
        """Store an edge's archive, replacing an earlier one; returns its bytes.

        Raises TooLarge.
        """
        archive = self.path(uid, edge)
        archive.parent.mkdir(parents=True, exist_ok=True)
        # An edge may send its archive twice at the same time.
        part = archive.parent / f"{edge}.{secrets.token_hex(8)}{_PART}"
        try:
            size, digest = await _write(content, part)
            before = archive.stat().st_size if archive.exists() else 0
            inode = part.stat().st_ino
            part.replace(archive)
            _describe(archive, inode, size, digest)
        finally:
            part.unlink(missing_ok=True)
        self.handover_bytes += size
        if self.bytes is not None:
            self.bytes += size - before
            self.free_bytes = shutil.disk_usage(archive.parent).free
        return size

    def _paths(self, uid: str) -> list[Path]:
        found = (self._folder / uid).glob(f"*{_SUFFIX}")
        return [path for path in found if is_archive(path.name.removesuffix(_SUFFIX))]

    def _measure(self) -> None:
        """Measure the size of all archives and the free space."""
        if not self._folder.exists():
            return
        sizes = 0
        for archive in self._folder.glob(f"*/*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # a newer archive has just replaced it
                sizes += archive.stat().st_size
        self.bytes, self.free_bytes = sizes, shutil.disk_usage(self._folder).free


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file of a study's folder, which is created if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f"{path.name}.{secrets.token_hex(8)}{_PART}"
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _described(path: Path) -> StoredArchive | None:
    """The description of an archive for the status; None if it has just been removed."""
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            note = _note(path).read_text() if _note(path).exists() else ""
            known = _NOTE.fullmatch(note)
            if known and int(known["inode"]) == stat.st_ino:
                size, digest = int(known["size"]), known["digest"]
            else:
                size, digest = stat.st_size, hashlib.file_digest(file, "sha256").hexdigest()
                _describe(path, stat.st_ino, size, digest)
    except FileNotFoundError:
        return None
    return StoredArchive(name=path.name.removesuffix(_SUFFIX), bytes=size, sha256=digest)


def _describe(path: Path, inode: int, size: int, digest: str) -> None:
    """Store the description of an archive beside it.

    The inode tells whether it still belongs to the file: an upload or a copy makes another file.
    """
    with contextlib.suppress(OSError):  # without the description the archive is read again
        write_durably(_note(path), f"{inode} {size} {digest}".encode())


def _note(path: Path) -> Path:
    """The file with the description of an archive: its inode, bytes and SHA-256."""
    return path.with_name(path.name.removesuffix(_SUFFIX) + _DIGEST)


def _logs_in(path: Path) -> Iterator[tuple[str, bytes]]:
    """The logs in an archive, by name; none if it cannot be read."""
    broken = contextlib.suppress(OSError, EOFError, tarfile.TarError, zlib.error)
    with broken, tarfile.open(path, "r:gz") as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                yield member.name, file.read()


def _packed(logs: Mapping[str, bytes]) -> bytes:
    """The logs as a compressed archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as archive:
        for name, content in sorted(logs.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _append(file: BinaryIO, digest: "hashlib._Hash", chunk: bytes) -> None:
    file.write(chunk)
    digest.update(chunk)


async def _write(content: StreamReader, path: Path) -> tuple[int, str]:
    """Write a body durably without blocking the event loop; returns its bytes and SHA-256."""
    size, digest = 0, hashlib.sha256()
    with path.open("wb") as file:
        async for chunk in content.iter_chunked(_CHUNK):
            size += len(chunk)
            if size > MAX_BYTES:
                raise TooLarge(size)
            await asyncio.to_thread(_append, file, digest, chunk)
        await asyncio.to_thread(file.flush)
        await asyncio.to_thread(os.fsync, file.fileno())
    return size, digest.hexdigest()
