"""The journal: every record of a study, one JSON object a line, only appended to.

A record is in the journal once its newline is written. If the writer is killed, the operating
system keeps what was written. After a power cut the last line may be torn, and then it is dropped.
"""

import errno
import fcntl
import logging
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from splittracr.experiment.errors import InvalidInput, naming
from splittracr.experiment.types import Record
from splittracr.experiment.versions import parse

FILE = "records.jsonl"
"""The journal's name in a results folder."""

Key = tuple[str, str, int, int]
"""(uid, edge, trial, sample): there is one record a key."""

_log = logging.getLogger(__name__)


def key(record: Record) -> Key:
    """The key of a record: it identifies the sample."""
    return (record.uid, record.edge, record.trial, record.sample)


class _Keys:
    """A set of keys, a bit a sample: a study may have millions."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str, int], bytearray] = {}  # by uid, edge and trial
        self._count = 0

    def __contains__(self, wanted: Key) -> bool:
        uid, edge, trial, sample = wanted
        bits = self._samples.get((uid, edge, trial), b"")
        return sample // 8 < len(bits) and bool(bits[sample // 8] >> sample % 8 & 1)

    def __len__(self) -> int:
        return self._count

    def add(self, new: Key) -> None:
        if new in self:
            return
        uid, edge, trial, sample = new
        bits = self._samples.setdefault((uid, edge, trial), bytearray())
        bits.extend(bytes(max(0, sample // 8 + 1 - len(bits))))
        bits[sample // 8] |= 1 << sample % 8
        self._count += 1


class Journal:
    """Opens `path` for appending, creates it if it is missing, and repairs a torn last line.

    One writer at a time: a second one on the same file raises InvalidInput. Not thread-safe.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        with naming(path), ExitStack() as on_error:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            on_error.callback(os.close, self._file)
            _lock(self._file, path)
            records, self._size = _scan(path)
            self._keys = _Keys()
            for known in records:
                self._keys.add(known)
            os.ftruncate(self._file, self._size)
            on_error.pop_all()

    def append(self, record: Record) -> bool:
        """Write `record` unless its key exists; return whether it was written.

        Raises OSError if the disk is full; the journal is then as before the call.
        """
        if key(record) in self._keys:
            return False
        line = record.model_dump_json().encode() + b"\n"
        # One write, so that no other point of the program can leave half a line behind.
        with naming(self._path):
            written = os.write(self._file, line)
        if written < len(line):
            os.ftruncate(self._file, self._size)
            raise OSError(errno.ENOSPC, "no room for the record", str(self._path))
        self._size += written
        self._keys.add(key(record))
        return True

    def __contains__(self, wanted: Key) -> bool:
        return wanted in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def close(self) -> None:
        """Flush everything to the disk and release the file."""
        try:
            with naming(self._path):
                os.fsync(self._file)
        finally:
            os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def has_records(folder: Path) -> bool:
    """Whether a run has left records in `folder`; one that failed at once leaves an empty file."""
    file = folder / FILE
    return file.exists() and file.stat().st_size > 0


def read(path: Path) -> list[Record]:
    """The records of a journal in the order they were written, one a key (the first).

    A torn last line is dropped with a warning in the log. Raises InvalidInput if there is no
    journal, or if another line is not a record.
    """
    try:
        records, _ = _scan(path)
    except FileNotFoundError as error:
        raise InvalidInput("results folder", str(path.parent), f"to contain {path.name}") from error
    return list(records.values())


def _scan(path: Path) -> tuple[dict[Key, Record], int]:
    """The records by key, and the number of bytes up to the end of the last complete line."""
    records: dict[Key, Record] = {}
    size = 0
    with path.open("rb") as file:  # binary: a line ends at \n and nowhere else
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                _log.warning("%s: line %d is torn and was dropped", path, number)
                break
            record = parse(Record, line, f"{path}, line {number}", "a record")
            records.setdefault(key(record), record)
            size += len(line)
    return records, size


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InvalidInput("journal", str(path), "a file that no other run is writing") from error
