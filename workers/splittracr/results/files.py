"""Writes files so that a reader sees the old file or the new one, never a part."""

import os
from pathlib import Path

from splittracr.experiment.errors import naming


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, replacing a file; missing folders are created.

    Raises OSError that names a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the new name on an empty file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
