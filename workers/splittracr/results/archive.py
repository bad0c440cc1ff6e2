"""A results folder as one compressed archive: how it travels to a store and back."""

import io
import tarfile
from pathlib import Path, PurePosixPath

from splittracr.experiment.errors import InvalidInput


def pack(folder: Path) -> bytes:
    """The folder as a compressed archive; empty where there is no folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.add(path, path.relative_to(folder).as_posix(), recursive=False)
    return buffer.getvalue()


def unpack(archive: bytes, folder: Path) -> None:
    """Write an archive's files below `folder`. Raises InvalidInput for anything else in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        for member in opened:
            path = PurePosixPath(member.name)
            if not member.isreg() or path.is_absolute() or ".." in path.parts:
                raise InvalidInput("archive", member.name, "files below its own folder only")
            file = opened.extractfile(member)
            assert file is not None
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read())
