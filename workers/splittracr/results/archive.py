"""A results folder as one compressed archive, for the results store."""

import io
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from splittracr.experiment.errors import InvalidInput, naming

MAX_BYTES = 16 * 2**30
"""Of all files of an archive, unpacked."""

_PART = ".unpacking"


def pack(folder: Path) -> bytes:
    """The folder as a compressed archive; empty if there is no folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.add(path, path.relative_to(folder).as_posix(), recursive=False)
    return buffer.getvalue()


def unpack(archive: bytes, folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Write an archive's files below `folder`, all of them or none.

    Raises InvalidInput for other content, and for files of more than `max_bytes` in total.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / _PART  # within, since the folder itself may be a volume
    shutil.rmtree(part, ignore_errors=True)
    try:
        _unpack(archive, part, max_bytes)
        for path in sorted(part.rglob("*")):
            target = folder / path.relative_to(part)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                path.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _unpack(archive: bytes, folder: Path, max_bytes: int) -> None:
    size = 0
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        for member in opened:
            path = PurePosixPath(member.name)
            if not member.isreg() or path.is_absolute() or ".." in path.parts:
                raise InvalidInput("archive", member.name, "files below its own folder only")
            size += member.size
            if size > max_bytes:
                raise InvalidInput("archive", member.name, f"at most {max_bytes} bytes in all")
            file = opened.extractfile(member)
            assert file is not None
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with naming(target), target.open("wb") as written:
                shutil.copyfileobj(file, written)
